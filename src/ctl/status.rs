//! `philotectl status`: the state of the daemon as text.

use std::time::Duration;

use super::print::{Facts, bytes, count, list, many};
use super::secrets::older;
use crate::admin::api::{ClusterStatus, Status};
use crate::escape::escape;
use crate::terminal::{Style, Tone};
use crate::timestamp::span;

pub(super) fn text(status: &Status, style: Style) -> String {
    let mut facts = Facts::new(style);
    let number = |value| count(style, value);
    facts.add("version", escape(&status.version));
    let state = match status.drain_ends_at {
        Some(end) => format!("{}, until {end} at most", status.state),
        None => status.state.to_string(),
    };
    facts.add("state", state);
    facts.add("process", status.pid.to_string());
    let up = Duration::from_secs(status.uptime_seconds);
    facts.add("up", format!("{}, since {}", span(up), status.started_at));
    facts.add_list("listening", &status.listeners);
    if let Some(tls) = &status.tls {
        let days = tls.expires_in_seconds.div_euclid(24 * 60 * 60);
        let left = if days < 0 { "EXPIRED".to_owned() } else { format!("in {days} days") };
        let text =
            format!("{} until {}, {left}", escape(&tls.certificate.display().to_string()), tls.expires_at);
        facts.add("certificate", if tls.warning { style.paint(Tone::Bad, &text).to_string() } else { text });
    }
    let settings = status.config_file.as_ref().map(|path| path.display().to_string());
    let mut connections = format!("{} of {}", number(status.connections), number(status.max_connections));
    if status.connections >= status.max_connections {
        let file = settings.as_deref().unwrap_or("/etc/philote/philote.toml");
        let full = match status.descriptor_limit {
            // A variable or an option wins over the file.
            None => match status.max_connections_source.as_deref().filter(|set| set.contains(' ')) {
                Some(set) => format!("FULL: raise max_connections, which is set by {}", escape(set)),
                None => format!("FULL: raise max_connections in {}", escape(file)),
            },
            Some(limit) => format!(
                "FULL: raise the limit of {} open files (LimitNOFILE= in the unit, ulimit -n in a shell)",
                number(limit)
            ),
        };
        connections = format!("{connections}, {}", style.paint(Tone::Bad, &full));
    }
    facts.add("connections", connections);
    facts.add(
        "since start",
        format!(
            "{} accepted, {} refused, {} closed",
            number(status.accepted),
            number(status.refused),
            number(status.closed)
        ),
    );
    facts.add("channels", number(status.channels));
    let rate = |per_second: f64, total| format!("{per_second:.1}/s, {} since start", number(total));
    facts.add("messages in", rate(status.messages_in_per_second, status.messages_in));
    if status.rate_limited > 0 {
        facts.add("over their rate", many(status.rate_limited, "message"));
    }
    facts.add("deliveries", rate(status.deliveries_per_second, status.deliveries));
    if let Some(compression) = &status.compression {
        let (before, after) = (bytes(style, compression.bytes_before), bytes(style, compression.bytes_after));
        let messages = many(compression.messages, "message");
        facts.add("compressed", format!("{messages}, {before} to {after}"));
    }
    facts.add(
        "queued",
        format!("{} of {}", bytes(style, status.queued_bytes), bytes(style, status.max_queued_bytes)),
    );
    facts.add("memory", bytes(style, status.memory_bytes));
    facts.add("settings", settings.map_or_else(|| "no file".into(), |file| escape(&file).into_owned()));
    facts.add("secret", format!("{}{}", escape(&status.secret_source), older(status.secrets)));
    if let Some(last) = &status.last_reload {
        let outcome = match &last.error {
            Some(error) => style.paint(Tone::Bad, &format!("refused: {}", escape(error))),
            None if last.needs_restart.is_empty() => "ok".into(),
            None => format!("ok, needs a restart: {}", list(&last.needs_restart)),
        };
        facts.add("last reload", format!("{}, {outcome}", last.at));
    }
    if let Some(cluster) = &status.cluster {
        facts.add("cluster", cluster_line(cluster, style));
        let counts = format!(
            "{} sent, {} received, {} lost, {} dropped, {} closed",
            number(cluster.sent),
            number(cluster.received),
            number(cluster.lost + cluster.unavailable + cluster.unanswered),
            number(cluster.dropped + cluster.repeated),
            many(cluster.readers_closed, "reader"),
        );
        facts.add("between nodes", counts);
        if let Some(refusing) = &cluster.refusing {
            let text = format!(
                "REFUSES or does not confirm messages since {}: {}",
                refusing.since,
                escape(&refusing.reason)
            );
            facts.add("cluster log", style.paint(Tone::Bad, &text));
        }
        for mistake in &cluster.mistakes {
            facts.add("cluster settings", style.paint(Tone::Bad, &escape(mistake)));
        }
    }
    if status.log_records_dropped > 0 {
        let dropped = format!("{} dropped", many(status.log_records_dropped, "record"));
        facts.add("log", style.paint(Tone::Bad, &dropped));
    }
    facts.render()
}

/// `node web-1, relay: the link is up since TIME, 3 nodes`.
fn cluster_line(cluster: &ClusterStatus, style: Style) -> String {
    let ClusterStatus { node, mode, since, .. } = cluster;
    let link = match &cluster.reason {
        _ if cluster.up => format!("the link is up since {since}, {}", many(cluster.nodes, "node")),
        Some(reason) => {
            style.paint(Tone::Bad, &format!("the link is DOWN since {since}: {}", escape(reason))).to_string()
        }
        None => "connecting".to_owned(),
    };
    format!("node {}, {mode}: {link}", escape(node))
}

/// Returns a message if more than `share` percent of the connections are in use.
pub(super) fn too_full(status: &Status, share: u64) -> Option<String> {
    let (used, max) = (status.connections, status.max_connections);
    let message = || {
        let cause = status.descriptor_limit.map(|limit| format!(" (limited by {limit} open files)"));
        format!("{used} of {max} connections{} are in use: more than {share}%", cause.unwrap_or_default())
    };
    (used.saturating_mul(100) > max.saturating_mul(share)).then(message)
}
