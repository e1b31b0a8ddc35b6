//! A daemon for each test, and clients for it.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use jsonwebtoken::{Algorithm, EncodingKey, Header};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use socket2::{Domain, Socket, Type};
use tempfile::TempDir;
use tokio_tungstenite::tungstenite::handshake::client::Request;
use tokio_tungstenite::tungstenite::protocol::frame::CloseFrame;
use tokio_tungstenite::tungstenite::{Error, Message, WebSocket, client, client::IntoClientRequest};

#[allow(unused_imports, reason = "tests/cluster needs some of them only")]
pub use crate::wire::{body_of, frame, header, status, upgrade};

/// The secret of all daemons in these tests.
pub const SECRET: &str = "the secret of these tests, of 40 bytes..";

pub use crate::output::keep;

/// How long a step may take before the test fails.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// A running daemon, which ends when this is dropped.
pub struct Daemon {
    child: Child,
    /// The address at which clients reach it.
    pub host: Ipv4Addr,
    pub port: u16,
    pub directory: TempDir,
    lines: Receiver<String>,
    log: Arc<Mutex<String>>,
}

/// A command that starts the daemon without any settings of this machine.
pub fn philote(directory: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_philote"));
    command
        .env_clear()
        .env("PATH", std::env::var_os("PATH").unwrap_or_default())
        .env("HOME", directory)
        .env("PHILOTE_ADMIN_SOCKET", directory.join("admin.sock"))
        .env("PHILOTE_CONFIG", config_file(directory, ""))
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    command
}

/// The same command, started by a shell with this line, in which `$0` is the program.
pub fn through_shell(command: &Command, line: &str) -> Command {
    let mut shell = Command::new("sh");
    shell.args(["-c", line]).arg(command.get_program()).env_clear();
    for (name, value) in command.get_envs() {
        if let Some(value) = value {
            shell.env(name, value);
        }
    }
    shell.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    shell
}

/// Writes the configuration file that [`philote`] names.
pub fn config_file(directory: &Path, text: &str) -> PathBuf {
    let path = directory.join("philote.toml");
    if !text.is_empty() || !path.exists() {
        std::fs::write(&path, text).unwrap();
    }
    path
}

impl Daemon {
    /// Starts a daemon with these lines in its configuration file, on a port that the kernel chooses.
    pub fn start(config: &str) -> Daemon {
        Daemon::start_with(config, |_| {})
    }

    pub fn start_with(config: &str, change: impl FnOnce(&mut Command)) -> Daemon {
        let directory = TempDir::new().unwrap();
        config_file(directory.path(), config);
        let mut command = philote(directory.path());
        command.env("SECRET", SECRET).env("PORT", "0");
        change(&mut command);
        Daemon::spawn(command, directory)
    }

    pub fn spawn(command: Command, directory: TempDir) -> Daemon {
        Daemon::spawn_while(command, directory, |_| true)
    }

    /// The same; calls `done` repeatedly during the start.
    pub fn spawn_while(mut command: Command, directory: TempDir, done: impl Fn(Pid) -> bool) -> Daemon {
        let mut child = command.spawn().unwrap();
        while !done(Pid::from_child(&child)) {
            std::thread::yield_now();
        }
        drop(child.stdout.take());
        let (sender, lines) = channel();
        let log = Arc::new(Mutex::new(String::new()));
        let (stderr, kept) = (child.stderr.take().unwrap(), log.clone());
        std::thread::spawn(move || {
            for line in BufReader::new(stderr).lines() {
                let Ok(line) = line else { break };
                kept.lock().unwrap().push_str(&format!("{line}\n"));
                if sender.send(line).is_err() {
                    break;
                }
            }
        });
        let mut daemon = Daemon { child, host: Ipv4Addr::LOCALHOST, port: 0, directory, lines, log };
        let line = daemon.wait_for_line("listening on ");
        daemon.port = port_in(&line);
        daemon.wait_for_line("for a first test, get a token with");
        daemon
    }

    /// Waits until the log has a line with this text, and returns the line.
    pub fn wait_for_line(&self, text: &str) -> String {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            match self.lines.recv_timeout(left) {
                Ok(line) if line.contains(text) => return line,
                Ok(_) => {}
                Err(_) => panic!("no line with {text:?} in the log:\n{}", self.log()),
            }
        }
    }

    /// Everything that it has logged.
    pub fn log(&self) -> String {
        self.log.lock().unwrap().clone()
    }

    /// The log, once it has this text. It is written behind the daemon's answers.
    pub fn log_with(&self, text: &str) -> String {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let log = self.log();
            if log.contains(text) {
                return log;
            }
            assert!(Instant::now() < deadline, "no {text:?} in the log:\n{log}");
            std::thread::yield_now();
        }
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    pub fn address(&self) -> SocketAddr {
        (self.host, self.port).into()
    }

    pub fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).unwrap();
    }

    pub fn wait(&mut self) -> ExitStatus {
        wait(&mut self.child)
    }

    /// Stops the daemon and returns its directory, for the start of another one.
    pub fn take_directory(mut self) -> TempDir {
        std::mem::replace(&mut self.directory, TempDir::new().unwrap())
    }

    /// Memory in use, in bytes: resident, and address space.
    pub fn memory(&self) -> (u64, u64) {
        let text = std::fs::read_to_string(format!("/proc/{}/statm", self.pid())).unwrap();
        let pages: Vec<u64> = text.split_whitespace().map(|word| word.parse().unwrap()).collect();
        let page = rustix::param::page_size() as u64;
        (pages[1] * page, pages[0] * page)
    }

    /// Opens a raw connection.
    pub fn connect(&self) -> TcpStream {
        let stream = TcpStream::connect(self.address()).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.set_nodelay(true).unwrap();
        stream
    }

    /// Connects from another address of this machine, 127.0.0.`last`.
    pub fn connect_from(&self, last: u8) -> TcpStream {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        socket.bind(&SocketAddr::from((Ipv4Addr::new(127, 0, 0, last), 0)).into()).unwrap();
        socket.connect(&self.address().into()).unwrap();
        let stream = TcpStream::from(socket);
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream
    }

    /// Sends bytes and reads everything until the end.
    pub fn exchange(&self, request: impl AsRef<[u8]>) -> String {
        let mut stream = self.connect();
        stream.write_all(request.as_ref()).unwrap();
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer);
        let answer = String::from_utf8_lossy(&answer).into_owned();
        assert_no_secrets(&answer);
        keep(&answer);
        answer
    }

    /// Sends a request to the API; returns status and body.
    pub fn http(&self, method: &str, path: &str, token: &str, body: &str) -> (u16, Value) {
        let answer = self.exchange(format!(
            "{method} {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nAuthorization: Bearer {token}\r\n\
             Content-Length: {}\r\n\r\n{body}",
            body.len()
        ));
        (status(&answer), body_of(&answer))
    }

    /// The answer of the admin socket.
    pub fn admin(&self, method: &str, path: &str, body: &str) -> Value {
        ask_admin(self.directory.path(), method, path, body)
    }

    /// The value of a metric, by its name and any labels; 0 if it is missing.
    pub fn metric(&self, name: &str) -> u64 {
        let figures = ask_admin_for_text(self.directory.path(), "GET", "/v1/metrics", "");
        let figure = figures.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        figure.map_or(0, |figure| figure.parse().unwrap())
    }

    /// Waits until the daemon's status has this value.
    pub fn wait_until(&self, what: &str, holds: impl Fn(&Value) -> bool) -> Value {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let status = self.admin("GET", "/v1/status", "");
            if holds(&status) {
                return status;
            }
            assert!(Instant::now() < deadline, "timed out: {what}: {status}");
            std::thread::yield_now();
        }
    }

    /// Waits until this number of connections have ended or were refused; the newest comes first.
    pub fn ended(&self, count: usize) -> Vec<Value> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let answer = self.admin("GET", "/v1/connections/closed", "");
            let rows = answer["connections"].as_array().unwrap();
            if rows.len() >= count {
                return rows.clone();
            }
            assert!(Instant::now() < deadline, "timed out: {count} connections: {answer}");
            std::thread::yield_now();
        }
    }

    /// A client whose token reads and writes these channels.
    pub fn client(&self, channels: &[&str]) -> Client {
        self.client_with(&json!({"read": channels, "write": channels}))
    }

    pub fn client_with(&self, claims: &Value) -> Client {
        self.try_client(&sign(claims)).unwrap()
    }

    pub fn try_client(&self, token: &str) -> Result<Client, Box<Error>> {
        let mut request = self.request("/");
        request.headers_mut().insert("Authorization", format!("Bearer {token}").parse().unwrap());
        self.open(request)
    }

    pub fn request(&self, path: &str) -> Request {
        format!("ws://{}{path}", self.address()).into_client_request().unwrap()
    }

    pub fn open(&self, request: Request) -> Result<Client, Box<Error>> {
        match client::client(request, self.connect()) {
            Ok((socket, _)) => Ok(Client { socket }),
            Err(tokio_tungstenite::tungstenite::HandshakeError::Failure(error)) => Err(Box::new(error)),
            Err(_) => panic!("the handshake blocked"),
        }
    }
}

impl Drop for Daemon {
    /// Stops it, and searches the log for secrets and tokens, which must never be there (fault 30).
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if !std::thread::panicking() {
            assert_no_secrets(&self.log());
        }
        keep(&self.log());
    }
}

/// The port in a line of the log; 0 for a Unix socket.
pub fn port_in(line: &str) -> u16 {
    let address = line.split("listening on ").nth(1).unwrap().split_whitespace().next().unwrap();
    address.rsplit(':').next().unwrap().parse().unwrap_or(0)
}

/// Every token begins with the base64 of `{"`.
pub fn assert_no_secrets(text: &str) {
    for secret in [SECRET, "eyJ"] {
        assert!(!text.contains(secret), "a secret or a token was printed: {text}");
    }
}

/// The answer of the admin socket in this directory.
pub fn ask_admin(directory: &Path, method: &str, path: &str, body: &str) -> Value {
    body_of(&ask_admin_for_text(directory, method, path, body))
}

fn ask_admin_for_text(directory: &Path, method: &str, path: &str, body: &str) -> String {
    let mut stream = std::os::unix::net::UnixStream::connect(directory.join("admin.sock")).unwrap();
    write!(
        stream,
        "{method} {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    )
    .unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    if !path.starts_with("/v1/token") && !path.starts_with("/v1/secret") {
        assert_no_secrets(&answer);
        keep(&answer);
    }
    answer
}

/// Waits a bounded time for the end of a process.
pub fn wait(child: &mut Child) -> ExitStatus {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(status) = child.try_wait().unwrap() {
            return status;
        }
        if Instant::now() > deadline {
            child.kill().unwrap();
            panic!("the process does not end");
        }
        std::thread::yield_now();
    }
}

/// A WebSocket client whose reads block until a frame arrives.
pub struct Client<S = TcpStream> {
    pub socket: WebSocket<S>,
}

impl<S: Read + Write> Client<S> {
    pub fn send(&mut self, text: impl Into<String>) {
        self.socket.send(Message::text(text.into())).unwrap();
    }

    pub fn publish(&mut self, channel: &str, data: &str) {
        self.send(json!({"channel": channel, "data": data}).to_string());
    }

    /// The next text frame as JSON.
    pub fn receive(&mut self) -> Value {
        // A separate deadline, because pings keep the stream's from being reached.
        let deadline = Instant::now() + PATIENCE;
        loop {
            assert!(Instant::now() < deadline, "only pings arrived");
            match self.socket.read() {
                Ok(Message::Text(text)) => return serde_json::from_str(&text).unwrap(),
                Ok(Message::Ping(_) | Message::Pong(_)) => {}
                other => panic!("expected a message: {other:?}"),
            }
        }
    }

    /// The `data` of the next frame.
    pub fn data(&mut self) -> String {
        let message = self.receive();
        message["data"].as_str().unwrap_or_else(|| panic!("{message}")).to_owned()
    }

    /// Reads to the Close; returns its code and reason, and the messages before it.
    pub fn closed(&mut self) -> (u16, String, Vec<Value>) {
        // A separate deadline, because the stream's ends only a read during which nothing arrives. Twice PATIENCE, because the
        // daemon's deadline for a message in progress is as long as PATIENCE.
        let deadline = Instant::now() + 2 * PATIENCE;
        let mut messages = Vec::new();
        loop {
            assert!(Instant::now() < deadline, "no Close after {} messages", messages.len());
            match self.socket.read() {
                Ok(Message::Close(Some(CloseFrame { code, reason }))) => {
                    // The answer is sent with the next read, which ends when the server closes the connection.
                    while self.socket.read().is_ok() {
                        assert!(Instant::now() < deadline, "the stream continues after its Close");
                    }
                    return (code.into(), reason.to_string(), messages);
                }
                Ok(Message::Text(text)) => messages.push(serde_json::from_str(&text).unwrap()),
                Ok(Message::Ping(_) | Message::Pong(_)) => {}
                other => panic!("expected a Close: {other:?}"),
            }
        }
    }

    /// The stream, for bytes that a library would not send.
    pub fn stream(&mut self) -> &mut S {
        self.socket.get_mut()
    }

    /// Waits until everything sent before has been handled; answers arrive in order.
    pub fn settle(&mut self) {
        self.socket.send(Message::Ping("settle".into())).unwrap();
        loop {
            match self.socket.read().unwrap() {
                Message::Pong(payload) if payload == "settle" => return,
                Message::Ping(_) => {}
                other => panic!("unexpected frame: {other:?}"),
            }
        }
    }
}

pub fn sign(claims: &Value) -> String {
    sign_with(claims, SECRET)
}

pub fn sign_with(claims: &Value, secret: &str) -> String {
    let key = EncodingKey::from_secret(secret.as_bytes());
    jsonwebtoken::encode(&Header::new(Algorithm::HS256), claims, &key).unwrap()
}

pub fn unix_now() -> u64 {
    std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs()
}
