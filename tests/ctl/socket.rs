//! The admin server over a raw socket: every route, and hostile or broken requests.

use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use philote::admin::api::*;
use philote::admin::server::{DEADLINE, MAX_BODY, MAX_CLIENTS, MAX_HEAD, MAX_PUBLISH};
use serde_json::json;

use crate::commands::EVERY_COMMAND;
use crate::daemon::Daemon;
use crate::fake::{SECRET, TOKEN, gate, log};
use crate::process::{Ended, as_nobody, philotectl, run};

/// Set in the process that uses up its descriptors.
const STARVED: &str = "PHILOTE_TEST_STARVED";

#[test]
fn every_route_answers() {
    let daemon = Daemon::start();
    let (code, status) = daemon.http("GET", STATUS, "");
    assert_eq!(
        (code, &status["connections"], &status["started_at"]),
        (200, &json!(12), &json!("2026-11-22T10:45:00Z"))
    );
    let token = json!({"token": TOKEN, "expires_at": "2026-11-22T10:46:00Z"});
    assert_eq!(daemon.http("POST", "/v1/token", r#"{"read": ["chat"], "expires_in": 60}"#), (200, token));
    assert!(daemon.fake.last_seen().contains(r#"read: ["chat"], write: None"#));
    let (code, inspection) = daemon.http("POST", INSPECT, r#"{"token": "a.b.c"}"#);
    assert_eq!((code, &inspection["accepted"], daemon.fake.last_seen()), (200, &json!(true), "a.b.c".into()));
    let secrets = json!({"secrets": [SECRET, "older"], "source": "/var/lib/philote/secret"});
    assert_eq!(daemon.http("GET", "/v1/secret", ""), (200, secrets));
    let changed = json!({"path": "/var/lib/philote/secret", "secrets": 2, "closing": 3});
    assert_eq!(daemon.http("PUT", "/v1/secret", r#"{"secret": "new\nold\n"}"#), (200, changed));
    assert_eq!(daemon.fake.last_seen(), "new\nold\n");
    let conflict = json!({
        "error": "conflict",
        "message": "the secret comes from the environment variable SECRET",
        "hint": "change it where it is set, then restart",
    });
    assert_eq!(daemon.http("POST", "/v1/secret/rotate", ""), (409, conflict));
    let (code, reloaded) = daemon.http("POST", "/v1/reload", "");
    assert_eq!((code, &reloaded["needs_restart"]), (200, &json!(["listen"])));
    assert_eq!(daemon.http("GET", "/v1/ready", ""), (200, json!({"state": "serving"})));
}

#[test]
fn every_route_of_lists_and_actions_answers() {
    let daemon = Daemon::start();
    let get = |path: &str| daemon.http("GET", path, "");
    let (code, found) = get("/v1/connections?channel=a%26b+c&sort=queued&limit=20&address=192.0.2.7");
    assert_eq!((code, &found["matched"]), (200, &json!(12_345)));
    let seen = daemon.fake.last_seen();
    assert!(seen.contains(r#"channel: Some("a&b c")"#) && seen.contains("limit: Some(20)"), "{seen}");
    assert_eq!(get("/v1/connections/closed?subject=alice&reason=slow_consumer").1["matched"], 2);
    assert_eq!(get("/v1/channels?prefix=ch").1["channels"][0]["channel"], "chat");
    assert_eq!(get("/v1/refused").1["refused"][0]["subject"], "eve");
    assert_eq!(get("/v1/log-level").1["level"], "info");
    for (query, part) in [
        ("connections?chanel=c", "unknown field `chanel`"),
        ("connections?limit=many", "invalid digit"),
        ("connections?address=home", "give an address such as"),
        ("connections/closed?channel=c", "unknown field `channel`"),
        ("channels?sort=size", "unknown variant `size`"),
    ] {
        let (code, failure) = get(&format!("/v1/{query}"));
        let message = failure["message"].as_str().unwrap();
        assert!(code == 400 && message.contains(part), "{query}: {failure}");
    }
    let disconnected = json!({"matched": 2, "dry_run": true, "refused_until": null});
    let body = r#"{"channel": "only looked at", "dry_run": true}"#;
    assert_eq!(daemon.http("POST", "/v1/disconnect", body), (200, disconnected));
    assert_eq!(daemon.http("POST", "/v1/disconnect", r#"{"channel": "closed here"}"#).1["matched"], 2);
    assert_eq!(daemon.http("POST", "/v1/disconnect", r#"{"chanel": "chat"}"#).0, 400);
    assert_eq!(daemon.http("DELETE", "/v1/refused", r#"{"subject": "eve"}"#), (200, json!({"matched": 1})));
    let body = r#"{"messages": [{"channel": "chat", "data": "hello"}]}"#;
    let published = json!({"published": [{"channel": "chat", "readers": 3}]});
    assert_eq!(daemon.http("POST", "/v1/publish", body), (200, published));
    let level = json!({"level": "debug", "configured": "info"});
    assert_eq!(daemon.http("PUT", "/v1/log-level", r#"{"level": "debug"}"#), (200, level));
    assert_eq!(daemon.http("PUT", "/v1/log-level", r#"{"level": "loud"}"#).0, 400);
    assert_eq!(daemon.http("POST", "/v1/reload", r#"{"dry_run": true}"#).1["dry_run"], true);
    let large =
        format!(r#"{{"messages": [{{"channel": "chat", "data": "{}"}}]}}"#, "x".repeat(MAX_PUBLISH - 52));
    assert_eq!(daemon.http("POST", "/v1/publish", &large).0, 200, "publishing accepts a larger body");
    assert_eq!(daemon.http("POST", "/v1/publish", &(large + &" ".repeat(9))).0, 413);

    let stream = daemon.raw(b"GET /v1/events?messages=true HTTP/1.1\r\nHost: x\r\n\r\n");
    assert!(stream.starts_with("HTTP/1.1 200 OK\r\n") && stream.contains("transfer-encoding: chunked\r\n"));
    assert!(stream.contains("\n{\"event\":\"missed\",\"missed\":7}\n\r\n0\r\n\r\n"), "{stream}");

    let log = log();
    for command in [
        "refused remove \"eve\"",
        "publish of 1 on [\"chat\"]",
        "log-level Debug",
        "events with the messages of all",
    ] {
        assert!(log.contains(&format!("admin: {command}")), "{command}");
    }
    for came_to in ["done, 1 lifted", "done, queued for 3", "done, 1 changed"] {
        assert!(log.contains(came_to), "{came_to}");
    }
    // The log is that of all tests of this process.
    assert!(
        log.lines().any(|line| line.contains("disconnect of 2") && line.contains("closed here")),
        "{log}"
    );
    assert!(!log.contains("only looked at") && !log.contains("dry_run") && !log.contains("hello"));
}

#[test]
#[ignore = "needs curl: tests/run includes it"]
fn curl_gets_the_same_answers() {
    let daemon = Daemon::start();
    // Arguments of philotectl, and the same request by hand: method, route, body.
    for (line, method, route, body) in [
        ("status", "GET", "status", ""),
        ("wait-ready", "GET", "ready", ""),
        (
            "connections --subject alice --sort queued --limit 20",
            "GET",
            "connections?subject=alice&sort=queued&limit=20",
            "",
        ),
        ("connections --reason origin --limit 5", "GET", "connections/closed?reason=origin&limit=5", ""),
        ("channels --prefix ch", "GET", "channels?prefix=ch", ""),
        (
            "disconnect --subject eve --refuse-for 1h",
            "POST",
            "disconnect",
            r#"{"subject": "eve", "refuse_for": 3600}"#,
        ),
        (
            "disconnect --all --reconnect --dry-run",
            "POST",
            "disconnect",
            r#"{"all": true, "reconnect": true, "dry_run": true}"#,
        ),
        ("refused", "GET", "refused", ""),
        ("refused --remove eve", "DELETE", "refused", r#"{"subject": "eve"}"#),
        ("token --read chat --expires-in 1m", "POST", "token", r#"{"read": ["chat"], "expires_in": 60}"#),
        ("inspect a.b.c", "POST", "inspect", r#"{"token": "a.b.c"}"#),
        ("secret show", "GET", "secret", ""),
        ("secret set", "PUT", "secret", r#"{"secret": "secret"}"#),
        ("reload", "POST", "reload", ""),
        ("reload --dry-run", "POST", "reload", r#"{"dry_run": true}"#),
        ("log-level debug", "PUT", "log-level", r#"{"level": "debug"}"#),
        ("log-level", "GET", "log-level", ""),
    ] {
        let mut curl = Command::new("curl");
        curl.args(["-sS", "--unix-socket"]).arg(&daemon.path).args(["-X", method, "--data", body]);
        let by_curl = run(
            {
                curl.arg(format!("http://philote/v1/{route}"));
                curl
            },
            b"",
        );
        let by_ctl = run(philotectl(&daemon.path, &format!("{line} --json")), b"secret");
        let by_curl: serde_json::Value =
            serde_json::from_str(&by_curl.out).unwrap_or_else(|_| panic!("{by_curl:?}"));
        assert_eq!(by_curl, by_ctl.json(), "{line}");
    }
    let mut curl = Command::new("curl");
    curl.args(["-sS", "--unix-socket"]).arg(&daemon.path).arg("http://philote/v1/events?messages=true");
    let events = run(philotectl(&daemon.path, "events --messages --json"), b"").out;
    assert_eq!(run(curl, b"").out, events);
    let mut curl = Command::new("curl");
    curl.args(["-sS", "--unix-socket"]).arg(&daemon.path).arg("http://philote/v1/publish");
    let published = run(
        {
            curl.args(["--data", r#"{"messages": [{"channel": "c", "data": "x"}]}"#]);
            curl
        },
        b"",
    );
    assert_eq!(published.out, "{\"published\":[{\"channel\":\"c\",\"readers\":3}]}\n");
}

#[test]
fn an_unknown_route_method_or_key_gets_an_error_and_a_hint() {
    let daemon = Daemon::start();
    let (code, failure) = daemon.http("GET", "/v1/nothing", "");
    assert_eq!((code, &failure["error"]), (404, &json!("not_found")));
    let answer = daemon.raw(b"DELETE /v1/secret HTTP/1.1\r\nHost: x\r\n\r\n");
    assert!(answer.starts_with("HTTP/1.1 405 ") && answer.contains("\r\nallow: GET, PUT\r\n"), "{answer}");
    let (code, failure) = daemon.http("POST", "/v1/token", r#"{"reads": ["chat"]}"#);
    assert_eq!((code, &failure["error"]), (400, &json!("bad_request")));
    assert_eq!(failure["hint"], r#"send for example {"read": ["chat"], "write": ["chat"]}"#);
}

#[test]
fn fault_67_garbage_and_a_body_of_one_mebibyte_are_refused() {
    let daemon = Daemon::start();
    assert!(daemon.raw(&[0xff; 4096]).starts_with("HTTP/1.1 400 "));
    assert!(
        daemon
            .raw(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03 a TLS hello\r\n\r\n")
            .starts_with("HTTP/1.1 400 ")
    );
    let head = format!("GET /v1/status HTTP/1.1\r\nX: {}\r\n\r\n", "x".repeat(MAX_HEAD));
    assert!(daemon.raw(head.as_bytes()).starts_with("HTTP/1.1 431 "));
    let (code, failure) = daemon.http("PUT", "/v1/secret", &"x".repeat(1 << 20));
    assert_eq!((code, &failure["error"]), (413, &json!("too_large")));
    let fits = format!(r#"{{"secret": "{}"}}"#, "x".repeat(MAX_BODY - 14));
    assert_eq!((fits.len(), daemon.http("PUT", "/v1/secret", &fits).0), (MAX_BODY, 200));
    let chunk = format!(
        "PUT /v1/secret HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n{:x}\r\n{fits}xx",
        MAX_BODY + 2
    );
    assert!(daemon.raw(chunk.as_bytes()).starts_with("HTTP/1.1 413 "));
    assert_eq!(daemon.http("GET", "/v1/ready", "").0, 200);
}

#[test]
fn fault_67_a_request_that_stops_halfway_is_cut_at_the_deadline() {
    let daemon = Daemon::start();
    let start = Instant::now();
    let halves: [(&[u8], &str); 3] = [
        (b"", ""),
        (b"GET /v1/status HTTP/1.1\r\nHost: phi", ""),
        (
            b"POST /v1/token HTTP/1.1\r\nHost: x\r\nContent-Length: 90\r\n\r\n{",
            "HTTP/1.1 408 Request Timeout\r\n",
        ),
    ];
    let mut streams = halves.map(|(half, expected)| {
        let mut stream = UnixStream::connect(&daemon.path).unwrap();
        stream.write_all(half).unwrap();
        (stream, expected)
    });
    for (stream, expected) in &mut streams {
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        assert!(answer.starts_with(*expected) && answer.is_empty() == expected.is_empty(), "{answer}");
    }
    let took = start.elapsed();
    assert!(took >= DEADLINE && took < DEADLINE + Duration::from_secs(5), "{took:?}");
}

#[test]
fn fault_67_a_thousand_idle_clients_do_not_block_another_client() {
    let daemon = Daemon::start();
    let half = b"GET /v1/status HTTP/1.1\r\nHost: phi";
    let connect = |_| {
        let mut stream = UnixStream::connect(&daemon.path).unwrap();
        // The server may have closed some connections already.
        let _ = stream.write_all(half);
        stream
    };
    let idle: Vec<_> = (0..1000).map(connect).collect();
    let start = Instant::now();
    assert_eq!(daemon.http("GET", "/v1/ready", "").0, 200);
    assert!(start.elapsed() < DEADLINE, "no slot was given to a client with a request");
    let cut_off = idle
        .iter()
        .filter(|stream| {
            stream.set_nonblocking(true).unwrap();
            !matches!((&mut &**stream).read(&mut [0]), Err(error) if error.kind() == std::io::ErrorKind::WouldBlock)
        })
        .count();
    assert!(cut_off >= 1000 - MAX_CLIENTS, "{cut_off} cut off");
}

#[test]
fn clients_that_go_on_sending_after_their_answer_do_not_block_another_client() {
    let daemon = Daemon::start();
    let answered: Vec<_> = (0..MAX_CLIENTS)
        .map(|_| {
            let mut stream = UnixStream::connect(&daemon.path).unwrap();
            stream.write_all(b"GET /v1/ready HTTP/1.1\r\nHost: philote\r\n\r\n").unwrap();
            assert!(stream.read(&mut [0; 4096]).unwrap() > 0);
            stream
        })
        .collect();
    std::thread::scope(|scope| {
        let (_stop, stopped) = channel::<()>();
        let clients = &answered;
        scope.spawn(move || {
            // More often than the silence after which the daemon stops reading.
            while stopped.recv_timeout(Duration::from_millis(300)) == Err(RecvTimeoutError::Timeout) {
                clients.iter().for_each(|mut stream| _ = stream.write(b"x"));
            }
        });
        let start = Instant::now();
        assert_eq!(daemon.http("GET", "/v1/ready", "").0, 200);
        assert!(start.elapsed() < DEADLINE / 3, "{:?}", start.elapsed());
    });
}

#[test]
fn a_client_with_a_request_keeps_its_slot_while_idle_ones_connect() {
    let daemon = Daemon::start();
    let (begun, go) = gate(&daemon.fake);
    std::thread::scope(|scope| {
        let reload = scope.spawn(|| daemon.http("POST", "/v1/reload", "").0);
        begun.recv().unwrap();
        let idle: Vec<_> = (0..2 * MAX_CLIENTS).map(|_| UnixStream::connect(&daemon.path).unwrap()).collect();
        assert_eq!(daemon.http("GET", "/v1/status", "").0, 200, "a waiting command must not block others");
        drop(idle);
        go.send(()).unwrap();
        assert_eq!(reload.join().unwrap(), 200);
    });
}

#[test]
fn fault_54_the_admin_socket_answers_when_no_descriptor_is_left() {
    // In its own process, which this one watches, because little works in a process without descriptors.
    let mut starved = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "socket::starved", "--nocapture"])
        .env(STARVED, "1")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(starved.stdout.take().unwrap()).lines().map(Result::unwrap);
    let path = lines.find_map(|line| line.split_once("starved: ").map(|(_, path)| path.to_owned())).unwrap();
    for _ in 0..5 {
        assert_eq!(run(philotectl(Path::new(&path), "status"), b"").code, 0);
    }
    drop(starved.stdin.take());
    assert!(starved.wait().unwrap().success());
}

#[test]
fn starved() {
    // The other half of fault 54. It needs its own process, because the limit applies to a process.
    if std::env::var_os(STARVED).is_none() {
        return;
    }
    use rustix::process::{Resource, Rlimit, setrlimit};
    let daemon = Daemon::start();
    assert!(daemon.raw(b"GET /v1/ready HTTP/1.1\r\nHost: x\r\n\r\n").contains("serving"));
    setrlimit(Resource::Nofile, Rlimit { current: Some(64), maximum: Some(64) }).unwrap();
    let taken: Vec<_> = std::iter::from_fn(|| std::fs::File::open("/dev/null").ok()).collect();
    println!("starved: {}", daemon.path.display());
    let _ = std::io::stdin().read(&mut [0]);
    assert!(!taken.is_empty());
}

#[test]
fn the_socket_has_its_mode_and_is_removed_with_the_server() {
    let mut daemon = Daemon::with_mode(0o600);
    assert_eq!(std::fs::metadata(&daemon.path).unwrap().mode() & 0o7777, 0o600);
    daemon.stop();
    assert_eq!(std::fs::read_dir(daemon.directory()).unwrap().count(), 0);
}

#[test]
fn stopping_waits_a_bounded_time_for_answers_in_progress() {
    let mut daemon = Daemon::start();
    let (begun, go) = gate(&daemon.fake);
    let path = daemon.path.clone();
    let stuck = std::thread::spawn(move || {
        let mut stream = UnixStream::connect(path).unwrap();
        stream.write_all(b"POST /v1/reload HTTP/1.1\r\nHost: x\r\n\r\n").unwrap();
        let mut answer = String::new();
        let _ = stream.read_to_string(&mut answer);
        answer
    });
    begun.recv().unwrap();
    daemon.stop();
    assert_eq!(stuck.join().unwrap(), "", "it must end without an answer");
    drop(go);
}

#[test]
#[ignore = "needs root: tests/run includes it"]
fn fault_67_another_user_is_refused_by_the_mode_and_never_sees_the_secret() {
    let closed = Daemon::with_mode(0o660);
    let sentence = format!(
        "permission denied on {}\nrun this command as the user who started philote, or with sudo\n",
        closed.path.display()
    );
    for line in EVERY_COMMAND.iter().chain(&["events"]) {
        for line in [(*line).to_owned(), format!("{line} --json")] {
            let ended = as_nobody(&closed, &line);
            assert_eq!(ended, Ended { code: 4, out: String::new(), err: sentence.clone() }, "{line}");
        }
    }
    let open = Daemon::with_mode(0o666);
    assert_eq!(as_nobody(&open, "status").code, 0);
    let ended = as_nobody(&open, "secret show");
    assert_eq!((ended.code, ended.out.as_str()), (4, ""));
    assert_eq!(ended.err, "only root and the daemon's own user may show or set the secret\nuse sudo\n");
    assert!(log().lines().any(|line| line.contains("command=\"secret show\"")
        && line.contains("peer_uid=65534")
        && line.contains("only root and")));
    // If the directory cannot be read, philotectl must not conclude that no daemon runs.
    std::fs::set_permissions(open.directory(), PermissionsExt::from_mode(0o700)).unwrap();
    assert_eq!(as_nobody(&open, "status").code, 4);
}

#[test]
fn changes_and_issued_tokens_are_logged_without_secrets() {
    let daemon = Daemon::start();
    let mark = format!("mark-{}", std::process::id());
    let token = format!(r#"{{"read": ["{mark}"], "subject": "eve\u001b[2J\nx"}}"#);
    daemon.http("POST", "/v1/token", &token);
    daemon.http("PUT", "/v1/secret", &format!(r#"{{"secret": "{SECRET}"}}"#));
    daemon.http("PUT", "/v1/secret", &format!(r#"{{"secret": "{SECRET}", "more": "{SECRET}"}}"#));
    daemon.http("GET", "/v1/secret", "");
    let log = log();
    let me = format!("peer_uid={}", rustix::process::geteuid().as_raw());
    let pid = format!("pid {}", std::process::id());
    let line = log.lines().find(|line| line.contains(&mark)).unwrap();
    for part in [me.as_str(), &pid, "philote::audit", r#"subject "eve\u{1b}[2J\nx""#, "for 604800 s", "done"]
    {
        assert!(line.contains(part), "{part} in {line}");
    }
    for command in ["secret set", "secret show"] {
        assert!(log.contains(&format!("admin: {command} by uid")), "{command}");
    }
    assert!(!log.contains(SECRET) && !log.contains(TOKEN));
}
