//! Announcing this node, and hearing the others.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Instant;

use async_nats::Client;
use bytes::Bytes;
use tokio::time::timeout;

use super::link::{Reason, SILENCE};
use super::mistakes::Kind;
use super::nodes::{self, Announcement, Lost, Origin};
use super::readers::{Rest, Which};
use super::sign::Sign;
use super::steering::Steering;
use super::steering::message::{Rejected, claimed_node};
use super::wire::NodeId;
use super::{Cluster, MISSED, Mode, Passing, presence};
use crate::sync::lock;

impl Cluster {
    /// Announces this node each second, and asks NATS for a sign. Returns why the link is in doubt.
    pub(super) async fn stay_in_touch(&self, client: &Client, sign: &Sign) -> Reason {
        let mut tick = tokio::time::interval(nodes::INTERVAL);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut asks = true;
        loop {
            tick.tick().await;
            if let Err(reason) = self.touch(client, sign, asks).await {
                return reason;
            }
            asks = false;
        }
    }

    async fn touch(&self, client: &Client, sign: &Sign, asks: bool) -> Result<(), Reason> {
        if let Some(left_out) = self.lines.report(Instant::now()) {
            tracing::warn!("cluster: {left_out} more lines about nodes and epochs were left out");
        }
        let up = self.is_up();
        let mut announcement = Announcement { asks, ..self.announcement() };
        if let Passing::Relay(relay) = &self.passing {
            relay.ask();
            announcement.lost = if up { relay.take_lost() } else { None };
        }
        self.announce(client, announcement).await?;
        let round_trip = sign.wait().await?;
        self.state.send_modify(|state| state.round_trip = Some(round_trip));
        match &self.passing {
            Passing::Relay(relay) => {
                relay.confirmed();
                // If that takes longer, NATS is asked for a sign again.
                if !up && timeout(SILENCE, relay.settled_once()).await.is_ok() {
                    self.went_up();
                    relay.up();
                    // Whoever is connected may have missed messages of other nodes.
                    self.closer.close(Which::All, Rest::Delivered, MISSED);
                }
            }
            Passing::Log(log) => log.restate(client).await?,
        }
        Ok(())
    }

    /// Hears an announcement of another node.
    pub(super) async fn hear(&self, payload: &[u8]) {
        // One without a seal can be anybody's, so that it only shows a node, unless the cluster has no secret.
        let sealed = !payload.starts_with(b"{");
        let body = match &self.steering {
            Some(steering) if sealed => {
                let opened = steering.open_announcement(payload);
                if opened == Err(Rejected::Forged)
                    && let Some(id) = claimed_node(payload).and_then(NodeId::parse)
                {
                    self.note_secret(&id, "are signed with another secret");
                }
                opened.ok()
            }
            Some(_) if !self.unsealed.takes(Instant::now()) => {
                self.dropped.fetch_add(1, Relaxed);
                return;
            }
            None if sealed => {
                payload.iter().position(|byte| *byte == b'\n').map(|end| (&payload[end + 1..], 0))
            }
            _ => Some((payload, 0)),
        };
        let Some((payload, sealed_ms)) = body else {
            // With a secret it is counted by its reason.
            self.dropped.fetch_add(u64::from(self.steering.is_none()), Relaxed);
            return;
        };
        let trusted = sealed || self.steering.is_none();
        if presence::is_presence(payload) {
            if !trusted || !self.hear_presence(payload).await {
                self.dropped.fetch_add(1, Relaxed);
            }
            return;
        }
        let Some((id, announcement)) = Announcement::parse(payload) else {
            self.dropped.fetch_add(1, Relaxed);
            return;
        };
        if id == self.node {
            return;
        }
        // It is of this node before it started again, and may be repeated by anybody.
        let is_old = |steering: &Arc<Steering>| sealed_ms < steering.started_ms();
        if sealed && id.name == self.node.name && self.steering.as_ref().is_some_and(is_old) {
            self.dropped.fetch_add(1, Relaxed);
            return;
        }
        if announcement.asks && self.answers.takes(Instant::now()) {
            let client = lock(&self.client).clone();
            if let Some(client) = client {
                let _ = self.announce(&client, self.announcement()).await;
            }
        }
        let (lost, mode, leaves) = (announcement.lost.clone(), announcement.mode, announcement.leaves);
        let told = announcement.presence;
        let (origin, now) = (Origin { trusted, sealed_ms }, Instant::now());
        let heard = self.nodes.hear(id.clone(), announcement, origin, now);
        if self.nodes.has_lost() {
            self.hub.forget_readers();
        }
        let Some(heard) = heard else {
            self.dropped.fetch_add(1, Relaxed);
            return;
        };
        if !trusted {
            self.note_secret(&id, "are not signed with the secret that this node has");
        } else if sealed && self.steering.is_none() {
            self.note_secret(&id, "are signed with a secret, and this node has none");
        }
        // The second announcement shows that it lives, and is not what this node sent before it started again.
        if trusted && !leaves && id.name == self.node.name && !heard.new {
            let found = format!("another node has the name of this one, {}", id.name);
            self.mistakes.note(Kind::OwnName, found, now);
        } else if heard.shares_name {
            self.mistakes.note(Kind::OtherName, format!("two nodes have the name {}", id.name), now);
        }
        let logs = (heard.new || leaves) && self.lines.takes(now);
        if heard.new && logs {
            tracing::info!("cluster: node {id} is there");
            if mode != self.mode() {
                tracing::warn!(
                    "cluster: node {id} has another setting of [history] messages: set the same on all nodes"
                );
            }
        }
        if !trusted {
            return;
        }
        if leaves && logs {
            tracing::info!("cluster: node {id} has left");
        }
        if !leaves {
            self.presence.announced(&id, told, &self.hub);
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

    /// Notes that the secret of another node is not that of this one.
    fn note_secret(&self, id: &NodeId, signed: &str) {
        let found = format!(
            "messages of node {} {signed}, so bans, disconnections and presence do not pass between it and this node",
            id.name
        );
        self.mistakes.note(Kind::Secret, found, Instant::now());
    }

    pub(super) async fn announce(&self, client: &Client, announcement: Announcement) -> Result<(), Reason> {
        // The others would take it for a node that is there again.
        if self.has_left.load(Relaxed) && !announcement.leaves {
            return Ok(());
        }
        // An announcement always has a JSON form.
        self.send_sealed(client, &serde_json::to_vec(&announcement).unwrap_or_default()).await
    }

    /// Sends something to all nodes, with a seal if the cluster has a secret.
    pub(super) async fn send_sealed(&self, client: &Client, body: &[u8]) -> Result<(), Reason> {
        let payload = match &self.steering {
            Some(steering) => steering.seal_announcement(body),
            None => body.to_vec(),
        };
        // async-nats waits without end while its queue is full, as it is if NATS is frozen and much is published.
        match timeout(SILENCE, client.publish(self.subjects.nodes(), Bytes::from(payload))).await {
            Ok(published) => published.map_err(|error| format!("NATS takes no message: {error}")),
            Err(_) => Err(format!("NATS takes no message for {} s", SILENCE.as_secs())),
        }
    }

    pub(super) fn announcement(&self) -> Announcement {
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
            presence: self.presence.told(),
            epoch: epoch.map(|epoch| format!("{epoch:x}")),
            asks: false,
            leaves: false,
            lost: None,
        }
    }
}
