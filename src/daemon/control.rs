//! Answers the requests of the admin socket.

use std::path::Path;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use futures_util::StreamExt;
use tokio::sync::mpsc;

use super::doctor::{self, Examined};
use super::everywhere::Everywhere;
use super::lists;
use super::metrics::Metrics;
use super::rates::{self, Rates};
use super::recent::{Recent, Troubles};
use super::reload::{LastReload, MaxConnectionsSource, ReloadRequest, SecretChange};
use crate::admin::api::{
    self, ChannelQuery, Channels, Checkup, ClosedConnections, ClosedQuery, ClusterNodes, Code,
    ConnectionQuery, Connections, DisconnectRequest, Disconnected, EventQuery, ExplainQuery, Explanation,
    Failure, Hidden, Inspection, IssuedToken, Level, Levels, Lifted, PublishRequest, Published, Ready,
    RefusedQuery, RefusedSubjects, Reloaded, SecretChanged, Secrets, State, Status, Timestamp, TokenRequest,
};
use crate::admin::{Control, EventStream};
use crate::cluster::ClusterStatus;
use crate::config::{Expiry, Listener, LogLevel, SecretSource};
use crate::log::LogHandle;
use crate::message::{ChannelName, ChannelPattern};
use crate::server::{Event, Live, MAX_FOLLOWERS, Messages, Server, unix_now};
use crate::sync::lock;
use crate::token::{self, NewToken, inspect, issue};

/// The daemon, as the admin socket controls it.
pub(super) struct DaemonControl {
    pub(super) server: Arc<Server>,
    pub(super) log: LogHandle,
    pub(super) reloads: mpsc::Sender<ReloadRequest>,
    pub(super) last_reload: LastReload,
    pub(super) max_connections_source: MaxConnectionsSource,
    /// The listeners, with the addresses at which they are bound.
    pub(super) listeners: Vec<Listener>,
    pub(super) config_file: Option<std::path::PathBuf>,
    pub(super) started: Timestamp,
    /// Set when a drain begins.
    pub(super) drain_ends: Arc<OnceLock<Timestamp>>,
    pub(super) rates: Arc<Rates>,
    pub(super) recent: Arc<Recent>,
    pub(super) everywhere: Everywhere,
    pub(super) metrics: Arc<Metrics>,
}

impl DaemonControl {
    fn state(&self) -> State {
        if self.server.draining() { State::Draining } else { State::Serving }
    }

    fn change_secret(&self, change: SecretChange) -> Result<SecretChanged, Failure> {
        let reloaded = ReloadRequest::change_secret(&self.reloads, change)?;
        let live = self.server.live_owned();
        let secrets = &live.settings.auth.secrets;
        let path = secrets.source().generated_file().map(Path::to_owned).unwrap_or_default();
        Ok(SecretChanged { path, secrets: secrets.iter().count() as u64, closing: reloaded.closing })
    }
}

impl Control for DaemonControl {
    fn status(&self) -> Result<Status, Failure> {
        let server = &self.server;
        let live = server.live();
        let (messages_in_per_second, deliveries_per_second) = self.rates.per_second(server);
        let secrets = &live.settings.auth.secrets;
        Ok(Status {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            pid: std::process::id(),
            state: self.state(),
            drain_ends_at: self.drain_ends.get().copied(),
            started_at: self.started,
            uptime_seconds: server.started().elapsed().as_secs(),
            listeners: self.listeners.iter().map(Listener::to_string).collect(),
            tls: server.live().settings.tls.as_ref().map(|tls| api::TlsStatus {
                certificate: tls.certificate.clone(),
                expires_at: Timestamp::from_unix(tls.expires),
                expires_in_seconds: tls.expires.cast_signed().saturating_sub(unix_now().cast_signed()),
                warning: tls.expiry(unix_now()) > Expiry::Far,
            }),
            config_file: self.config_file.clone(),
            connections: server.connected() as u64,
            max_connections: live.max_connections as u64,
            max_connections_source: Some(lock(&self.max_connections_source).to_string()),
            descriptor_limit: live.descriptor_limit.map(|limit| limit as u64),
            channels: server.hub.channel_count() as u64,
            accepted: server.counters.accepted.load(Relaxed),
            refused: server.counters.refused.load(Relaxed),
            closed: server.counters.closed.load(Relaxed),
            messages_in: server.counters.messages_in.load(Relaxed),
            deliveries: server.hub.deliveries(),
            messages_in_per_second,
            deliveries_per_second,
            memory_bytes: rates::resident_bytes(),
            queued_bytes: server.hub.budget().refused_bytes() as u64,
            max_queued_bytes: live.settings.limits.total_queue_bytes as u64,
            secret_source: secrets.source().to_string(),
            secrets: secrets.iter().count() as u64,
            rate_limited: server.counters.rate_limited.load(Relaxed),
            compression: live.settings.websocket.compression.map(|_| {
                let figures = server.hub.compression();
                api::CompressionStatus {
                    messages: figures.messages,
                    bytes_before: figures.before,
                    bytes_after: figures.after,
                }
            }),
            last_reload: lock(&self.last_reload).clone(),
            log_records_dropped: self.log.dropped(),
            cluster: server.cluster.as_ref().map(|cluster| cluster_status(cluster.status())),
        })
    }

    fn doctor(&self) -> Result<Checkup, Failure> {
        let live = self.server.live_owned();
        Ok(doctor::examine(&Examined {
            server: &self.server,
            live: &live,
            is_serving: self.state() == State::Serving,
            listeners: &self.listeners,
            config_file: self.config_file.as_deref(),
            max_connections_source: lock(&self.max_connections_source).to_string(),
            reloads: &self.reloads,
            recent: &self.recent,
            lately: self.recent.until(Troubles::of(&self.server, &self.log)),
        }))
    }

    fn metrics(&self) -> Result<String, Failure> {
        Ok(self.metrics.text(&self.server))
    }

    fn issue_token(&self, request: TokenRequest) -> Result<IssuedToken, Failure> {
        let live = self.server.live();
        check_request(&request, &live)?;
        let now = unix_now();
        let expires = request.expires_in.map(|seconds| now.saturating_add(seconds));
        let token = NewToken {
            read: request.read,
            write: request.write,
            may: request.may,
            presence: request.presence,
            info: request.info,
            api: request.api,
            subject: request.subject,
            issued: Some(now),
            expires,
            issuer: live.policy.issuer.clone(),
            audience: live.policy.audience.clone(),
        };
        let signed =
            issue(&token, &live.keys).map_err(|error| Failure::new(Code::Internal, error.to_string()))?;
        // The daemon must not issue a token that it would refuse.
        token::verify(&signed, &live.keys, &live.policy, now).map_err(|error| {
            Failure::new(Code::Refused, format!("this daemon would refuse the token: {error}"))
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
            signed_by: inspected.signed_by.map(String::from),
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
        let lines = lines.to_owned();
        self.change_secret(Box::new(move |source| source.set(&lines)))
    }

    fn secret_rotate(&self) -> Result<SecretChanged, Failure> {
        self.change_secret(Box::new(SecretSource::rotate))
    }

    fn reload(&self, dry_run: bool) -> Result<Reloaded, Failure> {
        ReloadRequest::ask(&self.reloads, dry_run)
    }

    fn ready(&self) -> Result<Ready, Failure> {
        match self.state() {
            State::Serving => Ok(Ready { state: State::Serving }),
            _ => Err(Failure::new(Code::NotReady, "the daemon is stopping")),
        }
    }

    fn connections(&self, query: &ConnectionQuery) -> Result<Connections, Failure> {
        Ok(self.everywhere.connections(query))
    }

    fn closed(&self, query: &ClosedQuery) -> Result<ClosedConnections, Failure> {
        Ok(self.everywhere.closed(query))
    }

    fn explain(&self, query: &ExplainQuery) -> Result<Explanation, Failure> {
        self.everywhere.explain(query)
    }

    fn channels(&self, query: &ChannelQuery) -> Result<Channels, Failure> {
        Ok(self.everywhere.channels(query))
    }

    fn disconnect(&self, request: &DisconnectRequest) -> Result<Disconnected, Failure> {
        self.everywhere.disconnect(request)
    }

    fn refused(&self, query: &RefusedQuery) -> Result<RefusedSubjects, Failure> {
        Ok(self.everywhere.refused(query))
    }

    fn nodes(&self) -> Result<ClusterNodes, Failure> {
        self.everywhere.nodes()
    }

    fn lift(&self, subject: &str) -> Result<Lifted, Failure> {
        self.everywhere.lift(subject)
    }

    fn publish(&self, request: &PublishRequest) -> Result<Published, Failure> {
        self.everywhere.actions().publish(request)
    }

    fn log_level(&self) -> Result<Levels, Failure> {
        let level = match self.log.level().into_level() {
            Some(tracing::Level::TRACE) => Level::Trace,
            Some(tracing::Level::DEBUG) => Level::Debug,
            Some(tracing::Level::INFO) => Level::Info,
            Some(tracing::Level::WARN) => Level::Warning,
            Some(tracing::Level::ERROR) | None => Level::Error,
        };
        let configured = match self.server.live().settings.log.level {
            LogLevel::Trace => Level::Trace,
            LogLevel::Debug => Level::Debug,
            LogLevel::Info => Level::Info,
            LogLevel::Warning => Level::Warning,
            LogLevel::Error => Level::Error,
        };
        Ok(Levels { level, configured })
    }

    fn set_log_level(&self, level: Level) -> Result<Levels, Failure> {
        self.log.set_level(super::log_level(match level {
            Level::Trace => LogLevel::Trace,
            Level::Debug => LogLevel::Debug,
            Level::Info => LogLevel::Info,
            Level::Warning => LogLevel::Warning,
            Level::Error => LogLevel::Error,
        }));
        self.log_level()
    }

    fn events(&self, query: EventQuery) -> Result<EventStream, Failure> {
        let messages = match query {
            EventQuery { messages: true, channel: None } => Messages::All,
            EventQuery { messages: true, channel: Some(channel) } => Messages::Of(channel),
            EventQuery { messages: false, channel: None } => Messages::None,
            EventQuery { messages: false, channel: Some(_) } => {
                let message = "channel may be given only with messages=true";
                return Err(Failure::new(Code::BadRequest, message));
            }
        };
        let following = self.server.events.follow(messages).ok_or_else(|| {
            Failure::new(Code::Conflict, format!("{MAX_FOLLOWERS} clients follow events already"))
        })?;
        Ok(Box::pin(following.map(event)))
    }
}

/// Converts an event to its document.
fn event(event: Event) -> api::Event {
    let owned = |subject: &Option<Box<str>>| subject.as_deref().map(str::to_owned);
    match event {
        Event::Connected(connected) => api::Event::Connected {
            at: Timestamp(connected.at),
            id: connected.connection,
            subject: owned(&connected.subject),
            address: connected.address,
        },
        Event::Closed(ended) => api::Event::Ended(lists::ended_row(&ended)),
        Event::Reloaded(reloaded) => api::Event::Reloaded {
            at: Timestamp(reloaded.at),
            applied: reloaded.applied.clone(),
            needs_restart: reloaded.needs_restart.clone(),
            error: reloaded.error.clone(),
        },
        Event::SecretChanged(at, secrets) => {
            api::Event::SecretChanged { at: Timestamp(at), secrets: secrets as u64 }
        }
        Event::Message(message) => api::Event::Message {
            at: Timestamp(message.at),
            issuer: message.issuer.to_string(),
            subject: owned(&message.subject),
            channel: message.channel.to_string(),
            // It was checked to be a JSON string when it arrived.
            data: message.data.as_ref().map(|data| serde_json::from_str(data).unwrap_or_default()),
            readers: message.readers as u64,
        },
        Event::Missed(missed) => api::Event::Missed { missed },
    }
}

/// Checks the channels of a request, so that the error names the channel. The check of the token names only the claim.
fn check_request(request: &TokenRequest, live: &Live) -> Result<(), Failure> {
    let max = live.policy.channel_name_bytes;
    let channels = request.read.iter().chain(request.write.iter().flatten());
    for channel in channels {
        ChannelName::check(channel, max)
            .map_err(|error| Failure::new(Code::Refused, format!("channel {channel:?}: {error}")))?;
    }
    for pattern in request.may.read.iter().chain(&request.may.write) {
        ChannelPattern::new(pattern, max)
            .map_err(|error| Failure::new(Code::Refused, format!("channel {pattern:?}: {error}")))?;
    }
    if request.expires_in.is_some_and(|life| Duration::from_secs(life).is_zero()) {
        return Err(Failure::new(Code::Refused, "a token must be valid for at least 1 second"));
    }
    Ok(())
}

fn cluster_status(status: ClusterStatus) -> api::ClusterStatus {
    api::ClusterStatus {
        node: status.node.name,
        mode: status.mode.to_string(),
        up: status.link.up,
        since: Timestamp(status.link.since),
        reason: status.link.reason,
        link_ends: status.link_ends,
        round_trip_seconds: status.link.round_trip.map(|round_trip| round_trip.as_secs_f64()),
        nodes: status.other_nodes as u64 + 1,
        sent: status.sent,
        received: status.received,
        lost: status.lost,
        unavailable: status.unavailable,
        unanswered: status.unanswered,
        refusing: status
            .refusing
            .map(|refusing| api::Refusing { since: Timestamp(refusing.since), reason: refusing.reason }),
        mistakes: status.mistakes.iter().map(|one| format!("{}: {}", one.found, one.remedy)).collect(),
        gaps: status.gaps,
        waiting: status.waiting,
        in_flight: status.in_flight,
        dropped: status.dropped,
        repeated: status.repeated,
        readers_closed: status.readers_closed,
    }
}
