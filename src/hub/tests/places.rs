//! Places: what an administrator is told that a connection has got, against what is in its socket.

use super::*;
use crate::close::CloseReason;
use crate::deflate::{Window, inflate, negotiate};
use crate::hub::places::Joined;
use crate::message::MessageId;
use crate::outbox::{MAX_CHANNELS, MAX_INFLATED};

const TTL: Duration = Duration::from_secs(3600);
const CHANNELS: [&str; 3] = ["a", "b \"quoted\"", "ü"];

#[derive(Clone, Debug)]
enum Op {
    Publish(usize, u8),
    /// The socket takes more bytes.
    Grant(usize),
    /// The connection's task runs.
    Poll,
    Join(usize),
    Leave(usize),
    Close(bool),
    Break,
}

fn op() -> impl Strategy<Value = Op> {
    let channel = 0..CHANNELS.len();
    prop_oneof![
        12 => (channel.clone(), 1_u8..5).prop_map(|(channel, count)| Op::Publish(channel, count)),
        8 => (1_usize..700).prop_map(Op::Grant),
        4 => proptest::strategy::Just(Op::Poll),
        2 => channel.clone().prop_map(Op::Join),
        2 => channel.prop_map(Op::Leave),
        1 => any::<bool>().prop_map(Op::Close),
        1 => proptest::strategy::Just(Op::Break),
    ]
}

/// The ids of the messages of a channel that are whole in a socket.
fn written(sink: &TestSink, channel: &str) -> Vec<MessageId> {
    let bytes = sink.written();
    let (mut at, mut ids) = (0, Vec::new());
    while let Some([kind, length, ..]) = bytes.get(at..) {
        assert!(*length < 126);
        let end = at + 2 + usize::from(*length);
        let Some(payload) = bytes.get(at + 2..end) else { break };
        let message: Option<serde_json::Value> = match *kind {
            0x81 => serde_json::from_slice(payload).ok(),
            0xc1 => inflate(payload, 1000, |text| serde_json::from_slice(text).ok()).unwrap(),
            _ => None,
        };
        if let Some(message) = message.filter(|message| message["channel"] == channel) {
            ids.push(MessageId::parse(message["id"].as_str().unwrap()));
        }
        at = end;
    }
    ids
}

fn publish_many(hub: &Hub, channel: &str, count: u8) {
    let mut batch = Batch::new();
    let data = format!("\"{}\"", "x".repeat(30));
    (0..count).for_each(|_| batch.add(&Delivery { issuer: "i", channel, data: Some(&data), subject: None }));
    let mut flush_list = FlushList::new();
    hub.publish_batch(&mut batch, None, &mut flush_list);
    flush_list.flush();
}

/// What must be so of a place: it is where the messages in the socket end.
///
/// Of more than some compressed messages in a queue it need not be known.
fn check(place: &Place, sink: &TestSink, published: usize) -> Result<(), TestCaseError> {
    let ids = written(sink, place.channel.as_str());
    let of_place =
        |id: &&MessageId| id.epoch == place.epoch && (place.after + 1..=place.last).contains(&id.number);
    let numbers: Vec<u64> = ids.iter().filter(of_place).map(|id| id.number).collect();
    let Some(up_to) = place.up_to else {
        prop_assert!(published > MAX_INFLATED, "not known after {published} messages: {place:?}");
        return Ok(());
    };
    prop_assert!((place.after..=place.last).contains(&up_to), "{:?}", place);
    let wanted: Vec<u64> = (place.after + 1..=up_to).collect();
    prop_assert_eq!(numbers, wanted, "{:?}", place);
    Ok(())
}

proptest! {
    #[test]
    fn a_place_is_where_the_messages_in_the_socket_end(
        ops in proptest::collection::vec(op(), 1..80),
        compresses in any::<bool>(),
    ) {
        let hub = Hub::new(Arc::new(Budget::new(12, 1500, 1 << 30, 1024)));
        hub.compress_from(Some(1));
        hub.keep(1_000, TTL, 1 << 30);
        let may = CHANNELS.map(str::to_owned);
        let address = ([127, 0, 0, 1], 1).into();
        let claims = Arc::new(allow(&may[..1], &["*"]));
        let connection = Connection::new(address, claims, hub.budget().clone(), 0);
        let connection = Arc::new(connection.with_window(compresses.then(window)));
        let sink = TestSink::with_room(500);
        let mut published = 0;
        hub.enter(&connection);
        connection.outbox.attach(Box::new(sink.clone()));
        let name = |channel: usize| [ChannelName::new(CHANNELS[channel], 255).unwrap()];
        for op in ops {
            match op {
                Op::Publish(channel, count) => {
                    publish_many(&hub, CHANNELS[channel], count);
                    published += if compresses { usize::from(count) } else { 0 };
                }
                Op::Grant(bytes) => sink.grant(bytes),
                Op::Poll => {
                    connection.outbox.poll(&mut Context::from_waker(Waker::noop()));
                }
                Op::Join(channel) => hub.enter_channels(&connection, &name(channel), &[], 9, |_| {}).unwrap(),
                // The first one is named by its token, so it cannot be left.
                Op::Leave(channel) => assert_eq!(hub.leave_channels(&connection, &name(channel)).is_ok(), channel > 0),
                Op::Close(slow) => {
                    let reason = if slow { CloseReason::QueueMemory } else { CloseReason::Stopping };
                    connection.outbox.close(reason);
                }
                Op::Break => sink.break_down(),
            }
            for channel in CHANNELS {
                if let Some(place) = hub.place(&connection, channel) {
                    check(&place, &sink, published)?;
                }
            }
        }
        hub.leave(&connection);
        for place in connection.left_places() {
            check(&place, &sink, published)?;
        }
    }
}

#[test]
fn the_number_after_which_a_connection_joined_is_kept_in_a_few_bits() {
    let id = |epoch, number| MessageId { epoch, number };
    for (joined, last, after) in [
        (id(7, 0), id(7, 5), 0),
        (id(7, 3), id(7, 5), 3),
        (id(7, u64::from(u32::MAX) + 9), id(7, u64::from(u32::MAX) + 12), u64::from(u32::MAX) + 9),
        (id(7, u64::from(u32::MAX)), id(7, u64::from(u32::MAX) + 12), u64::from(u32::MAX)),
        (id(7, 3), id(8, 5), 0),
    ] {
        assert_eq!(Joined::after(joined).number(last), after, "{joined} {last}");
    }
    assert_eq!(Joined::default().number(id(7, 5)), 0, "there was no history");
    assert_eq!(Joined::after(id(7, 3)).earlier(id(7, 2)).number(id(7, 9)), 2);
    assert_eq!(Joined::after(id(7, 3)).earlier(id(7, 5)).number(id(7, 9)), 3);
    assert_eq!(Joined::after(id(7, 3)).earlier(id(8, 5)).number(id(8, 9)), 5);
}

/// The window of a reader that takes compressed messages.
fn window() -> Window {
    negotiate(std::iter::once(&b"permessage-deflate"[..])).unwrap().window
}

/// Its queue would take a tenth of a second to read whole.
#[test]
fn only_some_compressed_messages_of_a_queue_are_looked_into() {
    let hub = hub();
    hub.keep(9, TTL, 1 << 30);
    hub.compress_from(Some(1));
    let claims = Arc::new(access(&["a".to_owned(), "b".to_owned(), "c".to_owned()]));
    let connection = Connection::new(([127, 0, 0, 1], 1).into(), claims, hub.budget().clone(), 0);
    let connection = Arc::new(connection.with_window(Some(window())));
    hub.enter(&connection);
    publish_many(&hub, "b", MAX_INFLATED as u8 - 1);
    publish_many(&hub, "a", 1);
    publish_many(&hub, "c", 1);
    // One that is not compressed is not the first of its channel.
    hub.compress_from(None);
    publish_many(&hub, "c", 1);
    let known = || ["a", "b", "c"].map(|name| hub.place(&connection, name).unwrap().up_to);
    assert_eq!(known(), [Some(0), Some(0), None]);
    // It is closed, and gets no later message either.
    connection.outbox.close(CloseReason::QueueMemory);
    publish_many(&hub, "c", 1);
    assert_eq!(known(), [Some(0), Some(0), None]);
    assert_eq!(hub.compression().messages, MAX_INFLATED as u64 + 1);
}

#[test]
fn places_are_kept_for_a_bounded_number_of_channels() {
    let hub = hub();
    hub.keep(9, TTL, 1 << 30);
    let names: Vec<String> = (0..MAX_CHANNELS + 5).map(|number| format!("c{number:02}")).collect();
    let (connection, sink) = enter(&hub, &names, 0);
    names.iter().for_each(|name| publish_many(&hub, name, 1));
    assert_eq!(sink.written_len(), 0);
    let known = |name: &String| hub.place(&connection, name).unwrap().up_to;
    assert_eq!(names.iter().filter(|name| known(name) == Some(0)).count(), MAX_CHANNELS);
    assert_eq!(
        names.iter().filter(|name| known(name).is_none()).count(),
        5,
        "it is not told what is not known"
    );
    hub.leave(&connection);
    assert_eq!(connection.left_places().len(), MAX_CHANNELS);
}
