//! The numbers of messages, and the bounds of what other nodes may follow.

use super::*;
use crate::outbox::Budget;

const B: &str = "b@0000000000000002";

struct Node {
    presence: Presence,
    hub: Hub,
}

impl Node {
    fn new() -> Node {
        let hub = Hub::new(Arc::new(Budget::new(64, 1 << 16, 1 << 20, 0)));
        Node { presence: Presence::new(&hub), hub }
    }

    fn hear(&self, id: &str, body: &Body) -> bool {
        let mut flush_list = FlushList::new();
        let id = NodeId::parse(id).unwrap();
        self.presence.hear(&id, "a@0000000000000001", body, &self.hub, &[], &mut flush_list).is_some()
    }

    fn announced(&self, told: u64) {
        self.presence.announced(&NodeId::parse(B).unwrap(), told, &self.hub);
    }

    /// The nodes that are asked to tell everything again.
    fn asked(&self) -> Vec<String> {
        let bodies = self.presence.take(&self.hub, "a@0000000000000001", 1 << 20);
        bodies.into_iter().flat_map(|body| body.again).collect()
    }
}

fn body(number: u64, follows: &[&str]) -> Body {
    let follows = follows.iter().map(|name| (*name).to_owned()).collect();
    Body { node: B.to_owned(), number, follows, ..Body::default() }
}

#[test]
fn who_misses_a_message_asks_for_everything_until_it_is_told() {
    let node = Node::new();
    node.announced(0);
    assert!(node.hear(B, &body(1, &["hall"])));
    assert!(node.asked().is_empty());
    assert!(!node.hear(B, &body(1, &["room"])), "it comes a second time");
    node.announced(1);
    assert!(node.asked().is_empty());
    // The last message was lost: the announcement tells.
    node.announced(2);
    assert_eq!(node.asked(), [B]);
    node.announced(2);
    assert_eq!(node.asked(), [B], "it was not told yet");
    assert!(node.hear(B, &body(3, &["room"])));
    assert_eq!(node.asked(), [B], "what is told then does not count");
    assert!(node.hear(B, &Body { begins: true, ..body(4, &["stairs"]) }));
    assert!(node.asked().is_empty());
    let followed: Vec<ChannelName> = lock(&node.presence.state).followed.keys().cloned().collect();
    assert_eq!(followed, [ChannelName::checked("stairs")]);
    // A new link begins.
    node.presence.up(&node.hub);
    node.announced(4);
    assert_eq!(node.asked(), [B]);
}

#[test]
fn everything_is_told_again_once_a_second_however_many_ask() {
    let node = Node::new();
    let again = vec!["a@0000000000000001".to_owned()];
    let mut told = 0;
    for number in 1..=100 {
        assert!(node.hear(B, &Body { again: again.clone(), ..body(number, &[]) }));
        let bodies = node.presence.take(&node.hub, "a@0000000000000001", 1 << 20);
        told += bodies.iter().filter(|body| body.begins).count();
    }
    assert_eq!(told, 1);
    assert!(lock(&node.presence.state).again, "the rest is told later");
}

#[test]
fn what_other_nodes_follow_is_bounded_and_forgotten_with_them() {
    let node = Node::new();
    let name = |number: usize| format!("room:{number}");
    for other in 0..8 {
        let follows = (0..=MAX_FOLLOWED).map(name).collect();
        let id = format!("n{other}@0000000000000001");
        assert!(node.hear(&id, &Body { node: id.clone(), number: 1, follows, ..Body::default() }));
    }
    {
        let state = lock(&node.presence.state);
        assert_eq!(state.pairs, MAX_FOLLOWED_BY_OTHERS);
        assert_eq!(state.others.values().map(|other| other.follows.len()).max(), Some(MAX_FOLLOWED));
    }
    let owed = node.presence.take(&node.hub, "a@0000000000000001", 1 << 20);
    let channels: usize = owed.iter().map(|body| body.channels.len()).sum();
    assert!((MAX_FOLLOWED..=MAX_FOLLOWED + 1).contains(&channels), "each is told once: {channels}");
    node.presence.tick(&[], &node.hub);
    let state = lock(&node.presence.state);
    assert_eq!((state.others.len(), state.followed.len(), state.pairs), (0, 0, 0));
}
