//! Listeners other than plain TCP: Unix sockets, the PROXY protocol, forwarded headers, and ports without the API.

use std::io::Write;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::os::unix::net::UnixStream;
use std::process::Stdio;

use rustix::process::Signal;
use serde_json::json;
use socket2::{Domain, SockAddr, Socket, Type};
use tokio_tungstenite::tungstenite::client;

use crate::support::*;

/// The addresses of all connections, in order.
fn addresses(daemon: &Daemon) -> Vec<String> {
    let answer = daemon.admin("GET", "/v1/connections?sort=oldest", "");
    let rows = answer["connections"].as_array().unwrap().iter();
    rows.map(|row| row["address"].as_str().unwrap().to_owned()).collect()
}

fn request(
    daemon: &Daemon,
    headers: &[(&'static str, &str)],
) -> tokio_tungstenite::tungstenite::handshake::client::Request {
    let mut request = daemon.request("/");
    let token = sign(&json!({"read": ["c"], "write": ["c"]}));
    request.headers_mut().insert("Authorization", format!("Bearer {token}").parse().unwrap());
    for (name, value) in headers {
        request.headers_mut().append(*name, value.parse().unwrap());
    }
    request
}

#[test]
fn fault_73_a_spoofed_header_is_ignored_and_a_trusted_proxy_s_is_used() {
    let daemon = Daemon::start("");
    let mut client = daemon.open(request(&daemon, &[("X-Forwarded-For", "198.51.100.7")])).unwrap();
    let own = client.stream().local_addr().unwrap().to_string();
    assert_eq!(addresses(&daemon), [own.as_str()]);

    // The proxy is trusted from the next request on; open connections keep their address.
    config_file(daemon.directory.path(), "[limits]\ntrusted_proxies = ['127.0.0.1']");
    assert_eq!(daemon.admin("POST", "/v1/reload", "")["applied"], json!(["limits.trusted_proxies"]));
    let _client = daemon.open(request(&daemon, &[("X-Forwarded-For", "1.2.3.4, 198.51.100.7")])).unwrap();
    let _other = daemon.open(request(&daemon, &[("Forwarded", "for=\"[2001:db8::7]:81\"")])).unwrap();
    assert_eq!(addresses(&daemon), [&own, "198.51.100.7:0", "[2001:db8::7]:81"]);
    // A rejection is listed with the forwarded address as well.
    daemon.exchange("GET / HTTP/1.1\r\nHost: x\r\nX-Forwarded-For: 203.0.113.9\r\nConnection: close\r\n\r\n");
    let refused = daemon.admin("GET", "/v1/connections/closed?address=203.0.113.9", "");
    assert_eq!(refused["connections"][0]["reason"], "upgrade_required");
}

#[test]
fn the_proxy_protocol_gives_the_client_s_address() {
    let daemon =
        Daemon::start_with("listen = [{ address = '127.0.0.1:0', proxy_protocol = true }]", |command| {
            command.env_remove("PORT");
        });
    let open = |header: &[u8]| {
        let mut stream = daemon.connect();
        stream.write_all(header).unwrap();
        client::client(request(&daemon, &[("X-Forwarded-For", "1.2.3.4")]), stream)
            .map(|(socket, _)| Client { socket })
            .ok()
    };
    let version_2 =
        [&b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c"[..], &[203, 0, 113, 9, 127, 0, 0, 1, 0x12, 0x67, 0, 80]]
            .concat();
    let _one = open(b"PROXY TCP4 198.51.100.7 127.0.0.1 4711 80\r\n").unwrap();
    let mut two = open(&version_2).unwrap();
    assert_eq!(
        addresses(&daemon),
        ["198.51.100.7:4711", "203.0.113.9:4711"],
        "the header must not override it"
    );
    two.publish("c", "hello");
    two.settle();
    // Without the header nothing is answered, because only a proxy may connect to this port.
    assert_eq!(daemon.exchange("GET /health HTTP/1.1\r\nHost: x\r\n\r\n"), "");
    daemon.wait_for_line("this listener expects a header of the PROXY protocol");
    let health = "PROXY UNKNOWN\r\nGET /health HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";
    assert_eq!(status(&daemon.exchange(health)), 200);
}

#[test]
fn a_proxy_that_stalls_is_disconnected_at_the_deadline() {
    let config = "listen = [{ address = '127.0.0.1:0', proxy_protocol = true }]\n[websocket]\nhandshake_timeout = '1s'";
    let daemon = Daemon::start_with(config, |command| {
        command.env_remove("PORT");
    });
    assert_eq!(daemon.exchange("PROXY TCP4"), "", "closed without an answer");
    assert_eq!(daemon.ended(1)[0]["reason"], "request_timeout");
}

#[test]
fn a_unix_socket_is_served_replaced_and_removed() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("philote.sock");
    // The socket of a killed daemon.
    drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
    let config =
        format!("listen = ['127.0.0.1:0', 'unix:{}']\n[limits]\ntrusted_proxies = ['unix']", path.display());
    let mut daemon = Daemon::start(&config);
    let metadata = std::fs::symlink_metadata(&path).unwrap();
    assert!(metadata.file_type().is_socket());
    assert_eq!(metadata.permissions().mode() & 0o777, 0o666);
    let connect = |headers: &[(&'static str, &str)]| {
        let stream = UnixStream::connect(&path).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        Client { socket: client::client(request(&daemon, headers), stream).unwrap().0 }
    };
    let (mut one, mut two) = (connect(&[]), connect(&[("X-Forwarded-For", "198.51.100.7")]));
    assert_eq!(addresses(&daemon), ["0.0.0.0:0", "198.51.100.7:0"]);
    // More than the buffer of a socket, in both directions.
    let data = "x".repeat(60_000);
    for _ in 0..20 {
        one.publish("c", &data);
        assert_eq!(two.data(), data);
    }
    let listeners = daemon.admin("GET", "/v1/status", "")["listeners"].clone();
    assert_eq!(listeners[1], format!("unix:{}", path.display()));

    let second = tempfile::tempdir().unwrap();
    config_file(second.path(), &format!("listen = ['unix:{}']", path.display()));
    let output = philote(second.path()).env("SECRET", SECRET).output().unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("is in use: ") && said.contains("another path"), "{said}");

    daemon.signal(Signal::TERM);
    assert_eq!(one.closed().0, 1001);
    drop(two);
    assert!(daemon.wait().success());
    assert!(!path.exists(), "the socket is removed at the end");
}

/// It was left behind, and a start beside a socket that nobody accepts from waited for ever.
#[test]
fn a_daemon_that_cannot_start_says_which_path_to_change_and_leaves_no_unix_socket() {
    let directory = tempfile::tempdir().unwrap();
    let at = |name: &str| directory.path().join(name);
    std::fs::write(at("file"), "precious").unwrap();
    let full = Socket::new(Domain::UNIX, Type::STREAM, None).unwrap();
    full.bind(&SockAddr::unix(at("full")).unwrap()).unwrap();
    full.listen(0).unwrap();
    let _waiting = UnixStream::connect(at("full")).unwrap();
    for (second, reason) in [
        ("file", "a file of another kind; remove it"),
        ("full", "another program listens there"),
        ("no/such", "its directory does not exist"),
    ] {
        let scratch = tempfile::tempdir().unwrap();
        let (first, second) = (at("first"), at(second));
        config_file(
            scratch.path(),
            &format!("listen = ['unix:{}', 'unix:{}']", first.display(), second.display()),
        );
        let mut child = philote(scratch.path()).env("SECRET", SECRET).stderr(Stdio::piped()).spawn().unwrap();
        let status = wait(&mut child);
        let said = std::io::read_to_string(child.stderr.take().unwrap()).unwrap();
        assert_eq!(status.code(), Some(1), "{said}");
        let named = format!("cannot listen on unix:{}: ", second.display());
        assert!(said.contains(&named) && said.contains(reason) && said.contains("another path"), "{said}");
        assert!(!first.exists(), "the socket that it made before");
    }
    assert_eq!(std::fs::read_to_string(at("file")).unwrap(), "precious");
}

#[test]
fn limits_per_address_apply_only_to_clients_with_a_known_address() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("philote.sock");
    let daemon = Daemon::start(&format!(
        "listen = ['127.0.0.1:0', 'unix:{}']\n[limits]\ntrusted_proxies = ['unix']\nconnections_per_address = 1",
        path.display()
    ));
    let connect = |headers: &[(&'static str, &str)]| {
        let stream = UnixStream::connect(&path).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        client::client(request(&daemon, headers), stream).map(|(socket, _)| Client { socket }).ok()
    };
    // Clients that the proxy does not name are not counted as one client; clients that it names are.
    let _unnamed = [connect(&[]).unwrap(), connect(&[]).unwrap()];
    let named = |address| connect(&[("X-Forwarded-For", address)]);
    let _one = named("198.51.100.7").unwrap();
    assert!(named("198.51.100.7").is_none());
    let _other = named("198.51.100.8").unwrap();
    let refused = daemon.admin("GET", "/v1/connections/closed?address=198.51.100.7", "");
    assert_eq!(refused["connections"][0]["reason"], "connections_per_address");
}

#[test]
fn a_listener_without_the_api_does_not_serve_it() {
    let daemon = Daemon::start_with("listen = [{ address = '127.0.0.1:0', api = false }]", |command| {
        command.env_remove("PORT");
    });
    let token = sign(&json!({"api": true}));
    let (status, body) = daemon.http("GET", "/api/info", &token, "");
    assert_eq!((status, body["error"].as_str()), (404, Some("not_found")));
    assert_eq!(daemon.http("POST", "/api/publish", &token, r#"{"channel":"c","data":"d"}"#).0, 404);
    for path in ["/api/openapi.json", "/api/channels", "/api/channels/c", "/api/connections?subject=a"] {
        assert_eq!(daemon.http("GET", path, &token, "").0, 404, "{path}");
    }
    assert_eq!(daemon.http("POST", "/api/disconnect", &token, r#"{"subject":"a"}"#).0, 404);
    assert_eq!(daemon.http("GET", "/health", "", "").0, 200);
    daemon.client(&["c"]).settle();
}

#[test]
fn the_rejection_of_an_origin_names_it() {
    let config = "[websocket]\ncheck_origin = true\nallowed_origins = ['https://*.example.org']";
    let daemon = Daemon::start(config);
    let _open = daemon.open(request(&daemon, &[("Origin", "https://chat.example.org")])).unwrap();
    let answer = daemon.exchange(upgrade(
        &sign(&json!({"read": ["c"]})),
        "Origin: https://example.com\r\nConnection: close\r\n",
    ));
    assert_eq!(status(&answer), 403);
    assert!(body_of(&answer)["message"].as_str().unwrap().contains("https://example.com"), "{answer}");
}

/// All clients of a proxy come back at once when it reloads. The backlog was never longer than 4,096, and the proxy answered
/// the others with 502, whatever net.core.somaxconn said.
#[test]
#[ignore = "needs root or user namespaces: tests/run includes it"]
fn the_backlog_is_as_long_as_the_system_allows() {
    const ALLOWED: usize = 6_000;
    let directory = tempfile::TempDir::new().unwrap();
    let path = directory.path().join("philote.sock");
    let mut command = crate::support::philote(directory.path());
    command.env("SECRET", SECRET).env("PHILOTE_LISTEN", format!("unix:{}", path.display()));
    let inside = format!("echo {ALLOWED} >/proc/sys/net/core/somaxconn && exec \"$0\"");
    let shell = crate::support::through_shell(&command, &inside);
    let mut command = std::process::Command::new("unshare");
    command.arg("-rn").arg(shell.get_program()).args(shell.get_args()).env_clear();
    for (name, value) in shell.get_envs() {
        command.env(name, value.unwrap());
    }
    command.stdout(std::process::Stdio::piped()).stderr(std::process::Stdio::piped());
    let daemon = Daemon::spawn(command, directory);
    daemon.signal(Signal::STOP);
    let waiting: Vec<_> = (0..ALLOWED)
        .map(|number| {
            let socket = Socket::new(Domain::UNIX, Type::STREAM, None).unwrap();
            // Otherwise connect waits for room.
            socket.set_nonblocking(true).unwrap();
            let connected = socket.connect(&SockAddr::unix(&path).unwrap());
            assert!(connected.is_ok(), "connection {number}: {connected:?}");
            socket
        })
        .collect();
    daemon.signal(Signal::CONT);
    drop(waiting);
}
