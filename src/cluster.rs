//! Several nodes as one: what is published on one reaches the readers on all, through NATS.
//!
//! In reading order: [`link`] is the connection to NATS, which this file serves until it ends and then begins again,
//! [`sign`] asks whether NATS lives and has what was sent, and [`outage`] tells which reasons for an end are new;
//! [`nodes`] are the other nodes, as they announce themselves, [`announcing`] is this node's part in that, [`limit`]
//! bounds what strangers can cause so, and [`mistakes`] are differences between their settings; [`presence`] tells who
//! reads a channel on which node; [`messages`] takes the server's messages, and [`status`] tells how it goes. Without a
//! history [`relay`] passes each message on to the nodes with readers. With one, [`log`] stores each message, and every
//! node reads it from there. [`readers`] closes readers that may miss something. [`steering`] has all nodes carry out
//! what administrators and backends ask of one. [`subject`]
//! names NATS subjects, and [`wire`] is what nodes send each other.
//!
//! This folder knows the hub, and neither sessions nor HTTP. The hub knows no cluster.

mod announcing;
#[cfg(any(test, feature = "fuzz"))]
pub(crate) mod fuzz;
mod limit;
mod link;
mod log;
mod messages;
mod mistakes;
mod nodes;
mod outage;
mod presence;
mod readers;
mod relay;
mod sign;
mod status;
pub mod steering;
mod subject;
mod wire;

use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant, SystemTime};

use async_nats::Client;
use futures_util::StreamExt;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::sync::watch;
use tokio::task::JoinSet;
use uuid::Uuid;

use self::limit::Limit;
use self::link::{Link, Reason};
pub use self::log::{Appended, Refusing, Waiter};
use self::log::{Follower, Log};
pub use self::messages::BeforeJoin;
pub use self::mistakes::Mistake;
use self::mistakes::Mistakes;
use self::nodes::{Announcement, Nodes};
pub use self::nodes::{Mode, Node};
use self::outage::Outage;
use self::presence::Presence;
use self::readers::{Closer, Rest, Which};
use self::relay::Relay;
use self::sign::Sign;
pub use self::status::{ClusterStatus, LinkState};
use self::steering::{Gathered, Steering, Wait};
use self::subject::Subjects;
pub use self::wire::NodeId;
use crate::config::{ClusterSettings, HistorySettings};
use crate::hub::{Flusher, Hub};
use crate::sync::lock;

/// How long to wait before the next attempt to connect, and at most as long again by chance, so that the nodes do not all
/// come at once.
const PAUSE: Duration = Duration::from_millis(250);

/// How long the last announcement may take.
const FAREWELL: Duration = Duration::from_millis(500);

/// The most lines that announcements and epochs cause in a time: enough for each change in a usual cluster. What is left out
/// is counted in one line.
const LINES: (u32, Duration) = (50, Duration::from_secs(10));

/// The most announcements in a second that others ask for. Each reaches all nodes, and the next one comes within a second.
const ANSWERS_PER_SECOND: u32 = 10;

/// The most announcements without a seal that are read in a second if there is a secret. They only show nodes that were not
/// given it, and the rest of a flood is dropped unread, so that nothing else waits for it.
const UNSEALED_PER_SECOND: u32 = 100;

const SECOND: Duration = Duration::from_secs(1);

/// Why readers are closed when a link is up.
const MISSED: &str = "messages of other nodes may be missing";

/// Why readers are closed after messages that came twice or too late.
const DISORDER: &str = "messages of another node came twice or too late";

/// This node's part in a cluster.
pub struct Cluster {
    settings: Mutex<Arc<ClusterSettings>>,
    node: NodeId,
    subjects: Subjects,
    hub: Arc<Hub>,
    flusher: Arc<Flusher>,
    nodes: Nodes,
    mistakes: Mistakes,
    /// Lines in the log that announcements and epochs cause.
    lines: Arc<Limit>,
    /// Answers to nodes that ask for an announcement.
    answers: Limit,
    /// Announcements without a seal that are read although there is a secret.
    unsealed: Limit,
    presence: Presence,
    passing: Passing,
    closer: Closer,
    /// `None` without the cluster's secret.
    steering: Option<Arc<Steering>>,
    state: watch::Sender<LinkState>,
    outage: Mutex<Outage>,
    client: Mutex<Option<Client>>,
    /// The largest payload that NATS takes, in bytes.
    max_payload: AtomicUsize,
    announced: AtomicU64,
    /// It has told the others that it stops.
    has_left: AtomicBool,
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
        let lines = Arc::new(Limit::new(LINES.0, LINES.1));
        let passing = if history.is_on() {
            let log =
                Log::new(&settings, history, &node, &subjects, (hub.clone(), flusher.clone()), lines.clone());
            Passing::Log(Box::new(log))
        } else {
            Passing::Relay(Box::new(Relay::new(&node, &subjects, &hub)))
        };
        let secret = settings.secret_file.as_ref().map(|file| file.content.as_bytes());
        let steering =
            secret.map(|secret| Steering::new(&node.to_string(), &settings.subject_prefix, secret));
        Arc::new(Cluster {
            passing,
            closer: Closer::new(hub.clone()),
            presence: Presence::new(&hub),
            steering,
            state: watch::Sender::default(),
            outage: Mutex::default(),
            client: Mutex::new(None),
            max_payload: AtomicUsize::new(1024 * 1024),
            nodes: Nodes::default(),
            mistakes: Mistakes::default(),
            lines,
            answers: Limit::new(ANSWERS_PER_SECOND, SECOND),
            unsealed: Limit::new(UNSEALED_PER_SECOND, SECOND),
            announced: AtomicU64::new(0),
            has_left: AtomicBool::new(false),
            dropped: AtomicU64::new(0),
            ends: AtomicU64::new(0),
            load: Mutex::default(),
            settings: Mutex::new(Arc::new(settings)),
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
        let waiting = match &self.passing {
            Passing::Relay(_) => link::CHANNEL_MESSAGES,
            Passing::Log(_) => link::LOG_MESSAGES,
        };
        loop {
            let settings = lock(&self.settings).clone();
            let connected = tokio::select! {
                link = Link::connect(&settings, &name, waiting) => link,
                () = self.without_link() => continue,
            };
            let reason = match connected {
                Ok(link) => {
                    let sign = Sign::new(link.client.clone(), &self.subjects, settings, &name);
                    self.serve(link, Arc::new(sign)).await
                }
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

    /// Takes what a reload may change: the time to live of messages in the log, and the contents of files, which the next link
    /// uses. The present one stays, because a new one could cost readers their connections.
    pub fn reload(&self, settings: ClusterSettings, history: &HistorySettings) {
        *lock(&self.settings) = Arc::new(settings);
        if let Passing::Log(log) = &self.passing {
            log.keep(history.longest_ttl());
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
    async fn serve(self: &Arc<Self>, link: Link, sign: Arc<Sign>) -> Reason {
        self.max_payload.store(link.client.max_payload(), Relaxed);
        *lock(&self.client) = Some(link.client.clone());
        let mut announcements = match link.client.subscribe(self.subjects.nodes()).await {
            Ok(announcements) => announcements,
            Err(error) => return format!("NATS takes no subscription: {error}"),
        };
        let mut tasks = JoinSet::new();
        self.pass(&link.client, &sign, &mut tasks);
        if let Some(steering) = &self.steering {
            tasks.spawn(steering.clone().serve(link.client.clone()));
        }
        let hears = async {
            while let Some(message) = announcements.next().await {
                self.hear(&message.payload).await;
            }
            "the subscription to announcements has ended".to_owned()
        };
        let reason = tokio::select! {
            reason = link.ended() => reason,
            reason = self.stay_in_touch(&link.client, &sign) => reason,
            reason = hears => reason,
            Some(ended) = tasks.join_next() => {
                ended.unwrap_or_else(|error| format!("a task of the cluster has failed: {error}"))
            }
        };
        // A task that is aborted runs on until it waits. If it delivered the log, the next one would do so at the same time.
        tasks.shutdown().await;
        reason
    }

    /// Starts the tasks that pass messages between the nodes. Each ends with the link, with the reason.
    fn pass(self: &Arc<Self>, client: &Client, sign: &Arc<Sign>, tasks: &mut JoinSet<Reason>) {
        let task = || (self.clone(), client.clone());
        let (cluster, own) = task();
        tasks.spawn(async move { cluster.tell_presence(own).await });
        match &self.passing {
            Passing::Relay(_) => {
                let ((cluster, client), own) = (task(), sign.clone());
                tasks.spawn(async move {
                    let Passing::Relay(relay) = &cluster.passing else { return Reason::new() };
                    let most = client.max_payload();
                    relay.run_outgoing(client, &own, most).await
                });
                let ((cluster, client), sign) = (task(), sign.clone());
                tasks.spawn(async move {
                    let Passing::Relay(relay) = &cluster.passing else { return Reason::new() };
                    let gap = |channels| cluster.closer.close(Which::Of(channels), Rest::Delivered, DISORDER);
                    relay.run_incoming(client, &sign, &cluster.hub, &cluster.flusher, gap).await
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
        let mut outage = lock(&self.outage);
        if before.up {
            self.ends.fetch_add(1, Relaxed);
            outage.begin();
        }
        if outage.is_new(&reason) {
            tracing::warn!("cluster: the link to NATS is down, and is tried again: {reason}");
        }
        drop(outage);
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

    /// Tells the other nodes that this one stops. It then announces itself no more.
    pub async fn leave(&self) {
        self.has_left.store(true, Relaxed);
        let client = lock(&self.client).clone();
        let Some(client) = client else { return };
        let farewell = async {
            let announcement = Announcement { leaves: true, ..self.announcement() };
            let _ = self.announce(&client, announcement).await;
            let _ = client.flush().await;
        };
        let _ = tokio::time::timeout(FAREWELL, farewell).await;
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
        lock(&self.settings).required
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
