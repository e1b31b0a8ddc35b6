//! History: against a model, with threads, and within its bounds.

#![allow(clippy::needless_range_loop, reason = "a channel's number is its name, too")]

use std::time::{Duration, Instant};

use super::*;

const TTL: Duration = Duration::from_secs(3600);

fn keeping(messages: usize) -> Hub {
    let hub = hub();
    hub.keep(messages, TTL, 1 << 30);
    hub
}

/// What a reader got: channel, text and id, in order. Frames here are shorter than 126 bytes.
fn with_ids(sink: &TestSink) -> Vec<(String, String, MessageId)> {
    let (bytes, mut at, mut messages) = (sink.written(), 0, Vec::new());
    while at < bytes.len() {
        let end = at + 2 + usize::from(bytes[at + 1]);
        let message: serde_json::Value = serde_json::from_slice(&bytes[at + 2..end]).unwrap();
        let text = |key: &str| message[key].as_str().unwrap().to_owned();
        messages.push((text("channel"), text("data"), MessageId::parse(&text("id"))));
        at = end;
    }
    messages
}

/// Enters with `since`; returns what it was told can be recovered.
fn come_back(
    hub: &Hub,
    read: &[String],
    since: &[Since<'_>],
) -> (Arc<Connection>, TestSink, Vec<(ChannelName, bool)>) {
    let address = ([127, 0, 0, 1], 1).into();
    let connection = Arc::new(Connection::new(address, Arc::new(access(read)), hub.budget().clone(), 0));
    let mut told = Vec::new();
    hub.enter_since(&connection, since, |recovered| told = recovered.to_vec());
    let sink = TestSink::with_room(ALWAYS);
    connection.outbox.attach(Box::new(sink.clone()));
    write(&connection);
    (connection, sink, told)
}

/// What its own task would do.
fn write(connection: &Connection) {
    connection.outbox.poll(&mut Context::from_waker(Waker::noop()), 0);
}

fn texts(sink: &TestSink) -> Vec<String> {
    with_ids(sink).into_iter().map(|(_, text, _)| text).collect()
}

#[test]
fn who_comes_back_misses_nothing_and_gets_nothing_twice() {
    let hub = keeping(3);
    let chat = ["c".to_owned()];
    let (first, sink) = enter(&hub, &chat, ALWAYS);
    publish(&hub, "c", "1", None);
    hub.leave(&first);
    let (_, _, id) = with_ids(&sink).pop().unwrap();
    assert_eq!(id.number, 1);
    publish(&hub, "c", "2", None);
    publish(&hub, "c", "3", None);
    let (again, sink, told) = come_back(&hub, &chat, &[("c".into(), Some(id))]);
    assert_eq!(told.iter().map(|(_, recovered)| *recovered).collect::<Vec<_>>(), [true]);
    publish(&hub, "c", "4", None);
    assert_eq!(texts(&sink), ["2", "3", "4"]);
    hub.leave(&again);

    publish(&hub, "c", "5", None);
    let (_, sink, told) = come_back(&hub, &chat, &[("c".into(), Some(id))]);
    assert!(!told[0].1 && sink.written_len() == 0, "2 is gone");
    let (_, sink, told) = come_back(&hub, &chat, &[("c".into(), None)]);
    assert_eq!((texts(&sink), told.len()), (vec!["3".into(), "4".into(), "5".into()], 0), "all there is");
    for id in [
        MessageId { number: 6, ..id },
        MessageId { number: u64::MAX, ..id },
        MessageId { epoch: id.epoch ^ 1, number: 5 },
        MessageId::NONE,
    ] {
        let (_, sink, told) = come_back(&hub, &chat, &[("c".into(), Some(id))]);
        assert!(!told[0].1 && sink.written_len() == 0, "{id}");
    }
    let (_, sink, told) = come_back(&hub, &chat, &[("c".into(), Some(MessageId { number: 5, ..id }))]);
    assert!(told[0].1 && sink.written_len() == 0, "nothing was missed");
    let (_, _, told) = come_back(&hub, &chat, &[("other".into(), Some(id))]);
    assert!(told.is_empty(), "what it does not join");
}

#[test]
fn a_batch_is_kept_message_by_message() {
    let hub = keeping(10);
    let (mut batch, mut touched) = (Batch::new(), Touched::new());
    for data in ["\"1\"", "\"2\"", "\"3\""] {
        batch.add(&Delivery { issuer: "i", channel: "c", data, subject: None });
    }
    let (_reader, live) = enter(&hub, &["c".to_owned()], ALWAYS);
    hub.publish_batch(&mut batch, None, &mut touched);
    touched.flush(0);
    let all = with_ids(&live);
    assert_eq!(all.iter().map(|(_, _, id)| id.number).collect::<Vec<_>>(), [1, 2, 3]);
    let (_, sink, told) = come_back(&hub, &["c".to_owned()], &[("c".into(), Some(all[0].2))]);
    assert!(told[0].1);
    assert_eq!(with_ids(&sink), all[1..], "the same bytes as the others got");
}

#[test]
fn idle_channels_give_their_memory_back() {
    let hub = keeping(100);
    for channel in 0..1000 {
        publish(&hub, &channel.to_string(), "x", None);
    }
    let (reader, _) = enter(&hub, &["7".to_owned()], ALWAYS);
    assert_eq!(hub.channel_count(), 1, "only one is read");
    assert!(hub.history_bytes() > 1000 * 500);
    hub.sweep_history(Instant::now());
    assert!(hub.history_bytes() > 1000 * 500, "nothing is old");
    hub.sweep_history(Instant::now() + TTL);
    let left: usize = hub.channels.shards.iter().map(|shard| lock(shard).len()).sum();
    assert_eq!((left, hub.keeping.histories.load(Relaxed)), (1, 1));
    hub.leave(&reader);
    assert_eq!((hub.history_bytes(), hub.keeping.histories.load(Relaxed)), (0, 0));
}

#[test]
fn all_together_stay_within_their_bytes_and_the_oldest_go_first() {
    const BYTES: usize = 200_000;
    let hub = hub();
    hub.keep(1000, TTL, BYTES);
    let text = "x".repeat(40);
    for round in 0..100 {
        for channel in 0..50 {
            publish(&hub, &channel.to_string(), &text, None);
            assert!(hub.history_bytes() <= BYTES);
        }
        if round % 10 == 9 {
            hub.sweep_history(Instant::now());
            assert!(hub.history_bytes() <= BYTES / 8 * 7);
        }
    }
    publish(&hub, "new", "room for the newest", None);
    let (_, sink, _) = come_back(&hub, &["new".to_owned()], &[("new".into(), None)]);
    assert_eq!(texts(&sink), ["room for the newest"]);
}

#[test]
fn no_more_than_half_of_a_queue_is_recovered_at_once() {
    let hub = Hub::new(Arc::new(Budget::new(20, 1 << 20, 1 << 30, 1024)));
    hub.keep(100, TTL, 1 << 30);
    let channels = ["a".to_owned(), "b".to_owned()];
    let (_reader, sink) = enter(&hub, &channels, ALWAYS);
    publish(&hub, "a", "0", None);
    publish(&hub, "b", "0", None);
    let ids = with_ids(&sink);
    for number in 1..=6 {
        publish(&hub, "a", &number.to_string(), None);
        publish(&hub, "b", &number.to_string(), None);
    }
    let since = [("a".into(), Some(ids[0].2)), ("b".into(), Some(ids[1].2))];
    let (_, sink, told) = come_back(&hub, &channels, &since);
    assert_eq!(told.iter().map(|(_, recovered)| *recovered).collect::<Vec<_>>(), [true, false]);
    assert_eq!(texts(&sink).len(), 6);
    for number in 7..=20 {
        publish(&hub, "a", &number.to_string(), None);
    }
    let (_, sink, _) = come_back(&hub, &channels[..1], &[("a".into(), None)]);
    assert_eq!(texts(&sink), (11..=20).map(|number| number.to_string()).collect::<Vec<_>>(), "the latest");
}

#[test]
fn what_was_not_kept_is_no_history() {
    let hub = keeping(10);
    let chat = ["c".to_owned()];
    let (_reader, sink) = enter(&hub, &chat, ALWAYS);
    publish(&hub, "c", "1", None);
    let id = with_ids(&sink)[0].2;
    hub.keep(0, TTL, 1 << 30);
    publish(&hub, "c", "2", None);
    assert!(received(&sink).len() == 2);
    hub.keep(10, TTL, 1 << 30);
    publish(&hub, "c", "3", None);
    let (_, sink, told) = come_back(&hub, &chat, &[("c".into(), Some(id))]);
    assert!(!told[0].1 && sink.written_len() == 0);
}

#[derive(Clone, Debug)]
enum Op {
    Publish(u8, u8),
    Leave(usize),
    Back(usize),
    Sweep,
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        6 => (0_u8..3, 1_u8..4).prop_map(|(channel, count)| Op::Publish(channel, count)),
        2 => any::<usize>().prop_map(Op::Leave),
        3 => any::<usize>().prop_map(Op::Back),
        1 => proptest::strategy::Just(Op::Sweep),
    ]
}

/// Someone who goes and comes back: for each channel, how much of what was published it has seen, and the last id.
#[derive(Default)]
struct Visitor {
    here: Option<(Arc<Connection>, TestSink)>,
    /// From where on in what was published it must get all.
    seen: [usize; 3],
    /// Its last id, and how much had been published with that.
    last: [Option<MessageId>; 3],
    known: [usize; 3],
}

impl Visitor {
    /// Takes what it got: must be, for each channel, just what was published since.
    fn look(&mut self, published: &[Vec<String>; 3]) {
        let Some((connection, sink)) = &self.here else { return };
        write(connection);
        let mut got: [Vec<String>; 3] = Default::default();
        for (channel, text, id) in with_ids(sink) {
            let channel: usize = channel.parse().unwrap();
            got[channel].push(text);
            self.last[channel] = Some(id);
        }
        for channel in 0..3 {
            assert_eq!(got[channel], published[channel][self.seen[channel]..], "channel {channel}");
            if !got[channel].is_empty() {
                self.known[channel] = published[channel].len();
            }
        }
    }
}

proptest! {
    /// Visitors go and come back while messages are published. Each must get exactly what it missed where it is told
    /// so, and it must be told so as long as no more was published than a channel keeps.
    #[test]
    fn recovers_like_its_model(ops in proptest::collection::vec(op(), 1..80), keeps in 1_usize..8) {
        let hub = keeping(keeps);
        let names: Vec<String> = (0..3).map(|n| n.to_string()).collect();
        let mut published: [Vec<String>; 3] = Default::default();
        let mut visitors: [Visitor; 3] = Default::default();
        for (count, op) in ops.into_iter().enumerate() {
            match op {
                Op::Publish(channel, messages) => {
                    let mut batch = Batch::new();
                    for message in 0..messages {
                        let text = format!("{count}.{message}");
                        let (data, name) = (format!("\"{text}\""), channel.to_string());
                        batch.add(&Delivery { issuer: "i", channel: &name, data: &data, subject: None });
                        published[usize::from(channel)].push(text);
                    }
                    let mut touched = Touched::new();
                    hub.publish_batch(&mut batch, None, &mut touched);
                    touched.flush(0);
                }
                Op::Leave(who) => {
                    let visitor = &mut visitors[who % 3];
                    visitor.look(&published);
                    if let Some((connection, _)) = visitor.here.take() {
                        hub.leave(&connection);
                    }
                }
                Op::Back(who) => {
                    let visitor = &mut visitors[who % 3];
                    if visitor.here.is_some() {
                        continue;
                    }
                    let since: Vec<Since<'_>> = (0..3)
                        .filter_map(|channel| visitor.last[channel].map(|id| (names[channel].as_str().into(), Some(id))))
                        .collect();
                    let (connection, sink, told) = come_back(&hub, &names, &since);
                    prop_assert_eq!(told.len(), since.len());
                    for channel in 0..3 {
                        let missed = published[channel].len() - visitor.known[channel];
                        let recovered = told.iter().find(|(name, _)| name.as_str() == names[channel]).map(|told| told.1);
                        if let Some(recovered) = recovered {
                            prop_assert_eq!(recovered, missed <= keeps, "missed {} of {}", missed, keeps);
                        }
                        visitor.seen[channel] =
                            if recovered == Some(true) { visitor.known[channel] } else { published[channel].len() };
                    }
                    visitor.here = Some((connection, sink));
                }
                Op::Sweep => hub.sweep_history(Instant::now()),
            }
        }
        for visitor in &mut visitors {
            visitor.look(&published);
        }
    }
}

/// Publishers on some threads, and on others readers who go and come back all the time: each sees the channel's order
/// without a gap or a double, or is told that it does not.
#[test]
fn threads_come_back_without_a_gap_or_a_double() {
    const MESSAGES: usize = 4_000;
    const MAX_MESSAGES: usize = 1_000_000;
    let hub = keeping(200);
    let chat = ["c".to_owned()];
    let done = AtomicBool::new(false);
    let recoveries = std::sync::atomic::AtomicUsize::new(0);
    thread::scope(|scope| {
        let (hub, chat, done, recoveries) = (&hub, &chat, &done, &recoveries);
        for _ in 0..3 {
            scope.spawn(move || {
                let mut last: Option<MessageId> = None;
                let mut finished = false;
                while !finished {
                    finished = done.load(std::sync::atomic::Ordering::Acquire);
                    let since: Vec<Since<'_>> = last.iter().map(|id| ("c".into(), Some(*id))).collect();
                    let (connection, sink, told) = come_back(hub, chat, &since);
                    for _ in 0..20 {
                        write(&connection);
                        thread::yield_now();
                    }
                    hub.leave(&connection);
                    let recovered = told.first().is_some_and(|told| told.1);
                    recoveries.fetch_add(usize::from(recovered), Relaxed);
                    for (at, (_, _, id)) in with_ids(&sink).into_iter().enumerate() {
                        if let Some(last) = last
                            && (at > 0 || recovered)
                        {
                            assert_eq!(id, MessageId { number: last.number + 1, ..last });
                        }
                        last = Some(id);
                    }
                }
            });
        }
        let publishers: Vec<_> = (0..2)
            .map(|publisher| {
                scope.spawn(move || {
                    for number in 0..MAX_MESSAGES {
                        publish(hub, "c", &format!("{publisher} {number}"), None);
                        // On a busy machine all may have come back too late so far: they get another chance.
                        if number >= MESSAGES {
                            if recoveries.load(Relaxed) > 0 {
                                break;
                            }
                            thread::yield_now();
                        }
                    }
                })
            })
            .collect();
        publishers.into_iter().for_each(|publisher| publisher.join().unwrap());
        done.store(true, std::sync::atomic::Ordering::Release);
    });
    assert!(recoveries.into_inner() > 0);
}
