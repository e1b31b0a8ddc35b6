//! What the daemon checks about itself for `philotectl doctor`. [`CHECKS`] has one row for each subject; what they look at
//! is in `settings`, `network` and `capacity`.

mod capacity;
mod network;
mod settings;

use std::path::Path;

use tokio::sync::mpsc;

use super::recent::{Recent, Troubles};
use super::reload::ReloadRequest;
use crate::admin::api::{Checkup, Finding, Findings};
use crate::config::Listener;
use crate::server::{Live, Server};

/// What the checks look at.
pub(super) struct Examined<'a> {
    pub(super) server: &'a Server,
    pub(super) live: &'a Live,
    /// It serves, and the main loop answers.
    pub(super) is_serving: bool,
    pub(super) listeners: &'a [Listener],
    pub(super) config_file: Option<&'a Path>,
    pub(super) max_connections_source: String,
    pub(super) reloads: &'a mpsc::Sender<ReloadRequest>,
    pub(super) recent: &'a Recent,
    /// What went wrong lately.
    pub(super) lately: Troubles,
}

/// Examines one subject.
type Check = fn(&Examined<'_>, Findings) -> Vec<Finding>;

/// All checks, in the order of the report.
const CHECKS: [(&str, Check); 13] = [
    ("state", settings::state),
    ("settings", settings::settings),
    ("secret", settings::secret),
    ("listening", network::listening),
    ("certificate", network::certificate),
    ("proxies", network::proxies),
    ("cluster", network::cluster),
    ("clock", network::clock),
    ("connections", capacity::connections),
    ("descriptors", capacity::descriptors),
    ("memory", capacity::memory),
    ("slow readers", capacity::slow_readers),
    ("log", capacity::log),
];

/// Runs all checks.
pub(super) fn examine(examined: &Examined<'_>) -> Checkup {
    let findings = CHECKS.iter().flat_map(|(subject, check)| check(examined, Findings::of(subject)));
    Checkup {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        max_connections: examined.live.settings.max_connections as u64,
        // The socket that was asked knows better.
        observes_only: false,
        findings: findings.collect(),
    }
}

/// How far back "lately" goes, in words.
const LATELY: &str = "in the last 10 minutes";
