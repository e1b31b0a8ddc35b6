//! Presence with other nodes: their parts, the answers that wait for them, and the bounds.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::presence::{channel, connect, frames};
use super::*;

const LIMITS: PresenceLimits = PresenceLimits { grace: Duration::ZERO, subjects: 100 };
const B: &str = "b@0000000000000002";
const C: &str = "c@0000000000000003";

fn peers() -> Vec<Peer> {
    [(B, true), (C, true), ("gone@0000000000000004", false)]
        .map(|(id, reachable)| Peer { id: id.into(), reachable })
        .into()
}

fn shared() -> Hub {
    let hub = hub();
    hub.share_presence();
    hub
}

fn look(hub: &Hub, connection: &Arc<Connection>, follow: Option<bool>) {
    let mut flush_list = FlushList::new();
    hub.look_at_presence(connection, &channel(), follow, (LIMITS, &peers()), |frame| {
        let _ = flush_list.push(connection, &frame);
    });
    flush_list.flush();
}

fn tell(hub: &Hub, after: Duration) {
    let mut flush_list = FlushList::new();
    hub.tell_presence(Instant::now() + after, LIMITS, &peers(), &mut flush_list);
    flush_list.flush();
}

fn hear(hub: &Hub, node: &str, told: &Told) {
    let mut flush_list = FlushList::new();
    hub.hear_presence(node, "c", told, &peers(), &mut flush_list);
    flush_list.flush();
}

fn told(whole: bool, more: bool, subjects: &[(&str, u32)], anonymous: u32) -> Told {
    let subject = |(name, connections): &(&str, u32)| ToldSubject {
        subject: Arc::from(*name),
        connections: *connections,
        info: None,
    };
    Told { whole, more, subjects: subjects.iter().map(subject).collect(), anonymous }
}

#[test]
fn an_answer_waits_for_reachable_nodes_and_names_the_others() {
    let hub = shared();
    let (ann, sink) = connect(&hub, Some("ann"), true);
    look(&hub, &ann, None);
    look(&hub, &ann, Some(true));
    hear(&hub, B, &told(true, false, &[("ann", 2), ("bob", 1)], 1));
    assert!(frames(&sink).is_empty(), "a node has not answered");
    hear(&hub, C, &told(true, false, &[], 2));
    let answers = frames(&sink);
    let expected = json!({
        "channel": "c", "subjects": {"ann": 3, "bob": 1}, "info": {"ann": {"name": "ann!"}}, "count": 2,
        "anonymous": 3, "unanswered": ["gone"]
    });
    assert_eq!(answers, [expected.clone(), expected], "each request is answered once");
    // Now they are all known.
    look(&hub, &ann, None);
    assert_eq!(frames(&sink).len(), 3);
    tell(&hub, Duration::ZERO);
    // A node is in doubt, and the answer waits until it is late.
    let before = frames(&sink).len();
    hub.doubt_presence(Some(B));
    look(&hub, &ann, None);
    tell(&hub, Duration::ZERO);
    assert_eq!(frames(&sink).len(), before);
    tell(&hub, Duration::from_secs(2));
    assert_eq!(frames(&sink)[before]["unanswered"], json!(["b", "gone"]));
    assert_eq!(frames(&sink)[before]["count"], 2, "what is known is told");
}

#[test]
fn who_leaves_while_it_waits_is_answered_first() {
    let hub = shared();
    let (ann, sink) = connect(&hub, Some("ann"), true);
    look(&hub, &ann, Some(true));
    let mut flush_list = FlushList::new();
    hub.answer_presence_now(&ann, &peers(), &mut flush_list);
    flush_list.flush();
    assert_eq!(frames(&sink)[0]["unanswered"], json!(["b", "c", "gone"]));
    hear(&hub, B, &told(true, false, &[], 0));
    hear(&hub, C, &told(true, false, &[], 0));
    assert_eq!(frames(&sink).len(), 1, "it waits no longer");
}

#[test]
fn a_whole_part_replaces_the_one_before_without_an_event_for_those_who_stay() {
    let hub = shared();
    let (ann, sink) = connect(&hub, Some("ann"), true);
    look(&hub, &ann, Some(true));
    [B, C].iter().for_each(|node| hear(&hub, node, &told(true, false, &[("bob", 1), ("cy", 1)], 0)));
    tell(&hub, Duration::ZERO);
    let before = frames(&sink).len();
    hear(&hub, C, &told(true, false, &[], 0));
    hear(&hub, B, &told(true, true, &[("bob", 2)], 0));
    tell(&hub, Duration::from_secs(1));
    assert_eq!(frames(&sink).len(), before, "the second page is not there yet");
    hear(&hub, B, &told(false, true, &[("dan", 1)], 0));
    hear(&hub, B, &told(false, false, &[("eve", 1)], 7));
    tell(&hub, Duration::from_secs(1));
    // Those who joined in this second are told first.
    tell(&hub, Duration::from_secs(2));
    let (joined, left): (Vec<Value>, Vec<Value>) =
        frames(&sink)[before..].iter().map(|frame| (frame["joined"].clone(), frame["left"].clone())).unzip();
    assert_eq!(json!(joined), json!([["dan", "eve"]]));
    assert_eq!(json!(left), json!([["cy"]]));
    hear(&hub, B, &told(false, false, &[("bob", 0), ("dan", 0)], 6));
    tell(&hub, Duration::from_secs(3));
    let last = frames(&sink).pop().unwrap();
    assert_eq!(
        last,
        json!({"channel": "c", "joined": [], "left": ["bob", "dan"], "count": 2, "anonymous": 6})
    );
}

#[test]
fn other_nodes_are_told_what_changes_here_and_nothing_of_other_channels() {
    let hub = shared();
    let ann = connect(&hub, Some("ann"), true).0;
    assert!(hub.take_presence_changes().is_empty());
    hub.follow_elsewhere(&channel(), true);
    let followed = hub.share_presence();
    assert_eq!(followed.take().owed, [channel()]);
    assert_eq!(
        hub.take_presence(&channel()).subjects.iter().map(|told| &*told.subject).collect::<Vec<_>>(),
        ["ann"]
    );
    assert!(hub.take_presence_changes().is_empty());
    let (again, _nobody) = (connect(&hub, Some("ann"), true).0, connect(&hub, None, true));
    let mut changes = hub.take_presence_changes();
    let (name, change) = changes.pop().unwrap();
    assert_eq!((name, change.subjects[0].connections, change.anonymous), (channel(), 2, 1));
    hub.leave(&again);
    hub.leave(&ann);
    assert_eq!(hub.take_presence_changes()[0].1.subjects[0].connections, 0);
    hub.leave(&_nobody.0);
    assert_eq!((followed.take().owed, hub.watch_count()), (vec![channel()], 0), "the last reader has left");
    let _bob = connect(&hub, Some("bob"), true);
    assert_eq!(followed.take().owed, [channel()], "and another one has come");
    assert_eq!(hub.take_presence(&channel()).subjects.len(), 1);
    hub.follow_elsewhere(&channel(), false);
    assert_eq!(hub.watch_count(), 0);
    let before = hub.watch_changes();
    drop(connect(&hub, Some("cy"), true));
    assert_eq!(hub.watch_changes(), before);
}

#[test]
fn subjects_of_other_nodes_are_bounded_and_the_answer_says_of_which() {
    let hub = shared();
    let room = hub.share_presence().set_room(3);
    let (ann, sink) = connect(&hub, Some("ann"), true);
    look(&hub, &ann, Some(true));
    hear(&hub, B, &told(true, false, &[("bob", 1), ("cy", 1)], 0));
    hear(&hub, C, &told(true, false, &[("bob", 1), ("dan", 1), ("eve", 1)], 0));
    assert_eq!(frames(&sink)[0]["cut"], json!(["c"]));
    assert_eq!(frames(&sink)[0]["count"], 3);
    hear(&hub, B, &told(true, false, &[], 0));
    hear(&hub, C, &told(true, false, &[("dan", 1), ("eve", 1)], 0));
    look(&hub, &ann, None);
    let answer = frames(&sink).pop().unwrap();
    assert_eq!((&answer["cut"], &answer["subjects"]["eve"]), (&Value::Null, &json!(1)));
    hub.leave(&ann);
    assert_eq!(room.load(Relaxed), 3, "all of it is given back");
}

#[test]
fn followed_channels_are_bounded_and_of_the_others_nodes_are_not_told() {
    let hub = shared();
    let followed = hub.share_presence();
    for number in 0..=MAX_FOLLOWED {
        let name = ChannelName::new(&format!("room:{number}"), 255).unwrap();
        assert_eq!(followed.follow_here(&name, true), number < MAX_FOLLOWED);
    }
    assert_eq!(followed.take().follows.len(), MAX_FOLLOWED);
    let (ann, sink) = connect(&hub, Some("ann"), true);
    look(&hub, &ann, Some(true));
    assert!(followed.take().follows.is_empty());
    tell(&hub, Duration::from_secs(2));
    assert_eq!(frames(&sink)[0]["unanswered"], json!(["b", "c", "gone"]));
    // When another one is no longer followed, there is room.
    followed.follow_here(&ChannelName::new("room:7", 255).unwrap(), false);
    tell(&hub, Duration::from_secs(3));
    assert_eq!(followed.take().follows, [channel()]);
}

#[test]
fn an_answer_has_other_nodes_tell_of_the_channel_for_some_time_only() {
    let hub = shared();
    let followed = hub.share_presence();
    let (ann, _sink) = connect(&hub, Some("ann"), true);
    look(&hub, &ann, None);
    assert_eq!(followed.take().follows, [channel()]);
    tell(&hub, Duration::from_secs(9));
    look(&hub, &ann, None);
    assert_eq!(hub.watch_count(), 1);
    tell(&hub, Duration::from_secs(11));
    assert_eq!((followed.take().unfollows, hub.watch_count()), (vec![channel()], 0));
}
