//! A NATS server for each test: Debian's nats-server with a port, a configuration file and a store of its own.

use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU16, Ordering::Relaxed};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use tempfile::TempDir;

use crate::nats_client::NatsClient;
use crate::support::{PATIENCE, keep};

/// A running nats-server, which ends when this is dropped.
pub struct NatsServer {
    /// None while it is killed.
    child: Option<Child>,
    address: SocketAddr,
    directory: TempDir,
}

impl NatsServer {
    /// Starts a server with JetStream.
    pub fn start() -> NatsServer {
        NatsServer::start_with("")
    }

    /// The same with these further lines in its configuration.
    pub fn start_with(config: &str) -> NatsServer {
        NatsServer::start_on(Ipv4Addr::LOCALHOST, &format!("jetstream {{ store_dir: \"STORE\" }}\n{config}"))
    }

    /// Starts a server without JetStream.
    pub fn start_without_jetstream() -> NatsServer {
        NatsServer::start_on(Ipv4Addr::LOCALHOST, "")
    }

    /// Starts a server on an address of this machine. STORE in the configuration becomes its store directory.
    pub fn start_on(host: Ipv4Addr, config: &str) -> NatsServer {
        let mut server = NatsServer::stopped_on(host, config);
        server.restart();
        server
    }

    /// A server that is not started yet; its address is reserved for it.
    pub fn stopped() -> NatsServer {
        NatsServer::stopped_on(Ipv4Addr::LOCALHOST, "jetstream { store_dir: \"STORE\" }\n")
    }

    fn stopped_on(host: Ipv4Addr, config: &str) -> NatsServer {
        let directory = TempDir::new().unwrap();
        let address = SocketAddr::from((host, free_port()));
        let config = config.replace("STORE", directory.path().join("store").to_str().unwrap());
        let log = directory.path().join("log");
        let text = format!("listen: \"{address}\"\nlog_file: \"{}\"\n{config}", log.display());
        std::fs::write(directory.path().join("nats.conf"), text).unwrap();
        NatsServer { child: None, address, directory }
    }

    /// Starts it again after [`NatsServer::kill`], on the same port and with the same store.
    pub fn restart(&mut self) {
        assert!(self.child.is_none(), "it is still running");
        let mut command = Command::new(program());
        command.arg("--config").arg(self.directory.path().join("nats.conf"));
        let child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        self.child = Some(child);
        let deadline = Instant::now() + PATIENCE;
        while NatsClient::try_connect(self.address).is_none() {
            let ended = self.child.as_mut().and_then(|child| child.try_wait().unwrap());
            assert!(
                ended.is_none() && Instant::now() < deadline,
                "nats-server did not start: {}",
                self.log()
            );
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Changes its configuration, for the next start.
    pub fn configure(&self, change: impl FnOnce(String) -> String) {
        let file = self.directory.path().join("nats.conf");
        let text = change(std::fs::read_to_string(&file).unwrap());
        std::fs::write(file, text).unwrap();
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Its URL, as philote's settings name it.
    pub fn url(&self) -> String {
        format!("nats://{}", self.address)
    }

    pub fn client(&self) -> NatsClient {
        NatsClient::connect(self.address)
    }

    /// Kills it without a chance to write anything.
    pub fn kill(&mut self) {
        let mut child = self.child.take().unwrap();
        child.kill().unwrap();
        child.wait().unwrap();
    }

    /// Stops it in the middle of its work; its sockets stay open.
    pub fn freeze(&self) {
        kill_process(self.pid(), Signal::STOP).unwrap();
        let tasks = format!("/proc/{}/task", self.pid().as_raw_nonzero());
        let runs = |task: std::fs::DirEntry| {
            let stat = std::fs::read_to_string(task.path().join("stat")).unwrap_or_default();
            stat.rsplit(") ").next().is_some_and(|rest| !rest.starts_with('T'))
        };
        // Each thread stops when the kernel next looks at it.
        while std::fs::read_dir(&tasks).unwrap().any(|task| runs(task.unwrap())) {
            std::thread::yield_now();
        }
    }

    pub fn thaw(&self) {
        kill_process(self.pid(), Signal::CONT).unwrap();
    }

    fn pid(&self) -> Pid {
        Pid::from_child(self.child.as_ref().unwrap())
    }

    /// Copies its store, for [`NatsServer::put_back`]. Only while it is killed is the copy consistent.
    pub fn copy_store(&self) -> TempDir {
        assert!(self.child.is_none(), "its store changes while it runs");
        let copy = TempDir::new().unwrap();
        copy_directory(&self.store(), &copy.path().join("store"));
        copy
    }

    /// Replaces its store with an older copy, as a restored backup or a lost disk cache does.
    pub fn put_back(&self, copy: &TempDir) {
        assert!(self.child.is_none(), "it would not notice while it runs");
        std::fs::remove_dir_all(self.store()).unwrap();
        copy_directory(&copy.path().join("store"), &self.store());
    }

    fn store(&self) -> PathBuf {
        self.directory.path().join("store")
    }

    /// What JetStream answers to this request about its streams.
    pub fn jetstream(&self, subject: &str, request: &str) -> Value {
        let answer = self.client().request(&format!("$JS.API.{subject}"), request);
        serde_json::from_slice(&answer).unwrap()
    }

    pub fn log(&self) -> String {
        std::fs::read_to_string(self.directory.path().join("log")).unwrap_or_default()
    }
}

impl Drop for NatsServer {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
        keep(&self.log());
    }
}

/// A port below those that the kernel gives to outgoing connections: while the server is down, one of these could take its
/// port, or even connect to itself.
pub fn free_port() -> u16 {
    const FIRST: u16 = 20_000;
    const COUNT: u16 = 12_000;
    static NEXT: AtomicU16 = AtomicU16::new(0);
    // Test programs that run at the same time begin at different ports.
    let start = (std::process::id() % u32::from(COUNT)) as u16;
    (0..COUNT)
        .map(|_| FIRST + start.wrapping_add(NEXT.fetch_add(1, Relaxed)) % COUNT)
        .find(|&port| TcpListener::bind((Ipv4Addr::UNSPECIFIED, port)).is_ok())
        .unwrap_or_else(|| panic!("no port is free"))
}

/// Debian installs it where only root's PATH leads.
fn program() -> PathBuf {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .chain([PathBuf::from("/usr/sbin")])
        .map(|directory| directory.join("nats-server"))
        .find(|program| program.exists())
        .unwrap_or_else(|| panic!("this test needs nats-server; install it: apt-get install nats-server"))
}

fn copy_directory(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap().map(Result::unwrap) {
        let copy = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy_directory(&entry.path(), &copy);
        } else {
            std::fs::copy(entry.path(), copy).unwrap();
        }
    }
}
