//! Compressed messages: all readers get the same ones, and each is compressed at most once.

use proptest::collection::vec;

use super::*;
use crate::deflate::{RSV1, inflate, negotiate};

/// A reader with a window of this many bits; 0 without compression.
fn reader(hub: &Hub, bits: u8, room: usize) -> (Arc<Connection>, TestSink) {
    let offer = format!("permessage-deflate; server_max_window_bits={bits}");
    let window = negotiate(std::iter::once(offer.as_bytes())).map(|agreement| agreement.window);
    assert_eq!(window.is_some(), bits != 0);
    let address = ([127, 0, 0, 1], 1).into();
    let claims = Arc::new(access(&["c".to_owned()]));
    let connection = Connection::new(address, claims, hub.budget().clone(), 0).with_window(window);
    let (connection, sink) = (Arc::new(connection), TestSink::with_room(room));
    hub.enter(&connection);
    connection.outbox.attach(Box::new(sink.clone()));
    (connection, sink)
}

/// The first byte and the payload of each frame.
fn frames(mut bytes: &[u8]) -> Vec<(u8, Vec<u8>)> {
    let mut frames = Vec::new();
    while let [first, length, rest @ ..] = bytes {
        let (length, rest) = match *length {
            126 => (usize::from(u16::from_be_bytes([rest[0], rest[1]])), &rest[2..]),
            127 => (u64::from_be_bytes(rest[..8].try_into().unwrap()) as usize, &rest[8..]),
            length => (usize::from(length), rest),
        };
        frames.push((*first, rest[..length].to_vec()));
        bytes = &rest[length..];
    }
    frames
}

/// The messages that a reader has got, decompressed, and how many were compressed.
fn read(sink: &TestSink) -> (Vec<String>, u64) {
    let mut compressed = 0;
    let text = |(first, payload): (u8, Vec<u8>)| {
        assert_eq!(first & !RSV1, 0x81);
        let payload = if first & RSV1 == 0 {
            payload
        } else {
            compressed += 1;
            inflate(&payload, 1 << 20, <[u8]>::to_vec).unwrap()
        };
        String::from_utf8(payload).unwrap()
    };
    let texts = frames(&sink.written()).into_iter().map(text).collect();
    (texts, compressed)
}

fn publish_all(hub: &Hub, texts: &[String], publisher: Option<&Arc<Connection>>) {
    let (mut batch, mut flush_list) = (Batch::new(), FlushList::new());
    for text in texts {
        let data = format!("\"{text}\"");
        batch.add(&Delivery { issuer: "i", channel: "c", data: Some(&data), subject: None });
    }
    hub.publish_batch(&mut batch, publisher, &mut flush_list);
    flush_list.flush();
}

fn text() -> impl Strategy<Value = String> {
    prop_oneof![
        "[a-z]{0,30}",
        "([a-z]{1,3}){100}",
        "(word |text |and ){0,100}",
        "(ab|cd){2000,6000}",
        "(x|y){30000}"
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn readers_with_and_without_compression_get_the_same_messages(
        batches in vec(vec(text(), 1..5), 1..6),
        from in prop_oneof![Just(None), (1..400_usize).prop_map(Some)],
        is_kept in any::<bool>(),
    ) {
        let hub = hub();
        hub.compress_from(from);
        if is_kept {
            hub.keep(1000, Duration::from_secs(60), 1 << 30);
        }
        let readers: Vec<_> = [0, 15, 0, 12, 8, 9, 15].map(|bits| (bits, reader(&hub, bits, ALWAYS).1)).into();
        for batch in &batches {
            publish_all(&hub, batch, None);
        }
        let (expected, plain) = read(&readers[0].1);
        prop_assert_eq!(expected.len(), batches.concat().len());
        prop_assert_eq!(plain, 0, "this reader takes no compression");
        for (bits, sink) in &readers {
            let (texts, compressed) = read(sink);
            prop_assert!(texts == expected, "{} bits", bits);
            prop_assert!(sink.written_len() <= readers[0].1.written_len());
            if *bits >= 12 {
                prop_assert_eq!(compressed, hub.compression().messages);
            }
        }
        if from.is_none() {
            prop_assert_eq!(hub.compression(), CompressionFigures::default());
        }
    }
}

#[test]
fn a_reference_never_leaves_the_window_that_a_reader_has_asked_for() {
    let hub = hub();
    hub.compress_from(Some(1));
    let sinks: Vec<_> = (8..16).map(|bits| (bits, reader(&hub, bits, ALWAYS).1)).collect();
    // What repeats is as far away as the message allows.
    let mut state = 1_u32;
    let noise = std::iter::repeat_with(|| {
        state ^= state << 13;
        state ^= state >> 17;
        state ^= state << 5;
        char::from(b'a' + (state % 26) as u8)
    });
    let noise: String = noise.take(20_000).collect();
    for length in [100, 200, 400, 1000, 3000, 6000, 40_000] {
        publish_all(&hub, &[format!("{}{}", &noise[..length / 2], &noise[..length / 2])], None);
    }
    for (bits, sink) in sinks {
        let mut lengths = 0;
        for (first, payload) in frames(&sink.written()) {
            if first & RSV1 != 0 {
                // A decoder with only this window. zlib has none of 8 bits.
                let mut decoder = flate2::Decompress::new_with_window_bits(false, std::cmp::max(bits, 9));
                let (mut text, mut rest) = (Vec::new(), [&payload[..], &[0, 0, 0xff, 0xff]].concat());
                // In small steps, because a decoder may refer to all that it has written in one.
                loop {
                    let before = decoder.total_in();
                    let mut step = [0; 16];
                    decoder.decompress(&rest, &mut step, flate2::FlushDecompress::Sync).unwrap();
                    rest.drain(..(decoder.total_in() - before) as usize);
                    let made = decoder.total_out() as usize - text.len();
                    text.extend_from_slice(&step[..made]);
                    if made < step.len() && rest.is_empty() {
                        break;
                    }
                }
                assert!(std::str::from_utf8(&text).unwrap().starts_with("{\"issuer\""));
                lengths = lengths.max(text.len());
            }
        }
        let longest = if bits < 12 { 1 << bits } else { usize::MAX };
        assert!((100..=longest).contains(&lengths), "{bits} bits: {lengths}");
    }
}

#[test]
fn nothing_is_compressed_that_nobody_takes_compressed() {
    let hub = hub();
    hub.compress_from(Some(1));
    let long = ["word ".repeat(100)];
    let (plain, _) = reader(&hub, 0, ALWAYS);
    publish_all(&hub, &long, None);
    let (publisher, own) = reader(&hub, 15, ALWAYS);
    publish_all(&hub, &long, Some(&publisher));
    assert_eq!(hub.compression().messages, 0, "the only reader that would take it is the publisher");
    assert_eq!(own.written_len(), 0);
    publish_all(&hub, &long, Some(&plain));
    assert_eq!((hub.compression().messages, read(&own).1), (1, 1));
    // A publisher that does not read the channel takes nobody's place.
    let claims = Arc::new(access(&[]));
    let window = publisher.outbox.window;
    let stranger = Connection::new(([127, 0, 0, 1], 1).into(), claims, hub.budget().clone(), 0);
    publish_all(&hub, &long, Some(&Arc::new(stranger.with_window(window))));
    assert_eq!(hub.compression().messages, 2);
    hub.leave(&publisher);
    publish_all(&hub, &long, None);
    assert_eq!(hub.compression().messages, 2, "the last one has left");
    let figures = hub.compression();
    assert!(figures.before > 1000 && figures.after < figures.before / 4, "{figures:?}");
}

#[test]
fn what_waits_is_counted_compressed() {
    let hub = hub();
    hub.compress_from(Some(1));
    let (slow, sink) = reader(&hub, 15, 0);
    for _ in 0..3 {
        publish_all(&hub, &["word ".repeat(1000)], None);
    }
    let queued = slow.outbox.stats().queued_bytes;
    assert!(queued < 1000, "{queued}");
    assert_eq!((queued, hub.budget().refused_bytes()), (slow.outbox.refused_bytes(), queued));
    sink.grant(ALWAYS);
    slow.outbox.poll(&mut Context::from_waker(Waker::noop()));
    assert_eq!((slow.outbox.stats().queued_bytes, sink.written_len()), (0, queued));
    assert_eq!(read(&sink).0.len(), 3);
}
