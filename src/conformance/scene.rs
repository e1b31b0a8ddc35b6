//! One case in progress: its server, its client, and what the case waits for.

use std::collections::VecDeque;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::time::timeout;

use super::Broken;
use super::client::{Client, token};
use super::protocol::{Command, Event, State, Timers};
use super::server::{Attempt, Auth, Peer, Server};

/// How long nothing must happen where nothing may: several times the longest wait of [`Timers::QUICK`], and more than the usual
/// first wait of clients whose timers cannot be set.
const QUIET: Duration = Duration::from_millis(1500);

/// The server and the client of a case.
pub(super) struct Scene {
    server: Server,
    pub(super) client: Client,
    /// Events that no wait has matched yet. Clients need not report a message before or after a state.
    unmatched: VecDeque<Event>,
    has_connected: bool,
    /// What the case waits for now.
    waits_for: String,
}

impl Scene {
    pub(super) fn new(server: Server, client: Client) -> Scene {
        Scene { server, client, unmatched: VecDeque::new(), has_connected: false, waits_for: String::new() }
    }

    /// Returns what the case waits for, to be told when its time is over.
    pub(super) fn waits_for(&self) -> &str {
        &self.waits_for
    }

    /// Notes what the case waits for next, as in "it did not ...".
    pub(super) fn wait_for(&mut self, what: impl Into<String>) {
        self.waits_for = what.into();
    }

    /// Tells the client to connect and to read the channel chat.
    pub(super) async fn connect(&mut self, timers: Timers) {
        let url = self.server.url();
        self.client
            .send(&Command::Connect { url: &url, token: &token(1), channels: &["chat"], timers })
            .await;
    }

    /// Waits for the next attempt to connect.
    pub(super) async fn attempt(&mut self) -> Attempt {
        self.wait_for(if self.has_connected { "connect again" } else { "connect" });
        let attempt = self.server.attempt().await;
        self.has_connected = true;
        attempt
    }

    /// Waits for the next attempt, and for the token on it.
    pub(super) async fn auth(&mut self) -> Result<(Peer, Auth), Broken> {
        let mut attempt = self.attempt().await;
        while !attempt.is_upgrade().await {
            attempt.unavailable().await;
            attempt = self.attempt().await;
        }
        let mut peer = attempt.upgrade().await?;
        self.wait_for("send its token");
        let auth = peer.auth().await?;
        Ok((peer, auth))
    }

    /// Waits for the next attempt, and accepts its token with this access.
    pub(super) async fn enter(&mut self, access: Value) -> Result<(Peer, Auth), Broken> {
        let (mut peer, auth) = self.auth().await?;
        peer.access(access).await;
        self.opened().await;
        Ok((peer, auth))
    }

    /// Lets the client connect for the first time.
    pub(super) async fn open(&mut self) -> Result<Peer, Broken> {
        self.open_with(Timers::QUICK, json!({})).await
    }

    pub(super) async fn open_with(&mut self, timers: Timers, access: Value) -> Result<Peer, Broken> {
        self.connect(timers).await;
        Ok(self.enter(access).await?.0)
    }

    /// Takes the first event for which `fits` returns something. The others stay for later waits.
    pub(super) async fn event<T>(&mut self, what: &str, fits: impl Fn(&Event) -> Option<T>) -> T {
        self.wait_for(what);
        let found = self.unmatched.iter().enumerate().find_map(|(at, event)| Some((at, fits(event)?)));
        if let Some((at, found)) = found {
            self.unmatched.remove(at);
            return found;
        }
        loop {
            let event = self.client.event().await;
            if let Some(found) = fits(&event) {
                return found;
            }
            self.unmatched.push_back(event);
        }
    }

    /// Returns the next message that the client reports; `what` is the one that the case waits for.
    async fn message(&mut self, what: &str) -> String {
        self.event(&format!("report the message {what:?}"), |event| match event {
            Event::Message { data, .. } => Some(data.clone()),
            _ => None,
        })
        .await
    }

    /// Waits until the client reports that it is connected.
    pub(super) async fn opened(&mut self) {
        let is_open = |event: &Event| matches!(event, Event::State { state: State::Open, .. }).then_some(());
        self.event("report the state open", is_open).await;
    }

    /// Waits until the client reports the end of a connection. Returns whether it will connect again, the code and the sentence.
    pub(super) async fn ended(&mut self) -> (State, Option<u16>, Option<String>) {
        self.event("report the state waiting or closed", |event| match event {
            Event::State { state: state @ (State::Waiting | State::Closed), code, reason } => {
                Some((*state, *code, reason.clone()))
            }
            _ => None,
        })
        .await
    }

    /// Returns the messages that the client reports up to the one with this text.
    pub(super) async fn told_until(&mut self, last: &str) -> Vec<String> {
        let mut told = Vec::new();
        while told.last().is_none_or(|told| told != last) {
            told.push(self.message(last).await);
        }
        told
    }

    /// Waits for these messages of the client; any other one breaks the case.
    pub(super) async fn told(&mut self, expected: &[&str]) -> Result<(), Broken> {
        for (at, expected) in expected.iter().enumerate() {
            let told = self.message(expected).await;
            if told != *expected {
                let found =
                    format!("as message {} of this part it reported {told:?}, not {expected:?}", at + 1);
                return Err(Broken(found));
            }
        }
        Ok(())
    }

    /// Waits until the client tells its application whether the channel chat has missed messages.
    pub(super) async fn recovered(&mut self, expected: bool) -> Result<(), Broken> {
        let what = format!("report recovered {expected}");
        let told = self.event(&what, |event| match event {
            Event::Recovered { recovered, channel } if channel == "chat" => Some(*recovered),
            _ => None,
        });
        match told.await {
            told if told == expected => Ok(()),
            told => {
                Err(Broken(format!("it reported recovered {told}, and the server had answered {expected}")))
            }
        }
    }

    /// Fails if the client connects within a short time.
    pub(super) async fn stays_away(&mut self) -> Result<(), Broken> {
        match timeout(QUIET, self.server.attempt()).await {
            Err(_) => Ok(()),
            Ok(_) => Err(Broken("it connected again".into())),
        }
    }

    /// Serves a connection for a short time, and fails if the client sends a message on it or ends it.
    pub(super) async fn stays_silent(&mut self, peer: &mut Peer, what: &str) -> Result<(), Broken> {
        match timeout(QUIET, peer.receive()).await {
            Err(_) => Ok(()),
            Ok(received) => Err(Broken(format!("{what}: {}", received?))),
        }
    }
}

/// Fails unless the client resumes a channel after this id.
pub(super) fn expect_since(auth: &Auth, channel: &str, id: &str) -> Result<(), Broken> {
    match auth.since.get(channel) {
        Some(Some(since)) if since == id => Ok(()),
        Some(since) => {
            let since = since.as_deref().unwrap_or("null");
            Err(Broken(format!("its since has {since} for {channel}, and {id} is the last id that it got")))
        }
        None => Err(Broken(format!(
            "its token came without since for {channel}; {id} is the last id that it got"
        ))),
    }
}
