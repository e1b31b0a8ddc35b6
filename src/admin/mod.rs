//! The admin socket: how `philotectl` and `curl` ask a running daemon, and how it answers.
//!
//! [`api`] is the vocabulary, [`server`] answers on a thread of its own through whatever implements
//! [`Control`], [`client`] asks, and [`path`] is how both find the same socket.

pub mod api;
pub mod client;
mod commands;
pub mod path;
pub mod server;
pub mod socket;

use std::pin::Pin;

use futures_util::Stream;

use api::{
    ChannelQuery, Channels, ClosedConnections, ClosedQuery, ConnectionQuery, Connections, DisconnectRequest,
    Disconnected, Event, EventQuery, Failure, Inspection, IssuedToken, Level, Levels, Lifted, PublishRequest,
    Published, Ready, RefusedSubjects, Reloaded, SecretChanged, Secrets, Status, TokenRequest,
};

/// Events as they happen. Dropping it ends it.
pub type EventStream = Pin<Box<dyn Stream<Item = Event> + Send>>;

/// What the admin socket may ask of the daemon.
///
/// Every method may block (a reload waits for the daemon, a secret is written to disk): the server calls each
/// on a thread where that stops nobody else. Each may be called from several threads at once.
pub trait Control: Send + Sync + 'static {
    /// How the daemon is doing, now.
    fn status(&self) -> Result<Status, Failure>;
    /// The same and more for Prometheus, in its text format.
    fn metrics(&self) -> Result<String, Failure>;
    /// Signs a token with the secret that signs.
    fn issue_token(&self, request: TokenRequest) -> Result<IssuedToken, Failure>;
    /// Says what is in a token and whether this daemon would accept it now. A token that it would not accept
    /// is an answer too, not a failure.
    fn inspect(&self, token: &str) -> Result<Inspection, Failure>;
    /// The secrets in use. The server lets only root and the daemon's own user come this far.
    fn secret_show(&self) -> Result<Secrets, Failure>;
    /// Replaces the daemon's own secret file by `lines` (the first signs, all verify) and takes them into use;
    /// [`Code::Conflict`](api::Code::Conflict) when the secret is not the daemon's own file.
    /// The server lets only root and the daemon's own user come this far.
    fn secret_set(&self, lines: &str) -> Result<SecretChanged, Failure>;
    /// Puts a new secret on top of the daemon's own file, so that it signs while the older ones still verify.
    fn secret_rotate(&self) -> Result<SecretChanged, Failure>;
    /// Reads the configuration again and waits until it is in use; [`Code::Refused`](api::Code::Refused), with
    /// the sentence that says which key in which line is wrong, when it changed nothing. A dry run only says what
    /// it would come to.
    fn reload(&self, dry_run: bool) -> Result<Reloaded, Failure>;
    /// Whether the daemon serves clients; [`Code::NotReady`](api::Code::NotReady) while it starts or drains.
    fn ready(&self) -> Result<Ready, Failure>;
    /// Open connections, filtered and sorted here, and no more of them copied than are shown.
    fn connections(&self, query: &ConnectionQuery) -> Result<Connections, Failure>;
    /// Connections that have ended and requests that were refused, as long as they are remembered.
    fn closed(&self, query: &ClosedQuery) -> Result<ClosedConnections, Failure>;
    /// Channels that somebody reads.
    fn channels(&self, query: &ChannelQuery) -> Result<Channels, Failure>;
    /// Closes connections, and keeps a subject out where that is asked for.
    fn disconnect(&self, request: &DisconnectRequest) -> Result<Disconnected, Failure>;
    /// The subjects that are kept out.
    fn refused(&self) -> Result<RefusedSubjects, Failure>;
    /// Lets a subject in again.
    fn lift(&self, subject: &str) -> Result<Lifted, Failure>;
    /// Publishes all messages, or none where one is bad.
    fn publish(&self, request: &PublishRequest) -> Result<Published, Failure>;
    /// How much is logged.
    fn log_level(&self) -> Result<Levels, Failure>;
    /// Changes how much is logged.
    fn set_log_level(&self, level: Level) -> Result<Levels, Failure>;
    /// What happens from now on. Whoever is too slow misses events and is told how many.
    fn events(&self, query: EventQuery) -> Result<EventStream, Failure>;
}
