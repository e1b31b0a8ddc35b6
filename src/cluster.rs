//! Several nodes as one: what is published on one reaches the readers on all, through NATS.
//!
//! In reading order: [`link`] is the connection to NATS, which this file serves until it ends and then begins again; [`nodes`]
//! are the other nodes, as they announce themselves. Without a history [`relay`] passes each message on to the nodes with
//! readers. [`subject`] names NATS subjects, and [`wire`] is what nodes send each other.
//!
//! This folder knows the hub, and neither sessions nor HTTP. The hub knows no cluster.

mod link;
mod nodes;
mod readers;
mod relay;
mod subject;
mod wire;

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant, SystemTime};

use async_nats::Client;
use bytes::Bytes;
use futures_util::StreamExt;
use tokio::sync::watch;
use tokio::task::JoinSet;
use uuid::Uuid;

use self::link::{Link, Reason};
use self::nodes::{Announcement, Lost, Nodes};
pub use self::nodes::{Mode, Node};
use self::readers::{Closer, Which};
use self::relay::Relay;
use self::subject::Subjects;
pub use self::wire::NodeId;
use crate::config::ClusterSettings;
use crate::frame::Frame;
use crate::hub::{Flusher, Hub};
use crate::sync::lock;

/// How long to wait before the next attempt to connect, and at most as long again by chance, so that the nodes do not all
/// come at once.
const PAUSE: Duration = Duration::from_millis(250);

/// How long the last announcement may take.
const FAREWELL: Duration = Duration::from_millis(500);

/// The bytes of a payload besides the message that a client sent: its header, its issuer, and the names of its keys.
const PAYLOAD_OVERHEAD: usize = 16 * 1024;

/// This node's part in a cluster.
pub struct Cluster {
    settings: ClusterSettings,
    node: NodeId,
    subjects: Subjects,
    hub: Arc<Hub>,
    flusher: Arc<Flusher>,
    nodes: Nodes,
    relay: Relay,
    closer: Closer,
    state: watch::Sender<LinkState>,
    client: Mutex<Option<Client>>,
    /// The largest payload that NATS takes, in bytes.
    max_payload: AtomicUsize,
    announced: AtomicU64,
    /// Announcements that no node of this version can have sent, or of too many nodes.
    dropped: AtomicU64,
    /// How often the link has ended.
    ends: AtomicU64,
    load: Mutex<Load>,
}

/// What a node announces of its work.
#[derive(Clone, Copy, Default)]
struct Load {
    connections: u64,
    messages_per_second: f64,
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

/// The state of the cluster, as this node sees it.
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
    /// Messages passed on to the other nodes.
    pub sent: u64,
    /// Messages of other nodes.
    pub received: u64,
    /// Messages that could not be passed on.
    pub lost: u64,
    /// What arrived and was dropped, because no node of this version can have sent it.
    pub dropped: u64,
    /// What arrived a second time, and was dropped.
    pub repeated: u64,
    /// Readers closed because messages may be missing.
    pub readers_closed: u64,
}

impl Cluster {
    /// Makes this node's part. It does nothing before [`Cluster::run`].
    pub fn new(settings: ClusterSettings, hub: Arc<Hub>, flusher: Arc<Flusher>) -> Arc<Cluster> {
        let node = NodeId { name: settings.name.clone(), start: Uuid::new_v4().as_u64_pair().0 };
        let subjects = Subjects::new(&settings.subject_prefix);
        let state = LinkState { up: false, since: SystemTime::now(), reason: None, round_trip: None };
        Arc::new(Cluster {
            relay: Relay::new(&node, &subjects, &hub),
            closer: Closer::new(hub.clone()),
            state: watch::Sender::new(state),
            client: Mutex::new(None),
            max_payload: AtomicUsize::new(1024 * 1024),
            nodes: Nodes::default(),
            announced: AtomicU64::new(0),
            dropped: AtomicU64::new(0),
            ends: AtomicU64::new(0),
            load: Mutex::default(),
            settings,
            node,
            subjects,
            hub,
            flusher,
        })
    }

    /// Connects to NATS, and serves the link until it ends, again and again.
    pub async fn run(self: Arc<Self>) {
        loop {
            let name = self.node.to_string();
            let connected = tokio::select! {
                link = Link::connect(&self.settings, &name, false) => link,
                never = self.relay.ignore_interest() => never,
            };
            let reason = match connected {
                Ok(link) => self.serve(link).await,
                Err(reason) => reason,
            };
            self.went_down(reason);
            let pause = PAUSE + PAUSE.mul_f64(f64::from(Uuid::new_v4().as_bytes()[0]) / 256.0);
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                never = self.relay.ignore_interest() => never,
            }
        }
    }

    /// Serves a link until it ends. Returns why.
    async fn serve(self: &Arc<Self>, link: Link) -> Reason {
        let most = link.client.max_payload();
        self.max_payload.store(most, Relaxed);
        *lock(&self.client) = Some(link.client.clone());
        let mut announcements = match link.client.subscribe(self.subjects.nodes()).await {
            Ok(announcements) => announcements,
            Err(error) => return format!("NATS takes no subscription: {error}"),
        };
        // All of them end with this set.
        let mut tasks = JoinSet::new();
        let (cluster, client) = (self.clone(), link.client.clone());
        tasks.spawn(async move { cluster.relay.run_outgoing(client).await });
        let (cluster, client) = (self.clone(), link.client.clone());
        tasks.spawn(async move {
            cluster.relay.run_incoming(client, cluster.hub.clone(), cluster.flusher.clone()).await
        });
        let hears = async {
            while let Some(message) = announcements.next().await {
                self.hear(&message.payload).await;
            }
            "the subscription to announcements has ended".to_owned()
        };
        tokio::select! {
            reason = link.ended() => reason,
            reason = self.stay_in_touch(&link) => reason,
            reason = hears => reason,
            Some(ended) = tasks.join_next() => {
                ended.unwrap_or_else(|error| format!("a task of the cluster has failed: {error}"))
            }
        }
    }

    /// Announces this node each second, and asks NATS for a sign. Returns why the link is in doubt.
    async fn stay_in_touch(&self, link: &Link) -> Reason {
        let mut tick = tokio::time::interval(nodes::INTERVAL);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut asks = true;
        loop {
            tick.tick().await;
            self.relay.ask();
            let lost = if self.state.borrow().up { self.relay.take_lost() } else { None };
            let announcement = Announcement { asks, lost, ..self.announcement() };
            if let Err(error) = announce(&link.client, &self.subjects, &announcement).await {
                return error;
            }
            asks = false;
            match link.probe(self.subjects.nobody()).await {
                Ok(round_trip) => {
                    self.relay.confirmed();
                    self.relay.settled_once().await;
                    self.went_up(round_trip);
                }
                Err(reason) => return reason,
            }
        }
    }

    /// Hears an announcement of another node.
    async fn hear(&self, payload: &[u8]) {
        let Some((id, announcement)) = Announcement::parse(payload) else {
            self.dropped.fetch_add(1, Relaxed);
            return;
        };
        if id == self.node {
            return;
        }
        if announcement.asks {
            let client = lock(&self.client).clone();
            if let Some(client) = client {
                let _ = announce(&client, &self.subjects, &self.announcement()).await;
            }
        }
        let (lost, mode, leaves) = (announcement.lost.clone(), announcement.mode, announcement.leaves);
        let Some(heard) = self.nodes.hear(id.clone(), announcement, Instant::now()) else {
            self.dropped.fetch_add(1, Relaxed);
            return;
        };
        if heard.new {
            tracing::info!("cluster: node {id} is there");
            if mode != self.mode() {
                tracing::warn!(
                    "cluster: node {id} has another setting of [history] messages: set the same on all nodes"
                );
            }
        }
        if leaves {
            tracing::info!("cluster: node {id} has left");
        }
        if heard.gap {
            self.closer.close(Which::All, &format!("messages of node {id} may be missing"));
        }
        match lost {
            Some(Lost::All) => self.closer.close(Which::All, &format!("node {id} has lost messages")),
            Some(Lost::Channels(channels)) => {
                self.closer.close(Which::Of(channels), &format!("node {id} has lost messages"));
            }
            None => {}
        }
    }

    fn announcement(&self) -> Announcement {
        let load = *lock(&self.load);
        Announcement {
            node: self.node.to_string(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            mode: self.mode(),
            number: self.announced.fetch_add(1, Relaxed) + 1,
            sent: self.relay.counters.sent.load(Relaxed),
            connections: load.connections,
            messages_per_second: load.messages_per_second,
            epoch: None,
            asks: false,
            leaves: false,
            lost: None,
        }
    }

    fn went_up(&self, round_trip: Duration) {
        let was_up = self.state.borrow().up;
        self.state.send_modify(|state| {
            if !state.up {
                *state = LinkState { up: true, since: SystemTime::now(), reason: None, round_trip: None };
            }
            state.round_trip = Some(round_trip);
        });
        if was_up {
            return;
        }
        self.relay.up();
        tracing::info!("cluster: the link to NATS is up");
        // Whoever is connected may have missed messages of other nodes.
        self.closer.close(Which::All, "messages of other nodes may be missing");
    }

    fn went_down(&self, reason: Reason) {
        *lock(&self.client) = None;
        self.relay.down();
        self.nodes.begin_again();
        let before = self.state.borrow().clone();
        if before.up {
            self.ends.fetch_add(1, Relaxed);
        }
        if before.up || before.reason.is_none() {
            tracing::warn!("cluster: the link to NATS is down, and is tried again: {reason}");
        }
        self.state.send_modify(|state| {
            let since = if state.up { SystemTime::now() } else { state.since };
            *state = LinkState { up: false, since, reason: Some(reason), round_trip: None };
        });
    }

    /// Waits until the link is up for the first time, and at most for this long.
    pub async fn first_contact(&self, within: Duration) {
        let mut state = self.state.subscribe();
        let _ = tokio::time::timeout(within, state.wait_for(|state| state.up)).await;
    }

    /// Tells the other nodes that this one stops.
    pub async fn leave(&self) {
        let client = lock(&self.client).clone();
        let Some(client) = client else { return };
        let farewell = async {
            let announcement = Announcement { leaves: true, ..self.announcement() };
            let _ = announce(&client, &self.subjects, &announcement).await;
            let _ = client.flush().await;
        };
        let _ = tokio::time::timeout(FAREWELL, farewell).await;
    }

    /// Passes published messages on to the other nodes. Does not wait.
    pub fn relay(&self, channel: &str, frame: &Frame, excluded: &[Uuid]) {
        self.relay.send(channel, frame, excluded, self.max_payload.load(Relaxed));
    }

    /// Returns the longest `data` that can pass between the nodes, in bytes.
    pub fn longest_data(&self) -> usize {
        self.max_payload.load(Relaxed).saturating_sub(PAYLOAD_OVERHEAD)
    }

    /// Waits until the other nodes send the messages of all channels that have a reader now, if there is a link.
    pub async fn settled(&self) {
        self.relay.settled().await;
    }

    /// Notes what this node announces of its work.
    pub fn report(&self, connections: u64, messages_per_second: f64) {
        *lock(&self.load) = Load { connections, messages_per_second };
    }

    /// Returns how messages pass between the nodes.
    pub fn mode(&self) -> Mode {
        Mode::Relay
    }

    /// Returns this node.
    pub fn node(&self) -> &NodeId {
        &self.node
    }

    /// Returns the other nodes, by name.
    pub fn nodes(&self) -> Vec<Node> {
        self.nodes.list()
    }

    /// Returns the client of the link, while there is one.
    pub fn client(&self) -> Option<Client> {
        lock(&self.client).clone()
    }

    /// Returns whether messages pass between the nodes.
    pub fn is_up(&self) -> bool {
        self.state.borrow().up
    }

    /// Returns whether `/health` depends on the link.
    pub fn is_required(&self) -> bool {
        self.settings.required
    }

    /// Returns the state of the cluster.
    pub fn status(&self) -> ClusterStatus {
        let counters = &self.relay.counters;
        ClusterStatus {
            node: self.node.clone(),
            mode: self.mode(),
            link: self.state.borrow().clone(),
            link_ends: self.ends.load(Relaxed),
            other_nodes: self.nodes.reachable(),
            sent: counters.sent.load(Relaxed),
            received: counters.received.load(Relaxed),
            lost: counters.lost.load(Relaxed),
            dropped: self.dropped.load(Relaxed) + counters.dropped.load(Relaxed),
            repeated: counters.repeated.load(Relaxed),
            readers_closed: self.closer.closed(),
        }
    }
}

async fn announce(client: &Client, subjects: &Subjects, announcement: &Announcement) -> Result<(), Reason> {
    // An announcement always has a JSON form.
    let payload = serde_json::to_vec(announcement).unwrap_or_default();
    let published = client.publish(subjects.nodes(), Bytes::from(payload)).await;
    published.map_err(|error| format!("NATS takes no message: {error}"))
}
