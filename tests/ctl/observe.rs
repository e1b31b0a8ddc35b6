//! The socket for observers: it answers what monitoring needs, and refuses the rest, route by route.

use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;

use philote::admin::api::{
    CHANNELS, CLOSED, CONNECTIONS, DISCONNECT, DOCTOR, EVENTS, INSPECT, LOG_LEVEL, METRICS, NODES, PUBLISH,
    READY, REFUSED, STATUS,
};
use philote::admin::server::MAX_CLIENTS;

use crate::daemon::Daemon;
use crate::fake::{SECRET, TOKEN};
use crate::manual::ROUTES;
use crate::process::{as_nobody, philotectl, run};

/// What an observer may ask for; everything else is refused.
const OBSERVED: [(&str, &str); 11] = [
    ("GET", STATUS),
    ("GET", DOCTOR),
    ("GET", READY),
    ("GET", METRICS),
    ("GET", CONNECTIONS),
    ("GET", CLOSED),
    ("GET", CHANNELS),
    ("GET", REFUSED),
    ("GET", NODES),
    ("GET", LOG_LEVEL),
    ("GET", EVENTS),
];

#[test]
fn an_observer_reads_and_every_other_route_is_refused() {
    let daemon = Daemon::start();
    let bodies = [
        (philote::admin::api::TOKEN, r#"{"read": ["chat"]}"#),
        (INSPECT, r#"{"token": "a.b.c"}"#),
        (DISCONNECT, r#"{"all": true}"#),
        (PUBLISH, r#"{"messages": [{"channel": "chat", "data": "x"}]}"#),
    ];
    let mut allowed = 0;
    for (methods, route) in ROUTES {
        for method in methods {
            let body = bodies.iter().find(|(of, _)| *of == route).map_or("{}", |(_, body)| *body);
            let body = if *method == "GET" { "" } else { body };
            daemon.fake.seen.lock().unwrap().clear();
            let (code, answer) = Daemon::ask(&daemon.observe, method, route, body);
            if OBSERVED.contains(&(*method, route)) {
                assert_eq!(code, 200, "{method} {route}: {answer}");
                allowed += 1;
                continue;
            }
            assert_eq!(code, 403, "{method} {route}: {answer}");
            assert!(answer.contains("for observing only") && answer.contains("\"forbidden\""), "{answer}");
            assert_eq!(daemon.fake.last_seen(), "", "{method} {route} must not reach the daemon");
            for secret in [SECRET, TOKEN] {
                assert!(!answer.contains(secret), "{method} {route}");
            }
            // What is refused here exists on the admin socket.
            assert_ne!(Daemon::ask(&daemon.path, method, route, body).0, 403, "{method} {route}");
        }
    }
    assert_eq!(allowed, OBSERVED.len());
    assert_eq!(Daemon::ask(&daemon.observe, "GET", "/v1/none", "").0, 404);
}

/// Messages are private, although the route of events is not.
#[test]
fn an_observer_does_not_see_messages() {
    let daemon = Daemon::start();
    let (code, answer) = Daemon::ask(&daemon.observe, "GET", "/v1/events?messages=true", "");
    assert_eq!(code, 403, "{answer}");
    assert_eq!(Daemon::ask(&daemon.path, "GET", "/v1/events?messages=true", "").0, 200);
}

#[test]
fn philotectl_works_on_the_socket_of_observers_as_far_as_that_goes() {
    let daemon = Daemon::start();
    let observe = |line: &str| run(philotectl(&daemon.observe, line), b"secret");
    for line in [
        "status",
        "connections",
        "explain --subject a --channel c",
        "channels",
        "refused",
        "log-level",
        "wait-ready",
        "nodes",
    ] {
        assert_eq!(observe(line).code, 0, "{line}");
    }
    // The socket of everyone is no fault here.
    let report = observe("doctor --json").json();
    let permissions = report["findings"].as_array().unwrap().iter().find(|one| one["check"] == "permissions");
    assert_eq!(permissions.unwrap()["verdict"], "ok", "{report:#}");
    for line in ["token --read chat", "secret show", "reload", "disconnect --all", "publish chat hello"] {
        let ended = observe(line);
        assert_eq!((ended.code, ended.out.as_str()), (4, ""), "{line}");
        assert!(ended.err.contains("this socket is for observing only"), "{}", ended.err);
        assert!(ended.err.ends_with("name the admin socket: --socket PATH\n"), "{}", ended.err);
    }
}

#[test]
fn fault_67_observers_cannot_keep_administrators_out() {
    let daemon = Daemon::start();
    let mut silent = Vec::new();
    for _ in 0..MAX_CLIENTS + 8 {
        silent.push(UnixStream::connect(&daemon.observe).unwrap());
    }
    assert_eq!(daemon.ctl("status").code, 0);
    assert_eq!(run(philotectl(&daemon.observe, "status"), b"").code, 0, "the oldest makes room");
    drop(silent);
}

#[test]
fn both_sockets_have_their_own_mode_and_go_with_the_daemon() {
    let mut daemon = Daemon::start();
    let mode = |path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!((mode(&daemon.path), mode(&daemon.observe)), (0o660, 0o666));
    daemon.stop();
    assert!(!daemon.path.exists() && !daemon.observe.exists());
}

#[test]
#[ignore = "needs root: tests/run includes it"]
fn another_user_may_observe_and_nothing_else() {
    let daemon = Daemon::start();
    let observe = daemon.observe.display();
    assert_eq!(as_nobody(&daemon, &format!("--socket {observe} status")).code, 0);
    assert_eq!(as_nobody(&daemon, &format!("--socket {observe} token --read chat")).code, 4);
    assert_eq!(as_nobody(&daemon, "status").code, 4, "the admin socket stays closed");
}
