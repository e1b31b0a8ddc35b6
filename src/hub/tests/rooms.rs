//! Entering and leaving channels against a model, by operations in random order.

use std::time::Duration;

use super::*;
use crate::message::MessageId;

/// The channels of these tests.
const CHANNELS: [&str; 6] = ["a0", "a1", "b0", "b1", "c", "d"];

/// Patterns of which each token has some.
const PATTERNS: [&str; 5] = ["a*", "b*", "b1", "c", "*"];

type Names = BTreeSet<&'static str>;

#[derive(Clone, Debug)]
enum Op {
    /// A visitor comes with a token; without it, one that is there gets the token.
    Auth(usize, Names, Vec<&'static str>),
    /// With or without the ids that it has seen.
    Join(usize, Names, bool),
    Leave(usize, Names),
    Publish(Option<usize>, usize),
    /// The connection ends.
    Cut(usize),
}

fn op() -> impl Strategy<Value = Op> {
    let names = || {
        proptest::collection::vec(proptest::sample::select(&CHANNELS[..]), 0..4)
            .prop_map(|names| names.into_iter().collect::<Names>())
    };
    let patterns = proptest::collection::vec(proptest::sample::select(&PATTERNS[..]), 0..3);
    prop_oneof![
        2 => (any::<usize>(), names(), patterns).prop_map(|(who, read, may)| Op::Auth(who, read, may)),
        5 => (any::<usize>(), names(), any::<bool>()).prop_map(|(who, names, since)| Op::Join(who, names, since)),
        3 => (any::<usize>(), names()).prop_map(|(who, names)| Op::Leave(who, names)),
        8 => (proptest::option::of(any::<usize>()), 0..CHANNELS.len())
            .prop_map(|(who, channel)| Op::Publish(who, channel)),
        1 => any::<usize>().prop_map(Op::Cut),
    ]
}

/// A visitor as it must be.
#[derive(Default)]
struct Visitor {
    here: Option<(Arc<Connection>, TestSink)>,
    read: Names,
    may: Vec<&'static str>,
    /// What its client joined and did not leave.
    joined: Names,
    /// How much of each channel was published when it last received something of it, over all its connections.
    seen: BTreeMap<&'static str, usize>,
    /// What this connection must have got: channel and text. An answer has the channel "joined" or "left".
    expected: Vec<(String, String)>,
}

impl Visitor {
    fn may_join(&self, name: &str) -> bool {
        self.read.contains(name)
            || self.may.iter().any(|pattern| match pattern.strip_suffix('*') {
                Some(start) => name.starts_with(start),
                None => *pattern == name,
            })
    }

    fn reads(&self) -> Names {
        self.read.union(&self.joined).copied().collect()
    }

    fn expect(&mut self, channel: &str, text: impl ToString) {
        self.expected.push((channel.to_owned(), text.to_string()));
    }

    fn check(&self) -> Result<(), TestCaseError> {
        let Some((connection, sink)) = &self.here else { return Ok(()) };
        connection.outbox.poll(&mut Context::from_waker(Waker::noop()));
        prop_assert_eq!(&received(sink), &self.expected);
        let mut reads = Vec::new();
        connection.each_channel(|name, joined| reads.push((name.as_str().to_owned(), joined)));
        let expected: Vec<_> =
            self.reads().iter().map(|name| ((*name).to_owned(), self.joined.contains(name))).collect();
        prop_assert_eq!(reads, expected);
        for name in CHANNELS {
            prop_assert_eq!(connection.reads(name), self.reads().contains(name));
        }
        Ok(())
    }
}

fn names(names: &Names) -> Vec<ChannelName> {
    names.iter().map(|name| ChannelName::new(name, 255).unwrap()).collect()
}

/// A frame in the place of an answer.
fn answer(connection: &Arc<Connection>, kind: &str, names: &[ChannelName], flush_list: &mut FlushList) {
    let names: Vec<&str> = names.iter().map(ChannelName::as_str).collect();
    let data = format!("\"{}\"", names.join(" "));
    let frame = Delivery { issuer: "i", channel: kind, data: Some(&data), subject: None }.encode();
    let _ = flush_list.push(connection, &frame);
}

fn text(names: &Names) -> String {
    names.iter().copied().collect::<Vec<_>>().join(" ")
}

struct World {
    hub: Hub,
    max: usize,
    published: BTreeMap<&'static str, Vec<String>>,
    /// The id of the first message of each channel, from which all others follow.
    epochs: BTreeMap<&'static str, u64>,
    visitors: [Visitor; 3],
}

impl World {
    fn auth(&mut self, who: usize, read: Names, may: Vec<&'static str>) {
        let claims = Arc::new(allow(&read.iter().map(ToString::to_string).collect::<Vec<_>>(), &may));
        let visitor = &mut self.visitors[who];
        (visitor.read, visitor.may) = (read, may);
        let Some((connection, _)) = &visitor.here else {
            let address = ([127, 0, 0, 1], 1).into();
            let connection = Arc::new(Connection::new(address, claims, self.hub.budget().clone(), 0));
            let sink = TestSink::with_room(ALWAYS);
            self.hub.enter_since(&connection, &[], |_| {});
            connection.outbox.attach(Box::new(sink.clone()));
            visitor.joined.clear();
            visitor.expected.clear();
            visitor.here = Some((connection, sink));
            return;
        };
        let mut flush_list = FlushList::new();
        self.hub.replace_claims(connection, claims, &[], self.max, |_, left| {
            answer(connection, "left", left, &mut flush_list);
        });
        flush_list.flush();
        let mut room = self.max.saturating_sub(visitor.read.len());
        let mut left = Names::new();
        for name in visitor.joined.clone() {
            let reads = visitor.read.contains(name);
            if !reads && (room == 0 || !visitor.may_join(name)) {
                visitor.joined.remove(name);
                left.insert(name);
            } else if !reads {
                room -= 1;
            }
        }
        visitor.expect("left", text(&left));
    }

    fn join(&mut self, who: usize, wanted: &Names, resumes: bool) -> Result<(), TestCaseError> {
        let visitor = &mut self.visitors[who];
        let Some((connection, _)) = &visitor.here else { return Ok(()) };
        let connection = connection.clone();
        let since: Vec<(&str, usize)> = wanted
            .iter()
            .filter(|_| resumes)
            .filter_map(|name| Some((*name, *visitor.seen.get(name)?)))
            .collect();
        let ids: Vec<Since<'_>> = since
            .iter()
            .map(|(name, seen)| {
                let epoch = self.epochs[name];
                ((*name).into(), Some(MessageId { epoch, number: *seen as u64 }))
            })
            .collect();
        let asked = names(wanted);
        let (mut told, mut flush_list) = (Positions::default(), FlushList::new());
        let result = self.hub.enter_channels(&connection, &asked, &ids, self.max, |positions| {
            told = positions.clone();
            answer(&connection, "joined", &asked, &mut flush_list);
        });
        flush_list.flush();
        if let Some(name) = wanted.iter().find(|name| !visitor.may_join(name)) {
            prop_assert_eq!(result, Err(EnterError::Forbidden(&ChannelName::checked(name))));
            return Ok(());
        }
        let new: Names = wanted.difference(&visitor.reads()).copied().collect();
        if let Some(name) = new.iter().nth(self.max.saturating_sub(visitor.reads().len())) {
            prop_assert_eq!(result, Err(EnterError::TooMany(&ChannelName::checked(name))));
            return Ok(());
        }
        prop_assert_eq!(result, Ok(()));
        visitor.joined.extend(wanted);
        visitor.expect("joined", text(wanted));
        let resumed: Vec<_> = since.iter().filter(|(name, _)| new.contains(name)).collect();
        let recovered: Vec<_> =
            told.recovered.iter().map(|(name, recovered)| (name.as_str(), *recovered)).collect();
        prop_assert_eq!(recovered, resumed.iter().map(|(name, _)| (*name, true)).collect::<Vec<_>>());
        for (name, seen) in resumed {
            for text in &self.published[name][*seen..] {
                visitor.expect(name, text);
            }
        }
        for name in new {
            let id = told.ids.iter().find(|(told, _)| told.as_str() == name).unwrap().1;
            self.epochs.insert(name, id.epoch);
            visitor.seen.insert(name, self.published[name].len());
        }
        Ok(())
    }

    fn leave(&mut self, who: usize, wanted: &Names) -> Result<(), TestCaseError> {
        let visitor = &mut self.visitors[who];
        let Some((connection, _)) = &visitor.here else { return Ok(()) };
        let asked = names(wanted);
        let result = self.hub.leave_channels(connection, &asked);
        if let Some(name) = wanted.iter().find(|name| visitor.read.contains(*name)) {
            prop_assert_eq!(result, Err(&ChannelName::checked(name)));
            return Ok(());
        }
        prop_assert_eq!(result, Ok(()));
        visitor.joined.retain(|name| !wanted.contains(name));
        Ok(())
    }

    fn publish(
        &mut self,
        who: Option<usize>,
        channel: &'static str,
        text: &str,
    ) -> Result<(), TestCaseError> {
        let publisher = who.and_then(|who| Some(self.visitors[who].here.as_ref()?.0.clone()));
        let readers = publish(&self.hub, channel, text, publisher.as_ref());
        let published = self.published.get_mut(channel).unwrap();
        published.push(text.to_owned());
        let mut expected = 0;
        for (at, visitor) in self.visitors.iter_mut().enumerate() {
            if visitor.here.is_none() || !visitor.reads().contains(channel) {
                continue;
            }
            if publisher.is_none() || who != Some(at) {
                visitor.expect(channel, text);
                expected += 1;
            }
            // Its own message has an id, too, which an acknowledgement would tell.
            if visitor.seen.contains_key(channel) {
                visitor.seen.insert(channel, published.len());
            }
        }
        prop_assert_eq!(readers, expected);
        Ok(())
    }
}

proptest! {
    /// Visitors get exactly what was published on the channels that they read, once and in order, whatever they join and
    /// leave, whatever tokens they get, and wherever their connections are cut.
    #[test]
    fn channels_are_joined_and_left_like_their_model(
        ops in proptest::collection::vec(op(), 1..100),
        max in 1_usize..6,
    ) {
        let hub = hub();
        hub.keep(1_000, Duration::from_secs(3600), 1 << 30);
        let mut world = World {
            hub,
            max,
            published: CHANNELS.map(|name| (name, Vec::new())).into(),
            epochs: BTreeMap::new(),
            visitors: Default::default(),
        };
        for (count, op) in ops.into_iter().enumerate() {
            match op {
                Op::Auth(who, read, may) => world.auth(who % 3, read, may),
                Op::Join(who, names, resumes) => world.join(who % 3, &names, resumes)?,
                Op::Leave(who, names) => world.leave(who % 3, &names)?,
                Op::Publish(who, channel) => {
                    world.publish(who.map(|who| who % 3), CHANNELS[channel], &count.to_string())?;
                }
                Op::Cut(who) => {
                    world.visitors[who % 3].check()?;
                    if let Some((connection, _)) = world.visitors[who % 3].here.take() {
                        world.hub.leave(&connection);
                    }
                }
            }
            for visitor in &world.visitors {
                visitor.check()?;
            }
            let read: Names =
                world.visitors.iter().filter(|visitor| visitor.here.is_some()).flat_map(Visitor::reads).collect();
            prop_assert_eq!(world.hub.channel_count(), read.len());
        }
    }
}

#[test]
fn a_channel_that_is_joined_again_keeps_its_place_and_is_replayed_if_wanted() {
    let hub = hub();
    hub.keep(10, Duration::from_secs(3600), 1 << 30);
    let address = ([127, 0, 0, 1], 1).into();
    let claims = Arc::new(allow(&["n".to_owned()], &["r*"]));
    let connection = Arc::new(Connection::new(address, claims, hub.budget().clone(), 0));
    hub.enter(&connection);
    let sink = TestSink::with_room(ALWAYS);
    connection.outbox.attach(Box::new(sink.clone()));
    let room = [ChannelName::new("r1", 255).unwrap()];
    let told = |since: &[Since<'_>]| {
        let mut told = Positions::default();
        hub.enter_channels(&connection, &room, since, 2, |positions| told = positions.clone()).unwrap();
        (told.ids.len(), told.recovered.len())
    };
    assert_eq!(told(&[]), (1, 0));
    publish(&hub, "r1", "1", None);
    assert_eq!(told(&[]), (0, 0), "it reads the channel already");
    assert_eq!(told(&[("r1".into(), None)]), (1, 0), "all that is kept, once more");
    connection.outbox.poll(&mut Context::from_waker(Waker::noop()));
    let texts: Vec<String> = received(&sink).into_iter().map(|(_, text)| text).collect();
    assert_eq!(texts, ["1", "1"]);
}
