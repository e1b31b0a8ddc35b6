//! The image with which the next process goes on: nothing is lost, nothing is taken that is not true, and it is bounded.

use std::io::Cursor;
use std::sync::Barrier;

use super::*;
use crate::hub::image::fuzz::with_sum;
use crate::hub::{Boot, ImageError};

const BOOT: Boot = Boot { id: Some([7; 16]), ends_with_it: false };

/// Where the version, the id of the boot, the time and the first channel begin in an image.
const VERSION: usize = 16;
const BOOT_ID: usize = 20;
const MADE: usize = 36;
const CHANNELS: usize = 44;
/// The bytes of the checksum at the end.
const SUM: usize = 32;

fn image_of(hub: &Hub) -> Vec<u8> {
    let mut image = Vec::new();
    assert_eq!(hub.hand_over(&mut image, &BOOT).unwrap().left_out, 0);
    image
}

fn taken_by(hub: &Hub, image: &[u8]) -> Result<(usize, usize), ImageError> {
    hub.take_over(Cursor::new(image), &BOOT).map(|taken| (taken.channels, taken.messages))
}

fn next(image: &[u8]) -> Hub {
    let hub = keeping(3);
    taken_by(&hub, image).unwrap();
    hub
}

/// The image with other bytes at this place, and the right checksum.
fn with(image: &[u8], at: usize, bytes: &[u8]) -> Vec<u8> {
    let mut body = image[..image.len() - SUM].to_vec();
    body.splice(at..at + bytes.len(), bytes.iter().copied());
    with_sum(body)
}

/// The image as if it had been made earlier.
fn earlier(image: &[u8], by: Duration) -> Vec<u8> {
    let made = u64::from_le_bytes(image[MADE..CHANNELS].try_into().unwrap());
    with(image, MADE, &(made - by.as_nanos() as u64).to_le_bytes())
}

#[test]
fn a_client_resumes_at_the_next_process_as_if_there_were_one() {
    let first = keeping(3);
    let names = ["c".to_owned(), "quiet".to_owned()];
    let (reader, sink, told) = come_back(&first, &names, &[]);
    publish(&first, "c", "1", None);
    first.leave(&reader);
    let (_, _, seen) = with_ids(&sink).pop().unwrap();
    let quiet = told.id_of("quiet").unwrap();
    for text in ["2", "3", "4"] {
        publish(&first, "c", text, None);
    }

    let second = next(&image_of(&first));
    assert_eq!(first.history_bytes(), 0, "it keeps nothing twice");
    let since = [("c".into(), Some(seen)), ("quiet".into(), Some(quiet))];
    let (reader, sink, told) = come_back(&second, &names, &since);
    assert_eq!((told.recovered_of("c"), told.recovered_of("quiet")), (Some(true), Some(true)));
    publish(&second, "c", "5", None);
    assert_eq!(texts(&sink), ["2", "3", "4", "5"]);
    let ids: Vec<MessageId> = with_ids(&sink).into_iter().map(|(_, _, id)| id).collect();
    assert_eq!(ids, [2, 3, 4, 5].map(|number| MessageId { number, ..seen }));
    second.leave(&reader);

    // The next one again. 2 is no longer kept there, and its reader is told so.
    let third = next(&image_of(&second));
    let (_, sink, told) = come_back(&third, &names, &since);
    assert_eq!(
        (told.recovered_of("c"), told.recovered_of("quiet"), texts(&sink).len()),
        (Some(false), Some(true), 0)
    );
    let (_, sink, told) = come_back(&third, &names, &[("c".into(), Some(ids[0]))]);
    assert_eq!((told.recovered(), texts(&sink)), (vec![true], vec!["3".into(), "4".into(), "5".into()]));
}

/// Publishers do not stop for the image. What was published is in it, and nothing else.
/// Many times, because a publish and the image must meet at the same instant.
#[test]
fn every_message_is_in_the_image_or_refused() {
    (0..100).for_each(|_| publish_during_the_image());
}

fn publish_during_the_image() {
    const CHANNELS: usize = 8;
    const BYTES: usize = 1 << 15;
    let first = hub();
    first.keep(1 << 20, TTL, 1 << 30);
    let begin = Barrier::new(CHANNELS + 1);
    let (image, published) = thread::scope(|scope| {
        let publish_all = |channel: usize| {
            let (first, begin) = (&first, &begin);
            move || {
                let channel = channel.to_string();
                let delivery =
                    Delivery { issuer: "i", channel: &channel, data: Some("\"x\""), subject: None };
                let publish = || first.publish_except(&delivery, &[], &mut FlushList::new());
                let mut published = vec![publish().last.unwrap()];
                begin.wait();
                loop {
                    let queued = publish();
                    match queued.last {
                        Some(id) if !queued.refused => published.push(id),
                        id => return (id, published),
                    }
                }
            }
        };
        let publishers: Vec<_> = (0..CHANNELS).map(|channel| scope.spawn(publish_all(channel))).collect();
        begin.wait();
        while first.history_bytes() < BYTES {
            thread::yield_now();
        }
        let image = image_of(&first);
        (image, publishers.into_iter().map(|thread| thread.join().unwrap()).collect::<Vec<_>>())
    });
    let second = hub();
    second.keep(1 << 20, TTL, 1 << 30);
    let messages = published.iter().map(|(_, ids)| ids.len()).sum();
    assert_eq!(taken_by(&second, &image).unwrap(), (CHANNELS, messages));
    for (channel, (refused, ids)) in published.iter().enumerate() {
        assert_eq!(*refused, None);
        let name = ChannelName::new(&channel.to_string(), 9).unwrap();
        assert_eq!(second.position(&name).as_ref(), ids.last());
    }
    assert!(first.position(&ChannelName::new("0", 9).unwrap()).is_none(), "no history begins again");
}

#[test]
fn an_ack_tells_nobody_of_a_message_that_was_refused() {
    let hub = keeping(3);
    publish(&hub, "c", "1", None);
    image_of(&hub);
    let mut batch = Batch::new();
    batch.add(&Delivery { issuer: "i", channel: "c", data: Some("\"2\""), subject: None });
    batch.ask("7");
    let (reader, sink) = enter(&hub, &["c".to_owned()], ALWAYS);
    let readers = hub.publish_batch(&mut batch, None, &mut FlushList::new());
    assert_eq!((readers, batch.is_empty(), batch.is_asked()), (0, true, false));
    write(&reader);
    assert_eq!(sink.written_len(), 0);
    // A channel without a history promises nothing, and goes on.
    hub.keep(0, TTL, 1 << 30);
    publish(&hub, "c", "3", None);
    assert_eq!(received(&sink).len(), 1);
}

#[test]
fn messages_and_positions_grow_old_while_no_process_runs() {
    // Machines that run tests may have been started a few minutes ago.
    const SHORT: Duration = Duration::from_secs(100);
    const HALF: Duration = Duration::from_secs(50);
    let keeping = || {
        let hub = hub();
        hub.keep(3, SHORT, 1 << 30);
        hub
    };
    let first = keeping();
    let names = ["c".to_owned(), "quiet".to_owned()];
    let (reader, _, told) = come_back(&first, &names, &[]);
    publish(&first, "c", "1", None);
    first.leave(&reader);
    let image = image_of(&first);
    let next_after = |time| {
        let hub = keeping();
        taken_by(&hub, &earlier(&image, time)).unwrap();
        hub
    };
    let since = || {
        let id = |name: &str| (name.to_owned().into(), told.id_of(name));
        [id("c"), id("quiet")]
    };
    assert_eq!(come_back(&next_after(HALF), &names, &since()).2.recovered(), [true, true]);
    let second = next_after(HALF);
    sweep(&second, Instant::now() + Duration::from_secs(10));
    assert_eq!(channels(&second), 2);
    sweep(&second, Instant::now() + HALF + Duration::from_secs(2));
    assert_eq!((channels(&second), second.history_bytes()), (0, 0));
    assert_eq!(come_back(&next_after(SHORT), &names, &since()).2.recovered_of("c"), Some(false));
}

#[test]
fn no_damaged_or_foreign_image_is_taken() {
    let first = keeping(3);
    for text in ["1", "2", "3", "4"] {
        publish(&first, "c", text, None);
    }
    let image = image_of(&first);
    let why = |image: &[u8], boot: &Boot| {
        let hub = keeping(3);
        let why = hub.take_over(Cursor::new(image), boot).unwrap_err();
        assert_eq!((hub.history_bytes(), channels(&hub)), (0, 0), "all or nothing");
        why.to_string()
    };
    let refused = |image: &[u8], sentence: &str| {
        let why = why(image, &BOOT);
        assert!(why.contains(sentence), "{why}");
    };
    (0..image.len()).for_each(|length| refused(&image[..length], "truncated"));
    for at in 0..image.len() {
        let mut other = image.clone();
        other[at] ^= 0x10;
        why(&other, &BOOT);
    }
    refused(&with(&image, 0, b"P"), "no image");
    refused(&with(&image, VERSION, &[2]), "version 2 of the format, and this philote reads version 1");
    refused(&with(&image, BOOT_ID, &[8]), "since this machine was started");
    refused(&with(&image, MADE, &[0xff; 7]), "since this machine was started");
    refused(&with(&image, CHANNELS, &[2]), "no channel where one begins");
    refused(&with(&image, CHANNELS + 3, b"\n"), "a name that no channel can have");
    refused(&with(&image, CHANNELS + 4, &[0; 8]), "an id that no message can have");
    refused(&with(&image, CHANNELS + 12, &[0xff; 8]), "an id that no message can have");
    refused(&with(&image, CHANNELS + 28, &[9]), "an end within a channel");
    refused(&with(&image, CHANNELS + 40, &[0xff; 4]), "an end within a channel");
    refused(&with(&image, CHANNELS + 44, &[0x82]), "a message that is no frame");
    let channel = image[CHANNELS..image.len() - SUM - 1].to_vec();
    let twice = [&image[..CHANNELS], &channel, &channel, &[0]].concat();
    refused(&with_sum(twice), "a channel twice");

    // An unknown boot is this one only if the image could not outlive it.
    let unknown = with(&image, BOOT_ID, &[0; 16]);
    let boot = |id, ends_with_it| Boot { id, ends_with_it };
    for (image, boot) in
        [(&image, boot(None, true)), (&unknown, boot(None, true)), (&unknown, boot(BOOT.id, true))]
    {
        keeping(3).take_over(Cursor::new(image), &boot).unwrap();
    }
    for boot in [boot(None, false), boot(Some([8; 16]), false), boot(Some([8; 16]), true)] {
        assert!(why(&image, &boot).contains("since this machine was started"));
    }
}

#[test]
fn an_image_holds_no_more_than_all_histories_may() {
    let first = keeping(9);
    for channel in 0..100 {
        publish(&first, &channel.to_string(), &"x".repeat(100), None);
    }
    // As a reload does. The sweep has dropped nothing yet.
    let max = 10_000;
    first.keep(9, TTL, max);
    let mut image = Vec::new();
    let handed = first.hand_over(&mut image, &BOOT).unwrap();
    assert!(image.len() <= max && image.len() > max - 300, "{}", image.len());
    assert!(handed.channels > 20 && handed.left_out == 100 - handed.channels, "{handed:?}");
    let second = hub();
    second.keep(9, TTL, image.len() - 1);
    let why = taken_by(&second, &image).unwrap_err().to_string();
    assert!(
        why.ends_with(&format!("has {} bytes, and [history] bytes allows {}", image.len(), image.len() - 1)),
        "{why}"
    );
    second.keep(9, TTL, image.len());
    taken_by(&second, &image).unwrap();
    assert!(second.history_bytes() <= image.len());
}

/// The settings of the next process decide.
#[test]
fn an_image_is_cut_to_what_channels_keep_now() {
    let first = keeping(9);
    for channel in ["a", "b:1"] {
        for number in 0..9 {
            publish(&first, channel, &number.to_string(), None);
        }
    }
    let image = image_of(&first);
    let second = hub();
    second.keep_by_name(Retentions::new(Retention::new(2, TTL), [("b:", Retention::new(0, TTL))]), 1 << 30);
    assert_eq!(taken_by(&second, &image).unwrap(), (1, 2));
    assert_eq!(channels(&second), 1);
    let (_, sink, _) = come_back(&second, &["a".to_owned()], &[("a".into(), None)]);
    assert_eq!(texts(&sink), ["7", "8"]);
}

proptest! {
    #[test]
    fn any_histories_are_the_same_in_the_next_process(
        published in proptest::collection::vec((0_u8..4, 0_usize..300, 1_u32..4), 0..60),
    ) {
        let first = keeping(5);
        for (channel, length, count) in published {
            let (channel, data) = (channel.to_string(), format!("\"{}\"", "x".repeat(length)));
            let mut batch = Batch::new();
            (0..count).for_each(|_| batch.add(&Delivery { issuer: "i", channel: &channel, data: Some(&data), subject: None }));
            first.publish_batch(&mut batch, None, &mut FlushList::new());
        }
        let kept = |hub: &Hub| {
            let mut all = BTreeMap::new();
            for shard in hub.channels.shards() {
                for (name, channel) in lock(shard).iter() {
                    let readers = lock(&channel.readers);
                    let history = readers.history.as_ref().unwrap();
                    let frames: Vec<Frame> = history.frames_after(0).collect();
                    all.insert(name.clone(), (history.id_of(history.last()), history.messages(), frames));
                }
            }
            (all, hub.history_bytes())
        };
        let before = kept(&first);
        let image = image_of(&first);
        prop_assert!(image.len() <= before.1.max(100), "a history counts more than its image has");
        let second = keeping(5);
        taken_by(&second, &image).unwrap();
        prop_assert_eq!(kept(&second).0, before.0);
    }
}
