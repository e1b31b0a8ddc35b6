//! Several nodes as one: what is published on one reaches the readers on all, through NATS.
//!
//! In reading order: [`link`] is the connection to NATS, which this file serves until it ends and then begins again; [`nodes`]
//! are the other nodes, as they announce themselves. Without a history [`relay`] passes each message on to the nodes with
//! readers. With one, [`log`] stores each message, and every node reads it from there. [`readers`] closes readers that may miss
//! something. [`steering`] has all nodes carry out what administrators and backends ask of one. [`subject`] names NATS
//! subjects, and [`wire`] is what nodes send each other.
//!
//! This folder knows the hub, and neither sessions nor HTTP. The hub knows no cluster.

mod link;
mod log;
mod nodes;
mod readers;
mod relay;
pub mod steering;
mod subject;
mod wire;

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant, SystemTime};

use async_nats::Client;
use bytes::Bytes;
use futures_util::StreamExt;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::sync::{oneshot, watch};
use tokio::task::JoinSet;
use uuid::Uuid;

use self::link::{Link, Reason};
pub use self::log::{Appended, Waiter};
use self::log::{Follower, Log};
use self::nodes::{Announcement, Lost, Nodes};
pub use self::nodes::{Mode, Node};
use self::readers::{Closer, Rest, Which};
use self::relay::Relay;
use self::steering::{Gathered, Steering, Wait};
use self::subject::Subjects;
pub use self::wire::NodeId;
use crate::config::{ClusterSettings, HistorySettings};
use crate::frame::Frame;
use crate::hub::{Flusher, Hub};
use crate::message::{Delivery, MessageId};
use crate::sync::lock;

/// How long to wait before the next attempt to connect, and at most as long again by chance, so that the nodes do not all
/// come at once.
const PAUSE: Duration = Duration::from_millis(250);

/// How long the last announcement may take.
const FAREWELL: Duration = Duration::from_millis(500);

/// Why readers are closed when a link is up.
const MISSED: &str = "messages of other nodes may be missing";

/// The bytes of a payload besides names, data and excluded connections: its header, its issuer, and the names of its keys.
const PAYLOAD_BYTES: usize = 256;

/// The most bytes that a byte of a name becomes in JSON, as `\u0000`.
const ESCAPED_BYTE: usize = 6;

/// The bytes of a connection's id and a comma.
const ID_BYTES: usize = 37;

/// This node's part in a cluster.
pub struct Cluster {
    settings: ClusterSettings,
    node: NodeId,
    subjects: Subjects,
    hub: Arc<Hub>,
    flusher: Arc<Flusher>,
    nodes: Nodes,
    passing: Passing,
    closer: Closer,
    /// `None` without the cluster's secret.
    steering: Option<Arc<Steering>>,
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

/// How messages pass between the nodes.
enum Passing {
    Relay(Box<Relay>),
    Log(Box<Log>),
}

/// What a node announces of its work.
#[derive(Clone, Copy, Default)]
struct Load {
    connections: u64,
    messages_per_second: f64,
}

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
    /// Makes this node's part. It does nothing before [`Cluster::run`].
    pub fn new(
        settings: ClusterSettings,
        history: &HistorySettings,
        hub: Arc<Hub>,
        flusher: Arc<Flusher>,
    ) -> Arc<Cluster> {
        let node = NodeId { name: settings.name.clone(), start: Uuid::new_v4().as_u64_pair().0 };
        let subjects = Subjects::new(&settings.subject_prefix);
        let passing = if history.messages == 0 {
            Passing::Relay(Box::new(Relay::new(&node, &subjects, &hub)))
        } else {
            let log = Log::new(&settings, history, &node, &subjects, hub.clone(), flusher.clone());
            Passing::Log(Box::new(log))
        };
        let secret = settings.secret_file.as_ref().map(|file| file.content.as_bytes());
        let steering =
            secret.map(|secret| Steering::new(&node.to_string(), &settings.subject_prefix, secret));
        Arc::new(Cluster {
            passing,
            closer: Closer::new(hub.clone()),
            steering,
            state: watch::Sender::default(),
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
        let overdue = async {
            match &self.passing {
                Passing::Relay(_) => std::future::pending().await,
                Passing::Log(log) => log.watch_overdue().await,
            }
        };
        tokio::select! {
            () = self.run_links() => {}
            () = overdue => {}
        }
    }

    async fn run_links(self: &Arc<Self>) {
        let name = self.node.to_string();
        loop {
            let connected = tokio::select! {
                link = Link::connect(&self.settings, &name) => link,
                () = self.without_link() => continue,
            };
            let reason = match connected {
                Ok(link) => self.serve(link).await,
                Err(reason) => reason,
            };
            self.went_down(reason);
            let pause = PAUSE + PAUSE.mul_f64(f64::from(Uuid::new_v4().as_bytes()[0]) / 256.0);
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                () = self.without_link() => {}
            }
        }
    }

    /// What has to be done while there is no link, which never ends.
    async fn without_link(&self) {
        match &self.passing {
            Passing::Relay(relay) => relay.ignore_interest().await,
            Passing::Log(_) => std::future::pending().await,
        }
    }

    /// Serves a link until it ends. Returns why.
    async fn serve(self: &Arc<Self>, link: Link) -> Reason {
        self.max_payload.store(link.client.max_payload(), Relaxed);
        *lock(&self.client) = Some(link.client.clone());
        let mut announcements = match link.client.subscribe(self.subjects.nodes()).await {
            Ok(announcements) => announcements,
            Err(error) => return format!("NATS takes no subscription: {error}"),
        };
        // All of them end with this set.
        let mut tasks = JoinSet::new();
        self.pass(&link.client, &mut tasks);
        if let Some(steering) = &self.steering {
            tasks.spawn(steering.clone().serve(link.client.clone()));
        }
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

    /// Starts the tasks that pass messages between the nodes. Each ends with the link, with the reason.
    fn pass(self: &Arc<Self>, client: &Client, tasks: &mut JoinSet<Reason>) {
        let task = || (self.clone(), client.clone());
        match &self.passing {
            Passing::Relay(_) => {
                let (cluster, client) = task();
                tasks.spawn(async move {
                    let Passing::Relay(relay) = &cluster.passing else { return Reason::new() };
                    let most = client.max_payload();
                    relay.run_outgoing(client, most).await
                });
                let (cluster, client) = task();
                tasks.spawn(async move {
                    let Passing::Relay(relay) = &cluster.passing else { return Reason::new() };
                    relay.run_incoming(client, &cluster.hub, &cluster.flusher).await
                });
            }
            Passing::Log(_) => {
                let (cluster, client) = task();
                tasks.spawn(async move {
                    let Passing::Log(log) = &cluster.passing else { return Reason::new() };
                    log.follow(client, &*cluster).await
                });
                let (cluster, client) = task();
                tasks.spawn(async move {
                    let Passing::Log(log) = &cluster.passing else { return Reason::new() };
                    // Nothing is published before this node reads what is.
                    let _ = cluster.state.subscribe().wait_for(|state| state.up).await;
                    log.run_appends(client).await
                });
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
            if let Err(reason) = self.touch(link, asks).await {
                return reason;
            }
            asks = false;
        }
    }

    async fn touch(&self, link: &Link, asks: bool) -> Result<(), Reason> {
        let up = self.is_up();
        let mut announcement = Announcement { asks, ..self.announcement() };
        if let Passing::Relay(relay) = &self.passing {
            relay.ask();
            announcement.lost = if up { relay.take_lost() } else { None };
        }
        self.announce(&link.client, &announcement).await?;
        let round_trip = link.probe(self.subjects.nobody()).await?;
        self.state.send_modify(|state| state.round_trip = Some(round_trip));
        match &self.passing {
            Passing::Relay(relay) => {
                relay.confirmed();
                if !up {
                    relay.settled_once().await;
                    self.went_up();
                    relay.up();
                    // Whoever is connected may have missed messages of other nodes.
                    self.closer.close(Which::All, Rest::Delivered, MISSED);
                }
            }
            Passing::Log(log) => log.restate(&link.client).await?,
        }
        Ok(())
    }

    /// Hears an announcement of another node.
    async fn hear(&self, payload: &[u8]) {
        let payload = match &self.steering {
            Some(steering) => match steering.open_announcement(payload) {
                Some(payload) => payload,
                None => return,
            },
            None => payload,
        };
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
                let _ = self.announce(&client, &self.announcement()).await;
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
        if heard.gap && self.mode() == Mode::Relay {
            let why = format!("messages of node {id} may be missing");
            self.closer.close(Which::All, Rest::Delivered, &why);
        }
        let which = match lost {
            Some(Lost::All) => Which::All,
            Some(Lost::Channels(channels)) => Which::Of(channels),
            None => return,
        };
        self.closer.close(which, Rest::Delivered, &format!("node {id} has lost messages"));
    }

    async fn announce(&self, client: &Client, announcement: &Announcement) -> Result<(), Reason> {
        // An announcement always has a JSON form.
        let payload = serde_json::to_vec(announcement).unwrap_or_default();
        let payload = match &self.steering {
            Some(steering) => steering.seal_announcement(&payload),
            None => payload,
        };
        let published = client.publish(self.subjects.nodes(), Bytes::from(payload)).await;
        published.map_err(|error| format!("NATS takes no message: {error}"))
    }

    fn announcement(&self) -> Announcement {
        let load = *lock(&self.load);
        let (sent, epoch) = match &self.passing {
            Passing::Relay(relay) => (relay.counters.sent.load(Relaxed), None),
            Passing::Log(log) => (log.counters.stored.load(Relaxed), log.epoch()),
        };
        Announcement {
            node: self.node.to_string(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            mode: self.mode(),
            number: self.announced.fetch_add(1, Relaxed) + 1,
            sent,
            connections: load.connections,
            messages_per_second: load.messages_per_second,
            epoch: epoch.map(|epoch| format!("{epoch:x}")),
            asks: false,
            leaves: false,
            lost: None,
        }
    }

    fn went_up(&self) {
        self.state.send_modify(|state| {
            *state = LinkState { up: true, since: SystemTime::now(), reason: None, ..state.clone() };
        });
        tracing::info!("cluster: the link to NATS is up");
    }

    fn went_down(&self, reason: Reason) {
        *lock(&self.client) = None;
        match &self.passing {
            Passing::Relay(relay) => relay.down(),
            Passing::Log(log) => log.down(),
        }
        self.nodes.begin_again();
        let before = self.state.borrow().clone();
        if before.up {
            self.ends.fetch_add(1, Relaxed);
        }
        if before.up || before.reason.as_ref() != Some(&reason) {
            tracing::warn!("cluster: the link to NATS is down, and is tried again: {reason}");
        }
        self.state.send_modify(|state| {
            let since = if state.up { SystemTime::now() } else { state.since };
            *state = LinkState { up: false, since, reason: Some(reason), round_trip: None };
        });
    }

    /// Waits until the link is up for the first time, and at most for this long.
    ///
    /// # Errors
    /// Why this node can never be part of the cluster.
    pub async fn first_contact(&self, within: Duration) -> Result<(), String> {
        let mut state = self.state.subscribe();
        let up = tokio::time::timeout(within, state.wait_for(|state| state.up)).await.is_ok();
        match &self.passing {
            Passing::Log(log) if !up => log.unusable().map_or(Ok(()), Err),
            _ => Ok(()),
        }
    }

    /// Tells the other nodes that this one stops.
    pub async fn leave(&self) {
        let client = lock(&self.client).clone();
        let Some(client) = client else { return };
        let farewell = async {
            let announcement = Announcement { leaves: true, ..self.announcement() };
            let _ = self.announce(&client, &announcement).await;
            let _ = client.flush().await;
        };
        let _ = tokio::time::timeout(FAREWELL, farewell).await;
    }

    /// Returns whether messages are delivered from the log, on this node too: then [`Cluster::append`] publishes them, and
    /// otherwise [`Cluster::relay`].
    pub fn has_log(&self) -> bool {
        matches!(self.passing, Passing::Log(_))
    }

    /// Passes messages on that were delivered on this node. Does not wait.
    pub fn relay(&self, channel: &str, frame: &Frame, excluded: &[Uuid]) {
        if let Passing::Relay(relay) = &self.passing {
            relay.send(channel, frame, excluded);
        }
    }

    /// Publishes one message to the log, and has `waiter` told what became of it. A repetition with the same `key` is stored
    /// once. Does not wait.
    pub fn append(&self, channel: &str, frame: &Frame, excluded: &[Uuid], key: Option<&str>, waiter: Waiter) {
        if let Passing::Log(log) = &self.passing {
            log.append(channel, frame, excluded, key, waiter);
        }
    }

    /// Returns a receiver that ends when all messages for the log that wait now were handed to NATS or given up.
    pub fn ticket(&self) -> Option<oneshot::Receiver<()>> {
        match &self.passing {
            Passing::Relay(_) => None,
            Passing::Log(log) => log.ticket(),
        }
    }

    /// Returns the id of a message of the log.
    pub fn id(&self, number: u64) -> Option<MessageId> {
        self.hub.log_position().map(|position| MessageId { number, ..position })
    }

    /// Returns the largest payload that NATS takes if it may not take this message.
    pub fn too_long(&self, delivery: &Delivery<'_>, excluded: usize) -> Option<usize> {
        let names = delivery.channel.len() + delivery.subject.map_or(0, str::len);
        let data = delivery.data.map_or(0, str::len);
        let bytes = PAYLOAD_BYTES + data + names * ESCAPED_BYTE + excluded * ID_BYTES;
        let max = self.max_payload.load(Relaxed);
        (bytes > max).then_some(max)
    }

    /// Waits until the other nodes send the messages of all channels that have a reader now, if there is a link.
    pub async fn settled(&self) {
        if let Passing::Relay(relay) = &self.passing {
            relay.settled().await;
        }
    }

    /// Waits until the log was delivered here up to this place. A client may come from a node that is a little ahead.
    pub async fn reached(&self, id: MessageId) {
        if let Passing::Log(log) = &self.passing {
            log.reached(id).await;
        }
    }

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

    /// Returns this node's part in steering, unless it is off because the cluster has no secret.
    pub fn steering(&self) -> Option<&Arc<Steering>> {
        self.steering.as_ref()
    }

    /// Asks all other nodes, and waits for those that are known, or for all that there may be. Returns `None` if steering is
    /// off.
    pub async fn gather<Q: Serialize, T: DeserializeOwned>(
        &self,
        kind: &str,
        query: &Q,
        wait: Wait,
    ) -> Option<Gathered<T>> {
        let known = self.nodes().iter().map(|node| node.id.to_string()).collect();
        Some(self.steering.as_ref()?.gather(self.client(), kind, query, &known, wait).await)
    }

    /// Returns the largest payload that NATS takes, in bytes.
    pub fn max_payload(&self) -> usize {
        self.max_payload.load(Relaxed)
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
                status.gaps = count(&counters.gaps);
                status.dropped += count(&counters.dropped);
                let (waiting, in_flight) = log.waiting();
                (status.waiting, status.in_flight) = (waiting as u64, in_flight as u64);
            }
        }
        status
    }
}

impl Follower for Cluster {
    fn epochs(&self) -> Vec<u64> {
        self.nodes.epochs(Instant::now())
    }

    async fn heard(&self) {
        self.nodes.heard().await;
    }

    fn caught_up(&self, missed: bool) {
        self.went_up();
        if missed {
            self.closer.close(Which::All, Rest::Withheld, MISSED);
        }
    }

    fn gap(&self, why: &str) {
        self.closer.close(Which::All, Rest::Withheld, why);
    }
}
