//! A node of a cluster: a philote process that is told of NATS servers, and what it says about its cluster.

use std::io::Read;
use std::ops::Deref;
use std::process::{Command, ExitStatus};
use std::time::{Duration, Instant};

use rustix::process::Signal;
use serde_json::Value;
use tempfile::TempDir;

use crate::namespace::Namespace;
use crate::support::{Daemon, PATIENCE, SECRET, config_file, philote, wait};

/// Settings of a node with a history, for tests in which it matters only that there is one.
pub const LOG: &str = "[history]\nmessages = 10000\nttl = \"10m\"\n";

/// Settings of a node without a history.
pub const RELAY: &str = "";

/// A running node, which ends when this is dropped.
pub struct Node {
    daemon: Daemon,
}

impl Deref for Node {
    type Target = Daemon;

    fn deref(&self) -> &Daemon {
        &self.daemon
    }
}

impl Node {
    /// Starts a node with these sections in its configuration, and waits until it is ready.
    pub fn start(name: &str, url: &str, sections: &str) -> Node {
        let node = Node::start_unready(name, url, sections);
        node.wait_ready();
        node
    }

    /// The same without waiting.
    pub fn start_unready(name: &str, url: &str, sections: &str) -> Node {
        let directory = directory(name, url, sections);
        let command = command(&directory);
        Node { daemon: Daemon::spawn(command, directory) }
    }

    /// Starts a node that must end by itself; returns its status and what it logged.
    pub fn start_and_end(name: &str, url: &str, sections: &str) -> (ExitStatus, String) {
        let directory = directory(name, url, sections);
        let mut child = command(&directory).spawn().unwrap();
        let status = wait(&mut child);
        let mut log = String::new();
        child.stderr.take().unwrap().read_to_string(&mut log).unwrap();
        (status, log)
    }

    /// Stops it, and returns its directory with all that it has stored.
    pub fn stop(mut self) -> TempDir {
        self.daemon.signal(Signal::TERM);
        assert!(self.daemon.wait().success());
        self.daemon.take_directory()
    }

    /// Starts a node again from the directory of one that was stopped.
    pub fn start_from(directory: TempDir) -> Node {
        let command = command(&directory);
        Node { daemon: Daemon::spawn(command, directory) }
    }

    /// Starts a node in a namespace, whose clients reach it also while its link to NATS is cut.
    pub fn start_in(namespace: &Namespace, name: &str, url: &str, sections: &str) -> Node {
        let node = Node::spawn_in(namespace, directory(name, url, sections));
        node.wait_ready();
        node
    }

    /// Starts a daemon without a cluster in a namespace.
    pub fn start_plain_in(namespace: &Namespace) -> Node {
        Node::spawn_in(namespace, TempDir::new().unwrap())
    }

    fn spawn_in(namespace: &Namespace, directory: TempDir) -> Node {
        let mut daemon = Daemon::spawn(namespace.enter(&command(&directory)), directory);
        daemon.host = namespace.client_address();
        Node { daemon }
    }

    /// Starts nodes with these names that know each other.
    pub fn start_all<const N: usize>(names: [&str; N], url: &str, sections: &str) -> [Node; N] {
        let nodes = names.map(|name| Node::start_unready(name, url, sections));
        for node in &nodes {
            node.wait_ready();
            node.wait_for_nodes(N);
        }
        nodes
    }

    pub fn wait_ready(&self) {
        self.wait_for("it is ready", PATIENCE, |node| node.ready().0 == 200);
    }

    pub fn wait_unready(&self) {
        self.wait_for("it is not ready", PATIENCE, |node| node.ready().0 == 503);
    }

    /// Waits until it knows this number of nodes, itself included.
    pub fn wait_for_nodes(&self, count: usize) {
        self.wait_for(&format!("it knows {count} nodes"), PATIENCE, |node| {
            node.cluster()["nodes"].as_u64() == Some(count as u64)
        });
    }

    /// Waits until this holds, and returns how long that took.
    pub fn wait_for(&self, what: &str, patience: Duration, holds: impl Fn(&Node) -> bool) -> Duration {
        let began = Instant::now();
        while !holds(self) {
            if began.elapsed() > patience {
                panic!("not within {patience:?}: {what}: {}\n{}", self.cluster(), self.log());
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        began.elapsed()
    }

    pub fn ready(&self) -> (u16, Value) {
        self.http("GET", "/health/ready", "", "")
    }

    /// A count of its cluster in its status, such as `lost`.
    pub fn counted(&self, what: &str) -> u64 {
        let status = self.admin("GET", "/v1/status", "");
        status["cluster"][what].as_u64().unwrap_or_else(|| panic!("no {what} in {status}"))
    }

    /// The value of `cluster` in its health.
    pub fn cluster(&self) -> Value {
        self.http("GET", "/health", "", "").1["cluster"].clone()
    }
}

fn directory(name: &str, url: &str, sections: &str) -> TempDir {
    let directory = TempDir::new().unwrap();
    // Sections may end with keys of [cluster].
    let (sections, more) = sections.split_once("[cluster]\n").unwrap_or((sections, ""));
    let text = format!("{sections}\n[cluster]\nservers = [\"{url}\"]\nname = \"{name}\"\n{more}");
    config_file(directory.path(), &text);
    directory
}

fn command(directory: &TempDir) -> Command {
    let mut command = philote(directory.path());
    command.env("SECRET", SECRET).env("PORT", "0").env("MAX_CONNECTIONS", "5000");
    command
}
