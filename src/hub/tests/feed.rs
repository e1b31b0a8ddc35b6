//! Events for backends: they replay to who reads the selected channels, and cost nothing where nobody selects.

use std::time::{Duration, Instant};

use serde_json::Value;

use super::*;
use crate::feed::{Following, Format, Taken};
use crate::message::{ChannelPattern, ChannelPatterns, MessageId};

const GRACE: Duration = Duration::from_secs(3600);
const CHANNELS: [&str; 3] = ["room:1", "room:2", "lobby"];
const SUBJECTS: [Option<&str>; 3] = [None, Some("ann"), Some("bob")];

fn rooms() -> ChannelPatterns {
    [ChannelPattern::new("room:*", 255).unwrap()].into_iter().collect()
}

fn claims(subject: Option<&str>) -> Arc<Claims> {
    let may = NewMay { read: vec!["*".to_owned()], write: Vec::new() };
    let subject = subject.map(str::to_owned);
    Arc::new(verified(&NewToken { may, subject, ..NewToken::default() }))
}

fn connect(hub: &Hub, subject: Option<&str>) -> Arc<Connection> {
    let address = ([127, 0, 0, 1], 1).into();
    let connection = Arc::new(Connection::new(address, claims(subject), hub.budget().clone(), 0));
    hub.enter(&connection);
    connection
}

fn name(channel: &str) -> [ChannelName; 1] {
    [ChannelName::new(channel, 255).unwrap()]
}

/// What a stream was told: each line as `event channel subject`, and the last id.
fn told(following: &Following) -> (Vec<String>, Option<MessageId>) {
    let (mut lines, mut last) = (Vec::new(), None);
    while let Taken::Some(bytes) = following.take(Format::JsonLines) {
        for line in bytes.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()) {
            let line: Value = serde_json::from_slice(line).unwrap();
            last = Some(MessageId::parse(line["id"].as_str().unwrap()));
            let words = ["event", "channel", "subject"].map(|key| line[key].as_str());
            lines.push(words.into_iter().flatten().collect::<Vec<_>>().join(" "));
        }
    }
    (lines, last)
}

#[test]
fn a_channel_that_nobody_selects_costs_nothing() {
    let hub = hub();
    let churn = |channel: &str| {
        let connections: Vec<_> = (0..100).map(|_| connect(&hub, Some("ann"))).collect();
        for connection in &connections {
            hub.enter_channels(connection, &name(channel), &[], 10, |_| {}).unwrap();
        }
        publish(&hub, channel, "x", None);
        hub.replace_claims(&connections[0], claims(Some("bob")), &[], 10, |_, _| {});
        connections.iter().for_each(|connection| hub.leave(connection));
    };
    churn("room:1");
    assert_eq!(hub.feed().roll_changes(), 0);
    let stream = hub.follow_events(rooms(), None).unwrap();
    churn("lobby");
    assert_eq!(hub.feed().roll_changes(), 0);
    churn("room:1");
    let changes = hub.feed().roll_changes();
    assert!(changes >= 200, "{changes}");
    drop(stream);
    hub.expire_events(Instant::now() + crate::feed::KEPT_FOR);
    churn("room:1");
    assert_eq!(hub.feed().roll_changes(), changes);
    let again = hub.follow_events(rooms(), None).unwrap();
    assert!(!hub.feed().settle(Instant::now() + GRACE, Duration::ZERO));
    assert_eq!(told(&again).0, ["alive"], "nothing was left behind");
}

#[derive(Clone, Debug)]
enum Step {
    Join(usize, usize),
    Leave(usize, usize),
    /// Closes a connection and opens another.
    Reconnect(usize, usize),
    Auth(usize, usize),
    /// The time goes on, by more than the grace.
    Wait,
    /// The stream is closed, and opened again behind its last event after this many steps.
    Cut(usize),
    /// Another stream selects the same and more, and no longer.
    Other,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let (connection, channel, subject) = (0..4_usize, 0..CHANNELS.len(), 0..SUBJECTS.len());
    let step = prop_oneof![
        6 => (connection.clone(), channel.clone()).prop_map(|(who, channel)| Step::Join(who, channel)),
        4 => (connection.clone(), channel).prop_map(|(who, channel)| Step::Leave(who, channel)),
        2 => (connection.clone(), subject.clone()).prop_map(|(who, subject)| Step::Reconnect(who, subject)),
        2 => (connection, subject).prop_map(|(who, subject)| Step::Auth(who, subject)),
        2 => Just(Step::Wait),
        1 => (0..6_usize).prop_map(Step::Cut),
        1 => Just(Step::Other),
    ];
    proptest::collection::vec(step, 1..60)
}

/// The readers of the rooms, and what a stream knows.
#[derive(Default)]
struct Model {
    /// The subject and the channels of each connection.
    connections: Vec<(Option<&'static str>, BTreeSet<&'static str>)>,
    occupied: BTreeSet<&'static str>,
    present: BTreeSet<(&'static str, &'static str)>,
    /// Those of both who were gone when another stream began, which is told when they return.
    again: BTreeSet<(&'static str, Option<&'static str>)>,
}

impl Model {
    /// Returns the events by which a stream learns of all readers.
    fn arrivals(&mut self) -> Vec<String> {
        let mut events = Vec::new();
        for (subject, channels) in &self.connections {
            for channel in channels.iter().filter(|channel| channel.starts_with("room:")) {
                if self.occupied.insert(channel) | self.again.remove(&(*channel, None)) {
                    events.push(format!("occupied {channel}"));
                }
                if let Some(subject) = subject
                    && self.present.insert((channel, subject)) | self.again.remove(&(*channel, Some(subject)))
                {
                    events.push(format!("joined {channel} {subject}"));
                }
            }
        }
        events
    }

    fn begin_another(&mut self) {
        let mut there = Model { connections: self.connections.clone(), ..Model::default() };
        there.arrivals();
        self.again.extend(self.occupied.difference(&there.occupied).map(|channel| (*channel, None)));
        let gone = self.present.difference(&there.present);
        self.again.extend(gone.map(|(channel, subject)| (*channel, Some(*subject))));
    }

    /// Returns the events by which a stream learns who is no longer there.
    fn departures(&mut self) -> Vec<String> {
        let mut events = Vec::new();
        self.again.clear();
        let there = |channel: &str, subject: Option<&str>| {
            self.connections
                .iter()
                .any(|(is, channels)| channels.contains(channel) && (subject.is_none() || *is == subject))
        };
        self.present.retain(|(channel, subject)| {
            let stays = there(channel, Some(subject));
            events.extend((!stays).then(|| format!("left {channel} {subject}")));
            stays
        });
        self.occupied.retain(|channel| {
            let stays = there(channel, None);
            events.extend((!stays).then(|| format!("vacated {channel}")));
            stays
        });
        events
    }
}

proptest! {
    #[test]
    fn events_are_exactly_who_comes_and_goes_also_over_gaps_of_the_stream(steps in steps()) {
        let hub = hub();
        let mut model = Model { connections: vec![(None, BTreeSet::new()); 4], ..Model::default() };
        let mut connections: Vec<_> = (0..4).map(|_| connect(&hub, None)).collect();
        let mut following = Some(hub.follow_events(rooms(), None).unwrap());
        let (_, mut last) = told(following.as_ref().unwrap());
        let (mut expected, mut away): (Vec<String>, usize) = (Vec::new(), 0);
        let mut other = None;
        let mut now = Instant::now();
        for step in steps {
            match step {
                Step::Join(who, channel) => {
                    hub.enter_channels(&connections[who], &name(CHANNELS[channel]), &[], 10, |_| {}).unwrap();
                    model.connections[who].1.insert(CHANNELS[channel]);
                }
                Step::Leave(who, channel) => {
                    hub.leave_channels(&connections[who], &name(CHANNELS[channel])).unwrap();
                    model.connections[who].1.remove(CHANNELS[channel]);
                }
                Step::Reconnect(who, subject) => {
                    hub.leave(&connections[who]);
                    connections[who] = connect(&hub, SUBJECTS[subject]);
                    model.connections[who] = (SUBJECTS[subject], BTreeSet::new());
                }
                Step::Auth(who, subject) => {
                    hub.replace_claims(&connections[who], claims(SUBJECTS[subject]), &[], 10, |_, _| {});
                    model.connections[who].0 = SUBJECTS[subject];
                }
                Step::Wait => {
                    now += 2 * GRACE;
                    prop_assert!(!hub.feed().settle(now, GRACE));
                    expected.extend(model.departures());
                }
                Step::Cut(steps) => (following, away) = (None, steps),
                Step::Other => {
                    let all = [ChannelPattern::new("*", 255).unwrap()].into_iter().collect();
                    other = match other {
                        None => {
                            model.begin_another();
                            Some(hub.follow_events(all, None).unwrap())
                        }
                        Some(stream) => {
                            drop(stream);
                            // What it has selected is forgotten; what another stream is away from must not be.
                            if following.is_some() {
                                hub.expire_events(Instant::now() + crate::feed::KEPT_FOR);
                            }
                            None
                        }
                    };
                }
            }
            expected.extend(model.arrivals());
            prop_assert!(!hub.feed().settle(Instant::now(), GRACE), "nothing is due");
            if following.is_none() {
                if away > 0 {
                    away -= 1;
                    continue;
                }
                following = Some(hub.follow_events(rooms(), last).unwrap());
            }
            if let Some(following) = &following {
                let (mut lines, newest) = told(following);
                last = newest.or(last);
                lines.sort();
                expected.sort();
                prop_assert_eq!(&lines, &expected);
                expected.clear();
            }
        }
    }

    #[test]
    fn a_stream_that_begins_late_leads_from_the_lists_of_its_time_to_the_truth(before in steps(), after in steps()) {
        let hub = hub();
        let connections: Vec<_> = (0..4).map(|at| connect(&hub, SUBJECTS[at % 3])).collect();
        let step = |step: &Step| match step {
            Step::Join(who, channel) => {
                hub.enter_channels(&connections[*who], &name(CHANNELS[*channel]), &[], 10, |_| {}).unwrap();
            }
            Step::Leave(who, channel) => {
                hub.leave_channels(&connections[*who], &name(CHANNELS[*channel])).unwrap();
            }
            Step::Auth(who, subject) => {
                hub.replace_claims(&connections[*who], claims(SUBJECTS[*subject]), &[], 10, |_, _| {});
            }
            Step::Wait => drop(hub.feed().settle(Instant::now() + 2 * GRACE, GRACE)),
            _ => {}
        };
        let truth = || {
            let mut truth = BTreeSet::new();
            for connection in &connections {
                connection.each_channel(|channel, _| if channel.as_str().starts_with("room:") {
                    truth.insert(channel.as_str().to_owned());
                    let claims = connection.claims();
                    truth.extend(claims.subject().iter().map(|subject| format!("{} {subject}", channel.as_str())));
                });
            }
            truth
        };
        // An earlier stream may have seen some of it.
        let all = [ChannelPattern::new("room:1*", 255).unwrap()].into_iter().collect();
        let earlier = (before.len() % 2 == 0).then(|| hub.follow_events(all, None).unwrap());
        before.iter().for_each(step);
        let following = hub.follow_events(rooms(), None).unwrap();
        let mut known = truth();
        drop(earlier);
        after.iter().for_each(step);
        hub.feed().settle(Instant::now() + 2 * GRACE, GRACE);
        for line in told(&following).0 {
            match line.split_once(' ') {
                Some(("occupied" | "joined", what)) => drop(known.insert(what.to_owned())),
                Some(("vacated" | "left", what)) => drop(known.remove(what)),
                _ => prop_assert_eq!(line, "alive"),
            }
        }
        prop_assert_eq!(known, truth());
    }
}
