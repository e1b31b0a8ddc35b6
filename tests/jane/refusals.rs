//! The sentences that jane prints when it is refused or disconnected, and when it reconnects.

use std::net::TcpListener;
use std::process::Stdio;

use rustix::fs::{CWD, Mode, mkfifoat};

use crate::process::{Jane, command};
use crate::server::Server;

/// jane with a token or a secret against `server`; its standard input stays open.
fn jane(server: &Server, access: &str) -> Jane {
    Jane::start(&format!("-p {} -c chat {access}", server.address()))
}

fn failed(jane: Jane, message: &str, hint: Option<&str>) {
    let lines = [Some(message), hint].into_iter().flatten().map(String::from).collect();
    assert_eq!(jane.end(), (1, vec![], lines));
}

/// The head of an answer with this body.
fn http(status: &str, body: &str) -> (String, String) {
    let head = format!("HTTP/1.1 {status}\r\nContent-Length: {}\r\n\r\n", body.len());
    (head, body.into())
}

#[test]
fn a_rejection_prints_the_sentence_of_the_server() {
    let server = Server::start();
    let address = server.address();
    let (head, body) = http("401 Unauthorized", r#"{"message": "the token's signature does not match"}"#);
    for (access, hint) in [
        ("-s hunter3", "use the secret of that server: sudo philotectl secret show"),
        ("-t a.b.c", "ask the server's administrator for a token: philotectl token"),
    ] {
        let jane = jane(&server, access);
        // The sentence arrives in separate packets.
        server.answer(&[&head, &body[..20], &body[20..]]);
        let message = format!("{address} refused: the token's signature does not match (401)");
        failed(jane, &message, Some(hint));
    }
    for (body, sentence) in [
        (r#"{"message": "refused \u001b[2J until noon"}"#, r"refused \u{1b}[2J until noon"),
        ("<html>Forbidden</html>", "Forbidden"),
    ] {
        let jane = jane(&server, "-t a.b.c");
        let (head, body) = http("403 Forbidden", body);
        server.answer(&[&head, &body]);
        failed(jane, &format!("{address} refused: {sentence} (403)"), None);
    }
}

#[test]
fn a_server_that_is_not_philote_gets_an_error_and_a_hint() {
    let server = Server::start();
    let address = server.address();
    for answer in [
        "220 mail.example.org ESMTP\r\n",
        "HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Accept: bm8=\r\n\r\n",
    ] {
        let jane = jane(&server, "-t a.b.c");
        server.answer(&[answer]);
        let hint = "check -p HOST:PORT; a server with TLS needs -secure";
        failed(jane, &format!("{address} does not speak WebSocket"), Some(hint));
    }
    let page = jane(&server, "-t a.b.c");
    server.answer(&["HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nhi!\n"]);
    failed(page, &format!("{address} refused: OK (200)"), None);
}

#[test]
fn an_unreachable_server_is_final_at_first_and_retried_later() {
    let nobody = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let jane_alone = Jane::start(&format!("-p {nobody} -c chat -t a.b.c"));
    let message = format!("cannot connect to {nobody}: Connection refused (os error 111)");
    failed(jane_alone, &message, Some("check that the server is running, and -p HOST:PORT"));

    let server = Server::start();
    let jane = jane(&server, "-t a.b.c");
    server.accept().close(1012, "please reconnect");
    assert!(jane.err().starts_with("connected to "));
    assert!(jane.err().starts_with("closed by the server: please reconnect (1012); reconnecting in "));
    // The server is full for a moment.
    server.answer(&["HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\n\r\n"]);
    assert!(jane.err().contains(" refused: Service Unavailable (503); reconnecting in "));
    let peer = server.accept();
    assert!(jane.err().starts_with("connected to "));
    peer.close(4413, "too slow");
    assert!(jane.err().starts_with("closed by the server: too slow (4413); reconnecting in "));
    // Then the secret is changed.
    server.answer(&["HTTP/1.1 401 Unauthorized\r\nContent-Length: 0\r\n\r\n"]);
    let message = format!("{} refused: Unauthorized (401)", server.address());
    failed(jane, &message, Some("ask the server's administrator for a token: philotectl token"));
}

#[test]
fn an_expired_token_is_replaced_if_jane_can_sign_one() {
    let server = Server::start();
    let fixed = jane(&server, "-t a.b.c");
    server.accept().close(4401, "the token expired");
    assert!(fixed.err().starts_with("connected to "));
    let message = "closed by the server: the token expired (4401)";
    failed(fixed, message, Some("ask the server's administrator for a token: philotectl token"));

    let signing = jane(&server, "-s hunter2");
    server.accept().close(4401, "the token expired");
    let peer = server.accept();
    assert_eq!(peer.claims("hunter2")["read"][0], "chat");
    peer.close(4403, "told to leave by an administrator");
    let (code, _, err) = signing.end();
    assert_eq!(
        (code, err.last().unwrap().as_str()),
        (1, "closed by the server: told to leave by an administrator (4403)")
    );
}

#[test]
fn without_any_token_the_error_names_the_options() {
    let nowhere =
        command("-c chat").env("PHILOTE_ADMIN_SOCKET", "/none.sock").stdin(Stdio::null()).output().unwrap();
    let err = String::from_utf8(nowhere.stderr).unwrap();
    assert_eq!(
        (nowhere.status.code(), err.as_str()),
        (
            Some(1),
            "no token from the daemon on this machine: philote is not running: no socket at /none.sock\n\
             use the server's secret with -S FILE, or a token with -t TOKEN\n"
        )
    );
}

#[test]
fn wrong_arguments_exit_2_and_unreadable_files_exit_1() {
    for (line, message, hint) in [
        (
            "",
            "the following required arguments were not provided: --channel <CHANNEL>",
            "usage: jane --channel <CHANNEL>",
        ),
        (
            "-c c -p http://x",
            "invalid value 'http://x' for '--server <HOST:PORT|URL>': a server URL starts with ws:// or wss://",
            "see: jane --help",
        ),
        (
            "-c c -s a -t b",
            "the argument '--secret <SECRET>' cannot be used with '--token <TOKEN>'",
            "usage: jane --channel <CHANNEL> --secret <SECRET>",
        ),
    ] {
        let jane = Jane::start(line);
        assert_eq!(jane.end(), (2, vec![], vec![message.into(), hint.into()]), "{line}");
    }
    failed(
        Jane::start("-c c -S /none"),
        "cannot read the secret from /none: No such file or directory (os error 2)",
        None,
    );
    let scratch = tempfile::tempdir().unwrap();
    let pipe = scratch.path().join("pipe");
    mkfifoat(CWD, &pipe, Mode::RUSR | Mode::WUSR).unwrap();
    let pipe = pipe.display();
    failed(
        Jane::start(&format!("-c c -S {pipe}")),
        &format!("cannot read the secret from {pipe}: it is a pipe, not a regular file"),
        None,
    );
    failed(
        Jane::start(&format!("-c c -t a.b.c -secure --ca {pipe}")),
        &format!("cannot take authorities from {pipe}: it is a pipe, not a regular file"),
        None,
    );
    failed(
        Jane::start("-c c -t a\u{1}b"),
        "the argument of -t is not a token: it has invalid characters",
        None,
    );
}
