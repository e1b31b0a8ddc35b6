//! The state of the cluster, as one node sees it.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant, SystemTime};

use super::{Cluster, Load, Mistake, Mode, Node, NodeId, Passing, Refusing};
use crate::sync::lock;

impl Default for LinkState {
    fn default() -> LinkState {
        LinkState { up: false, since: SystemTime::now(), reason: None, round_trip: None }
    }
}

/// The state of the link to NATS.
#[derive(Clone, Debug, PartialEq)]
pub struct LinkState {
    /// Whether messages pass between the nodes.
    pub up: bool,
    /// Since when.
    pub since: SystemTime,
    /// Why it is down.
    pub reason: Option<String>,
    /// How long NATS last took to answer.
    pub round_trip: Option<Duration>,
}

/// The state of the cluster, as this node sees it. Counts are since the start.
#[derive(Clone, Debug)]
pub struct ClusterStatus {
    /// This node.
    pub node: NodeId,
    /// How messages pass between the nodes.
    pub mode: Mode,
    /// The link to NATS.
    pub link: LinkState,
    /// How often it has ended.
    pub link_ends: u64,
    /// The other nodes that were heard lately.
    pub other_nodes: usize,
    /// Messages passed on to the other nodes, or stored in the log.
    pub sent: u64,
    /// Messages of other nodes.
    pub received: u64,
    /// Messages that could not be passed on.
    pub lost: u64,
    /// Messages that were not stored in the log.
    pub unavailable: u64,
    /// Messages that may have been stored in the log or not.
    pub unanswered: u64,
    /// Since when and why the log refuses messages, if it does.
    pub refusing: Option<Refusing>,
    /// Mistakes in the settings of the nodes that were seen in the last minute.
    pub mistakes: Vec<Mistake>,
    /// How often the log could not prove that nothing is missing.
    pub gaps: u64,
    /// Messages that wait to be handed to NATS, now.
    pub waiting: u64,
    /// Messages that were handed to NATS and not confirmed, now.
    pub in_flight: u64,
    /// What arrived and was dropped, because no node of this version can have sent it.
    pub dropped: u64,
    /// What arrived a second time, and was dropped.
    pub repeated: u64,
    /// Readers closed because messages may be missing.
    pub readers_closed: u64,
}

impl Cluster {
    /// Notes what this node announces of its work.
    pub fn report(&self, connections: u64, messages_per_second: f64) {
        *lock(&self.load) = Load { connections, messages_per_second };
    }

    /// Returns the connections and the messages per second that this node announces.
    pub fn load(&self) -> (u64, f64) {
        let Load { connections, messages_per_second } = *lock(&self.load);
        (connections, messages_per_second)
    }

    /// Returns how messages pass between the nodes.
    pub fn mode(&self) -> Mode {
        match self.passing {
            Passing::Relay(_) => Mode::Relay,
            Passing::Log(_) => Mode::Log,
        }
    }

    /// Returns this node.
    pub fn node(&self) -> &NodeId {
        &self.node
    }

    /// Returns the other nodes, by name.
    pub fn nodes(&self) -> Vec<Node> {
        self.nodes.list()
    }

    /// Returns the state of the cluster.
    pub fn status(&self) -> ClusterStatus {
        let count = |counter: &AtomicU64| counter.load(Relaxed);
        let mut status = ClusterStatus {
            node: self.node.clone(),
            mode: self.mode(),
            link: self.state.borrow().clone(),
            link_ends: count(&self.ends),
            other_nodes: self.nodes.reachable(),
            readers_closed: self.closer.closed(),
            dropped: count(&self.dropped),
            sent: 0,
            received: 0,
            lost: 0,
            repeated: 0,
            unavailable: 0,
            unanswered: 0,
            refusing: None,
            mistakes: self.mistakes.list(Instant::now()),
            gaps: 0,
            waiting: 0,
            in_flight: 0,
        };
        match &self.passing {
            Passing::Relay(relay) => {
                let counters = &relay.counters;
                (status.sent, status.received) = (count(&counters.sent), count(&counters.received));
                (status.lost, status.repeated) = (count(&counters.lost), count(&counters.repeated));
                status.dropped += count(&counters.dropped);
            }
            Passing::Log(log) => {
                let counters = &log.counters;
                (status.sent, status.received) = (count(&counters.stored), count(&counters.received));
                status.unavailable = count(&counters.unavailable);
                status.unanswered = count(&counters.unanswered);
                status.refusing = log.refusing();
                status.gaps = count(&counters.gaps);
                status.dropped += count(&counters.dropped);
                let (waiting, in_flight) = log.waiting();
                (status.waiting, status.in_flight) = (waiting as u64, in_flight as u64);
            }
        }
        status
    }
}
