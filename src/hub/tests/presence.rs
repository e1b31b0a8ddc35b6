//! Presence: what followers are told replays to who is there, and it costs nothing where nobody follows.

use std::time::{Duration, Instant};

use serde_json::Value;

use super::*;

const GRACE: Duration = Duration::from_secs(3600);
const LIMITS: PresenceLimits = PresenceLimits { grace: GRACE, subjects: 3 };
const SUBJECTS: [&str; 6] = ["ann", "bob", "cy", "dan", "eve", "fay"];

fn claims(subject: Option<&str>, read: bool) -> Arc<Claims> {
    let name = |subject| ("name".to_owned(), Value::from(format!("{subject}!")));
    Arc::new(verified(&NewToken {
        read: read.then(|| "c".to_owned()).into_iter().collect(),
        may: NewMay { read: vec!["c".to_owned()], write: Vec::new() },
        subject: subject.map(str::to_owned),
        info: subject.map(|subject| [name(subject)].into_iter().collect()),
        presence: true,
        ..NewToken::default()
    }))
}

pub(super) fn connect(hub: &Hub, subject: Option<&str>, read: bool) -> (Arc<Connection>, TestSink) {
    let address = ([127, 0, 0, 1], 1).into();
    let connection = Arc::new(Connection::new(address, claims(subject, read), hub.budget().clone(), 0));
    let sink = TestSink::with_room(ALWAYS);
    hub.enter(&connection);
    connection.outbox.attach(Box::new(sink.clone()));
    (connection, sink)
}

pub(super) fn channel() -> ChannelName {
    ChannelName::new("c", 255).unwrap()
}

fn look(hub: &Hub, connection: &Arc<Connection>, follow: Option<bool>, limits: PresenceLimits) -> bool {
    let mut flush_list = FlushList::new();
    let reads = hub.look_at_presence(connection, &channel(), follow, (limits, &[]), |frame| {
        let _ = flush_list.push(connection, &frame);
    });
    flush_list.flush();
    reads
}

/// Tells changes, as the server does each second.
fn tell(hub: &Hub, after: Duration, limits: PresenceLimits) {
    let mut flush_list = FlushList::new();
    hub.tell_presence(Instant::now() + after, limits, &[], &mut flush_list);
    flush_list.flush();
}

/// What a client was told, frame by frame.
pub(super) fn frames(sink: &TestSink) -> Vec<Value> {
    let (bytes, mut at, mut frames) = (sink.written(), 0, Vec::new());
    while at < bytes.len() {
        let (start, length) = match bytes[at + 1] {
            126 => (at + 4, usize::from(u16::from_be_bytes([bytes[at + 2], bytes[at + 3]]))),
            length => (at + 2, usize::from(length)),
        };
        let mut frame: Value = serde_json::from_slice(&bytes[start..start + length]).unwrap();
        frames.push(frame["presence"].take());
        at = start + length;
    }
    frames
}

/// What a client knows after these frames: the subjects if it was told them, and the two numbers.
fn replay(frames: &[Value]) -> (Option<BTreeSet<String>>, u64, u64) {
    let (mut names, mut count, mut anonymous) = (None::<BTreeSet<String>>, 0, 0);
    for frame in frames {
        count = frame["count"].as_u64().unwrap();
        anonymous = frame["anonymous"].as_u64().unwrap_or(anonymous);
        let list = |key: &str| frame[key].as_array().cloned();
        if let Some(subjects) = frame["subjects"].as_object() {
            names = Some(subjects.keys().cloned().collect());
        } else if let (Some(joined), Some(left)) = (list("joined"), list("left")) {
            let names = names.as_mut().expect("a change comes to those who know the names");
            for name in joined {
                let name = name.as_str().unwrap().to_owned();
                assert_eq!(frame["info"][&name]["name"], format!("{name}!"));
                assert!(names.insert(name), "nobody joins twice");
            }
            for name in left {
                assert!(names.remove(name.as_str().unwrap()), "nobody leaves twice");
            }
            assert_eq!(names.len() as u64, count);
        } else {
            names = None;
        }
    }
    (names, count, anonymous)
}

#[derive(Clone, Debug)]
enum Op {
    /// A connection of this subject comes, and reads the channel or may only join it.
    Connect(Option<usize>, bool),
    Cut(usize),
    Join(usize),
    Leave(usize),
    /// Its token is replaced by one of another subject.
    Rename(usize, Option<usize>),
    Look(usize, Option<bool>),
    Tick,
    /// Long enough later that all who are gone have left.
    Later,
}

fn op() -> impl Strategy<Value = Op> {
    let subject = || proptest::option::weighted(0.8, 0..SUBJECTS.len());
    prop_oneof![
        5 => (subject(), any::<bool>()).prop_map(|(subject, read)| Op::Connect(subject, read)),
        3 => any::<usize>().prop_map(Op::Cut),
        3 => any::<usize>().prop_map(Op::Join),
        2 => any::<usize>().prop_map(Op::Leave),
        1 => (any::<usize>(), subject()).prop_map(|(who, subject)| Op::Rename(who, subject)),
        3 => (any::<usize>(), proptest::option::weighted(0.8, any::<bool>())).prop_map(|(who, follow)| Op::Look(who, follow)),
        2 => Just(Op::Tick),
        2 => Just(Op::Later),
    ]
}

struct Visitor {
    connection: Arc<Connection>,
    sink: TestSink,
    subject: Option<usize>,
    /// Its token names the channel, so that it cannot leave it.
    read: bool,
    reads: bool,
    follows: bool,
}

proptest! {
    /// The answer and the changes after it replay to the subjects that are there, however they come and go.
    #[test]
    fn what_followers_are_told_replays_to_who_is_there(ops in proptest::collection::vec(op(), 1..80)) {
        let hub = hub();
        let mut all: Vec<Visitor> = Vec::new();
        for op in ops.into_iter().chain([Op::Later, Op::Later]) {
            let pick = |who: usize| if all.is_empty() { None } else { Some(who % all.len()) };
            match op {
                Op::Connect(subject, read) => {
                    let (connection, sink) = connect(&hub, subject.map(|subject| SUBJECTS[subject]), read);
                    all.push(Visitor { connection, sink, subject, read, reads: read, follows: false });
                }
                Op::Cut(who) => if let Some(who) = pick(who) {
                    hub.leave(&all.swap_remove(who).connection);
                }
                Op::Join(who) => if let Some(who) = pick(who) {
                    hub.enter_channels(&all[who].connection, &[channel()], &[], 8, |_| {}).unwrap();
                    all[who].reads = true;
                }
                Op::Leave(who) => if let Some(who) = pick(who) {
                    let visitor = &mut all[who];
                    let left = hub.leave_channels(&visitor.connection, &[channel()]).is_ok();
                    prop_assert_eq!(left, !visitor.read);
                    if left {
                        (visitor.reads, visitor.follows) = (false, false);
                    }
                }
                Op::Rename(who, subject) => if let Some(who) = pick(who) {
                    let visitor = &mut all[who];
                    visitor.subject = subject;
                    let claims = claims(subject.map(|subject| SUBJECTS[subject]), visitor.read);
                    hub.replace_claims(&visitor.connection, claims, &[], 8, |_, _| {});
                }
                Op::Look(who, follow) => if let Some(who) = pick(who) {
                    let visitor = &mut all[who];
                    prop_assert_eq!(look(&hub, &visitor.connection, follow, LIMITS), visitor.reads);
                    if visitor.reads {
                        visitor.follows = follow.unwrap_or(visitor.follows);
                    }
                }
                Op::Tick => tell(&hub, Duration::ZERO, LIMITS),
                Op::Later => tell(&hub, GRACE + Duration::from_secs(60), LIMITS),
            }
        }
        let readers = || all.iter().filter(|visitor| visitor.reads);
        let there: BTreeSet<String> =
            readers().filter_map(|visitor| Some(SUBJECTS[visitor.subject?].to_owned())).collect();
        let anonymous = readers().filter(|visitor| visitor.subject.is_none()).count() as u64;
        for visitor in all.iter().filter(|visitor| visitor.follows) {
            let (names, count, told_anonymous) = replay(&frames(&visitor.sink));
            prop_assert_eq!((count, told_anonymous), (there.len() as u64, anonymous));
            prop_assert_eq!(names, (there.len() <= LIMITS.subjects).then(|| there.clone()));
        }
        for visitor in &all {
            hub.leave(&visitor.connection);
        }
        prop_assert_eq!(hub.channel_count(), 0);
        let before = hub.watch_changes();
        tell(&hub, Duration::ZERO, LIMITS);
        prop_assert_eq!(hub.watch_changes(), before, "no watch is left");
    }
}

#[test]
fn a_channel_that_nobody_follows_costs_nothing() {
    let hub = hub();
    let (asker, _sink) = connect(&hub, Some("ann"), true);
    look(&hub, &asker, None, LIMITS);
    look(&hub, &asker, Some(true), LIMITS);
    look(&hub, &asker, Some(false), LIMITS);
    let before = hub.watch_changes();
    let readers: Vec<_> = (0..1000).map(|_| connect(&hub, Some("bob"), true).0).collect();
    for reader in &readers {
        hub.replace_claims(reader, claims(Some("cy"), true), &[], 8, |_, _| {});
        hub.leave(reader);
    }
    tell(&hub, GRACE, LIMITS);
    assert_eq!(hub.watch_changes(), before);
    look(&hub, &asker, Some(true), LIMITS);
    hub.leave(&connect(&hub, Some("bob"), true).0);
    assert_eq!(hub.watch_changes(), before + 3, "one question, one coming and one going are counted");
}

#[test]
fn a_return_within_the_grace_is_no_event_and_all_changes_come_in_one_frame() {
    let hub = hub();
    let limits = PresenceLimits { subjects: 10, ..LIMITS };
    let (follower, sink) = connect(&hub, Some("ann"), true);
    look(&hub, &follower, Some(true), limits);
    let bob = connect(&hub, Some("bob"), true).0;
    let _nobody = connect(&hub, None, true);
    let _cy = connect(&hub, Some("cy"), true);
    tell(&hub, Duration::ZERO, limits);
    hub.leave(&bob);
    tell(&hub, Duration::ZERO, limits);
    let again = connect(&hub, Some("bob"), true).0;
    tell(&hub, 2 * GRACE, limits);
    hub.leave(&again);
    tell(&hub, 2 * GRACE, limits);
    let told = frames(&sink);
    assert_eq!(told.len(), 3, "{told:?}");
    assert_eq!(
        told[0],
        serde_json::json!({
            "channel": "c", "subjects": {"ann": 1}, "info": {"ann": {"name": "ann!"}}, "count": 1, "anonymous": 0
        })
    );
    assert_eq!(
        told[1],
        serde_json::json!({
            "channel": "c", "joined": ["bob", "cy"], "left": [], "count": 3, "anonymous": 1,
            "info": {"bob": {"name": "bob!"}, "cy": {"name": "cy!"}}
        })
    );
    assert_eq!(told[2], serde_json::json!({"channel": "c", "joined": [], "left": ["bob"], "count": 2}));
}

#[test]
fn a_reader_to_whom_the_history_is_delivered_again_is_counted() {
    let hub = hub();
    hub.keep(3, GRACE, 1 << 20);
    let (reader, _) = connect(&hub, Some("ann"), true);
    let (follower, sink) = connect(&hub, Some("bob"), true);
    hub.replace_claims(&reader, claims(Some("ann"), true), &[("c".into(), None)], 8, |_, _| {
        look(&hub, &follower, Some(true), LIMITS);
    });
    tell(&hub, Duration::ZERO, LIMITS);
    assert_eq!(frames(&sink).last().unwrap()["count"], 2);
    hub.leave(&reader);
    tell(&hub, GRACE, LIMITS);
    assert_eq!(frames(&sink).last().unwrap()["left"], serde_json::json!(["ann"]));
}
