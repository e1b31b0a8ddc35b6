//! The admin API: its routes, and the JSON documents of its requests and answers.
//!
//! The shapes are stable within `/v1/`. Times are RFC 3339 in UTC, sizes are bytes, durations are seconds.

mod disconnect;
mod doctor;
mod events;
mod explain;
mod failure;
mod lists;
mod nodes;
mod publish;
mod secrets;
mod settings;
mod status;
mod timestamp;
mod tokens;

pub use self::disconnect::*;
pub use self::doctor::*;
pub use self::events::*;
pub use self::explain::*;
pub use self::failure::*;
pub use self::lists::*;
pub use self::nodes::*;
pub use self::publish::*;
pub use self::secrets::*;
pub use self::settings::*;
pub use self::status::*;
pub use self::timestamp::*;
pub use self::tokens::*;
pub use crate::orders::{Address, Coverage, FailedNode, IdPrefix};

/// `GET`: [`Status`].
pub const STATUS: &str = "/v1/status";
/// `GET`: [`Checkup`].
pub const DOCTOR: &str = "/v1/doctor";
/// `POST` [`TokenRequest`]: [`IssuedToken`].
pub const TOKEN: &str = "/v1/token";
/// `POST` [`InspectRequest`]: [`Inspection`].
pub const INSPECT: &str = "/v1/inspect";
/// `GET`: [`Secrets`]; `PUT` [`SecretSet`]: [`SecretChanged`].
pub const SECRET: &str = "/v1/secret";
/// `POST`: [`SecretChanged`].
pub const SECRET_ROTATE: &str = "/v1/secret/rotate";
/// `POST` [`ReloadRequest`] or an empty body: [`Reloaded`].
pub const RELOAD: &str = "/v1/reload";
/// `GET`: metrics in Prometheus's text format.
pub const METRICS: &str = "/v1/metrics";
/// `GET`: [`Ready`].
pub const READY: &str = "/v1/ready";

/// `GET` with [`ConnectionQuery`] in the URL: [`Connections`].
pub const CONNECTIONS: &str = "/v1/connections";
/// `GET` with [`ClosedQuery`] in the URL: [`ClosedConnections`].
pub const CLOSED: &str = "/v1/connections/closed";
/// `GET` with [`ExplainQuery`] in the URL: [`Explanation`].
pub const EXPLAIN: &str = "/v1/explain";
/// `GET` with [`ChannelQuery`] in the URL: [`Channels`].
pub const CHANNELS: &str = "/v1/channels";
/// `POST` [`DisconnectRequest`]: [`Disconnected`].
pub const DISCONNECT: &str = "/v1/disconnect";
/// `GET` with [`RefusedQuery`] in the URL: [`RefusedSubjects`]; `DELETE` [`LiftRequest`]: [`Lifted`].
pub const REFUSED: &str = "/v1/refused";
/// `GET`: [`ClusterNodes`].
pub const NODES: &str = "/v1/nodes";
/// `POST` [`PublishRequest`]: [`Published`].
pub const PUBLISH: &str = "/v1/publish";
/// `GET` with [`EventQuery`] in the URL: [`Event`]s, one per line, until either side closes the connection.
pub const EVENTS: &str = "/v1/events";
/// `GET`: [`Levels`]; `PUT` [`LevelRequest`]: [`Levels`].
pub const LOG_LEVEL: &str = "/v1/log-level";
