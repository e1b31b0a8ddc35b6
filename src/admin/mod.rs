//! The admin socket, on which `philotectl`, `jane` and `curl` control a running daemon.
//!
//! [`api`] defines the JSON documents. [`server`] serves them on its own thread, and calls the daemon through
//! [`Control`]. [`client`] sends requests. [`path`] finds the socket for both, and [`instance`] those of further daemons.

pub mod api;
pub mod client;
mod commands;
pub mod instance;
pub mod path;
pub mod server;
pub mod socket;

use std::pin::Pin;

use futures_util::Stream;

use api::{
    ChannelQuery, Channels, Checkup, ClosedConnections, ClosedQuery, ClusterNodes, ConnectionQuery,
    Connections, DisconnectRequest, Disconnected, Event, EventQuery, ExplainQuery, Explanation, Failure,
    Inspection, IssuedToken, Level, Levels, Lifted, PublishRequest, Published, Ready, RefusedQuery,
    RefusedSubjects, Reloaded, SecretChanged, Secrets, Status, TokenRequest,
};

/// Events as they happen, until the stream is dropped.
pub type EventStream = Pin<Box<dyn Stream<Item = Event> + Send>>;

/// The operations of the daemon that the admin socket offers.
///
/// Every method may block: a reload waits for the daemon, and a secret is written to disk. The server therefore calls
/// them on the blocking pool, from several threads at once.
pub trait Control: Send + Sync + 'static {
    /// Returns the state of the daemon.
    fn status(&self) -> Result<Status, Failure>;
    /// Checks the daemon and its settings, and reads the files that the settings name.
    fn doctor(&self) -> Result<Checkup, Failure>;
    /// Returns the metrics in Prometheus's text format.
    fn metrics(&self) -> Result<String, Failure>;
    /// Signs a token with the first secret.
    fn issue_token(&self, request: TokenRequest) -> Result<IssuedToken, Failure>;
    /// Returns the contents of a token, and whether this daemon would accept it now. A token that it would not accept
    /// is not a failure.
    fn inspect(&self, token: &str) -> Result<Inspection, Failure>;
    /// Returns the secrets in use. The server calls this only for root and the daemon's own user.
    fn secret_show(&self) -> Result<Secrets, Failure>;
    /// Replaces the contents of the daemon's own secret file with `lines`, of which the first signs and all verify, and
    /// uses them. Fails with [`Code::Conflict`](api::Code::Conflict) if the secret does not come from that file.
    /// The server calls this only for root and the daemon's own user.
    fn secret_set(&self, lines: &str) -> Result<SecretChanged, Failure>;
    /// Adds a new first secret to the daemon's own file, which signs from then on. The older ones still verify.
    fn secret_rotate(&self) -> Result<SecretChanged, Failure>;
    /// Reloads the configuration and waits until it is in use. Fails with [`Code::Refused`](api::Code::Refused) and a
    /// sentence that names the line and the setting if the configuration is wrong; nothing has changed then. A dry run
    /// only reports what would change.
    fn reload(&self, dry_run: bool) -> Result<Reloaded, Failure>;
    /// Succeeds while the daemon serves clients, and fails with [`Code::NotReady`](api::Code::NotReady) otherwise.
    fn ready(&self) -> Result<Ready, Failure>;
    /// Lists open connections. Only the rows of the answer are copied.
    fn connections(&self, query: &ConnectionQuery) -> Result<Connections, Failure>;
    /// Lists the closed connections and rejected requests that are remembered.
    fn closed(&self, query: &ClosedQuery) -> Result<ClosedConnections, Failure>;
    /// Tells what a subject has got of a channel.
    fn explain(&self, query: &ExplainQuery) -> Result<Explanation, Failure>;
    /// Lists the channels that have readers.
    fn channels(&self, query: &ChannelQuery) -> Result<Channels, Failure>;
    /// Closes connections, and bans a subject if the request contains a ban.
    fn disconnect(&self, request: &DisconnectRequest) -> Result<Disconnected, Failure>;
    /// Lists the banned subjects.
    fn refused(&self, query: &RefusedQuery) -> Result<RefusedSubjects, Failure>;
    /// Lifts the ban of a subject.
    fn lift(&self, subject: &str) -> Result<Lifted, Failure>;
    /// Lists the nodes of the cluster. Fails with [`Code::Conflict`](api::Code::Conflict) if there is none.
    fn nodes(&self) -> Result<ClusterNodes, Failure>;
    /// Publishes all messages, or none if one is invalid.
    fn publish(&self, request: &PublishRequest) -> Result<Published, Failure>;
    /// Returns the log level.
    fn log_level(&self) -> Result<Levels, Failure>;
    /// Changes the log level.
    fn set_log_level(&self, level: Level) -> Result<Levels, Failure>;
    /// Returns the events from now on. A follower that is too slow misses events, and receives their number.
    fn events(&self, query: EventQuery) -> Result<EventStream, Failure>;
}
