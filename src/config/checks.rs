//! Checks that involve several settings.

use super::error::ProblemKind;
use super::layers::Layers;
use super::settings::AdminSocket;
use super::value_types::size;

/// Adds the problems and warnings of settings that contradict each other.
pub(super) fn check(layers: &mut Layers) {
    check_queues(layers);
    if layers.unresolved.settings.dev {
        check_loopback(layers);
    }
    let admin = &layers.unresolved.settings.admin;
    if matches!((&admin.socket, &admin.observe_socket), (AdminSocket::At(one), Some(other)) if one == other) {
        const KEY: &str = "admin.observe_socket";
        layers.add_problem(KEY, layers.sources.get(KEY).cloned(), ProblemKind::IsAdminSocket);
    }
    let settings = &layers.unresolved.settings;
    let warnings = &mut layers.warnings;
    // A connection gets at most half of its queue in one batch.
    let history = &settings.history;
    let kept = std::iter::once(("history.messages", history.messages))
        .chain(history.channels.iter().map(|channel| ("messages in history.channels", channel.messages)));
    if let Some((key, _)) = kept.into_iter().find(|(_, kept)| *kept > settings.limits.queue_messages / 2) {
        warnings.push(format!(
            "{key} is more than half of limits.queue_messages: a client that missed more messages than that half gets \
             none of them"
        ));
    }
    if !settings.websocket.allowed_origins.is_empty() && !settings.websocket.check_origin {
        warnings.push("websocket.allowed_origins is set, so origins are checked although websocket.check_origin is false".into());
    }
    if settings.admin.mode & 0o007 != 0 {
        warnings.push("admin.mode lets every user of this machine administer Philote".into());
    }
}

/// Checks that a queue holds at least one message, and all queues together at least one full queue.
fn check_queues(layers: &mut Layers) {
    let settings = &mut layers.unresolved.settings;
    if !layers.sources.contains_key("limits.total_queue_bytes") {
        settings.limits.total_queue_bytes =
            settings.limits.total_queue_bytes.max(settings.limits.queue_bytes);
    }
    let (limits, message) = (&settings.limits, settings.websocket.max_message_size);
    let small = [
        (
            ("limits.queue_bytes", limits.queue_bytes),
            ("websocket.max_message_size", message),
            "a single message would close its readers",
        ),
        (
            ("limits.total_queue_bytes", limits.total_queue_bytes),
            ("limits.queue_bytes", limits.queue_bytes),
            "no connection could use its own limit",
        ),
    ];
    for ((key, found), (other, least), reason) in small {
        if found < least {
            let source = layers.sources.get(key).or_else(|| layers.sources.get(other)).cloned();
            let (found, least) = (size(found), size(least));
            layers.add_problem(key, source, ProblemKind::SmallerThan { found, other, least, reason });
        }
    }
}

/// Checks that `--dev`, whose secret is public, is reachable only from this machine.
fn check_loopback(layers: &mut Layers) {
    let addresses = layers.unresolved.settings.listen.addresses();
    for address in addresses.iter().filter(|address| !address.ip().is_loopback()) {
        let kind = ProblemKind::NotLoopback { found: address.to_string() };
        layers.add_problem("listen", layers.sources.get("listen").cloned(), kind);
    }
}
