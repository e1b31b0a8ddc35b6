//! The nodes of the cluster, as they announce themselves each second.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::{Duration, Instant, SystemTime};

use serde::{Deserialize, Serialize};
use tokio::sync::Notify;

use super::wire::NodeId;
use crate::hub::Peer;
use crate::sync::lock;

/// How often a node announces itself.
pub(super) const INTERVAL: Duration = Duration::from_secs(1);

/// A node that said nothing for this long is not reachable.
const REACHABLE: Duration = Duration::from_secs(5);

/// A node that said nothing for this long is forgotten.
const REMEMBERED: Duration = Duration::from_secs(300);

/// The most nodes that are known; announcements of more are ignored. A stranger with NATS credentials could invent any
/// number.
pub(super) const MAX_NODES: usize = 1_024;

/// The longest version, in bytes.
const MAX_VERSION: usize = 64;

/// The most channels that one announcement names as having lost messages. More are announced as all.
pub(super) const MAX_LOST_CHANNELS: usize = 1_024;

/// How a cluster passes messages on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Mode {
    /// Without a history: NATS passes each message on to the nodes with readers.
    Relay,
    /// With a history: every node follows one log.
    Log,
}

impl std::fmt::Display for Mode {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Mode::Relay => "relay",
            Mode::Log => "log",
        })
    }
}

/// What a node says of itself each second.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Announcement {
    /// `NAME@START`.
    pub(super) node: String,
    /// The version of its program.
    pub(super) version: String,
    pub(super) mode: Mode,
    /// Its announcements so far.
    pub(super) number: u64,
    /// The messages that it has passed on so far.
    pub(super) sent: u64,
    /// Its connections.
    pub(super) connections: u64,
    /// The messages that it received per second.
    pub(super) messages_per_second: f64,
    /// The number of its last message of presence.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub(super) presence: u64,
    /// The epoch of its log, in hexadecimal, while it follows one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) epoch: Option<String>,
    /// Asks the others to announce themselves at once.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(super) asks: bool,
    /// It stops.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(super) leaves: bool,
    /// Messages that it could not pass on, once it can announce them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) lost: Option<Lost>,
}

fn is_zero(number: &u64) -> bool {
    *number == 0
}

/// The channels whose messages a node could not pass on.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Lost {
    /// Too many to name.
    All,
    /// These.
    Channels(Vec<String>),
}

/// A node, as this one knows it.
#[derive(Clone, Debug)]
pub struct Node {
    /// Its name and start.
    pub id: NodeId,
    /// The version of its program.
    pub version: String,
    /// How it passes messages on. Nodes of another mode get none of this one's.
    pub mode: Mode,
    /// Its connections.
    pub connections: u64,
    /// The messages that it receives per second.
    pub messages_per_second: f64,
    /// Whether it was heard lately.
    pub reachable: bool,
    /// When it was last heard.
    pub last_seen: SystemTime,
}

/// How an announcement came.
#[derive(Clone, Copy, Debug)]
pub(super) struct Origin {
    /// It is sealed with the cluster's secret, or there is none.
    pub(super) trusted: bool,
    /// When it was sealed, in milliseconds since 1970; 0 without a seal.
    pub(super) sealed_ms: u64,
}

struct Seen {
    announcement: Announcement,
    origin: Origin,
    /// It has stopped. It is remembered, so that its announcements count no second time.
    left: bool,
    /// Announcements may have been missed since, but not because of a gap on the way from it.
    excused: bool,
    at: Instant,
    clock: SystemTime,
}

/// The nodes that are known.
#[derive(Default)]
struct Known {
    seen: BTreeMap<NodeId, Seen>,
    /// Nodes that another one with the same name has replaced, and when. A node that has started again does not come back, so
    /// one that does has another node's name.
    replaced: BTreeMap<NodeId, Instant>,
}

/// The other nodes.
#[derive(Default)]
pub(super) struct Nodes {
    known: Mutex<Known>,
    heard: Notify,
    /// A node has left or was forgotten since [`Nodes::has_lost`] was called.
    lost: AtomicBool,
}

/// What an announcement tells.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Heard {
    /// The node is new here.
    pub(super) new: bool,
    /// Messages of the node may be missing, because it could pass them on while its announcements did not arrive.
    pub(super) gap: bool,
    /// Another node has the same name.
    pub(super) shares_name: bool,
}

impl Announcement {
    /// Parses an announcement. Returns `None` for one that no node of this version can have sent.
    pub(super) fn parse(payload: &[u8]) -> Option<(NodeId, Announcement)> {
        let announcement: Announcement = serde_json::from_slice(payload).ok()?;
        let id = NodeId::parse(&announcement.node)?;
        let printable = announcement.version.chars().all(|character| character.is_ascii_graphic());
        let lost = match &announcement.lost {
            Some(Lost::Channels(channels)) => channels.len(),
            Some(Lost::All) | None => 0,
        };
        let sane = printable
            && announcement.version.len() <= MAX_VERSION
            && lost <= MAX_LOST_CHANNELS
            && announcement.messages_per_second.is_finite();
        sane.then_some((id, announcement))
    }
}

impl Nodes {
    /// Notes an announcement of another node. Returns `None` if it is ignored, because it comes a second time or too many nodes
    /// are known.
    pub(super) fn hear(
        &self,
        id: NodeId,
        announcement: Announcement,
        origin: Origin,
        now: Instant,
    ) -> Option<Heard> {
        let trusted = origin.trusted;
        let mut known = lock(&self.known);
        let Known { seen, replaced } = &mut *known;
        seen.retain(|_, node| {
            let remembered = now.saturating_duration_since(node.at) < REMEMBERED;
            self.lost.fetch_or(!remembered && !node.left, Relaxed);
            remembered
        });
        let another_start = |other: &NodeId| other.name == id.name && *other != id;
        // It was sealed before the node started again: someone else sends it a second time.
        let was_replaced = |(other, node): (&NodeId, &Seen)| {
            another_start(other) && node.origin.trusted && origin.sealed_ms < node.origin.sealed_ms
        };
        let is_known = seen.contains_key(&id);
        if trusted && !is_known && seen.iter().any(was_replaced) {
            return None;
        }
        replaced.retain(|_, at| now.saturating_duration_since(*at) < REACHABLE);
        if !is_known && !replaced.contains_key(&id) {
            // The same node has started again.
            let start_again =
                |other: &NodeId, node: &mut Seen| another_start(other) && (trusted || !node.origin.trusted);
            for (other, node) in seen.extract_if(.., start_again) {
                if node.is_reachable(now) && replaced.len() < MAX_NODES {
                    replaced.insert(other, now);
                }
            }
        }
        if seen.len() >= MAX_NODES && !is_known && !(trusted && make_room(seen)) {
            return None;
        }
        let heard = match seen.get(&id) {
            None => Heard { new: true, ..Heard::default() },
            // It could be anybody's.
            Some(before) if before.origin.trusted && !trusted => return None,
            // It comes a second time.
            Some(before) if before.left || announcement.number <= before.announcement.number => return None,
            Some(before) => {
                let missed = announcement.number > before.announcement.number + 1 && !before.excused;
                Heard { gap: missed && announcement.sent != before.announcement.sent, ..Heard::default() }
            }
        };
        let lives = |(other, node): (&NodeId, &Seen)| {
            another_start(other) && node.origin.trusted && node.is_reachable(now)
        };
        let heard = Heard { shares_name: trusted && seen.iter().any(lives), ..heard };
        let left = announcement.leaves && trusted;
        let clock = SystemTime::now();
        seen.insert(id, Seen { announcement, origin, left, excused: false, at: now, clock });
        drop(known);
        if left {
            self.lost.store(true, Relaxed);
            return Some(Heard::default());
        }
        self.heard.notify_waiters();
        Some(heard)
    }

    /// Returns whether a node has left or was forgotten since the last call. It remembers its connections for nobody any more.
    pub(super) fn has_lost(&self) -> bool {
        self.lost.swap(false, Relaxed)
    }

    /// Waits until a node announces itself.
    pub(super) async fn heard(&self) {
        self.heard.notified().await;
    }

    /// Forgets what was heard, so that the next announcements are no gap. The nodes themselves stay known.
    pub(super) fn begin_again(&self) {
        for node in lock(&self.known).seen.values_mut() {
            node.excused = true;
        }
    }

    /// Returns the epochs of the logs that reachable nodes follow, as far as these are known by their seal, if there is a secret.
    pub(super) fn epochs(&self, now: Instant) -> Vec<u64> {
        let known = lock(&self.known);
        let reachable = known.seen.values().filter(|node| node.origin.trusted && node.is_reachable(now));
        let epochs = reachable.filter_map(|node| node.announcement.epoch.as_deref());
        epochs.filter_map(|epoch| u64::from_str_radix(epoch, 16).ok()).collect()
    }

    /// Returns all nodes, by name.
    pub(super) fn list(&self) -> Vec<Node> {
        let now = Instant::now();
        let node = |(id, seen): (&NodeId, &Seen)| Node {
            id: id.clone(),
            version: seen.announcement.version.clone(),
            mode: seen.announcement.mode,
            connections: seen.announcement.connections,
            messages_per_second: seen.announcement.messages_per_second,
            reachable: seen.is_reachable(now),
            last_seen: seen.clock,
        };
        lock(&self.known).seen.iter().filter(|(_, seen)| !seen.left).map(node).collect()
    }

    /// Returns the nodes that may tell who reads a channel: those that are known by their seal, if there is a secret.
    pub(super) fn peers(&self) -> Vec<Peer> {
        let now = Instant::now();
        let peer = |(id, seen): (&NodeId, &Seen)| Peer {
            id: id.to_string().into(),
            reachable: seen.is_reachable(now),
        };
        let told_by = |(_, seen): &(&NodeId, &Seen)| seen.origin.trusted && !seen.left;
        lock(&self.known).seen.iter().filter(told_by).map(peer).collect()
    }

    /// Returns the number of nodes that were heard lately.
    pub(super) fn reachable(&self) -> usize {
        let now = Instant::now();
        lock(&self.known).seen.values().filter(|node| node.is_reachable(now)).count()
    }
}

impl Seen {
    fn is_reachable(&self, now: Instant) -> bool {
        !self.left && now.saturating_duration_since(self.at) < REACHABLE
    }
}

/// Forgets the node without a seal that was heard first, so that invented nodes keep no node of the cluster out. Returns false
/// if there is none.
fn make_room(seen: &mut BTreeMap<NodeId, Seen>) -> bool {
    let invented = seen.iter().filter(|(_, node)| !node.origin.trusted).min_by_key(|(_, node)| node.at);
    let invented = invented.map(|(id, _)| id.clone());
    invented.is_some_and(|id| seen.remove(&id).is_some())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn announcement(node: &str, number: u64, sent: u64) -> Announcement {
        Announcement {
            node: node.to_owned(),
            version: "1.0.0".to_owned(),
            mode: Mode::Relay,
            number,
            sent,
            connections: 2,
            messages_per_second: 0.5,
            presence: 0,
            epoch: None,
            asks: false,
            leaves: false,
            lost: None,
        }
    }

    fn hear(nodes: &Nodes, node: &str, number: u64, sent: u64, now: Instant) -> Option<Heard> {
        let payload = serde_json::to_vec(&announcement(node, number, sent)).unwrap();
        let (id, announcement) = Announcement::parse(&payload).unwrap();
        nodes.hear(id, announcement, TRUSTED, now)
    }

    const TRUSTED: Origin = Origin { trusted: true, sealed_ms: 1_000 };
    const STRANGE: Origin = Origin { trusted: false, sealed_ms: 0 };

    const A: &str = "a@0000000000000001";

    #[test]
    fn missed_announcements_of_a_node_that_published_are_a_gap() {
        let (nodes, now) = (Nodes::default(), Instant::now());
        let new = Some(Heard { new: true, ..Heard::default() });
        let known = Some(Heard::default());
        assert_eq!(hear(&nodes, A, 7, 3, now), new);
        assert_eq!(hear(&nodes, A, 8, 4, now), known);
        assert_eq!(hear(&nodes, A, 8, 9, now), None, "it comes a second time");
        assert_eq!(hear(&nodes, A, 12, 4, now), known, "it published nothing");
        assert_eq!(hear(&nodes, A, 14, 5, now), Some(Heard { gap: true, ..Heard::default() }));
        nodes.begin_again();
        assert_eq!(hear(&nodes, A, 20, 9, now), known);
        assert_eq!(hear(&nodes, "a@0000000000000002", 1, 0, now), new, "it has started again");
        assert_eq!(nodes.list().len(), 1);
    }

    /// The second one replaces the first one, which then comes back: it would have replaced the second one, each second.
    #[test]
    fn two_nodes_with_one_name_are_kept_and_noticed() {
        const B: &str = "a@0000000000000002";
        let (nodes, now) = (Nodes::default(), Instant::now());
        let say = |node: &str, number, now| {
            let heard = hear(&nodes, node, number, 0, now).unwrap();
            (heard.new, heard.shares_name)
        };
        assert_eq!(
            (say(A, 1, now), say(B, 1, now)),
            ((true, false), (true, false)),
            "it may have started again"
        );
        assert_eq!(say(A, 2, now), (true, true));
        for number in 3..20 {
            assert_eq!((say(A, number, now), say(B, number, now)), ((false, true), (false, true)));
        }
        assert_eq!(nodes.peers().len(), 2);
        let restarted = "a@0000000000000003";
        assert_eq!((say(restarted, 1, now), say(B, 20, now)), ((true, false), (true, true)));
        assert_eq!(say(B, 21, now + REACHABLE), (false, false), "the other one has died");
        assert_eq!(lock(&nodes.known).replaced.len(), 0);
    }

    #[test]
    fn silent_nodes_are_unreachable_and_then_forgotten() {
        let (nodes, now) = (Nodes::default(), Instant::now());
        hear(&nodes, A, 1, 0, now.checked_sub(REACHABLE).unwrap());
        assert!(!nodes.list()[0].reachable);
        assert_eq!(nodes.reachable(), 0);
        assert!(!nodes.has_lost());
        hear(&nodes, "b@0000000000000001", 1, 0, now + REMEMBERED);
        assert_eq!((nodes.list().len(), nodes.has_lost(), nodes.has_lost()), (1, true, false));
    }

    #[test]
    fn an_announcement_without_a_seal_does_not_stand_for_a_node_with_one() {
        let (nodes, now) = (Nodes::default(), Instant::now());
        hear(&nodes, A, 1, 0, now);
        let id = NodeId::parse(A).unwrap();
        for announcement in [announcement(A, 9, 9), Announcement { leaves: true, ..announcement(A, 9, 9) }] {
            assert_eq!(nodes.hear(id.clone(), announcement, STRANGE, now), None);
        }
        let restarted = NodeId { start: 2, ..id };
        assert!(nodes.hear(restarted, announcement("a@0000000000000002", 1, 0), STRANGE, now).is_some());
        assert_eq!(nodes.list().len(), 2, "the node itself is not forgotten for it");
        assert!(hear(&nodes, A, 2, 0, now).is_some());
    }

    #[test]
    fn invented_nodes_are_bounded() {
        let (nodes, now) = (Nodes::default(), Instant::now());
        for number in 0..MAX_NODES {
            assert!(hear(&nodes, &format!("n{number}@0000000000000001"), 1, 0, now).is_some());
        }
        assert_eq!(hear(&nodes, A, 1, 0, now), None);
    }

    /// They filled the places for five minutes, and one that starts waited for their epochs to agree.
    #[test]
    fn invented_nodes_without_a_seal_keep_no_node_out_and_tell_no_epoch() {
        let (nodes, now) = (Nodes::default(), Instant::now());
        for number in 0..=MAX_NODES as u64 {
            let text = format!("n{number}@0000000000000001");
            let invented = Announcement { epoch: Some("f00d".to_owned()), ..announcement(&text, 1, 0) };
            let heard = nodes.hear(NodeId::parse(&text).unwrap(), invented, STRANGE, now);
            assert_eq!(heard.is_some(), number < MAX_NODES as u64, "{number}");
        }
        assert_eq!((nodes.epochs(now), nodes.peers().len()), (Vec::new(), 0));
        assert!(hear(&nodes, A, 1, 0, now).is_some());
        assert_eq!((nodes.list().len(), nodes.peers().len()), (MAX_NODES, 1));
    }

    /// Who reads the subjects of NATS can send again what a node has sealed, as long as that is not stale.
    #[test]
    fn fault_77_what_a_node_said_before_it_stopped_or_started_again_counts_no_second_time() {
        let (nodes, now) = (Nodes::default(), Instant::now());
        let say = |node: &str, number, sealed_ms, leaves| {
            let announcement = Announcement { leaves, ..announcement(node, number, 0) };
            let origin = Origin { trusted: true, sealed_ms };
            nodes.hear(NodeId::parse(node).unwrap(), announcement, origin, now).is_some()
        };
        let names = || nodes.list().iter().map(|node| node.id.to_string()).collect::<Vec<_>>();
        const AGAIN: &str = "a@0000000000000002";
        assert!(say(A, 8, 1_000, false));
        assert!(say(AGAIN, 1, 2_000, false), "it has started again");
        assert!(!say(A, 9, 1_500, false) && !say(A, 9, 1_500, true));
        assert_eq!(names(), [AGAIN]);
        assert!(say(AGAIN, 2, 3_000, true), "it has stopped");
        assert!(!say(AGAIN, 1, 2_000, false) && !say(AGAIN, 9, 2_500, false) && !say(A, 9, 1_500, false));
        assert_eq!((names().len(), nodes.peers().len(), nodes.reachable()), (0, 0, 0));
        assert!(say("a@0000000000000003", 1, 4_000, false), "it has started once more");
        assert_eq!(names(), ["a@0000000000000003"]);
    }

    #[test]
    fn fault_77_hostile_announcements_are_dropped() {
        let good = serde_json::to_string(&announcement(A, 1, 0)).unwrap();
        assert!(Announcement::parse(good.as_bytes()).is_some());
        for payload in [
            String::new(),
            "[]".to_owned(),
            good.replace(A, "a b@0000000000000001"),
            good.replace("1.0.0", "1.0.0\\n"),
            good.replace("1.0.0", &"1".repeat(MAX_VERSION + 1)),
            good.replace("relay", "other"),
        ] {
            assert!(Announcement::parse(payload.as_bytes()).is_none(), "{payload}");
        }
        let mut many = announcement(A, 1, 0);
        many.lost = Some(Lost::Channels(vec!["c".to_owned(); MAX_LOST_CHANNELS + 1]));
        assert!(Announcement::parse(&serde_json::to_vec(&many).unwrap()).is_none());
    }
}
