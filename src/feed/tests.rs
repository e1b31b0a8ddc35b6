use serde_json::Value;

use super::ring::{RING_BYTES, RING_EVENTS};
use super::*;
use crate::message::ChannelPattern;

fn patterns(texts: &[&str]) -> ChannelPatterns {
    texts.iter().map(|text| ChannelPattern::new(text, 255).unwrap()).collect()
}

fn name(text: &str) -> ChannelName {
    ChannelName::new(text, 255).unwrap()
}

fn follow(feed: &Arc<Feed>, channels: &[&str], last: Option<MessageId>) -> Arc<Following> {
    feed.follow(patterns(channels), last, || {}).unwrap()
}

/// The lines that wait for a stream, and whether it has ended.
fn lines(following: &Following) -> (Vec<Value>, bool) {
    let (mut text, mut ended) = (Vec::new(), false);
    while !ended {
        match following.take(Format::JsonLines) {
            Taken::Some(bytes) => text.extend_from_slice(&bytes),
            Taken::Last(bytes) => {
                text.extend_from_slice(&bytes);
                ended = true;
            }
            Taken::Nothing => break,
        }
    }
    let lines = text.split(|byte| *byte == b'\n').filter(|line| !line.is_empty());
    (lines.map(|line| serde_json::from_slice(line).unwrap()).collect(), ended)
}

fn events(following: &Following) -> Vec<String> {
    let (lines, _) = lines(following);
    lines.iter().map(|line| line["event"].as_str().unwrap().to_owned()).collect()
}

fn id(line: &Value) -> MessageId {
    MessageId::parse(line["id"].as_str().unwrap())
}

#[test]
fn nothing_is_recorded_without_a_stream_and_for_some_time_after_the_last() {
    let feed = Arc::new(Feed::default());
    let (room, nobody) = (name("room:1"), Uuid::nil());
    feed.opened(nobody, None);
    assert!(!feed.records() && !feed.selects(&room));
    let stream = follow(&feed, &["room:*"], None);
    assert!(feed.records() && feed.selects(&room) && !feed.selects(&name("hall")));
    assert!(!feed.selects(&ChannelName::internal("room:1")));
    let last = id(&lines(&stream).0[0]);
    let ended = Instant::now();
    drop(stream);
    feed.opened(nobody, None);
    assert!(!feed.expires(ended + KEPT_FOR / 2));
    assert_eq!(events(&follow(&feed, &["room:*"], Some(last))), ["opened"]);
    let later = Instant::now() + KEPT_FOR;
    assert!(feed.expires(later));
    feed.expire(later, || {});
    assert!(!feed.records() && !feed.selects(&room));
    feed.opened(nobody, None);
    let lost = follow(&feed, &["room:*"], Some(last));
    assert_eq!(events(&lost), ["missed"]);
}

#[test]
fn the_last_10000_events_are_kept_and_a_stream_that_is_slower_is_ended_with_the_number_it_missed() {
    let feed = Arc::new(Feed::default());
    let [none, all] = [&[][..], &["*"]].map(|channels| follow(&feed, channels, None));
    let first = id(&lines(&all).0[0]);
    for number in 0..RING_EVENTS + 7 {
        feed.joined(&name(&number.to_string()), Uuid::nil(), None);
    }
    feed.opened(Uuid::nil(), None);
    let (told, ended) = lines(&all);
    assert!(ended);
    let missed = (RING_EVENTS + 8) as u64;
    assert_eq!((&told[0]["event"], &told[0]["missed"]), (&"ended".into(), &missed.into()), "{told:?}");
    assert_eq!(events(&none), ["alive", "opened"], "it has not selected them");
    let resume = |number| follow(&feed, &["*"], Some(MessageId { epoch: first.epoch, number }));
    // The last one is the connection's.
    let oldest = first.number + (RING_EVENTS + 8) as u64 + 1 - RING_EVENTS as u64;
    let (kept, ended) = lines(&resume(oldest - 1));
    assert!(!ended);
    assert!(kept.iter().map(|line| id(line).number).eq(oldest..oldest + RING_EVENTS as u64), "{}", kept[0]);
    assert_eq!(events(&resume(oldest - 2)), ["missed"]);
}

#[test]
fn the_events_that_are_kept_have_a_limit_in_bytes() {
    let feed = Arc::new(Feed::default());
    let stream = follow(&feed, &["*"], None);
    let long = "x".repeat(255);
    for number in 0..RING_EVENTS {
        feed.opened(Uuid::from_u128(number as u128), Some(&long));
    }
    let (told, _) = lines(&stream);
    let bytes = lock(&feed.state).log.ring.as_ref().unwrap().bytes();
    assert!(bytes <= RING_BYTES && bytes > RING_BYTES - 1024, "{bytes}");
    assert_eq!(told.last().unwrap()["missed"], RING_EVENTS);
}

#[test]
fn in_a_cluster_each_line_names_the_node() {
    let feed = Arc::new(Feed::default());
    feed.set_node("a");
    let stream = follow(&feed, &[], Some(MessageId::NONE));
    feed.opened(Uuid::nil(), Some("ann"));
    stream.end(CloseReason::TokenExpired);
    let (told, ended) = lines(&stream);
    assert!(ended && told.iter().all(|line| line["node"] == "a"), "{told:?}");
    let names: Vec<_> = told.iter().map(|line| line["event"].as_str().unwrap()).collect();
    assert_eq!(names, ["missed", "opened", "ended"]);
}

#[test]
fn there_is_an_end_to_streams_and_to_what_is_kept_for_them() {
    let feed = Arc::new(Feed::default());
    for round in 0..3 {
        let mut streams = Vec::new();
        for number in 0..MAX_STREAMS {
            streams.push(follow(&feed, &[&format!("{round}:{number}")], None));
        }
        let one_more = feed.follow(patterns(&[]), None, || {});
        assert_eq!(one_more.err(), Some(FollowError::Full));
        streams.pop();
        follow(&feed, &["*"], None);
    }
    let kept = lock(&feed.state).selections.len();
    assert!(kept <= 2 * MAX_STREAMS, "{kept}");
}

#[tokio::test]
async fn a_stop_ends_all_streams_behind_what_was_recorded_before_it() {
    let feed = Arc::new(Feed::default());
    let stream = follow(&feed, &[], None);
    feed.opened(Uuid::nil(), None);
    let stop = tokio::spawn({
        let feed = feed.clone();
        async move { feed.end(CloseReason::Stopping).await }
    });
    stream.changed().await;
    while !matches!(feed.follow(patterns(&[]), None, || {}), Err(FollowError::Stopping)) {
        tokio::task::yield_now().await;
    }
    feed.opened(Uuid::nil(), None);
    let (told, ended) = lines(&stream);
    assert!(ended && told.len() == 3, "{told:?}");
    assert_eq!(told[2]["reason"], "stopping");
    assert!(!stop.is_finished(), "the stream is not gone");
    drop(stream);
    stop.await.unwrap();
}
