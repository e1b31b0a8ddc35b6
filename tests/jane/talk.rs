//! Conversations: what jane publishes, what it prints, and how it ends.

use std::process::{Command, Stdio};
use std::sync::Arc;

use serde_json::json;
use tokio_rustls::rustls;

use crate::process::{Jane, command};
use crate::server::{Server, claims};
use crate::terminal::OnTerminal;

#[test]
fn typed_lines_are_published_and_arriving_messages_are_printed() {
    let server = Server::start();
    let mut jane = Jane::start(&format!("-p {} -c chat -c news -s hunter2", server.address()));
    let mut peer = server.accept();
    let claims = peer.claims("hunter2");
    assert_eq!((&claims["read"], &claims["write"]), (&json!(["chat", "news"]), &json!(["chat", "news"])));
    assert_eq!((&claims["sub"], &claims["api"]), (&json!("grace"), &json!(null)));
    assert!(claims["exp"].is_u64());
    assert_eq!(jane.err(), format!("connected to {}: chat, news", server.address()));
    jane.write("grüß dich\n\n\"quoted\"\n");
    for data in ["grüß dich", "", "\"quoted\""] {
        assert_eq!(peer.recv(), json!({"channel": "chat", "data": data}), "lines go to the first channel");
    }
    peer.deliver("hello \u{1b}]0;title\u{7}\r\nworld");
    assert_eq!(jane.out(), r"0123abcd ada chat: hello \u{1b}]0;title\u{7}\r\nworld");
    peer.send(r#"{"issuer": "x", "channel": "c\u001bc", "data": "d", "subject": "s\u009bs", "id": "7"}"#);
    assert_eq!(jane.out(), r"x s\u{9b}s c\u{1b}c: d");
    drop(jane.stdin.take());
    assert_eq!(peer.goodbye(), 1000);
    assert_eq!(jane.end(), (0, vec![], vec![]));
}

/// Each ping is answered, and answers that nobody takes must not pile up.
#[test]
fn pongs_for_a_server_that_reads_nothing_take_bounded_memory() {
    const PINGS: usize = 400_000;
    let server = Server::start();
    let jane = Jane::start(&format!("-p {} -c chat -t a.b.c", server.address()));
    let mut peer = server.accept();
    jane.err();
    let before = jane.memory();
    peer.ping(PINGS);
    peer.deliver("after them");
    assert_eq!(jane.out(), "0123abcd ada chat: after them");
    let grown = jane.memory() - before;
    println!("{PINGS} unread pongs of 131 bytes: {grown} KiB");
    assert!(grown < 32 * 1024, "{grown} KiB");
    jane.interrupt();
}

#[test]
fn lines_of_a_pipe_are_published_before_jane_exits() {
    let server = Server::start();
    let mut jane = Jane::start(&format!("-p {} -c chat -t a.b.c", server.address()));
    jane.write("hi\nno newline at the end");
    drop(jane.stdin.take());
    let mut peer = server.accept();
    assert_eq!(peer.authorization, "Bearer a.b.c");
    assert_eq!(
        (peer.recv()["data"].clone(), peer.recv()["data"].clone()),
        (json!("hi"), json!("no newline at the end"))
    );
    assert_eq!(peer.goodbye(), 1000);
    assert_eq!(jane.end().0, 0);
}

#[test]
fn a_rejected_line_is_reported_and_a_pipe_then_exits_1() {
    let server = Server::start();
    let mut jane = Jane::start(&format!("-p {} -c chat -t a.b.c", server.address()));
    let mut peer = server.accept();
    jane.err();
    jane.write("hi\n");
    peer.recv();
    peer.send(r#"{"error": "forbidden", "channel": "chat", "message": "this token may not write to channel \"chat\""}"#);
    assert_eq!(jane.err(), r#"not published: this token may not write to channel "chat" (forbidden)"#);
    drop(jane.stdin.take());
    peer.goodbye();
    assert_eq!(jane.end(), (1, vec![], vec!["1 line was not published".into()]));
}

#[test]
fn lines_lost_with_a_connection_are_not_reported_as_published() {
    let server = Server::start();
    let mut jane = Jane::start(&format!("-p {} -c chat -t a.b.c", server.address()));
    let mut peer = server.accept();
    jane.err();
    jane.write("lost?\n");
    peer.recv();
    drop(peer);
    let lost = jane.err();
    assert!(lost.starts_with("connection lost: ") && lost.contains("; reconnecting in "), "{lost}");
    let mut peer = server.accept();
    assert!(jane.err().starts_with("connected to "));
    jane.write("more\n");
    assert_eq!(peer.recv()["data"], "more");
    drop(jane.stdin.take());
    peer.goodbye();
    let sentence = "the server did not confirm what was sent; some of it may be lost";
    assert_eq!(jane.end(), (1, vec![], vec![sentence.into()]));
}

#[test]
fn without_input_jane_prints_until_its_reader_is_gone_or_it_is_interrupted() {
    let server = Server::start();
    let line = format!("-p {} -c chat -t a.b.c", server.address());
    let jane = Jane::spawn(command(&line).stdin(Stdio::null()));
    let mut peer = server.accept();
    peer.deliver("one");
    assert_eq!(jane.out(), "0123abcd ada chat: one");
    peer.deliver("two");
    assert_eq!(jane.out(), "0123abcd ada chat: two");
    jane.interrupt();

    let program = env!("CARGO_BIN_EXE_jane");
    let mut shell = Command::new("sh");
    shell.args(["-c", &format!("{program} {line} </dev/null | head -n 1")]);
    let jane = Jane::spawn(&mut shell);
    let mut peer = server.accept();
    peer.deliver("one");
    assert_eq!(jane.out(), "0123abcd ada chat: one");
    peer.deliver("nobody reads this");
    assert_eq!(peer.goodbye(), 1005, "without a code");
    assert_eq!(jane.end().0, 0);
}

#[test]
fn in_a_terminal_it_has_colours_by_issuer_and_ends_with_ctrl_d() {
    let server = Server::start();
    let line = format!("-p {} -c chat -s hunter2", server.address());
    let mut ada = OnTerminal::start(&mut command(&line));
    let mut ada_s = server.accept();
    ada.see(&format!("connected to {}: chat\r\n", server.address()));
    let mut bob = OnTerminal::start(command(&line).env("NO_COLOR", "1"));
    let mut bob_s = server.accept();
    ada.press("hello, bob\n");
    assert_eq!(ada_s.recv(), json!({"channel": "chat", "data": "hello, bob"}));
    bob_s.deliver("hello, bob");
    assert!(!bob.see("0123abcd ada chat: hello, bob\r\n").contains('\x1b'));
    bob.press("\nhi\n");
    assert_eq!(bob_s.recv()["data"], "hi", "an empty line is not published");
    ada_s.deliver("hi \u{1b}[2J");
    let screen = ada.see("hi \\u{1b}[2J\r\n");
    let colour = screen.split_once("m0123abcd ada\x1b[0m \x1b[2mchat:\x1b[0m hi ").unwrap().0;
    assert!(colour.contains("\x1b["), "{screen:?}");
    ada.press("\x04");
    assert_eq!((ada_s.goodbye(), ada.end()), (1000, 0));
    // If the server is gone, Ctrl-D does not wait for it.
    bob_s.close(4403, "told to leave by an administrator");
    bob.see("closed by the server: told to leave by an administrator (4403)\r\n");
    assert_eq!(bob.end(), 1);
}

#[test]
fn info_prints_the_description_of_the_server() {
    let server = Server::start();
    for word in ["-info", "--info"] {
        let jane = Jane::start(&format!("-p {} -s hunter2 {word}", server.address()));
        let body = "{\"version\": \"1.0.0\", \"x\": \"\u{7f}\", \"pid\": 7}";
        let head =
            server.answer(&[&format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", body.len()), body]);
        let lines: Vec<_> = head.split("\r\n").collect();
        assert_eq!(lines[0], "GET /api/info HTTP/1.1");
        let authorization = lines.iter().find_map(|line| line.strip_prefix("authorization: ")).unwrap();
        assert_eq!(claims(authorization, "hunter2")["api"], true);
        let shown = ["{", "  \"pid\": 7,", "  \"version\": \"1.0.0\",", "  \"x\": \"\\u007f\"", "}"];
        assert_eq!(jane.end(), (0, shown.map(String::from).to_vec(), vec![]));
    }
}

#[test]
fn without_a_secret_the_local_daemon_issues_the_token() {
    let daemon = crate::daemon::Daemon::start();
    let server = Server::start();
    let line = format!("-p {} -c chat", server.address());
    let mut jane =
        Jane::spawn(command(&line).env("PHILOTE_ADMIN_SOCKET", &daemon.path).stdin(Stdio::piped()));
    let peer = server.accept();
    assert_eq!(peer.authorization, format!("Bearer {}", crate::fake::TOKEN));
    let expected = r#"TokenRequest { read: ["chat"], write: Some(["chat"]), may: NewMay { read: [], write: [] }, presence: false, info: None, api: ApiRights(), subject: Some("grace"), expires_in: Some(3600) }"#;
    assert_eq!(daemon.fake.last_seen(), expected);
    assert!(jane.err().starts_with("connected to "));
    drop(jane.stdin.take());
    peer.goodbye();
    assert_eq!(jane.end().0, 0);
}

#[test]
fn secure_uses_tls_and_checks_the_certificate() {
    let scratch = tempfile::tempdir().unwrap();
    let authority = scratch.path().join("ca.pem");
    let made = rcgen::generate_simple_self_signed(["localhost".into(), "127.0.0.1".into()]).unwrap();
    std::fs::write(&authority, made.cert.pem()).unwrap();
    let key = rustls::pki_types::PrivatePkcs8KeyDer::from(made.signing_key.serialize_der());
    let config = rustls::ServerConfig::builder()
        .with_no_client_auth()
        .with_single_cert(vec![made.cert.der().clone()], key.into())
        .unwrap();
    let config = Arc::new(config);

    let server = Server::start();
    let ours = format!("-secure --ca {}", authority.display());
    for (words, file) in
        [("-secure", &authority), ("--secure", &authority), (&*ours, &scratch.path().join("none"))]
    {
        let line = format!("-p {} -c chat -s hunter2 {words}", server.address());
        let mut jane = Jane::spawn(command(&line).env("SSL_CERT_FILE", file).stdin(Stdio::piped()));
        let mut peer = server.accept_tls(Arc::clone(&config));
        jane.write("through TLS\n");
        assert_eq!(peer.recv()["data"], "through TLS");
        peer.deliver("and back");
        assert_eq!(jane.out(), "0123abcd ada chat: and back");
        drop(jane.stdin.take());
        peer.goodbye();
        assert_eq!(jane.end().0, 0);
    }

    let line = format!("-p {} -c chat -s hunter2 -secure --ca /nothing/here", server.address());
    let (code, _, err) = Jane::start(&line).end();
    assert_eq!(code, 1);
    assert!(err[0].starts_with("cannot take authorities from /nothing/here: "), "{err:?}");

    // Without that certificate the server is not trusted.
    let line = format!("-p {} -c chat -s hunter2 -secure", server.address());
    let jane = Jane::start(&line);
    let refused = std::thread::spawn(move || {
        let mut stream = server.tcp();
        let mut connection = rustls::ServerConnection::new(config).unwrap();
        while connection.is_handshaking() && connection.complete_io(&mut stream).is_ok() {}
        server.address()
    });
    let (code, out, err) = jane.end();
    let address = refused.join().unwrap();
    assert_eq!((code, out.len()), (1, 0));
    assert!(
        err[0].starts_with(&format!("no TLS connection to {address}: invalid peer certificate")),
        "{err:?}"
    );
}
