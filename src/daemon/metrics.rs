//! The metrics for Prometheus. They are collected only when they are read, so they cost a message nothing.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{SystemTime, UNIX_EPOCH};

use super::reload::LastReload;
use crate::cluster::ClusterStatus;
use crate::hub::{CompressionFigures, Transport};
use crate::log::LogHandle;
use crate::metrics::{Exposition, Kind::Counter, Kind::Gauge};
use crate::server::Server;
use crate::sync::lock;

/// The buckets of queue lengths, in messages, from 0 to the default of `[limits] queue_messages`.
const QUEUES: [u64; 8] = [0, 1, 4, 16, 64, 256, 1024, 4096];

/// The state between two scrapes.
pub(super) struct Metrics {
    pub(super) log: LogHandle,
    pub(super) last_reload: LastReload,
    pub(super) started: SystemTime,
    /// The largest sums reported so far. A scrape may miss a connection that closes during it, and a counter that
    /// decreases would look like a restart.
    received: AtomicU64,
    sent: AtomicU64,
}

impl Metrics {
    pub(super) fn new(log: LogHandle, last_reload: LastReload, started: SystemTime) -> Metrics {
        Metrics { log, last_reload, started, received: AtomicU64::new(0), sent: AtomicU64::new(0) }
    }

    /// Returns all metrics as text. Locks one shard of connections at a time.
    pub(super) fn text(&self, server: &Server) -> String {
        let mut all = Exposition::default();
        let counters = &server.counters;
        let count = |counter: &AtomicU64| counter.load(Relaxed);
        let live = server.live();

        let version = [(env!("CARGO_PKG_VERSION"), 1)];
        all.add_each("philote_build_info", Gauge, "The running version.", "version", version);
        all.add("philote_connections", Gauge, "Open connections.", server.connected());
        all.add(
            "philote_connections_max",
            Gauge,
            "The most open connections: max_connections, or what the limit of open files allows.",
            live.max_connections,
        );
        all.add(
            "philote_connections_pending",
            Gauge,
            "Connections without a token so far.",
            server.pending(),
        );
        all.add("philote_draining", Gauge, "1 while the daemon stops.", u8::from(server.draining()));
        let accepted = count(&counters.accepted);
        all.add("philote_connections_accepted_total", Counter, "Connections admitted.", accepted);
        let reasons = server.closed.reasons();
        let closed = reasons.iter().map(|one| (one.reason, one.closed)).filter(|(_, count)| *count > 0);
        let name = "philote_connections_closed_total";
        all.add_each(name, Counter, "Connections closed, by reason.", "reason", closed);
        let refused = reasons.iter().map(|one| (one.reason, one.total - one.closed));
        let refused = refused.filter(|(_, count)| *count > 0);
        let name = "philote_requests_refused_total";
        all.add_each(name, Counter, "Requests refused, by reason.", "reason", refused);

        let messages = count(&counters.messages_in);
        all.add("philote_messages_received_total", Counter, "Messages from clients and backends.", messages);
        let deliveries = server.hub.deliveries();
        all.add("philote_deliveries_total", Counter, "Messages queued for readers.", deliveries);
        compression(server.hub.compression(), &mut all);
        let refused =
            [("bad_message", count(&counters.bad_messages)), ("forbidden", count(&counters.forbidden))];
        let name = "philote_messages_refused_total";
        all.add_each(name, Counter, "Messages answered with an error, by its code.", "reason", refused);
        let limited = count(&counters.rate_limited);
        all.add(
            "philote_messages_rate_limited_total",
            Counter,
            "Messages over a connection's rate.",
            limited,
        );
        all.add(
            "philote_requests_forwarded_untrusted_total",
            Counter,
            "Requests with X-Forwarded-For or Forwarded from a peer that is not in trusted_proxies.",
            counters.unbelieved.requests(),
        );
        self.connections(server, &mut all);
        all.add("philote_channels", Gauge, "Channels with readers.", server.hub.channel_count());
        let presence = server.hub.presence_figures();
        let help = "Channels whose presence is followed.";
        all.add("philote_presence_channels", Gauge, help, presence.channels);
        let help = "Connections that follow presence, once for each channel.";
        all.add("philote_presence_followers", Gauge, help, presence.followers);
        let help = "Subjects in the channels whose presence is followed.";
        all.add("philote_presence_subjects", Gauge, help, presence.subjects);
        let refused = server.hub.budget().refused_bytes();
        all.add("philote_queued_bytes", Gauge, "Bytes waiting for sockets that are full.", refused);
        let max = live.settings.limits.total_queue_bytes;
        all.add("philote_queued_bytes_max", Gauge, "The most bytes that may wait: total_queue_bytes.", max);
        let panics = count(&counters.panics);
        all.add("philote_panics_total", Counter, "Connections ended by a fault of the daemon.", panics);
        let dropped = self.log.dropped();
        all.add(
            "philote_log_records_dropped_total",
            Counter,
            "Log records dropped because the log was too slow.",
            dropped,
        );

        let reloads = [("applied", count(&counters.reloads)), ("refused", count(&counters.reloads_refused))];
        all.add_each("philote_reloads_total", Counter, "Reloads, by result.", "result", reloads);
        if let Some(last) = &*lock(&self.last_reload) {
            let name = "philote_last_reload_successful";
            all.add(name, Gauge, "1 if the last reload was applied.", u8::from(last.ok));
            let name = "philote_last_reload_timestamp_seconds";
            all.add(name, Gauge, "Time of the last reload.", unix(last.at.0));
        }
        if let Some(cluster) = &server.cluster {
            add_cluster(&cluster.status(), &mut all);
            if let Some(steering) = cluster.steering() {
                let name = "philote_cluster_steering_rejected_total";
                let help = "Messages that would steer this node and were dropped, by reason.";
                all.add_each(name, Counter, help, "reason", steering.rejected());
            }
        }
        if let Some(tls) = &live.settings.tls {
            let name = "philote_tls_certificate_expiry_timestamp_seconds";
            all.add(name, Gauge, "Expiry of the certificate.", tls.expires);
        }
        self.process(&mut all);
        all.into_text()
    }

    /// Adds the sums over all connections.
    fn connections(&self, server: &Server, all: &mut Exposition) {
        let mut counts = [0; QUEUES.len() + 1];
        let mut transports = Transport::ALL.map(|transport| (transport.name(), 0));
        let mut waiting = 0;
        let (mut received, mut sent) = server.counters.bytes_of_the_gone();
        server.hub.each_connection(|connection| {
            let stats = connection.stats();
            transports[connection.transport() as usize].1 += 1;
            let queued = stats.out.queued_messages as u64;
            counts[QUEUES.partition_point(|bound| *bound < queued)] += 1;
            waiting += queued;
            received += stats.bytes_in;
            sent += stats.out.bytes;
        });
        let name = "philote_connections_by_transport";
        all.add_each(name, Gauge, "Open connections, by transport.", "transport", transports);
        received = self.received.fetch_max(received, Relaxed).max(received);
        sent = self.sent.fetch_max(sent, Relaxed).max(sent);
        all.add("philote_received_bytes_total", Counter, "Bytes from clients.", received);
        all.add("philote_sent_bytes_total", Counter, "Bytes to clients.", sent);
        let help = "Messages waiting for each connection at this moment.";
        all.add_sizes("philote_queue_messages", help, &QUEUES, &counts, waiting);
    }

    /// Adds the metrics of the process that every Prometheus client has. Leaves out those for which /proc cannot be read.
    fn process(&self, all: &mut Exposition) {
        let started = unix(self.started);
        all.add("process_start_time_seconds", Gauge, "Start time of the process.", started);
        if let Ok(descriptors) = std::fs::read_dir("/proc/self/fd") {
            all.add("process_open_fds", Gauge, "Open descriptors.", descriptors.count());
        }
        let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile);
        if let Some(limit) = limit.current {
            all.add("process_max_fds", Gauge, "The limit of open descriptors.", limit);
        }
        let page = rustix::param::page_size() as u64;
        let statm = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
        let pages: Vec<u64> = statm.split_ascii_whitespace().map_while(|word| word.parse().ok()).collect();
        if let [size, resident, ..] = pages[..] {
            all.add("process_virtual_memory_bytes", Gauge, "Address space.", size * page);
            all.add("process_resident_memory_bytes", Gauge, "Memory in use.", resident * page);
        }
        // The name, in parentheses, may have blanks. User and system time are the 12th and 13th field after it.
        let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
        let words = stat.rsplit_once(')').map_or("", |(_, rest)| rest).split_ascii_whitespace();
        let ticks: Vec<u64> = words.skip(11).take(2).filter_map(|word| word.parse().ok()).collect();
        if let [user, system] = ticks[..] {
            let seconds = (user + system) as f64 / rustix::param::clock_ticks_per_second() as f64;
            all.add("process_cpu_seconds_total", Counter, "Processor time used.", seconds);
        }
    }
}

/// Adds what compression has saved.
fn compression(figures: CompressionFigures, all: &mut Exposition) {
    let help = "Messages compressed, each once for all its readers.";
    all.add("philote_messages_compressed_total", Counter, help, figures.messages);
    let help = "Bytes of the messages that were compressed, before that.";
    all.add("philote_compression_input_bytes_total", Counter, help, figures.before);
    let help = "Bytes of the messages that were compressed, after that.";
    all.add("philote_compression_output_bytes_total", Counter, help, figures.after);
}

/// Adds what this node knows of its cluster.
fn add_cluster(status: &ClusterStatus, all: &mut Exposition) {
    all.add(
        "philote_cluster_link_up",
        Gauge,
        "1 while messages pass between the nodes.",
        u8::from(status.link.up),
    );
    let ends = status.link_ends;
    all.add("philote_cluster_link_ended_total", Counter, "How often the link to NATS has ended.", ends);
    if let Some(round_trip) = status.link.round_trip {
        let name = "philote_cluster_round_trip_seconds";
        all.add(name, Gauge, "How long NATS last took to answer.", round_trip.as_secs_f64());
    }
    let name = "philote_cluster_nodes";
    all.add(name, Gauge, "Nodes that were heard lately, with this one.", status.other_nodes + 1);
    let messages = [
        ("sent", status.sent),
        ("received", status.received),
        ("lost", status.lost),
        ("unavailable", status.unavailable),
        ("unanswered", status.unanswered),
    ];
    let name = "philote_cluster_messages_total";
    all.add_each(
        name,
        Counter,
        "Messages to and from other nodes, and those that were lost.",
        "what",
        messages,
    );
    let name = "philote_cluster_messages_waiting";
    let waiting = [("nats", status.waiting), ("confirmation", status.in_flight)];
    all.add_each(name, Gauge, "Messages for the log, by what they wait for.", "for", waiting);
    let gaps = status.gaps;
    let name = "philote_cluster_log_gaps_total";
    all.add(name, Counter, "How often the log could not prove that nothing is missing.", gaps);
    let dropped = [("malformed", status.dropped), ("repeated", status.repeated)];
    let name = "philote_cluster_dropped_total";
    all.add_each(name, Counter, "What arrived from NATS and was dropped, by reason.", "reason", dropped);
    let name = "philote_cluster_readers_closed_total";
    let help = "Readers asked to reconnect because messages may be missing.";
    all.add(name, Counter, help, status.readers_closed);
}

fn unix(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}
