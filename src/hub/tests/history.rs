//! History: what it gives back, with threads, and within its bounds.

mod image;
mod memory;
mod model;
mod quiet;
mod retention;

use std::time::{Duration, Instant};

use super::*;
use crate::message::MessageId;

const TTL: Duration = Duration::from_secs(3600);

fn keeping(messages: usize) -> Hub {
    let hub = hub();
    hub.keep(messages, TTL, 1 << 30);
    hub
}

/// What a reader got: channel, text and id, in order; what has no id has [`MessageId::NONE`]. Frames here are shorter
/// than 126 bytes.
fn with_ids(sink: &TestSink) -> Vec<(String, String, MessageId)> {
    let (bytes, mut at, mut messages) = (sink.written(), 0, Vec::new());
    while at < bytes.len() {
        let end = at + 2 + usize::from(bytes[at + 1]);
        let message: serde_json::Value = serde_json::from_slice(&bytes[at + 2..end]).unwrap();
        let text = |key: &str| message[key].as_str().unwrap().to_owned();
        let id = message["id"].as_str().map_or(MessageId::NONE, MessageId::parse);
        messages.push((text("channel"), text("data"), id));
        at = end;
    }
    messages
}

/// Enters with `since`; returns what it was told.
fn come_back(hub: &Hub, read: &[String], since: &[Since<'_>]) -> (Arc<Connection>, TestSink, Told) {
    come_back_while(hub, read, since, || {})
}

/// Something else happens between what it is told and its joining.
fn come_back_while(
    hub: &Hub,
    read: &[String],
    since: &[Since<'_>],
    happens: impl FnOnce(),
) -> (Arc<Connection>, TestSink, Told) {
    let address = ([127, 0, 0, 1], 1).into();
    let connection = Arc::new(Connection::new(address, Arc::new(access(read)), hub.budget().clone(), 0));
    let mut told = Told(Positions::default());
    hub.enter_since(&connection, since, |positions| {
        told = Told(positions.clone());
        happens();
    });
    let sink = TestSink::with_room(ALWAYS);
    connection.outbox.attach(Box::new(sink.clone()));
    write(&connection);
    (connection, sink, told)
}

struct Told(Positions);

impl Told {
    fn recovered(&self) -> Vec<bool> {
        self.0.recovered.iter().map(|(_, recovered)| *recovered).collect()
    }

    /// Whether a channel was recovered, if that was said.
    fn recovered_of(&self, channel: &str) -> Option<bool> {
        self.0.recovered.iter().find(|(name, _)| name.as_str() == channel).map(|(_, recovered)| *recovered)
    }

    fn id_of(&self, channel: &str) -> Option<MessageId> {
        self.0.ids.iter().find(|(name, _)| name.as_str() == channel).map(|(_, id)| *id)
    }
}

/// What its own task would do.
fn write(connection: &Connection) {
    connection.outbox.poll(&mut Context::from_waker(Waker::noop()));
}

fn texts(sink: &TestSink) -> Vec<String> {
    with_ids(sink).into_iter().map(|(_, text, _)| text).collect()
}

#[test]
fn a_client_that_resumes_misses_nothing_and_gets_nothing_twice() {
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
    assert_eq!(told.recovered(), [true]);
    publish(&hub, "c", "4", None);
    assert_eq!(texts(&sink), ["2", "3", "4"]);
    hub.leave(&again);

    publish(&hub, "c", "5", None);
    let place = |number| MessageId { number, ..id };
    let (_, sink, told) = come_back(&hub, &chat, &[("c".into(), Some(id))]);
    assert!(told.recovered() == [false] && sink.written_len() == 0, "2 is gone");
    let (_, sink, told) = come_back(&hub, &chat, &[("c".into(), None)]);
    assert_eq!(
        (texts(&sink), told.recovered()),
        (vec!["3".into(), "4".into(), "5".into()], vec![]),
        "all there is"
    );
    assert_eq!(told.id_of("c"), Some(place(2)), "before all there is");
    for id in [place(6), place(u64::MAX), MessageId { epoch: id.epoch ^ 1, number: 5 }, MessageId::NONE] {
        let (_, sink, told) = come_back(&hub, &chat, &[("c".into(), Some(id))]);
        assert!(told.recovered() == [false] && sink.written_len() == 0, "{id}");
        assert_eq!(told.id_of("c"), Some(place(5)), "from here on it can know");
    }
    let (_, sink, told) = come_back(&hub, &chat, &[("c".into(), Some(place(5)))]);
    assert!(told.recovered() == [true] && sink.written_len() == 0, "nothing was missed");
    let (_, _, told) = come_back(&hub, &chat, &[("other".into(), Some(id))]);
    assert!(told.recovered().is_empty() && told.id_of("other").is_none(), "what it does not join");
}

#[test]
fn a_history_that_is_delivered_again_comes_before_all_later_messages() {
    let hub = keeping(3);
    let chat = ["c".to_owned()];
    let (reader, sink) = enter(&hub, &chat, ALWAYS);
    publish(&hub, "c", "1", None);
    publish(&hub, "c", "2", None);
    let mut before = Vec::new();
    hub.replace_claims(&reader, Arc::new(access(&chat)), &[("c".into(), None)], 8, |_, _| {
        publish(&hub, "c", "3", None);
        before = texts(&sink);
    });
    write(&reader);
    publish(&hub, "c", "4", None);
    assert_eq!(before, ["1", "2"], "after the reply the history comes first");
    assert_eq!(texts(&sink)[2..], ["1", "2", "3", "4"]);
}

#[test]
fn a_reader_to_whom_the_history_is_delivered_again_reads_the_channel_all_the_time() {
    let hub = keeping(3);
    let chat = ["c".to_owned()];
    let (reader, _) = enter(&hub, &chat, ALWAYS);
    let (other, _) = enter(&hub, &chat, ALWAYS);
    hub.replace_claims(&reader, Arc::new(access(&chat)), &[("c".into(), None)], 8, |_, _| {
        hub.leave(&other);
        let (late, _) = enter(&hub, &chat, ALWAYS);
        assert_eq!((hub.readers_of("c"), hub.channel_count()), (2, 1));
        hub.leave(&late);
        assert_eq!((hub.readers_of("c"), hub.channel_count()), (1, 1));
    });
    assert_eq!((hub.readers_of("c"), hub.channel_count()), (1, 1));
    hub.leave(&reader);
    assert_eq!((hub.readers_of("c"), hub.channel_count()), (0, 0));
}

#[test]
fn a_client_that_saw_no_message_has_a_position_too() {
    let hub = keeping(3);
    let both = ["c".to_owned(), "quiet".to_owned()];
    publish(&hub, "c", "before", None);
    let (first, sink, told) = come_back(&hub, &both, &[]);
    let (chat, quiet) = (told.id_of("c").unwrap(), told.id_of("quiet").unwrap());
    assert_eq!((chat.number, quiet.number, sink.written_len()), (1, 0, 0));
    hub.leave(&first);
    publish(&hub, "c", "missed", None);
    let since = [("c".into(), Some(chat)), ("quiet".into(), Some(quiet))];
    let (again, sink, told) = come_back(&hub, &both, &since);
    assert_eq!((told.recovered(), texts(&sink)), (vec![true, true], vec!["missed".to_owned()]));
    assert_eq!(
        (told.id_of("c"), told.id_of("quiet")),
        (Some(chat), Some(quiet)),
        "what it gets begins there"
    );
    hub.leave(&again);

    sweep(&hub, Instant::now());
    let (_, _, told) = come_back(&hub, &both, &since);
    assert_eq!(told.recovered(), [true, true], "nothing is old");
    sweep(&hub, Instant::now() + TTL);
    let (_, _, told) = come_back(&hub, &both, &since);
    assert_eq!(told.recovered(), [false, true], "as long as somebody reads it, a place is good for ever");
}

#[test]
fn a_position_is_that_of_a_client_that_joins() {
    let hub = keeping(3);
    let chat = ["c".to_owned()];
    let name = ChannelName::new("c", 255).unwrap();
    let position = hub.position(&name).unwrap();
    assert_eq!(position.number, 0);
    assert_eq!(hub.position(&name), Some(position), "the first began the history");
    sweep(&hub, Instant::now());
    publish(&hub, "c", "1", None);
    let (_, sink, told) = come_back(&hub, &chat, &[("c".into(), Some(position))]);
    assert_eq!((told.recovered(), texts(&sink)), (vec![true], vec!["1".to_owned()]));
    let later = hub.position(&name).unwrap();
    assert_eq!(later, MessageId { number: 1, ..position });
    hub.keep(0, TTL, 1 << 30);
    assert_eq!(hub.position(&name), None);

    let unread = keeping(3);
    assert!(unread.position(&name).is_some());
    sweep(&unread, Instant::now() + TTL);
    assert_eq!(channels(&unread), 0, "it is kept as long as a message");
}

/// The channel's history began on this node before the other node told the client its position.
#[test]
fn a_position_on_another_node_of_a_cluster_is_good_on_this_one() {
    let hub = keeping(3);
    let chat = ["c".to_owned()];
    hub.begin_log(7, 30);
    let (_reader, _) = enter(&hub, &chat, ALWAYS);
    assert_eq!(hub.position(&ChannelName::new("c", 255).unwrap()), Some(MessageId { epoch: 7, number: 30 }));
    hub.reach(100);
    for (number, recovered) in [(29, false), (30, true), (65, true), (100, true), (101, false)] {
        let (_, _, told) = come_back(&hub, &chat, &[("c".into(), Some(MessageId { epoch: 7, number }))]);
        assert_eq!(told.recovered(), [recovered], "{number}");
    }
}

#[test]
fn a_place_outlives_its_readers_by_the_time_to_live() {
    let hub = keeping(3);
    let quiet = ["quiet".to_owned()];
    let (first, _, told) = come_back(&hub, &quiet, &[]);
    let id = told.id_of("quiet");
    let came = Instant::now();
    hub.leave(&first);
    sweep(&hub, came + TTL);
    let (again, _, told) = come_back(&hub, &quiet, &[("quiet".into(), id)]);
    assert_eq!(told.recovered(), [true], "it left a moment after it came");
    hub.leave(&again);
    sweep(&hub, Instant::now() + TTL);
    let (_, _, told) = come_back(&hub, &quiet, &[("quiet".into(), id)]);
    assert_eq!(told.recovered(), [false], "nobody knows any more");
}

#[test]
fn promised_messages_come_although_history_is_turned_off() {
    let hub = keeping(3);
    let chat = ["c".to_owned()];
    publish(&hub, "c", "1", None);
    let (first, _, told) = come_back(&hub, &chat, &[]);
    let id = told.id_of("c");
    for name in ["2", "3"] {
        publish(&hub, "c", name, None);
    }
    hub.leave(&first);
    let (again, sink, told) = come_back_while(&hub, &chat, &[("c".into(), id)], || {
        hub.keep(0, TTL, 1 << 30);
        sweep(&hub, Instant::now() + TTL);
        publish(&hub, "c", "4", None);
    });
    assert_eq!((told.recovered(), texts(&sink)), (vec![true], vec!["2".into(), "3".into(), "4".into()]));
    publish(&hub, "c", "5", None);
    hub.leave(&again);
    assert_eq!((hub.history_bytes(), channels(&hub)), (0, 0));
}

#[test]
fn a_batch_is_kept_message_by_message() {
    let hub = keeping(10);
    let (mut batch, mut flush_list) = (Batch::new(), FlushList::new());
    for data in ["\"1\"", "\"2\"", "\"3\""] {
        batch.add(&Delivery { issuer: "i", channel: "c", data: Some(data), subject: None });
    }
    let (_reader, live) = enter(&hub, &["c".to_owned()], ALWAYS);
    hub.publish_batch(&mut batch, None, &mut flush_list);
    flush_list.flush();
    let all = with_ids(&live);
    assert_eq!(all.iter().map(|(_, _, id)| id.number).collect::<Vec<_>>(), [1, 2, 3]);
    let (_, sink, told) = come_back(&hub, &["c".to_owned()], &[("c".into(), Some(all[0].2))]);
    assert_eq!(told.recovered(), [true]);
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
    sweep(&hub, Instant::now());
    assert!(hub.history_bytes() > 1000 * 500, "nothing is old");
    sweep(&hub, Instant::now() + TTL);
    assert_eq!((channels(&hub), hub.keeping.histories.load(Relaxed)), (1, 1));
    hub.leave(&reader);
    assert_eq!(channels(&hub), 1, "it may come back");
    sweep(&hub, Instant::now() + TTL);
    assert_eq!((hub.history_bytes(), channels(&hub), hub.keeping.histories.load(Relaxed)), (0, 0, 0));
}

/// What happens every second.
fn sweep(hub: &Hub, now: Instant) {
    hub.let_go(&hub.outdated(now), now);
    while hub.relieve_history(now, 16) {}
}

fn channels(hub: &Hub) -> usize {
    hub.channels.len()
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
    assert_eq!(told.recovered(), [true, false]);
    assert_eq!(texts(&sink).len(), 6);
    for number in 7..=20 {
        publish(&hub, "a", &number.to_string(), None);
    }
    let (_, sink, _) = come_back(&hub, &channels[..1], &[("a".into(), None)]);
    assert_eq!(texts(&sink), (11..=20).map(|number| number.to_string()).collect::<Vec<_>>(), "the latest");
}

#[test]
fn messages_that_were_not_kept_end_the_history() {
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
    assert!(told.recovered() == [false] && sink.written_len() == 0);
}

/// Publishers on some threads, and on others readers who go and come back all the time: each sees the channel's order
/// without a gap or a double, from its last place on or, where it is told so, from a new one.
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
                    let recovered = told.recovered() == [true];
                    recoveries.fetch_add(usize::from(recovered), Relaxed);
                    if !recovered {
                        last = told.id_of("c");
                    }
                    for (_, _, id) in with_ids(&sink) {
                        let before = last.unwrap();
                        assert_eq!(id, MessageId { number: before.number + 1, ..before });
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
