//! Restarts without a loss: the next process goes on with the histories, or says why it does not.

use std::fs::{self, File};
use std::io::{IoSliceMut, Read, Seek};
use std::mem::MaybeUninit;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Condvar, Mutex};
use std::thread;

use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};
use rustix::process::Signal;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::client::{self, IntoClientRequest};

use crate::support::{Client, Daemon, PATIENCE, SECRET, config_file, philote, sign};

const HISTORY: &str = "[shutdown]\ndrain = \"1s\"\n[limits]\nqueue_messages = 1000000\nqueue_bytes = \"64MiB\"\n\
                       [history]\nmessages = 100000\n";

/// Starts a daemon in a directory where others may have run.
fn start_in(directory: TempDir, config: &str) -> Daemon {
    config_file(directory.path(), config);
    let mut command = philote(directory.path());
    command.env("SECRET", SECRET).env("PORT", "0");
    Daemon::spawn(command, directory)
}

/// Stops a daemon as a service manager does, and returns its directory.
fn stop(mut daemon: Daemon) -> TempDir {
    daemon.signal(Signal::TERM);
    assert!(daemon.wait().success());
    daemon.take_directory()
}

fn image(directory: &TempDir) -> PathBuf {
    directory.path().join("admin.sock.history")
}

fn enter(address: SocketAddr, claims: &Value, since: &Value) -> (Client, Value) {
    let mut request = format!("ws://{address}/").into_client_request().unwrap();
    request.headers_mut().insert("Sec-WebSocket-Protocol", "philote.v1".parse().unwrap());
    let stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.set_nodelay(true).unwrap();
    let mut client = Client { socket: client::client(request, stream).unwrap().0 };
    client.send(json!({"auth": sign(claims), "since": since}).to_string());
    let access = client.receive()["access"].take();
    (client, access)
}

/// Whether a client that returns with this id is told that it missed nothing.
fn recovers(daemon: &Daemon, id: &Value) -> bool {
    let (_, access) = enter(daemon.address(), &json!({"read": ["c"]}), &json!({"c": id}));
    access["recovered"]["c"].as_bool().unwrap()
}

/// Publishes a message, and returns its id.
fn publish(daemon: &Daemon, data: &str) -> Value {
    let body = json!({"channel": "c", "data": data}).to_string();
    let (code, mut answer) = daemon.http("POST", "/api/publish", &sign(&json!({"api": true})), &body);
    assert_eq!(code, 200, "{answer}");
    answer["published"][0]["id"].take()
}

/// The number and the address of the daemon that serves, for which clients wait.
struct Serving(Mutex<(u32, SocketAddr)>, Condvar);

impl Serving {
    fn set(&self, turn: u32, daemon: &Daemon) {
        *self.0.lock().unwrap() = (turn, daemon.address());
        self.1.notify_all();
    }

    /// Opens a connection to the first daemon after this one, as soon as it serves. Returns which one that is.
    fn enter_after(&self, turn: u32, claims: &Value, since: &Value) -> (u32, Client, Value) {
        let guard = self.0.lock().unwrap();
        let (guard, timeout) = self.1.wait_timeout_while(guard, PATIENCE, |(now, _)| *now <= turn).unwrap();
        assert!(!timeout.timed_out(), "no daemon after {turn}");
        let (turn, address) = *guard;
        drop(guard);
        let (client, access) = enter(address, claims, since);
        (turn, client, access)
    }
}

/// Reads until "end", over all restarts. Returns what arrived, in order, and how often it resumed.
fn read_all(serving: &Serving) -> (Vec<String>, usize) {
    let claims = json!({"read": ["c"]});
    let (mut turn, mut client, access) = serving.enter_after(0, &claims, &json!({}));
    let mut position = access["ids"]["c"].clone();
    let (mut all, mut resumed) = (Vec::new(), 0);
    loop {
        match client.socket.read() {
            Ok(Message::Text(text)) => {
                let message: Value = serde_json::from_str(&text).unwrap();
                position = message["id"].clone();
                let data = message["data"].as_str().unwrap();
                if data == "end" {
                    return (all, resumed);
                }
                all.push(data.to_owned());
            }
            Ok(Message::Close(_)) | Err(_) => {
                let access;
                (turn, client, access) = serving.enter_after(turn, &claims, &json!({"c": position}));
                assert_eq!(access["recovered"], json!({"c": true}), "turn {turn}");
                resumed += 1;
            }
            Ok(_) => {}
        }
    }
}

/// Publishes numbers until the daemon of the last turn serves, and then "end". Returns those that were acknowledged.
fn publish_all(serving: &Serving, last: u32) -> Vec<String> {
    let claims = json!({"write": ["c"]});
    let (mut turn, mut client, _) = serving.enter_after(0, &claims, &json!({}));
    let mut acknowledged = Vec::new();
    for number in 0.. {
        let data = if turn == last { "end".to_owned() } else { number.to_string() };
        let message = json!({"channel": "c", "data": data, "ack": data}).to_string();
        let mut sent = client.socket.send(Message::text(message)).is_ok();
        while sent {
            match client.socket.read() {
                Ok(Message::Text(text)) => {
                    let answer: Value = serde_json::from_str(&text).unwrap();
                    assert_eq!(answer["ack"], data, "{answer}");
                    acknowledged.push(data.clone());
                    break;
                }
                Ok(Message::Close(_)) | Err(_) => sent = false,
                Ok(_) => {}
            }
        }
        if data == "end" {
            acknowledged.pop();
            return acknowledged;
        }
        if !sent {
            (turn, client, _) = serving.enter_after(turn, &claims, &json!({}));
        }
    }
    unreachable!()
}

#[test]
fn ten_restarts_under_traffic_lose_nothing() {
    const READERS: usize = 30;
    const RESTARTS: u32 = 10;
    let mut daemon = start_in(TempDir::new().unwrap(), HISTORY);
    let serving = Serving(Mutex::new((1, daemon.address())), Condvar::new());
    thread::scope(|scope| {
        let readers: Vec<_> = (0..READERS).map(|_| scope.spawn(|| read_all(&serving))).collect();
        daemon.wait_until("all read", |status| status["connections"] == READERS);
        let publisher = scope.spawn(|| publish_all(&serving, RESTARTS + 1));
        for turn in 1..=RESTARTS {
            daemon.wait_until("all are back", |status| status["connections"] == READERS + 1);
            daemon = start_in(stop(daemon), HISTORY);
            serving.set(turn + 1, &daemon);
        }
        let acknowledged = publisher.join().unwrap();
        let mut first = None;
        for reader in readers {
            let (all, resumed) = reader.join().unwrap();
            assert_eq!(resumed, RESTARTS as usize);
            let mut numbers: Vec<u32> = all.iter().map(|data| data.parse().unwrap()).collect();
            assert!(numbers.is_sorted_by(|one, next| one < next), "one twice, or out of order");
            assert_eq!(first.get_or_insert_with(|| all.clone()), &all, "all have the same");
            numbers.retain(|number| acknowledged.contains(&number.to_string()));
            assert_eq!(numbers.len(), acknowledged.len(), "one is lost");
        }
        println!("{} acknowledged messages, {RESTARTS} restarts, {READERS} readers", acknowledged.len());
        assert!(acknowledged.len() > RESTARTS as usize);
    });
}

#[test]
fn an_image_that_cannot_be_used_is_refused_in_one_line() {
    let directory = TempDir::new().unwrap();
    let first = start_in(directory, HISTORY);
    let id = publish(&first, "x");
    let directory = stop(first);
    assert_eq!(fs::metadata(image(&directory)).unwrap().permissions().mode() & 0o777, 0o600);
    let good = fs::read(image(&directory)).unwrap();
    let changed = |at: usize| {
        let mut other = good.clone();
        other[at] ^= 1;
        other
    };
    let small = format!("{HISTORY}bytes = \"64KiB\"\n");
    let large = [&good[..], &[0; 65_536]].concat();
    let cases: [(&[u8], &str, u32, &str); 8] = [
        (&good[..good.len() - 1], HISTORY, 0o600, "truncated"),
        (&changed(good.len() - 40), HISTORY, 0o600, "its checksum is wrong"),
        (&changed(16), HISTORY, 0o600, "version 0 of the format"),
        (&changed(20), HISTORY, 0o600, "was not made since this machine was started"),
        (b"", HISTORY, 0o600, "truncated"),
        (&large, &small, 0o600, "[history] bytes allows 65536"),
        (&good, HISTORY, 0o640, "was not a file of this user alone"),
        (&good, "", 0o600, "[history] is off now"),
    ];
    let mut directory = directory;
    for (bytes, config, mode, why) in cases {
        fs::write(image(&directory), bytes).unwrap();
        fs::set_permissions(image(&directory), fs::Permissions::from_mode(mode)).unwrap();
        fs::write(directory.path().join("philote.toml"), config).unwrap();
        let daemon = start_in(directory, config);
        let log = daemon.log();
        let lines: Vec<_> =
            log.lines().filter(|line| line.contains("the history of the process before is lost")).collect();
        assert!(
            lines.len() == 1 && lines[0].contains(why) && lines[0].contains("another epoch"),
            "{why}: {log}"
        );
        assert!(!image(&daemon.directory).exists(), "{why}: it is used or removed");
        assert!(!recovers(&daemon, &id), "{why}");
        // A crash leaves no image.
        daemon.signal(Signal::KILL);
        directory = daemon.take_directory();
        assert!(!image(&directory).exists());
    }
    // A symbolic link is removed, and what it points at stays.
    let target = directory.path().join("target");
    fs::write(&target, &good).unwrap();
    std::os::unix::fs::symlink(&target, image(&directory)).unwrap();
    let daemon = start_in(directory, HISTORY);
    assert!(daemon.log().contains("cannot be used") && target.exists() && !recovers(&daemon, &id));
    // What cannot be removed beside the image does not keep it for a later process, which would lie.
    let directory = stop(daemon);
    let unfinished = directory.path().join("admin.sock.history.new");
    fs::create_dir(&unfinished).unwrap();
    fs::write(image(&directory), &good).unwrap();
    let daemon = start_in(directory, HISTORY);
    assert!(daemon.log().contains("cannot be used") && !image(&daemon.directory).exists());
}

/// Runs a daemon that cannot start, and returns what it says.
fn fails(directory: &TempDir, port: u16) -> String {
    let mut command = philote(directory.path());
    let output = command.env("SECRET", SECRET).env("PORT", port.to_string()).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    String::from_utf8(output.stderr).unwrap()
}

#[test]
fn only_a_process_that_serves_takes_the_image_and_only_once() {
    let first = start_in(TempDir::new().unwrap(), HISTORY);
    let id = publish(&first, "1");
    let directory = stop(first);
    let busy = TcpListener::bind("127.0.0.1:0").unwrap();
    let before = fs::read(image(&directory)).unwrap();
    config_file(
        directory.path(),
        &format!("listen = [\"127.0.0.1:{}\"]\n{HISTORY}", busy.local_addr().unwrap().port()),
    );
    let mut command = philote(directory.path());
    let said = command.env("SECRET", SECRET).output().unwrap();
    assert!(String::from_utf8_lossy(&said.stderr).contains("is in use"), "{said:?}");
    assert_eq!(fs::read(image(&directory)).unwrap(), before, "the port was taken, so this one did not serve");

    let second = start_in(directory, HISTORY);
    assert!(second.log().contains("went on with 1 messages of 1 channels"), "{}", second.log());
    assert!(recovers(&second, &id));
    // What another process must not take while this one runs.
    fs::write(image(&second.directory), &before).unwrap();
    assert!(fails(&second.directory, 0).contains("another philote listens on the admin socket"));
    assert_eq!(fs::read(image(&second.directory)).unwrap(), before);
    let later = publish(&second, "2");
    let directory = stop(second);
    let third = start_in(directory, HISTORY);
    assert!(
        recovers(&third, &later) && recovers(&third, &id),
        "the image of the second has replaced the other"
    );
    assert_eq!(publish(&third, "3").as_str().unwrap().split_once('-').unwrap().1, "3");
}

/// Returns the next datagram that is no status, and the file that came with it.
fn next_of(manager: &UnixDatagram) -> (String, Option<File>) {
    loop {
        let mut datagram = [0; 4096];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut descriptors = RecvAncillaryBuffer::new(&mut space);
        let mut parts = [IoSliceMut::new(&mut datagram)];
        let length = recvmsg(manager, &mut parts, &mut descriptors, RecvFlags::empty()).unwrap().bytes;
        let files = descriptors.drain().filter_map(|message| match message {
            RecvAncillaryMessage::ScmRights(mut passed) => passed.next().map(File::from),
            _ => None,
        });
        let file = files.last();
        let text = String::from_utf8(datagram[..length].to_vec()).unwrap();
        if !text.starts_with("STATUS=") && !text.starts_with("EXTEND") {
            return (text, file);
        }
    }
}

/// Starts a daemon as systemd does, with a listener as descriptor 3 and what was stored as 4.
fn start_with_stored(listener: &TcpListener, stored: File, notify: &Path) -> Daemon {
    let directory = TempDir::new().unwrap();
    config_file(directory.path(), HISTORY);
    let plain = philote(directory.path());
    let mut command = Command::new("sh");
    let line = "LISTEN_PID=$$ LISTEN_FDS=2 LISTEN_FDNAMES=philote.socket:philote-history exec \"$0\" 3<&0 4<&1 </dev/null";
    command.args(["-c", line]).arg(plain.get_program()).env_clear();
    command.envs(plain.get_envs().filter_map(|(name, value)| Some((name, value?))));
    command.env("SECRET", SECRET).env("NOTIFY_SOCKET", notify);
    let socket: OwnedFd = listener.try_clone().unwrap().into();
    command.stdin(socket).stdout(stored).stderr(Stdio::piped());
    Daemon::spawn(command, directory)
}

#[test]
fn under_systemd_the_image_is_in_its_store() {
    let directory = TempDir::new().unwrap();
    let notify = directory.path().join("notify");
    let manager = UnixDatagram::bind(&notify).unwrap();
    manager.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut first = Daemon::start_with(HISTORY, |command| {
        command.env("NOTIFY_SOCKET", &notify);
    });
    assert!(next_of(&manager).0.starts_with("READY=1"));
    let id = publish(&first, "1");
    first.signal(Signal::TERM);
    assert!(next_of(&manager).0.starts_with("STOPPING=1"));
    let (text, stored) = next_of(&manager);
    assert_eq!(text, "FDSTORE=1\nFDNAME=philote-history\n");
    assert!(first.wait().success() && !image(&first.directory).exists());
    let mut stored = stored.unwrap();
    stored.rewind().unwrap();
    let mut begins = [0; 16];
    stored.read_exact(&mut begins).unwrap();
    assert_eq!(&begins, b"philote history\n");
    assert!(stored.set_len(0).is_err(), "it is sealed");

    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let second = start_with_stored(&listener, stored.try_clone().unwrap(), &notify);
    assert_eq!(next_of(&manager).0, "FDSTOREREMOVE=1\nFDNAME=philote-history\n", "before it serves");
    assert!(next_of(&manager).0.starts_with("READY=1"));
    assert!(recovers(&second, &id));
    drop(second);

    // Something else in the store is refused, and the daemon starts.
    let other = tempfile::tempfile().unwrap();
    let third = start_with_stored(&listener, other, &notify);
    assert!(third.log().contains("no sealed file in memory") && !recovers(&third, &id), "{}", third.log());
}
