//! Checks of what the daemon shares with others: addresses, the certificate, proxies, the cluster and the clock.

use std::time::{Duration, Instant, SystemTime};

use super::{Examined, LATELY};
use crate::admin::api::{Finding, Findings, Timestamp};
use crate::config::{Address, Expiry, Listener};
use crate::server::unix_now;
use crate::timestamp::span;

/// A smaller step of the clock comes from a slow answer of this check.
const STEP: Duration = Duration::from_secs(5);

/// Tokens pass in plain text on a listener without TLS, unless only this machine or a proxy reaches it.
pub(super) fn listening(examined: &Examined<'_>, mut findings: Findings) -> Vec<Finding> {
    let listeners = examined.listeners;
    let proxied = examined.live.settings.limits.trusted_proxies != crate::config::TrustedProxies::default();
    let is_open = |listener: &&Listener| match &listener.address {
        Address::Tcp(address) => {
            !listener.tls && !listener.proxy_protocol && !address.ip().to_canonical().is_loopback()
        }
        Address::Unix(_) => false,
    };
    for listener in listeners.iter().filter(is_open).filter(|_| !proxied) {
        findings.warn(
            format!("{listener} accepts clients of other machines without TLS, so tokens can be read on the way"),
            "set [tls]; or put a proxy with TLS before it, listen on 127.0.0.1, and name it in trusted_proxies",
        );
    }
    let all: Vec<String> = listeners.iter().map(Listener::to_string).collect();
    findings.or_ok(all.join(", "))
}

pub(super) fn certificate(examined: &Examined<'_>, mut findings: Findings) -> Vec<Finding> {
    const RENEW: &str = "renew it, then run: philotectl reload";
    let Some(tls) = &examined.live.settings.tls else {
        return findings.or_ok("none: TLS is off");
    };
    let (path, end) = (tls.certificate.display(), tls.expires_text());
    match tls.expiry(unix_now()) {
        Expiry::Past => findings.problem(format!("{path} expired at {end}, so clients refuse it"), RENEW),
        Expiry::Close => findings.problem(format!("{path} expires within 7 days, at {end}"), RENEW),
        Expiry::Near => findings
            .warn(format!("{path} expires within 21 days, at {end}; its renewal seems to fail"), RENEW),
        Expiry::Far => {}
    }
    if let Some(warning) = tls.readable_key() {
        findings.problem(warning, format!("run: chmod o-rwx {}", tls.key.display()));
    }
    findings.or_ok(format!("{path} is valid until {end}"))
}

/// A proxy that is not trusted makes all its clients one address: for limits, in lists, and in the log.
pub(super) fn proxies(examined: &Examined<'_>, mut findings: Findings) -> Vec<Finding> {
    let count = examined.lately.unbelieved;
    if count > 0 {
        let last = examined.server.counters.unbelieved.last().unwrap_or_default();
        findings.warn(
            format!(
                "requests {LATELY} with X-Forwarded-For or Forwarded, which are not believed: {count}, the last from \
                 {last}"
            ),
            format!("if {last} is your proxy, add \"{last}\" to [limits] trusted_proxies; if not, nothing is wrong"),
        );
    }
    findings.or_ok(format!("no unbelieved X-Forwarded-For {LATELY}"))
}

pub(super) fn cluster(examined: &Examined<'_>, mut findings: Findings) -> Vec<Finding> {
    let Some(cluster) = &examined.server.cluster else {
        return findings.or_ok("none: this server is alone");
    };
    let (status, lately) = (cluster.status(), examined.lately);
    let since = Timestamp(status.link.since);
    let nats = "see that the servers of [cluster] run and can be reached from here";
    if !status.link.up {
        let reason = status.link.reason.unwrap_or_else(|| "connecting".to_owned());
        findings.problem(format!("the link to NATS is down since {since}: {reason}"), nats);
    } else if lately.link_ends > 0 {
        findings
            .warn(format!("the link to NATS is up, and ended {LATELY}: {} times", lately.link_ends), nats);
    }
    if let Some(refusing) = &status.refusing {
        findings.problem(
            format!(
                "the log refuses messages or does not confirm them since {}: {}",
                Timestamp(refusing.since),
                refusing.reason
            ),
            "see the stream and the limits of its account in NATS: nats stream info",
        );
    }
    if lately.cluster_lost > 0 {
        findings.warn(
            format!("messages {LATELY} that were not passed on to the other nodes: {}", lately.cluster_lost),
            "see the link to NATS: philotectl status, philotectl nodes",
        );
    }
    for node in cluster.nodes().into_iter().filter(|node| node.mode != status.mode) {
        findings.problem(
            format!(
                "node {} is a {}, this one a {}: they exchange no messages",
                node.id.name, node.mode, status.mode
            ),
            "give all nodes the same [history]",
        );
    }
    for mistake in status.mistakes {
        if mistake.is_proven {
            findings.problem(mistake.found, mistake.remedy);
        } else {
            findings.warn(mistake.found, mistake.remedy);
        }
    }
    let steering = if cluster.steering().is_some() { "" } else { ", without secret_file" };
    findings.or_ok(format!("the link is up since {since}, {} nodes{steering}", status.other_nodes + 1))
}

/// Tokens follow the wall clock.
pub(super) fn clock(examined: &Examined<'_>, mut findings: Findings) -> Vec<Finding> {
    const SYNCHRONIZE: &str = "synchronize the clock here and on your backend: timedatectl set-ntp true";
    let now = SystemTime::now();
    let step = examined.recent.clock_step(Instant::now(), now);
    if step >= STEP {
        findings.warn(
            format!(
                "the clock was set by {} {LATELY}, or the machine slept; tokens follow the clock",
                span(step)
            ),
            SYNCHRONIZE,
        );
    }
    let early = examined.lately.early_tokens;
    if early > 0 {
        findings.warn(
            format!("tokens refused {LATELY} because they are not valid yet: {early}; a clock is wrong"),
            SYNCHRONIZE,
        );
    }
    findings.or_ok(format!("{}, not set {LATELY}", Timestamp(now)))
}
