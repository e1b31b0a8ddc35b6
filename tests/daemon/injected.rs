//! Failures of the system that no client can cause: system calls that fail, clocks that jump, memory and descriptors that
//! run out. strace makes calls of the running daemon fail.
//!
//! Each test prints memory and descriptors before, at the worst and after, and the lines that the administrator saw.

use std::io::{BufRead, BufReader};
use std::os::unix::net::UnixStream;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::json;
use tokio_tungstenite::tungstenite::{Message, client};

use crate::support::*;

/// How much memory may stay in use after a failure, in bytes: less than a leak of each connection's state would take.
const FLAT: u64 = 16 * 1024 * 1024;

/// strace, which makes system calls of a running daemon fail until this is dropped.
struct Injection(Child);

impl Injection {
    /// `what` is an expression of strace, such as `accept4:error=EMFILE`.
    fn begin(daemon: &Daemon, what: &str) -> Injection {
        let calls = what.split(':').next().unwrap();
        let mut child = Command::new("strace")
            .args([
                "-f",
                "-o",
                "/dev/null",
                "-e",
                &format!("trace={calls}"),
                "-e",
                &format!("inject={what}"),
                "-p",
            ])
            .arg(daemon.pid().to_string())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
        let attached = lines.next().and_then(Result::ok);
        assert!(attached.as_ref().is_some_and(|line| line.contains("attached")), "strace: {attached:?}");
        std::thread::spawn(move || lines.for_each(drop));
        Injection(child)
    }
}

impl Drop for Injection {
    /// Detaches, and waits until the daemon runs freely again.
    fn drop(&mut self) {
        let _ = kill_process(Pid::from_child(&self.0), Signal::TERM);
        let _ = self.0.wait();
    }
}

/// A control group with a limit on memory, in which a daemon is started.
struct Group(std::path::PathBuf, bool);

impl Group {
    fn new(limit: u64) -> Group {
        let unified = !std::path::Path::new("/sys/fs/cgroup/memory/tasks").exists();
        let parent = if unified { "/sys/fs/cgroup" } else { "/sys/fs/cgroup/memory" };
        let path = std::path::PathBuf::from(format!("{parent}/philote-test-{}", std::process::id()));
        std::fs::create_dir(&path).unwrap();
        let file = if unified { "memory.max" } else { "memory.limit_in_bytes" };
        std::fs::write(path.join(file), limit.to_string()).unwrap();
        Group(path, unified)
    }

    /// Makes a command start in this group.
    fn enter(&self, command: &mut Command) {
        let line = format!("echo $$ >{}/cgroup.procs && exec \"$0\"", self.0.display());
        *command = through_shell(command, &line);
    }

    /// How often the kernel has killed a process of this group.
    fn kills(&self) -> String {
        let file = if self.1 { "memory.events" } else { "memory.oom_control" };
        let text = std::fs::read_to_string(self.0.join(file)).unwrap();
        text.lines().find(|line| line.starts_with("oom_kill ")).unwrap().to_owned()
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        // The kernel removes the last process some time after its end.
        let deadline = Instant::now() + PATIENCE;
        while std::fs::remove_dir(&self.0).is_err() && Instant::now() < deadline {
            std::thread::yield_now();
        }
    }
}

/// What a daemon used before a failure, to compare with the worst and the end.
struct Figures<'a> {
    daemon: &'a Daemon,
    title: &'static str,
    memory: u64,
    descriptors: usize,
    most: usize,
}

impl<'a> Figures<'a> {
    fn before(daemon: &'a Daemon, title: &'static str) -> Figures<'a> {
        daemon.forget_peak();
        let descriptors = daemon.descriptors();
        Figures { daemon, title, memory: daemon.memory().0, descriptors, most: descriptors }
    }

    fn sample(&mut self) {
        self.most = self.most.max(self.daemon.descriptors());
    }

    /// Prints the figures and the lines that contain one of these words; fails if memory or descriptors have not come back.
    fn after(mut self, words: &[&str]) {
        self.sample();
        self.daemon.wait_for_descriptors(self.descriptors);
        let (after, peak) = (self.daemon.memory().0, self.daemon.peak());
        let mib = |bytes: u64| bytes as f64 / f64::from(1 << 20);
        println!(
            "{}: memory {:.1} / {:.1} / {:.1} MiB, descriptors {} / {} / {}",
            self.title,
            mib(self.memory),
            mib(peak),
            mib(after),
            self.descriptors,
            self.most,
            self.daemon.descriptors()
        );
        let log = self.daemon.log();
        for word in words {
            let line = log.lines().find(|line| line.contains(word));
            println!("  {}", line.unwrap_or_else(|| panic!("no line with {word:?} in: {log}")));
        }
        assert!(after < self.memory + FLAT, "{} bytes before, {after} after", self.memory);
    }
}

impl Client {
    /// Reads to the end of the stream, and describes the last that came.
    fn end(&mut self) -> String {
        let mut last = String::new();
        loop {
            match self.socket.read() {
                Ok(message) => last = format!("{message:?}, then "),
                Err(error) => return format!("{last}{error}"),
            }
        }
    }
}

/// A client that was there before, is served all the time, and after.
fn talk(one: &mut Client, other: &mut Client) {
    one.publish("c", "x");
    assert_eq!(other.data(), "x");
}

#[test]
#[ignore = "needs strace: tests/run includes it"]
fn fault_54_accept_errors_of_every_kind_pass() {
    let daemon = Daemon::start("[limits]\nhandshakes_per_second = 0\n");
    let (mut one, mut other) = (daemon.client(&["c"]), daemon.client(&["c"]));
    let mut figures = Figures::before(&daemon, "accept fails");
    // accept(2): the network's errors of the new connection, a firewall's, and those of the system.
    let connection = ["ECONNABORTED", "ENETDOWN", "EPROTO", "EHOSTUNREACH", "ENETUNREACH", "EINTR"];
    let system = ["EMFILE", "ENFILE", "ENOBUFS", "ENOMEM", "EPERM"];
    for error in connection.into_iter().chain(system) {
        let began = Instant::now();
        let injected = Injection::begin(&daemon, &format!("accept4:error={error}:when=1..3"));
        // The connection waits in the kernel until accept works again, and no other one has to come to be served.
        let mut late = daemon.client(&["late"]);
        drop(injected);
        late.settle();
        talk(&mut one, &mut other);
        figures.sample();
        println!("{error}: served after {:?}", began.elapsed());
        // Only a lack of something is worth a line and a pause.
        let said = daemon.log().contains("cannot accept connections");
        assert_eq!(said, system.contains(&error), "{error}: {}", daemon.log());
    }
    figures.after(&["cannot accept connections: Too many open files"]);
}

#[test]
#[ignore = "needs strace: tests/run includes it"]
fn fault_41_writes_that_fail_close_only_their_connection() {
    let daemon = Daemon::start("");
    let (mut one, mut other) = (daemon.client(&["c"]), daemon.client(&["c"]));
    talk(&mut one, &mut other);
    let figures = Figures::before(&daemon, "writes fail");
    for (number, error) in
        ["EPIPE", "ECONNRESET", "ETIMEDOUT", "EHOSTUNREACH", "ENOBUFS", "ENOMEM"].iter().enumerate()
    {
        let mut reader = daemon.client_with(&json!({"read": ["fails"], "sub": "fails"}));
        let mut writer = daemon.client_with(&json!({"write": ["fails"]}));
        writer.settle();
        let injected =
            Injection::begin(&daemon, &format!("sendto,sendmsg,write,writev:error={error}:when=1"));
        writer.publish("fails", "x");
        println!("{error}: the reader saw {}", reader.end());
        drop(injected);
        writer.settle();
        drop((reader, writer));
        let ended = daemon.ended(2 * number + 2);
        println!("  philotectl: {}", ended.iter().find(|row| row["subject"] == "fails").unwrap());
        talk(&mut one, &mut other);
    }
    assert_eq!(daemon.metric("philote_panics_total"), 0);
    figures.after(&[]);
}

/// The system reports more bytes than were asked for. A read fills its buffer, and what that holds is no frame. After a
/// write it is unknown what the client has got.
#[test]
#[ignore = "needs strace: tests/run includes it"]
fn an_impossible_length_costs_one_connection() {
    let daemon = Daemon::start("");
    let (mut one, mut other) = (daemon.client(&["c"]), daemon.client(&["c"]));
    talk(&mut one, &mut other);
    let figures = Figures::before(&daemon, "a length is impossible");
    for (call, channel) in [("recvfrom", "c"), ("sendto", "forbidden")] {
        let mut victim = daemon.client_with(&json!({"write": ["c"], "sub": "victim"}));
        victim.settle();
        let injected = Injection::begin(&daemon, &format!("{call}:retval=100000000:when=1"));
        victim.publish(channel, "never");
        let closed = victim.end();
        drop(injected);
        println!("{call}: the client saw {closed}");
        assert_eq!(daemon.metric("philote_panics_total"), 0, "{call}");
        talk(&mut one, &mut other);
    }
    daemon.wait_until("only two are left", |status| status["connections"] == 2);
    figures.after(&[]);
}

#[test]
#[ignore = "needs strace: tests/run includes it"]
fn fault_66_a_disk_that_fills_up_while_a_file_is_replaced_keeps_the_old_one() {
    let state = tempfile::TempDir::new().unwrap();
    let daemon = Daemon::start_with("", |command| {
        command.env_remove("SECRET").env("STATE_DIRECTORY", state.path());
    });
    let token = daemon.admin("POST", "/v1/token", r#"{"read": ["c"]}"#)["token"].as_str().unwrap().to_owned();
    let mut client = daemon.try_client(&token).unwrap();
    let secret = std::fs::read(state.path().join("secret")).unwrap();
    let figures = Figures::before(&daemon, "the disk is full");
    for call in
        ["rename,renameat,renameat2:error=ENOSPC", "write:error=ENOSPC:when=1", "fsync,fdatasync:error=EIO"]
    {
        for (path, body) in
            [("/v1/secret/rotate", ""), ("/v1/disconnect", r#"{"subject": "eve", "refuse_for": 3600}"#)]
        {
            let injected = Injection::begin(&daemon, call);
            let answer = daemon.admin("POST", path, body);
            drop(injected);
            println!("{call}, {path}: {answer}");
            assert!(answer["error"].is_string(), "{answer}");
            let message = answer["message"].as_str().unwrap();
            assert!(message.contains(&*state.path().to_string_lossy()), "it names the file: {answer}");
            assert!(answer.to_string().contains("nothing was changed"), "and what became of it: {answer}");
        }
        client.settle();
        daemon.try_client(&token).unwrap().settle();
        assert_eq!(std::fs::read(state.path().join("secret")).unwrap(), secret, "{call}");
        let left: Vec<_> =
            std::fs::read_dir(state.path()).unwrap().map(|file| file.unwrap().file_name()).collect();
        assert_eq!(left, ["secret"], "{call} leaves a file");
    }
    // Nothing of it is left when there is room again.
    assert_eq!(daemon.admin("GET", "/v1/refused", "")["refused"], json!([]));
    assert!(daemon.admin("POST", "/v1/secret/rotate", "")["error"].is_null());
    figures.after(&[]);
}

/// The machine slept, or the process was stopped: all timers are late at once, and what clients sent has not been read.
#[test]
fn fault_56_a_daemon_that_was_stopped_closes_no_client_that_answered() {
    let daemon = Daemon::start("[websocket]\nping_interval = \"1s\"\npong_timeout = \"1s\"\n");
    let mut clients: Vec<Client> = (0..50).map(|_| daemon.client(&["c"])).collect();
    let figures = Figures::before(&daemon, "stopped for 5 s");
    // Everyone has a ping to answer, and answers it while the daemon is stopped.
    for client in &mut clients {
        while !matches!(client.socket.read(), Ok(Message::Ping(_))) {}
    }
    daemon.signal(Signal::STOP);
    std::thread::park_timeout(Duration::from_secs(5));
    for client in &mut clients {
        client.socket.send(Message::Ping("sent meanwhile".into())).unwrap();
    }
    daemon.signal(Signal::CONT);
    for client in &mut clients {
        while !matches!(client.socket.read().unwrap(), Message::Pong(text) if text == "sent meanwhile") {}
    }
    assert_eq!(daemon.admin("GET", "/v1/status", "")["connections"], 50);
    figures.after(&[]);
}

/// A reader that never reads. The buffers of a Unix socket do not grow, so its queue fills soon.
fn stopped_reader(daemon: &Daemon, channel: &str) -> Client<UnixStream> {
    let mut request = daemon.request("/");
    let token = sign(&json!({"read": [channel]}));
    request.headers_mut().insert("Authorization", format!("Bearer {token}").parse().unwrap());
    let stream = UnixStream::connect(daemon.directory.path().join("philote.sock")).unwrap();
    Client { socket: client::client(request, stream).unwrap().0 }
}

/// A memory limit of the system, which the daemon must notice by itself.
#[test]
#[ignore = "needs root: tests/run includes it"]
fn fault_51_readers_that_stop_do_not_exceed_a_control_group_of_64_mib() {
    const LIMIT: u64 = 64 << 20;
    let group = Group::new(LIMIT);
    let daemon = Daemon::start_with("", |command| {
        let (_, home) = command.get_envs().find(|(name, _)| *name == "HOME").unwrap();
        let listen = format!("127.0.0.1:0,unix:{}/philote.sock", home.unwrap().display());
        command.env_remove("PORT").env("PHILOTE_LISTEN", listen);
        group.enter(command);
    });
    let (mut one, mut other) = (daemon.client(&["c"]), daemon.client(&["c"]));
    // Each has a channel of its own, so that no two of them share a frame in memory.
    let names: Vec<String> = (0..40).map(|number| format!("flood {number}")).collect();
    let mut writer = daemon.client_with(&json!({"write": names}));
    let text = "x".repeat(60_000);
    let mut flood = || {
        let readers: Vec<_> = names.iter().map(|name| stopped_reader(&daemon, name)).collect();
        let (mut most, began) = (0, Instant::now());
        loop {
            for name in &names {
                writer.publish(name, &text);
            }
            writer.settle();
            talk(&mut one, &mut other);
            let status = daemon.admin("GET", "/v1/status", "");
            most = most.max(status["queued_bytes"].as_u64().unwrap());
            if status["connections"] == 3 {
                break;
            }
            assert!(began.elapsed() < 4 * PATIENCE, "the readers are still there: {status}");
        }
        println!(
            "at most {most} bytes were queued; memory {} of {LIMIT}, at most {}",
            daemon.memory().0,
            daemon.peak()
        );
        drop(readers);
    };
    flood();
    // The system's allocator keeps what it may use again; the second flood needs no more.
    let figures = Figures::before(&daemon, "64 MiB");
    flood();
    assert!(daemon.peak() < LIMIT, "{} bytes", daemon.peak());
    assert_eq!(group.kills(), "oom_kill 0");
    figures.after(&["the server's memory for waiting messages is used up"]);
}

#[test]
fn fault_54_with_a_hundred_descriptors_it_serves_and_says_how_many_it_can() {
    let daemon = Daemon::start_with("max_connections = 1000\n", |command| {
        *command = through_shell(command, "ulimit -n 100; exec \"$0\"");
    });
    let mut figures = Figures::before(&daemon, "100 descriptors");
    let token = sign(&json!({"read": ["c"], "write": ["c"]}));
    let mut clients: Vec<Client> = std::iter::from_fn(|| daemon.try_client(&token).ok()).take(100).collect();
    figures.sample();
    println!("{} clients", clients.len());
    let answer = daemon.exchange(upgrade(&token, "Connection: close\r\n"));
    assert!(status(&answer) == 503 && answer.contains("open files"), "{answer}");
    println!("  refused: {}", body_of(&answer)["message"]);
    let (_, shown) = crate::admin::ctl(&daemon, &["status"]);
    println!("  {}", shown.lines().find(|line| line.contains("FULL")).unwrap());
    let (one, rest) = clients.split_first_mut().unwrap();
    talk(one, &mut rest[0]);
    // The administrator can still reload, although that needs a descriptor.
    assert!(daemon.admin("POST", "/v1/reload", "")["error"].is_null());
    drop(clients);
    figures.after(&["LimitNOFILE"]);
}

/// Whoever starts the daemon has closed its standard streams.
#[test]
fn a_closed_standard_error_changes_nothing() {
    for closed in ["2>&-", "0<&- 1>&- 2>&-"] {
        let directory = tempfile::TempDir::new().unwrap();
        let listen = format!("unix:{}", directory.path().join("philote.sock").display());
        let mut plain = philote(directory.path());
        plain.env("SECRET", SECRET).env("PHILOTE_LISTEN", listen);
        let mut command = through_shell(&plain, &format!("exec \"$0\" {closed}"));
        let mut child = command.spawn().unwrap();
        let began = Instant::now();
        while UnixStream::connect(directory.path().join("admin.sock")).is_err() {
            assert!(began.elapsed() < PATIENCE && child.try_wait().unwrap().is_none(), "it does not start");
            std::thread::yield_now();
        }
        let before = ask_admin(directory.path(), "GET", "/v1/status", "");
        for _ in 0..100 {
            let mut stream = UnixStream::connect(directory.path().join("philote.sock")).unwrap();
            std::io::Write::write_all(&mut stream, b"noise\r\n\r\n").unwrap();
            std::io::Read::read_to_end(&mut stream, &mut Vec::new()).unwrap();
        }
        // No listener, client or file has become the standard error of a library.
        for number in 0..3 {
            let target = std::fs::read_link(format!("/proc/{}/fd/{number}", child.id())).unwrap();
            let stream = ["/dev/null", "pipe:"].iter().any(|kind| target.to_string_lossy().starts_with(kind));
            assert!(stream, "descriptor {number} is {target:?}");
        }
        assert_eq!(before["state"], "serving", "{before}");
        kill_process(Pid::from_child(&child), Signal::TERM).unwrap();
        assert!(wait(&mut child).success());
    }
}

/// A supervisor that no longer reads what the daemon logs.
#[test]
fn fault_65_a_blocked_standard_error_slows_no_client_and_what_is_dropped_is_counted() {
    let directory = tempfile::TempDir::new().unwrap();
    let listen = format!("127.0.0.1:0,unix:{}", directory.path().join("philote.sock").display());
    let mut command = philote(directory.path());
    command.env("SECRET", SECRET).env("PHILOTE_LISTEN", listen).env("LOGLEVEL", "debug");
    let mut child = command.spawn().unwrap();
    // The start is read, to learn the port; then nothing more.
    let mut log = BufReader::new(child.stderr.take().unwrap());
    let mut line = String::new();
    while !line.contains("get a token with") {
        line.clear();
        log.read_line(&mut line).unwrap();
    }
    let memory = || std::fs::read_to_string(format!("/proc/{}/statm", child.id())).unwrap();
    let pages = |text: String| {
        text.split(' ').nth(1).unwrap().parse::<u64>().unwrap() * rustix::param::page_size() as u64
    };
    let before = pages(memory());
    let dropped =
        || ask_admin(directory.path(), "GET", "/v1/status", "")["log_records_dropped"].as_u64().unwrap();
    let (mut longest, began) = (Duration::ZERO, Instant::now());
    let mut stream = UnixStream::connect(directory.path().join("philote.sock")).unwrap();
    // Each reload changes something, which is logged.
    for number in 0.. {
        config_file(directory.path(), &format!("[limits]\nqueue_messages = {}\n", 5_000 + number));
        assert!(ask_admin(directory.path(), "POST", "/v1/reload", "")["error"].is_null());
        let asked = Instant::now();
        std::io::Write::write_all(&mut stream, b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n").unwrap();
        assert_ne!(std::io::Read::read(&mut stream, &mut [0; 1024]).unwrap(), 0);
        longest = longest.max(asked.elapsed());
        if dropped() > 0 {
            break;
        }
        assert!(began.elapsed() < 4 * PATIENCE, "the log has no bound");
    }
    let after = pages(memory());
    println!("memory {} / {} KiB; the longest request took {longest:?}", before >> 10, after >> 10);
    assert!(longest < PATIENCE / 3, "{longest:?}");
    assert!(after < before + FLAT, "{before} to {after}");
    // Its end does not wait for the reader either.
    kill_process(Pid::from_child(&child), Signal::TERM).unwrap();
    assert!(wait(&mut child).success());
    let mut rest = String::new();
    let _ = std::io::Read::read_to_string(&mut log, &mut rest);
    assert_no_secrets(&rest);
}
