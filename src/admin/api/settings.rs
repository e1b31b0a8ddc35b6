//! Reloading the configuration, and changing the log level.

use clap::ValueEnum;
use serde::{Deserialize, Serialize};

use super::Timestamp;

/// A request for a reload.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ReloadRequest {
    /// Only report what the reload would change.
    pub dry_run: bool,
}

/// The result of a reload.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reloaded {
    /// When it ended.
    pub at: Timestamp,
    /// Settings that changed and are in use now (`limits.queue_bytes`).
    pub applied: Vec<String>,
    /// Settings that changed and need a restart.
    pub needs_restart: Vec<String>,
    /// Connections that are being closed because the key that signed their token was removed.
    pub closing: u64,
    /// Whether this is a dry run, which changed nothing.
    #[serde(default)]
    pub dry_run: bool,
}

/// A log level.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "snake_case")]
pub enum Level {
    /// Everything except payloads.
    Trace,
    /// Details that help to find a fault.
    Debug,
    /// Connections, and the actions of administrators.
    Info,
    /// Problems that need attention.
    Warning,
    /// Failures.
    Error,
}

/// A request to change the log level until the next restart, or until a reload finds another level in the settings.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LevelRequest {
    /// The lowest level that is logged.
    pub level: Level,
}

/// The log level and the setting.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Levels {
    /// The lowest level that is logged now.
    pub level: Level,
    /// The level in the settings.
    pub configured: Level,
}
