use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::AtomicBool;
use std::task::{Context, Wake, Waker};
use std::thread::{self, Thread};

use proptest::prelude::*;

use super::*;
use crate::message::{Batch, Delivery};
use crate::outbox::testing::TestSink;
use crate::token::{Claims, Keys, NewMay, NewToken, Policy, issue, verify};

const ALWAYS: usize = usize::MAX / 2;

fn hub() -> Hub {
    Hub::new(Arc::new(Budget::new(1_000_000, 1 << 30, 1 << 30, 1024)))
}

fn access(read: &[String]) -> Claims {
    allow(read, &[])
}

/// Claims that read these channels, and may join those that match the patterns.
fn allow(read: &[String], may: &[&str]) -> Claims {
    let may = NewMay { read: may.iter().map(ToString::to_string).collect(), write: Vec::new() };
    verified(&NewToken { read: read.to_vec(), may, ..NewToken::default() })
}

fn verified(token: &NewToken) -> Claims {
    let keys = Keys::new([b"secret".as_slice()]);
    let policy = Policy {
        leeway: 0,
        require_expiry: false,
        issuer: None,
        audience: None,
        channels: 1_000,
        channel_name_bytes: 255,
    };
    verify(&issue(token, &keys).unwrap(), &keys, &policy, 0).unwrap()
}

fn enter(hub: &Hub, read: &[String], room: usize) -> (Arc<Connection>, TestSink) {
    let address = ([127, 0, 0, 1], 1).into();
    let connection = Arc::new(Connection::new(address, Arc::new(access(read)), hub.budget().clone(), 0));
    let sink = TestSink::with_room(room);
    hub.enter(&connection);
    connection.outbox.attach(Box::new(sink.clone()));
    (connection, sink)
}

fn publish(hub: &Hub, channel: &str, text: &str, publisher: Option<&Arc<Connection>>) -> usize {
    let data = format!("\"{text}\"");
    let delivery = Delivery { issuer: "i", channel, data: Some(&data), subject: None };
    let mut flush_list = FlushList::new();
    let readers = hub.publish(&delivery, publisher, &mut flush_list);
    flush_list.flush();
    readers
}

#[test]
fn a_batch_counts_by_its_messages() {
    let hub = hub();
    let channels = ["c".to_owned()];
    let (publisher, own) = enter(&hub, &channels, ALWAYS);
    let (reader, sink) = enter(&hub, &channels, ALWAYS);
    let (mut batch, mut flush_list) = (Batch::new(), FlushList::new());
    assert_eq!(hub.publish_batch(&mut batch, None, &mut flush_list), 0, "it is empty");
    for data in ["\"1\"", "\"2\"", "\"3\""] {
        batch.add(&Delivery { issuer: "i", channel: "c", data: Some(data), subject: None });
    }
    assert_eq!(hub.publish_batch(&mut batch, Some(&publisher), &mut flush_list), 1, "readers");
    assert!(batch.is_empty());
    flush_list.flush();
    assert_eq!(received(&sink).iter().map(|(_, data)| data.as_str()).collect::<String>(), "123");
    assert_eq!((sink.writes(), own.written_len()), (1, 0));
    assert_eq!((hub.deliveries(), reader.stats().out.messages, reader.stats().out.greatest_queue), (3, 3, 3));
}

/// What a reader got: channel and text, in order. Frames here are shorter than 126 bytes.
fn received(sink: &TestSink) -> Vec<(String, String)> {
    let (bytes, mut at, mut messages) = (sink.written(), 0, Vec::new());
    while at < bytes.len() {
        let end = at + 2 + usize::from(bytes[at + 1]);
        let message: serde_json::Value = serde_json::from_slice(&bytes[at + 2..end]).unwrap();
        let text = |key: &str| message[key].as_str().unwrap().to_owned();
        messages.push((text("channel"), text("data")));
        at = end;
    }
    messages
}

#[test]
fn every_other_reader_gets_a_message_once() {
    let hub = hub();
    let chat = ["chat".to_owned()];
    let (a, to_a) = enter(&hub, &chat, ALWAYS);
    let (_b, to_b) = enter(&hub, &chat, ALWAYS);
    let (_c, to_c) = enter(&hub, &["other".to_owned()], ALWAYS);
    assert_eq!(publish(&hub, "chat", "1", Some(&a)), 1);
    assert_eq!(publish(&hub, "chat", "2", None), 2);
    assert_eq!(publish(&hub, "nobody", "3", None), 0);
    let message = |text: &str| ("chat".to_owned(), text.to_owned());
    assert_eq!(received(&to_a), [message("2")]);
    assert_eq!(received(&to_b), [message("1"), message("2")]);
    assert!(received(&to_c).is_empty());
}

#[test]
fn a_connection_that_leaves_leaves_nothing_behind() {
    let hub = hub();
    let names: Vec<String> = (0..100).map(|n| format!("c{n}")).collect();
    let readers: Vec<_> = (0..50).map(|_| enter(&hub, &names, ALWAYS).0).collect();
    assert_eq!(hub.channel_count(), 100);
    for reader in &readers {
        hub.leave(reader);
    }
    assert_eq!(hub.channel_count(), 0);
    assert!(
        readers.iter().all(|reader| Arc::strong_count(reader) == 1 && hub.connection(&reader.id()).is_none())
    );
}

#[test]
fn fault_57_a_channel_that_was_large_is_small_again() {
    let hub = hub();
    let name = ["c".to_owned()];
    let readers: Vec<_> = (0..10_000).map(|_| enter(&hub, &name, 0).0).collect();
    for reader in &readers[10..] {
        hub.leave(reader);
    }
    let channel = lock(hub.channels.shard("c")).get("c").cloned().unwrap();
    assert!(lock(&channel.readers).connections.capacity() < 128);
    for turn in 0..100_000 {
        let (reader, _) = enter(&hub, &[format!("name {turn}")], 0);
        hub.leave(&reader);
    }
    let room: usize = hub.channels.shards().iter().map(|shard| lock(shard).capacity()).sum();
    assert!(room < SHARDS * 16, "{room}");
}

#[test]
fn fault_51_the_longest_queues_go_first() {
    let hub = Hub::new(Arc::new(Budget::new(1_000, 1 << 20, 3_000, 1024)));
    let (big, small) = (["big".to_owned()], ["small".to_owned()]);
    let (long, _) = enter(&hub, &big, 0);
    let (short, _) = enter(&hub, &small, 0);
    let (healthy, to_healthy) = enter(&hub, &big, ALWAYS);
    publish(&hub, "small", "x", None);
    for _ in 0..100 {
        publish(&hub, "big", "xxxxxxxxxx", None);
    }
    assert!(hub.budget().excess() > 0);
    assert_eq!(hub.relieve(), 1);
    assert_eq!(long.outbox.closing(), Some(CloseReason::QueueMemory));
    assert_eq!((short.outbox.closing(), healthy.outbox.closing()), (None, None));
    assert_eq!((hub.budget().excess(), received(&to_healthy).len()), (0, 100));
    assert_eq!(hub.relieve(), 0);
}

#[test]
fn ids_of_connections_are_spread_over_all_parts() {
    const CONNECTIONS: usize = 64 * SHARDS;
    let hub = hub();
    let all: Vec<_> = (0..CONNECTIONS).map(|_| enter(&hub, &[], ALWAYS)).collect();
    for shard in hub.connections.shards() {
        // On average each has 64. In less than one of a million runs a part has less than 20 by chance.
        assert!(lock(shard).len() >= 20, "{}", lock(shard).len());
    }
    assert!(all.iter().all(|(connection, _)| hub.connection(&connection.id()).is_some()));
    all.iter().for_each(|(connection, _)| hub.leave(connection));
    assert_eq!(hub.connections.len(), 0);
}

#[test]
fn a_list_that_is_dropped_hands_its_promises_over() {
    struct Woken(AtomicBool);
    impl Wake for Woken {
        fn wake(self: Arc<Self>) {
            self.0.store(true, Relaxed);
        }
    }
    let hub = hub();
    let (reader, sink) = enter(&hub, &["c".to_owned()], ALWAYS);
    let woken = Arc::new(Woken(AtomicBool::new(false)));
    let waker = Waker::from(woken.clone());
    reader.outbox.poll(&mut Context::from_waker(&waker));
    let mut flush_list = FlushList::new();
    let delivery = Delivery { issuer: "i", channel: "c", data: Some("\"x\""), subject: None };
    hub.publish(&delivery, None, &mut flush_list);
    drop(flush_list);
    assert!(woken.0.load(Relaxed) && sink.written_len() == 0);
    reader.outbox.poll(&mut Context::from_waker(&waker));
    assert_eq!(received(&sink).len(), 1);
}

#[derive(Clone, Debug)]
enum Op {
    Enter(BTreeSet<u8>),
    Subscribe(usize, BTreeSet<u8>),
    Leave(usize),
    Publish(Option<usize>, u8),
}

fn op() -> impl Strategy<Value = Op> {
    let channels = || proptest::collection::btree_set(0_u8..6, 0..5);
    prop_oneof![
        2 => channels().prop_map(Op::Enter),
        2 => (any::<usize>(), channels()).prop_map(|(who, channels)| Op::Subscribe(who, channels)),
        1 => any::<usize>().prop_map(Op::Leave),
        6 => (proptest::option::of(any::<usize>()), 0_u8..6).prop_map(|(who, channel)| Op::Publish(who, channel)),
    ]
}

fn names(channels: &BTreeSet<u8>) -> Vec<String> {
    channels.iter().map(u8::to_string).collect()
}

/// A reader in the model: what it reads, and what it must have got.
struct Model {
    connection: Arc<Connection>,
    sink: TestSink,
    reads: BTreeSet<u8>,
    expected: Vec<(String, String)>,
}

proptest! {
    /// Against a model that is a list of readers with sets of channels.
    #[test]
    fn fault_49_delivers_like_its_model(ops in proptest::collection::vec(op(), 1..120)) {
        let hub = hub();
        let mut all: Vec<Model> = Vec::new();
        let mut here: Vec<usize> = Vec::new();
        for (count, op) in ops.into_iter().enumerate() {
            let pick = |who: usize| if here.is_empty() { None } else { Some(here[who % here.len()]) };
            match op {
                Op::Enter(reads) => {
                    let (connection, sink) = enter(&hub, &names(&reads), ALWAYS);
                    here.push(all.len());
                    all.push(Model { connection, sink, reads, expected: Vec::new() });
                }
                Op::Subscribe(who, reads) => if let Some(who) = pick(who) {
                    let channels = names(&reads);
                    hub.subscribe(&all[who].connection, &channels.iter().map(String::as_str).collect::<Vec<_>>());
                    all[who].reads = reads;
                }
                Op::Leave(who) => if let Some(who) = pick(who) {
                    hub.leave(&all[who].connection);
                    here.retain(|one| *one != who);
                }
                Op::Publish(who, channel) => {
                    let (who, text) = (who.and_then(pick), count.to_string());
                    let publisher = who.map(|who| all[who].connection.clone());
                    let readers = publish(&hub, &channel.to_string(), &text, publisher.as_ref());
                    let expected = here.iter().filter(|one| Some(**one) != who && all[**one].reads.contains(&channel));
                    let expected: Vec<usize> = expected.copied().collect();
                    prop_assert_eq!(readers, expected.len());
                    for one in expected {
                        all[one].expected.push((channel.to_string(), text.clone()));
                    }
                }
            }
            let read: BTreeSet<u8> = here.iter().flat_map(|one| all[*one].reads.clone()).collect();
            prop_assert_eq!(hub.channel_count(), read.len());
        }
        for model in &all {
            prop_assert_eq!(&received(&model.sink), &model.expected);
        }
    }
}

/// What each of ten thousand channels' readers gets is what was published there, while others come, go and change theirs.
#[test]
fn fault_49_nothing_leaks_between_ten_thousand_channels() {
    const CHANNELS: usize = 10_000;
    let hub = hub();
    // Every reader has three channels, neighbours in number but not in the map; a third of them leave, a third change.
    let read =
        |first: usize| [first, first + 1, first + 7].map(|number| format!("channel {}", number % CHANNELS));
    let mut readers: Vec<_> =
        (0..CHANNELS).map(|first| (enter(&hub, &read(first), ALWAYS), read(first))).collect();
    for (number, ((connection, _), channels)) in readers.iter_mut().enumerate() {
        match number % 3 {
            0 => {
                hub.leave(connection);
                *channels = Default::default();
            }
            1 => {
                *channels = read(number + 100);
                hub.subscribe(connection, &channels.each_ref().map(String::as_str));
            }
            _ => {}
        }
    }
    for number in 0..CHANNELS {
        let channel = format!("channel {number}");
        publish(&hub, &channel, &channel, None);
    }
    for ((_, sink), channels) in &readers {
        let mut expected: Vec<_> = channels.iter().filter(|name| !name.is_empty()).collect();
        // In the order in which they were published.
        expected.sort_by_key(|name| name["channel ".len()..].parse::<usize>().unwrap());
        let received = received(sink);
        assert!(received.iter().all(|(channel, text)| channel == text), "{received:?}");
        assert_eq!(received.iter().map(|(channel, _)| channel).collect::<Vec<_>>(), expected);
    }
}

struct Unpark(Thread);

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
}

/// Guarantees 1 and 2 with real threads: publishers on some, and readers whose sockets refuse at every turn.
#[test]
fn fault_49_all_readers_of_a_channel_see_one_order() {
    const PUBLISHERS: usize = 4;
    const READERS: usize = 6;
    const MESSAGES: usize = 3_000;
    let hub = hub();
    let channels: Vec<String> = (0..3).map(|n| n.to_string()).collect();
    let readers: Vec<_> = (0..READERS).map(|_| enter(&hub, &channels, 0)).collect();
    let published = AtomicBool::new(false);
    thread::scope(|scope| {
        for (number, (reader, sink)) in readers.iter().enumerate() {
            let published = &published;
            scope.spawn(move || {
                let waker = Waker::from(Arc::new(Unpark(thread::current())));
                let mut turn = number;
                loop {
                    let done = published.load(std::sync::atomic::Ordering::Acquire);
                    let standing = reader.outbox.poll(&mut Context::from_waker(&waker));
                    if done && standing.drained {
                        break;
                    }
                    turn = turn.wrapping_mul(25).wrapping_add(7) % 1_009;
                    sink.grant(turn);
                    thread::park_timeout(std::time::Duration::from_micros(50));
                }
            });
        }
        let publishers: Vec<_> = (0..PUBLISHERS)
            .map(|publisher| {
                let (hub, channels) = (&hub, &channels);
                scope.spawn(move || {
                    let mut flush_list = FlushList::new();
                    for number in 0..MESSAGES {
                        let data = format!("\"{publisher} {number}\"");
                        let channel = &channels[number % channels.len()];
                        let delivery = Delivery { issuer: "i", channel, data: Some(&data), subject: None };
                        assert_eq!(hub.publish(&delivery, None, &mut flush_list), READERS);
                        if number % 7 == 0 {
                            flush_list.flush();
                        }
                    }
                    flush_list.flush();
                })
            })
            .collect();
        publishers.into_iter().for_each(|publisher| publisher.join().unwrap());
        published.store(true, std::sync::atomic::Ordering::Release);
    });

    let by_channel = |sink: &TestSink| {
        let mut orders: BTreeMap<String, Vec<String>> = BTreeMap::new();
        for (channel, text) in received(sink) {
            orders.entry(channel).or_default().push(text);
        }
        orders
    };
    let first = by_channel(&readers[0].1);
    assert_eq!(first.values().map(Vec::len).sum::<usize>(), PUBLISHERS * MESSAGES, "each message once");
    for (_, sink) in &readers {
        assert_eq!(by_channel(sink), first, "one order");
    }
    for order in first.values() {
        let mut last = [None; PUBLISHERS];
        for text in order {
            let (publisher, number) = text.split_once(' ').unwrap();
            let (publisher, number): (usize, usize) = (publisher.parse().unwrap(), number.parse().unwrap());
            assert!(last[publisher].replace(number) < Some(number), "a publisher's own order");
        }
    }
    assert_eq!(hub.budget().refused_bytes(), 0);
}

/// The limits are the sizes at which the allocator takes more for each: 16 bytes for the counts of an `Arc` and 8 of its
/// own, in steps of 16. The task of a connection has a test of its own.
#[test]
fn what_each_connection_keeps_stays_small() {
    for (what, bytes, most) in [
        ("connection", size_of::<Connection>(), 264),
        ("claims", size_of::<Claims>(), 56),
        ("channel", size_of::<Channel>(), 120),
    ] {
        println!("{what}: {bytes} bytes");
        assert!(bytes <= most, "{what}: {bytes} bytes, at most {most}");
    }
}

mod compression;
mod feed;
mod history;
mod peers;
mod places;
mod presence;
mod rooms;
