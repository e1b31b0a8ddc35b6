//! Tests with a fake service manager, and with sockets passed to child processes.

use std::fs::File;
use std::io::{Read, Seek, Write as _};
use std::net::{TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixListener;
use std::process::{Command, Stdio};

use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};

use super::*;
use crate::testing;

struct FakeManager {
    socket: UnixDatagram,
    directory: tempfile::TempDir,
}

impl FakeManager {
    fn new() -> FakeManager {
        let directory = tempfile::tempdir().unwrap();
        let socket = UnixDatagram::bind(directory.path().join("notify")).unwrap();
        socket.set_nonblocking(true).unwrap();
        FakeManager { socket, directory }
    }

    fn notifier(&self) -> Notifier {
        Notifier::new(Some(self.directory.path().join("notify").as_os_str()), None)
    }

    /// Returns the datagrams that have arrived. Sending one returns only after it has arrived.
    fn received(&self) -> Vec<String> {
        let mut datagram = [0; 8192];
        let next = || self.socket.recv(&mut datagram).ok().map(|length| datagram[..length].to_vec());
        std::iter::from_fn(next).map(|bytes| String::from_utf8(bytes).unwrap()).collect()
    }
}

fn monotonic_microseconds() -> i64 {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    now.tv_sec * 1_000_000 + now.tv_nsec / 1000
}

#[test]
fn each_state_is_a_datagram_in_order() {
    let manager = FakeManager::new();
    let notifier = manager.notifier();
    let before = monotonic_microseconds();
    notifier.status("starting");
    notifier.ready();
    notifier.feed_watchdog();
    notifier.reloading();
    notifier.ready();
    notifier.stopping();
    notifier.extend_timeout(Duration::from_millis(1500));
    notifier.extend_timeout(Duration::from_secs(1_000_000));
    let after = monotonic_microseconds();

    let told = manager.received();
    let reloading = told[3].strip_prefix("RELOADING=1\nMONOTONIC_USEC=").unwrap();
    let at: i64 = reloading.strip_suffix('\n').unwrap().parse().unwrap();
    assert!((before..=after).contains(&at), "{before} <= {at} <= {after}");
    assert_eq!(told[..3], ["STATUS=starting\n", "READY=1\n", "WATCHDOG=1\n"]);
    let rest =
        ["READY=1\n", "STOPPING=1\n", "EXTEND_TIMEOUT_USEC=1500000\n", "EXTEND_TIMEOUT_USEC=4294967295\n"];
    assert_eq!(told[4..], rest);
}

#[test]
fn a_status_is_one_short_line() {
    let manager = FakeManager::new();
    manager.notifier().status("12 connections\nREADY=0\r\u{85}");
    manager.notifier().status(&"é".repeat(MAX_STATUS_BYTES));
    let cut = format!("STATUS={}\n", "é".repeat(MAX_STATUS_BYTES / 2));
    assert_eq!(manager.received(), ["STATUS=12 connections READY=0  \n", &cut]);
}

#[test]
fn an_abstract_socket_receives_messages() {
    let name = format!("philote-test-{}", std::process::id());
    let socket = UnixDatagram::bind_addr(&SocketAddr::from_abstract_name(&name).unwrap()).unwrap();
    Notifier::new(Some(format!("@{name}").as_ref()), None).ready();
    let mut datagram = [0; 100];
    assert_eq!(socket.recv(&mut datagram).unwrap(), "READY=1\n".len());
}

/// Returns the next datagram, and the content of the file that came with it.
fn with_file(socket: &UnixDatagram) -> (String, String) {
    let (mut datagram, mut text) = ([0; 100], String::new());
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut descriptors = RecvAncillaryBuffer::new(&mut space);
    let mut parts = [std::io::IoSliceMut::new(&mut datagram)];
    let length = recvmsg(socket, &mut parts, &mut descriptors, RecvFlags::empty()).unwrap().bytes;
    for message in descriptors.drain() {
        let RecvAncillaryMessage::ScmRights(descriptors) = message else { continue };
        for descriptor in descriptors {
            let mut file = File::from(descriptor);
            file.rewind().unwrap();
            file.read_to_string(&mut text).unwrap();
        }
    }
    (String::from_utf8(datagram[..length].to_vec()).unwrap(), text)
}

#[test]
fn a_descriptor_is_stored_and_removed_by_its_name() {
    let manager = FakeManager::new();
    let notifier = manager.notifier();
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(b"kept").unwrap();
    notifier.store("mine", &file).unwrap();
    assert_eq!(with_file(&manager.socket), ("FDSTORE=1\nFDNAME=mine\n".to_owned(), "kept".to_owned()));
    notifier.remove_stored("mine");
    assert_eq!(manager.received(), ["FDSTOREREMOVE=1\nFDNAME=mine\n"]);
    let name = format!("philote-store-{}", std::process::id());
    let socket = UnixDatagram::bind_addr(&SocketAddr::from_abstract_name(&name).unwrap()).unwrap();
    Notifier::new(Some(format!("@{name}").as_ref()), None).store("mine", &file).unwrap();
    assert_eq!(with_file(&socket).1, "kept");
}

#[test]
fn a_descriptor_that_no_manager_takes_is_an_error_and_not_a_wait_without_end() {
    let file = tempfile::tempfile().unwrap();
    assert!(!Notifier::new(None, None).has_manager());
    Notifier::new(None, None).store("mine", &file).unwrap_err();
    let error = Notifier::new(Some("/nonexistent/notify".as_ref()), None).store("mine", &file).unwrap_err();
    assert!(error.to_string().contains("/nonexistent/notify"), "{error}");
    let manager = FakeManager::new();
    let notifier = manager.notifier();
    while notifier.manager.as_ref().unwrap().lock().unwrap().try_send("WATCHDOG=1\n").is_ok() {}
    let error = notifier.store("mine", &file).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::WouldBlock);
}

#[test]
fn fault_63_a_missing_or_dead_manager_changes_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let dead = directory.path().join("dead");
    drop(UnixDatagram::bind(&dead).unwrap());
    let long = directory.path().join("x".repeat(200));
    for path in [None, Some(dead), Some(directory.path().join("absent")), Some(long)] {
        let notifier = Notifier::new(path.as_ref().map(|path| path.as_os_str()), None);
        for _ in 0..3 {
            notifier.ready();
            notifier.status("going on");
        }
    }
}

#[test]
fn fault_63_a_dead_manager_is_logged_once() {
    let records = crate::log::tests::records(tracing::level_filters::LevelFilter::DEBUG, || {
        let notifier = Notifier::new(Some("/nonexistent/notify".as_ref()), None);
        notifier.ready();
        notifier.feed_watchdog();
        notifier.feed_watchdog();
    });
    assert_eq!(records.len(), 1, "{records:?}");
    assert_eq!(records[0]["level"], "debug");
    let message = records[0]["message"].as_str().unwrap();
    assert!(message.contains("/nonexistent/notify") && message.contains("No such file"), "{message}");
}

#[test]
fn a_stopped_manager_blocks_no_call_and_receives_required_messages_later() {
    let manager = FakeManager::new();
    let notifier = manager.notifier();
    let enough = 100
        + std::fs::read_to_string("/proc/sys/net/unix/max_dgram_qlen")
            .map_or(1000, |length| length.trim().parse().unwrap());
    for _ in 0..enough {
        notifier.feed_watchdog();
    }
    notifier.ready();
    notifier.status("lost");
    notifier.stopping();
    let told = manager.received();
    assert!(told.len() < enough && told.iter().all(|state| state == "WATCHDOG=1\n"));

    notifier.status("heard");
    assert_eq!(manager.received(), ["READY=1\n", "STOPPING=1\n", "STATUS=heard\n"]);
}

#[test]
fn messages_for_a_stopped_manager_are_limited() {
    let manager = FakeManager::new();
    let notifier = manager.notifier();
    for _ in 0..10_000 {
        notifier.ready();
    }
    manager.received();
    notifier.status("heard");
    assert_eq!(manager.received().len(), MAX_WAITING + 1);
}

// The environment is tested in child processes. A shell sets the variables that contain its
// process id, which exec does not change, and passes its standard input and standard error as descriptors 3 and 4.

/// Returns the output of a child after the shell ran `script`, with these as its descriptors 3 and 4.
fn says(child: &str, script: &str, third: Stdio, fourth: Stdio) -> Vec<String> {
    let child = testing::child(child);
    let mut shell = Command::new("sh");
    shell.args(["-c", &format!("{script}; exec \"$@\" 3<&0 4<&2 </dev/null 2>&1"), "sh"]);
    shell.arg(child.get_program()).args(child.get_args());
    shell.envs(child.get_envs().filter_map(|(name, value)| Some((name, value?))));
    let output = shell.stdin(third).stderr(fourth).output().unwrap();
    let output = String::from_utf8(output.stdout).unwrap();
    assert!(output.contains("1 passed"), "{output}");
    output.lines().filter_map(|line| Some(line.split_once("says ")?.1.to_owned())).collect()
}

fn child_passed(script: &str, third: impl Into<OwnedFd>, fourth: impl Into<OwnedFd>) -> Vec<String> {
    says("systemd::tests::child_with_sockets", script, third.into().into(), fourth.into().into())
}

#[test]
fn child_with_sockets() {
    if !testing::is_child() {
        return;
    }
    match passed("kept") {
        Err(error) => println!("says {error}"),
        Ok(Passed { listeners, stored }) => {
            assert!(
                std::env::var_os("LISTEN_FDS").is_none(),
                "a child of the daemon would take them for its own"
            );
            if let Some(mut stored) = stored {
                let mut text = String::new();
                stored.read_to_string(&mut text).unwrap();
                println!("says stored {text}");
            }
            for PassedListener { socket, name } in listeners {
                let listener = match socket {
                    PassedSocket::Tcp(listener) => listener,
                    PassedSocket::Unix(listener) => {
                        println!("says {name} {:?}", listener.local_addr().unwrap().as_pathname());
                        continue;
                    }
                };
                let place = listener.local_addr().unwrap();
                let accepted = listener.accept().map_err(|error| error.kind());
                println!("says {name} {place} {:?}", accepted.map(|_| "a client"));
            }
        }
    }
}

#[test]
fn listening_sockets_are_passed_with_their_names_and_never_block() {
    let first = TcpListener::bind("127.0.0.1:0").unwrap();
    let second = TcpListener::bind("[::1]:0").or_else(|_| TcpListener::bind("127.0.0.1:0")).unwrap();
    let (place, other) = (first.local_addr().unwrap(), second.local_addr().unwrap());
    let client = TcpStream::connect(place).unwrap();
    let script = "export LISTEN_PID=$$ LISTEN_FDS=2 LISTEN_FDNAMES=public:inner";
    let said = child_passed(script, first.try_clone().unwrap(), second);
    assert_eq!(said, [format!(r#"public {place} Ok("a client")"#), format!("inner {other} Err(WouldBlock)")]);
    drop(client);
    let said = child_passed("export LISTEN_PID=$$ LISTEN_FDS=1", first, OwnedFd::from(null()));
    assert_eq!(said, [format!("unknown {place} Err(WouldBlock)")]);
}

#[test]
fn what_was_stored_is_no_listener() {
    let file = |text: &str| {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(text.as_bytes()).unwrap();
        file.rewind().unwrap();
        file
    };
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let script = "export LISTEN_PID=$$ LISTEN_FDS=2 LISTEN_FDNAMES=";
    let said = child_passed(&format!("{script}public:kept"), listener.try_clone().unwrap(), file("a"));
    assert_eq!(said, ["stored a".to_owned(), format!("public {address} Err(WouldBlock)")]);
    let said = child_passed(&format!("{script}kept:public"), file("b"), listener);
    assert_eq!(said, ["stored b".to_owned(), format!("public {address} Err(WouldBlock)")]);
    let said = child_passed("export LISTEN_PID=$$ LISTEN_FDS=1 LISTEN_FDNAMES=kept", file("c"), null());
    assert_eq!(said, ["stored c"]);
    let said = child_passed("export LISTEN_PID=1 LISTEN_FDS=1 LISTEN_FDNAMES=kept", file("d"), null());
    assert_eq!(said, [""; 0]);
}

fn null() -> std::fs::File {
    std::fs::File::open("/dev/null").unwrap()
}

#[test]
fn fault_64_sockets_of_another_process_are_ignored() {
    let listener = || TcpListener::bind("127.0.0.1:0").unwrap();
    assert_eq!(child_passed("export LISTEN_PID=1 LISTEN_FDS=1", listener(), null()), [""; 0]);
    assert_eq!(child_passed("export LISTEN_PID=$$ LISTEN_FDS=0", listener(), null()), [""; 0]);
}

#[test]
fn fault_64_an_error_names_a_descriptor_of_the_wrong_type() {
    let directory = tempfile::tempdir().unwrap();
    let tcp = || TcpListener::bind("127.0.0.1:0").unwrap();
    let unix = UnixListener::bind(directory.path().join("socket")).unwrap();
    let script = "export LISTEN_PID=$$ LISTEN_FDS=2 LISTEN_FDNAMES=a:b";
    let path = unix.local_addr().unwrap().as_pathname().unwrap().display().to_string();
    let said = child_passed(script, tcp(), unix);
    assert!(said[1].contains(&path), "a Unix socket is accepted too: {said:?}");

    let server = tcp();
    let connected = TcpStream::connect(server.local_addr().unwrap()).unwrap();
    let udp = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    for wrong in [OwnedFd::from(connected), OwnedFd::from(udp), OwnedFd::from(null())] {
        let said = child_passed(script, wrong, tcp());
        let expected = "the passed descriptor 3 (\"a\") is not a listening stream socket";
        assert!(said[0].starts_with(expected), "{said:?}");
    }
}

#[test]
fn fault_64_names_that_do_not_match_are_an_error() {
    let tcp = || TcpListener::bind("127.0.0.1:0").unwrap();
    let said = child_passed("export LISTEN_PID=$$ LISTEN_FDS=2 LISTEN_FDNAMES=a:b:c", tcp(), tcp());
    assert_eq!(said, ["LISTEN_FDNAMES has 3 names, but LISTEN_FDS has 2 sockets: give each socket one name"]);
}

#[test]
fn descriptors_that_cannot_be_there_are_an_error() {
    let said = child_passed("export LISTEN_PID=$$ LISTEN_FDS=2147483647", null(), null());
    assert_eq!(said, ["LISTEN_FDS says that 2147483647 descriptors were passed: the most are 1024"]);
    assert_eq!(child_passed("export LISTEN_PID=1 LISTEN_FDS=2147483647", null(), null()), [""; 0]);
    // The process has opened far fewer than a thousand.
    let script = "export LISTEN_PID=$$ LISTEN_FDS=1000 LISTEN_FDNAMES=$(printf 'x:%.0s' $(seq 999))kept";
    let said = child_passed(script, null(), null());
    assert_eq!(said.len(), 1, "{said:?}");
    assert!(said[0].contains("descriptor 1002 (\"kept\") was passed, but it is not open"), "{said:?}");
}

#[test]
fn child_with_a_watchdog() {
    if testing::is_child() {
        let notifier = Notifier::from_environment();
        println!("says {:?}", notifier.watchdog_interval());
        notifier.feed_watchdog();
    }
}

#[test]
fn the_watchdog_interval_is_half_its_time_if_it_is_for_this_process() {
    let manager = FakeManager::new();
    let socket = format!("export NOTIFY_SOCKET='{}'", manager.directory.path().join("notify").display());
    for (variables, interval) in [
        ("WATCHDOG_USEC=30000000 WATCHDOG_PID=$$", "Some(15s)"),
        ("WATCHDOG_USEC=30000000", "Some(15s)"),
        ("WATCHDOG_USEC=30000000 WATCHDOG_PID=1", "None"),
        ("WATCHDOG_USEC=0", "None"),
        ("WATCHDOG_USEC=soon", "None"),
        ("", "None"),
    ] {
        let script = format!("{socket} {variables}");
        let said = says("systemd::tests::child_with_a_watchdog", &script, Stdio::null(), Stdio::null());
        assert_eq!(said, [interval], "{variables}");
        assert_eq!(manager.received(), ["WATCHDOG=1\n"]);
    }
}
