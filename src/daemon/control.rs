//! What the admin socket may ask of the daemon, answered.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use tokio::sync::mpsc;

use super::reload::{LastReload, ReloadRequest};
use super::vitals::{self, Vitals};
use crate::access_key::{self, NewToken, inspect, issue};
use crate::admin::Control;
use crate::admin::api::{
    Code, Failure, Hidden, Inspection, IssuedToken, Ready, Reloaded, SecretChanged, Secrets, State, Status,
    Timestamp, TokenRequest,
};
use crate::config::SecretSource;
use crate::log::LogHandle;
use crate::message::ChannelName;
use crate::server::{Live, Server, unix_now};

/// The daemon, as its administrator sees it.
pub(super) struct DaemonControl {
    server: Arc<Server>,
    log: LogHandle,
    reloads: mpsc::Sender<ReloadRequest>,
    last_reload: LastReload,
    listeners: Vec<String>,
    config_file: Option<std::path::PathBuf>,
    started: Timestamp,
    vitals: Arc<Vitals>,
}

impl DaemonControl {
    pub(super) fn new(
        server: Arc<Server>,
        log: LogHandle,
        reloads: mpsc::Sender<ReloadRequest>,
        last_reload: LastReload,
        listeners: &[SocketAddr],
        config_file: Option<std::path::PathBuf>,
        vitals: Arc<Vitals>,
    ) -> DaemonControl {
        let listeners = listeners.iter().map(SocketAddr::to_string).collect();
        let started = Timestamp::now();
        DaemonControl { server, log, reloads, last_reload, listeners, config_file, started, vitals }
    }

    fn state(&self) -> State {
        if self.server.draining() { State::Draining } else { State::Serving }
    }

    /// Changes the daemon's own secret file, then has it read.
    fn change_secret(
        &self,
        change: impl FnOnce(&SecretSource) -> Result<std::path::PathBuf, crate::config::SecretError>,
    ) -> Result<SecretChanged, Failure> {
        let live = self.server.live_full();
        let source = live.settings.auth.secrets.source();
        let path = change(source).map_err(|error| match source.own_file() {
            Some(_) => Failure::new(Code::Refused, error.to_string()),
            None => Failure::new(Code::Conflict, error.to_string())
                .hint("change it where it comes from, then: philotectl reload"),
        })?;
        let reloaded = ReloadRequest::ask(&self.reloads)?;
        let secrets = self.server.live().settings.auth.secrets.iter().count() as u64;
        Ok(SecretChanged { path, secrets, closing: reloaded.closing })
    }
}

impl Control for DaemonControl {
    fn status(&self) -> Result<Status, Failure> {
        let server = &self.server;
        let live = server.live();
        let (messages_in_per_second, deliveries_per_second) = self.vitals.rates(server);
        let secrets = &live.settings.auth.secrets;
        Ok(Status {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            pid: std::process::id(),
            state: self.state(),
            drain_ends_at: None,
            started_at: self.started,
            uptime_seconds: server.started().elapsed().as_secs(),
            listeners: self.listeners.clone(),
            config_file: self.config_file.clone(),
            connections: server.connected() as u64,
            max_connections: live.max_connections as u64,
            channels: server.hub.channel_count() as u64,
            accepted: server.counters.accepted.load(Relaxed),
            refused: server.counters.refused.load(Relaxed),
            closed: server.counters.closed.load(Relaxed),
            messages_in: server.counters.messages_in.load(Relaxed),
            deliveries: server.hub.deliveries(),
            messages_in_per_second,
            deliveries_per_second,
            memory_bytes: vitals::resident_bytes(),
            queued_bytes: server.hub.budget().refused_bytes() as u64,
            max_queued_bytes: live.settings.limits.total_queue_bytes as u64,
            secret_source: secrets.source().to_string(),
            secrets: secrets.iter().count() as u64,
            last_reload: crate::sync::lock(&self.last_reload).clone(),
            log_records_dropped: self.log.dropped(),
        })
    }

    fn issue_token(&self, request: TokenRequest) -> Result<IssuedToken, Failure> {
        let live = self.server.live();
        check_request(&request, &live)?;
        let now = unix_now();
        let expires = request.expires_in.map(|seconds| now.saturating_add(seconds));
        let token = NewToken {
            read: request.read,
            write: request.write,
            api: request.api,
            subject: request.subject,
            issued: Some(now),
            expires,
            issuer: live.policy.issuer.clone(),
            audience: live.policy.audience.clone(),
        };
        let signed =
            issue(&token, &live.keys).map_err(|error| Failure::new(Code::Internal, error.to_string()))?;
        // What this daemon would refuse must not leave it.
        access_key::verify(&signed, &live.keys, &live.policy, now).map_err(|error| {
            Failure::new(Code::Refused, format!("this daemon would not accept it: {error}"))
        })?;
        Ok(IssuedToken { token: Hidden(signed), expires_at: expires.map(Timestamp::from_unix) })
    }

    fn inspect(&self, token: &str) -> Result<Inspection, Failure> {
        let live = self.server.live();
        let inspected = inspect(token, &live.keys, &live.policy, unix_now());
        let claimed = inspected.claims.as_ref().and_then(|claims| claims.get("exp")?.as_f64());
        Ok(Inspection {
            accepted: inspected.verdict.is_ok(),
            reason: inspected.verdict.err().map(|error| error.to_string()),
            header: inspected.header,
            claims: inspected.claims,
            signed_by: inspected.signed_by.map(|position| position as u64 + 1),
            expires_at: claimed.filter(|exp| *exp >= 0.0).map(|exp| Timestamp::from_unix(exp as u64)),
        })
    }

    fn secret_show(&self) -> Result<Secrets, Failure> {
        let live = self.server.live();
        let secrets = &live.settings.auth.secrets;
        Ok(Secrets {
            secrets: secrets.iter().map(|secret| Hidden(secret.as_str().to_owned())).collect(),
            source: secrets.source().to_string(),
        })
    }

    fn secret_set(&self, lines: &str) -> Result<SecretChanged, Failure> {
        self.change_secret(|source| source.set(lines))
    }

    fn secret_rotate(&self) -> Result<SecretChanged, Failure> {
        self.change_secret(SecretSource::rotate)
    }

    fn reload(&self) -> Result<Reloaded, Failure> {
        ReloadRequest::ask(&self.reloads)
    }

    fn ready(&self) -> Result<Ready, Failure> {
        match self.state() {
            State::Serving => Ok(Ready { state: State::Serving }),
            _ => Err(Failure::new(Code::NotReady, "the daemon is stopping")),
        }
    }
}

/// A sentence that names the channel, where the check of the finished token could only name the claim.
fn check_request(request: &TokenRequest, live: &Live) -> Result<(), Failure> {
    let max = live.policy.channel_name_bytes;
    let channels = request.read.iter().chain(request.write.iter().flatten());
    for channel in channels {
        ChannelName::check(channel, max)
            .map_err(|error| Failure::new(Code::Refused, format!("channel {channel:?}: {error}")))?;
    }
    if request.expires_in.is_some_and(|life| Duration::from_secs(life).is_zero()) {
        return Err(Failure::new(Code::Refused, "a token must live for a second at least"));
    }
    Ok(())
}
