//! The messages between the daemon and its service manager.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixDatagram;
use std::process::{Command, Stdio};
use std::time::Instant;

use rustix::process::Signal;
use serde_json::json;
use tempfile::TempDir;
use tokio_tungstenite::tungstenite::client;

use crate::support::{Client, Daemon, PATIENCE, SECRET, config_file, keep, philote, sign, status, upgrade};

/// The service manager's end of the notify socket.
struct Manager(UnixDatagram);

impl Manager {
    fn next(&self) -> String {
        let mut bytes = [0; 4096];
        let count = self.0.recv(&mut bytes).unwrap();
        String::from_utf8_lossy(&bytes[..count]).into_owned()
    }

    /// Reads until a message contains this; status lines and watchdog messages may arrive in between.
    fn see(&self, text: &str) -> String {
        loop {
            let message = self.next();
            if message.contains(text) {
                return message;
            }
            let passing = message.starts_with("STATUS=") || message.starts_with("WATCHDOG=1");
            assert!(passing, "{message:?} came before {text}");
        }
    }
}

#[test]
fn the_manager_is_notified_of_every_state_in_order() {
    let directory = TempDir::new().unwrap();
    let path = directory.path().join("notify");
    let manager = Manager(UnixDatagram::bind(&path).unwrap());
    manager.0.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut daemon = Daemon::start_with("[shutdown]\ndrain = \"1s\"\n", |command| {
        command.env("NOTIFY_SOCKET", &path).env("WATCHDOG_USEC", "400000");
    });
    manager.see("READY=1");
    let figures = manager.see("STATUS=");
    assert!(figures.contains("0 of 255 connections"), "{figures}");
    manager.see("WATCHDOG=1");
    daemon.signal(Signal::HUP);
    let reloading = manager.see("RELOADING=1");
    assert!(reloading.contains("MONOTONIC_USEC="), "in one datagram: {reloading}");
    manager.see("READY=1");
    config_file(daemon.directory.path(), "wrong");
    daemon.signal(Signal::HUP);
    manager.see("RELOADING=1");
    manager.see("READY=1");
    manager.see("WATCHDOG=1");
    manager.see("WATCHDOG=1");
    daemon.signal(Signal::TERM);
    manager.see("STOPPING=1");
    let extended = manager.next();
    assert!(extended.contains("EXTEND_TIMEOUT_USEC="), "{extended}");
    assert!(daemon.wait().success());
}

/// Each time the watchdog is not fed, the log has a line; between such lines no feeding may arrive.
#[cfg(debug_assertions)]
#[test]
fn fault_63_a_worker_that_hangs_stops_the_watchdog_messages_until_it_continues() {
    let directory = TempDir::new().unwrap();
    let (path, pipe) = (directory.path().join("notify"), directory.path().join("pipe"));
    assert!(Command::new("mkfifo").arg(&pipe).status().unwrap().success());
    let manager = Manager(UnixDatagram::bind(&path).unwrap());
    manager.0.set_read_timeout(Some(PATIENCE)).unwrap();
    let daemon = Daemon::start_with("", |command| {
        command.env("NOTIFY_SOCKET", &path).env("WATCHDOG_USEC", "200000").env("TEST_BLOCK_A_WORKER", &pipe);
    });
    let mut pipe = std::fs::File::options().write(true).open(&pipe).unwrap();
    manager.see("READY=1");
    (0..5).for_each(|_| drop(manager.see("WATCHDOG=1")));
    pipe.write_all(b"x").unwrap();
    daemon.wait_for_line(" does not respond, so the watchdog ");
    let arrived = || {
        manager.0.set_nonblocking(true).unwrap();
        let mut bytes = [0; 4096];
        let next = || {
            manager.0.recv(&mut bytes).ok().map(|count| String::from_utf8_lossy(&bytes[..count]).into_owned())
        };
        let messages: Vec<String> = std::iter::from_fn(next).collect();
        manager.0.set_nonblocking(false).unwrap();
        messages
    };
    arrived();
    (0..5).for_each(|_| drop(daemon.wait_for_line(" does not respond, so the watchdog ")));
    let fed: Vec<String> = arrived().into_iter().filter(|message| message.contains("WATCHDOG")).collect();
    assert!(fed.is_empty(), "{fed:?}");
    pipe.write_all(b"x").unwrap();
    manager.see("WATCHDOG=1");
}

/// A daemon that gets its listener as descriptor 3, as systemd passes it.
fn with_passed_socket(listener: &TcpListener) -> Daemon {
    let directory = TempDir::new().unwrap();
    config_file(directory.path(), "max_connections = 3000\n");
    let plain = philote(directory.path());
    let mut command = Command::new("sh");
    // The shell's process id is the daemon's after exec.
    command.args(["-c", "LISTEN_PID=$$ LISTEN_FDS=1 LISTEN_FDNAMES=philote exec \"$0\" 3<&0 </dev/null"]);
    command.arg(plain.get_program()).env_clear();
    for (name, value) in plain.get_envs() {
        if let Some(value) = value {
            command.env(name, value);
        }
    }
    let socket: OwnedFd = listener.try_clone().unwrap().into();
    command.env("SECRET", SECRET).stdin(socket).stdout(Stdio::piped()).stderr(Stdio::piped());
    Daemon::spawn(command, directory)
}

#[test]
fn fault_59_with_a_passed_socket_an_accepted_connection_is_not_refused() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let mut daemon = with_passed_socket(&listener);
    let mut clients: Vec<Client> = (0..60).map(|_| daemon.client(&["c"])).collect();
    let mut late = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    late.set_read_timeout(Some(PATIENCE)).unwrap();
    // The answer proves that the connection was accepted.
    late.write_all(b"GET /health HTTP/1.1\r\nHost: h\r\n\r\n").unwrap();
    let mut answer = Vec::new();
    while !answer.ends_with(b"}") {
        let mut byte = [0];
        late.read_exact(&mut byte).unwrap();
        answer.push(byte[0]);
    }

    daemon.signal(Signal::TERM);
    assert_eq!(clients[0].closed().0, 1012);
    late.write_all(upgrade(&sign(&json!({"read": ["c"]})), "").as_bytes()).unwrap();
    let mut answer = Vec::new();
    late.read_to_end(&mut answer).unwrap();
    let end = answer.windows(4).position(|bytes| bytes == b"\r\n\r\n").unwrap() + 4;
    let (head, frames) = answer.split_at(end);
    assert_eq!(status(std::str::from_utf8(head).unwrap()), 101);
    assert_eq!((frames[0], &frames[2..4]), (0x88, &1012_u16.to_be_bytes()[..]), "{frames:?}");
    for client in &mut clients[1..] {
        assert_eq!(client.closed().0, 1012);
    }
    assert!(daemon.wait().success());
}

#[test]
fn fault_59_with_a_passed_socket_the_next_daemon_serves_new_connections() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let mut first = with_passed_socket(&listener);
    assert_eq!(first.port, listener.local_addr().unwrap().port());
    let mut clients: Vec<Client> = (0..1_000).map(|_| first.client(&["c"])).collect();

    let began = Instant::now();
    first.signal(Signal::TERM);
    first.wait_for_line("SIGTERM");
    // Once the first client is closed, the daemon accepts no more connections.
    assert_eq!(clients[0].closed().0, 1012);
    let mut meanwhile = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    meanwhile.set_read_timeout(Some(PATIENCE)).unwrap();
    meanwhile.write_all(upgrade(&sign(&json!({"read": ["c"]})), "").as_bytes()).unwrap();
    for client in &mut clients[1..] {
        assert_eq!(client.closed().0, 1012);
    }
    drop(clients);
    assert!(first.wait().success());
    let took = began.elapsed();
    println!("with a passed socket: stopped with 1,000 clients in {took:?}");
    assert!(took.as_secs() < 5);

    let second = with_passed_socket(&listener);
    let mut answer = [0; 12];
    meanwhile.read_exact(&mut answer).unwrap();
    assert_eq!(status(std::str::from_utf8(&answer).unwrap()), 101);
    second.client(&["c"]).settle();
}

#[test]
fn fault_64_a_passed_descriptor_must_be_a_listener() {
    let directory = TempDir::new().unwrap();
    let mut command = Command::new("sh");
    command.args(["-c", "LISTEN_PID=$$ LISTEN_FDS=1 exec \"$0\" 3</dev/null"]);
    let plain = philote(directory.path());
    command.arg(plain.get_program()).env_clear().env("SECRET", SECRET);
    command.env("HOME", directory.path()).env("PHILOTE_ADMIN_SOCKET", directory.path().join("admin.sock"));
    let output = command.stdin(Stdio::null()).output().unwrap();
    let text = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{text}");
    assert!(text.contains("descriptor 3"), "{text}");

    // Sockets passed to another process are ignored.
    let daemon = Daemon::start_with("", |command| {
        command.env("LISTEN_PID", "1").env("LISTEN_FDS", "1");
    });
    daemon.client(&["c"]).settle();
}

#[test]
fn fault_63_a_manager_that_is_gone_or_does_not_read_changes_nothing() {
    let directory = TempDir::new().unwrap();
    let deaf = directory.path().join("deaf");
    let socket = UnixDatagram::bind(&deaf).unwrap();
    for path in [directory.path().join("gone"), deaf] {
        let daemon = Daemon::start_with("", |command| {
            command.env("NOTIFY_SOCKET", &path).env("WATCHDOG_USEC", "20000");
        });
        for _ in 0..200 {
            daemon.client(&["c"]).settle();
        }
    }
    drop(socket);
}

/// A journald that reads nothing: a datagram socket at its path, in the daemon's own mount namespace.
#[test]
#[ignore = "needs root or user namespaces: tests/run includes it"]
fn fault_65_a_stopped_journald_does_not_block_the_daemon() {
    let directory = TempDir::new().unwrap();
    config_file(directory.path(), "[log]\nlevel = \"info\"\n");
    let journal = directory.path().join("journal");
    std::fs::create_dir(&journal).unwrap();
    let deaf = UnixDatagram::bind(journal.join("socket")).unwrap();
    let log = std::fs::File::create(directory.path().join("stderr")).unwrap();
    let stat = rustix::fs::fstat(&log).unwrap();
    let plain = philote(directory.path());
    let mut command = Command::new("unshare");
    command.args(["-rm", "sh", "-c"]);
    command.arg("mount -t tmpfs none /run && mkdir -p /run/systemd/journal && mount --bind \"$1\" /run/systemd/journal && exec \"$0\"");
    command.arg(plain.get_program()).arg(&journal).env_clear();
    for (name, value) in plain.get_envs() {
        if let Some(value) = value {
            command.env(name, value);
        }
    }
    command
        .env("SECRET", SECRET)
        .env("PORT", "0")
        .env("JOURNAL_STREAM", format!("{}:{}", stat.st_dev, stat.st_ino));
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
    let mut child = command.spawn().unwrap();

    // The first datagrams contain the daemon's address; later ones are not read.
    deaf.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut bytes = [0; 65_536];
    let mut seen = String::new();
    while !seen.contains("for a first test, get a token with") {
        let count = deaf.recv(&mut bytes).unwrap();
        seen.push_str(&String::from_utf8_lossy(&bytes[..count]));
    }
    let port = seen.split("is listening on ").nth(1).unwrap().lines().next().unwrap();
    let port: u16 = port.rsplit(':').next().unwrap().parse().unwrap();
    let open = |claims| {
        let stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let mut request =
            client::IntoClientRequest::into_client_request(format!("ws://127.0.0.1:{port}/")).unwrap();
        request.headers_mut().insert("Authorization", sign(&claims).parse().unwrap());
        Client { socket: client::client(request, stream).unwrap().0 }
    };
    let mut reader = open(json!({"read": ["c"]}));
    let mut writer = open(json!({"write": ["c"]}));
    // Each pair of requests is refused for another reason, which gives log lines; soon they are not read.
    let reload = |number: usize| {
        let level = if number.is_multiple_of(2) { "info" } else { "debug" };
        config_file(
            directory.path(),
            &format!("[log]\nlevel = \"{level}\"\n[limits]\nqueue_messages = {}\n", 5_000 + number),
        );
        admin(directory.path(), "POST", "/v1/reload")
    };
    for number in 0..1_500 {
        reload(number);
        writer.publish("c", &number.to_string());
        assert_eq!(reader.data(), number.to_string());
    }
    let dropped = admin(directory.path(), "GET", "/v1/status")["log_records_dropped"].as_u64().unwrap();
    keep(&seen);
    println!("journald stopped: delivery went on, {dropped} log records were dropped");
    assert!(dropped > 0);
    child.kill().unwrap();
    child.wait().unwrap();
}

fn admin(directory: &std::path::Path, method: &str, path: &str) -> serde_json::Value {
    let mut stream = std::os::unix::net::UnixStream::connect(directory.join("admin.sock")).unwrap();
    write!(stream, "{method} {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    crate::support::body_of(&answer)
}
