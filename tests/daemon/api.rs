//! The API for backends: each route, each right, each rejection, each limit.

use serde_json::{Value, json};

use crate::support::{Client, Daemon, SECRET, assert_no_secrets, body_of, header, sign, status, upgrade};

/// A backend with one token.
struct Backend<'a> {
    daemon: &'a Daemon,
    token: String,
}

impl<'a> Backend<'a> {
    fn new(daemon: &'a Daemon, claims: &Value) -> Backend<'a> {
        Backend { daemon, token: sign(claims) }
    }

    fn all(daemon: &'a Daemon) -> Backend<'a> {
        Backend::new(daemon, &json!({"api": true, "sub": "backend"}))
    }

    fn ask(&self, method: &str, path: &str, body: &Value) -> (u16, Value) {
        let body = if body.is_null() { String::new() } else { body.to_string() };
        self.daemon.http(method, path, &self.token, &body)
    }

    /// The answer to a GET.
    fn get(&self, path: &str) -> Value {
        let (code, answer) = self.ask("GET", path, &Value::Null);
        assert_eq!(code, 200, "{path}: {answer}");
        answer
    }

    /// The sentence with which a request is refused.
    fn refused(&self, code: u16, method: &str, path: &str, body: &Value) -> String {
        let (refused, answer) = self.ask(method, path, body);
        assert_eq!(refused, code, "{method} {path} {body}: {answer}");
        assert!(answer["error"].is_string(), "{answer}");
        answer["message"].as_str().unwrap().to_owned()
    }

    fn publish(&self, body: &Value) -> Vec<u64> {
        let (code, answer) = self.ask("POST", "/api/publish", body);
        assert_eq!(code, 200, "{answer}");
        answer["published"].as_array().unwrap().iter().map(|one| one["readers"].as_u64().unwrap()).collect()
    }

    fn disconnect(&self, body: &Value) -> Value {
        let (code, answer) = self.ask("POST", "/api/disconnect", body);
        assert_eq!(code, 200, "{answer}");
        answer
    }
}

/// A client that reads and writes a channel.
fn named(daemon: &Daemon, subject: &str, channel: &str) -> Client {
    daemon.client_with(&json!({"read": [channel], "write": [channel], "sub": subject}))
}

/// The id of a subject's only connection.
fn id_of(backend: &Backend<'_>, subject: &str) -> String {
    let answer = backend.get(&format!("/api/connections?subject={subject}"));
    assert_eq!(answer["connections"].as_array().unwrap().len(), 1, "{answer}");
    answer["connections"][0]["connection"].as_str().unwrap().to_owned()
}

#[test]
fn an_excluded_connection_does_not_get_the_message() {
    for config in ["", "[history]\nmessages = 10\n"] {
        let daemon = Daemon::start(config);
        let backend = Backend::all(&daemon);
        let mut clients = ["alice", "bob", "carol"].map(|name| named(&daemon, name, "chat"));
        let [alice, bob, _] = ["alice", "bob", "carol"].map(|name| id_of(&backend, name));
        let nobody = "00000000-0000-4000-8000-000000000000";
        let readers = backend.publish(&json!([
            {"channel": "chat", "data": "not to alice", "exclude": alice},
            {"channel": "chat", "data": "to carol", "exclude": [alice, bob, bob, nobody]},
            {"channel": "chat", "data": "to all", "exclude": []},
            {"channel": "empty", "data": "to nobody", "exclude": bob},
        ]));
        assert_eq!(readers, [2, 1, 3, 0]);
        for (client, expected) in clients.iter_mut().zip([
            &["to all"][..],
            &["not to alice", "to all"],
            &["not to alice", "to carol", "to all"],
        ]) {
            let got: Vec<String> = expected.iter().map(|_| client.data()).collect();
            assert_eq!(got, expected);
            client.settle();
        }
        let ids = |count| json!({"channel": "chat", "data": "x", "exclude": vec![nobody; count]});
        assert_eq!(backend.publish(&ids(100)), [3], "as many as are allowed");
        for bad in [ids(101), json!([{"channel": "chat", "data": "x", "exclude": 7}])] {
            let sentence = backend.refused(400, "POST", "/api/publish", &bad);
            assert_eq!(sentence, "message 0: exclude must be a connection's id, or an array of at most 100");
        }
    }
}

#[test]
fn channels_are_listed_in_pages() {
    let daemon = Daemon::start("");
    let backend = Backend::all(&daemon);
    assert_eq!(backend.get("/api/channels"), json!({"channels": [], "next": null}));
    let _readers: Vec<Client> = ["b", "a", "c", "b", "da"].map(|name| named(&daemon, "alice", name)).into();
    let _writer = daemon.client_with(&json!({"write": ["a", "unread"]}));
    let names = |answer: &Value| -> Vec<String> {
        let rows = answer["channels"].as_array().unwrap().iter();
        rows.map(|row| row["channel"].as_str().unwrap().to_owned()).collect()
    };
    let all = backend.get("/api/channels");
    assert_eq!(
        (names(&all), &all["next"]),
        (vec!["a".into(), "b".into(), "c".into(), "da".into()], &Value::Null)
    );
    assert_eq!(all["channels"][0], json!({"channel": "a", "readers": 1, "writers": 2}));
    assert_eq!(all["channels"][1], json!({"channel": "b", "readers": 2, "writers": 2}));
    let first = backend.get("/api/channels?limit=3");
    assert_eq!((names(&first).len(), &first["next"]), (3, &json!("c")));
    let second = backend.get("/api/channels?limit=3&after=c");
    assert_eq!((names(&second), &second["next"]), (vec!["da".into()], &Value::Null));
    assert_eq!(names(&backend.get("/api/channels?prefix=d")), ["da"]);
    for wrong in ["limit=0", "limit=1001", "limit=x", "limit=1&limit=2"] {
        backend.refused(400, "GET", &format!("/api/channels?{wrong}"), &Value::Null);
    }
    // If the token has the claim `read`, it may show only those channels.
    let narrow = Backend::new(&daemon, &json!({"api": true, "read": ["b", "unread"]}));
    assert_eq!(names(&narrow.get("/api/channels")), ["b"]);
    assert_eq!(narrow.get("/api/channels/unread")["writers"], 1);
    let sentence = narrow.refused(403, "GET", "/api/channels/a", &Value::Null);
    assert_eq!(sentence, "this token may not see channel \"a\"");
    let rows = narrow.get("/api/connections?subject=alice&limit=100");
    for row in rows["connections"].as_array().unwrap() {
        let seen = if row["read_count"] == 1 { json!(["b"]) } else { json!([]) };
        assert_eq!((&row["read"], &row["write"]), (&seen, &seen), "{row}");
    }
}

#[test]
fn no_page_exceeds_its_limit_in_bytes() {
    let daemon = Daemon::start("max_connections = 2000\n[limits]\nchannels_per_token = 1001\n");
    let names: Vec<String> = (0..1001).map(|number| format!("{number:04}")).collect();
    let token = sign(&json!({"read": names}));
    let mut first = daemon.client_with(&json!({"read": ["0000"]}));
    // A token with this many channels is too long for a request.
    first.send(json!({"auth": token}).to_string());
    assert_eq!(first.receive()["access"]["read"].as_array().unwrap().len(), 1001);
    let backend = Backend::all(&daemon);
    let page = backend.get("/api/channels?limit=1000");
    assert_eq!((page["channels"].as_array().unwrap().len(), &page["next"]), (1000, &json!("0999")));

    let _crowd: Vec<Client> =
        (0..1001).map(|number| named(&daemon, &format!("{number:04}"), "room")).collect();
    let room = backend.get("/api/channels/room?limit=1000");
    assert_eq!((room["subjects"].as_array().unwrap().len(), &room["next"]), (1000, &json!("0999")));
    assert_eq!((&room["readers"], &room["writers"]), (&json!(1001), &json!(1001)));
    let rest = backend.get("/api/channels/room?limit=1000&after=0999");
    assert_eq!((&rest["subjects"], &rest["next"]), (&json!(["1000"]), &Value::Null));
    assert_eq!(backend.get("/api/channels/room")["subjects"].as_array().unwrap().len(), 100, "by default");

    let _same: Vec<Client> = (0..101).map(|_| named(&daemon, "same", "other")).collect();
    let page = backend.get("/api/connections?subject=same");
    assert_eq!(page["connections"].as_array().unwrap().len(), 100);
    let next = page["next"].as_str().unwrap();
    let rest = backend.get(&format!("/api/connections?subject=same&after={next}"));
    assert_eq!((rest["connections"].as_array().unwrap().len(), &rest["next"]), (1, &Value::Null));
    backend.refused(400, "GET", "/api/connections?subject=same&limit=101", &Value::Null);
    backend.refused(400, "GET", "/api/connections?subject=same&after=x", &Value::Null);

    let mut many = named(&daemon, "many", "x");
    many.send(json!({"auth": sign(&json!({"read": names, "sub": "many"}))}).to_string());
    assert_eq!(many.receive()["access"]["subject"], "many");
    let row = backend.get("/api/connections?subject=many")["connections"][0].clone();
    assert_eq!((row["read"].as_array().unwrap().len(), &row["read_count"]), (100, &json!(1001)));

    let long = json!({"subject": "x".repeat(5000)});
    backend.refused(413, "POST", "/api/disconnect", &long);
    backend.refused(400, "POST", "/api/disconnect", &json!({"subject": "x".repeat(256)}));
}

#[test]
fn a_channel_is_selected_by_the_path() {
    let daemon = Daemon::start("");
    let backend = Backend::all(&daemon);
    let name = "a room/\u{fc} 100%?#";
    let mut alice = named(&daemon, "alice", name);
    let _again = named(&daemon, "alice", name);
    let _nameless = daemon.client(&[name]);
    alice.settle();
    let expected = json!({"channel": name, "readers": 3, "writers": 3, "subjects": ["alice"], "next": null});
    assert_eq!(backend.get("/api/channels/a%20room%2F%c3%BC%20100%25%3F%23"), expected);
    assert_eq!(
        backend.get("/api/channels/a%20room/%C3%BC%20100%25%3f%23"),
        expected,
        "a slash needs no encoding"
    );
    let none = json!({"channel": "none", "readers": 0, "writers": 0, "subjects": [], "next": null});
    assert_eq!(backend.get("/api/channels/none"), none, "channels need no declaration, so none is unknown");
    for wrong in ["%ff", "%", "%zz", "a%0a", &"x".repeat(256)] {
        backend.refused(400, "GET", &format!("/api/channels/{wrong}"), &Value::Null);
    }
    backend.refused(404, "GET", "/api/channels/", &Value::Null);
}

#[test]
fn connections_lists_those_of_one_subject() {
    let daemon = Daemon::start("");
    let backend = Backend::all(&daemon);
    let until = crate::support::unix_now() + 3600;
    let claims = json!({"read": ["b", "a"], "write": ["c"], "sub": "al ice", "exp": until});
    let _alice = daemon.client_with(&claims);
    let _bob = named(&daemon, "bob", "a");
    let answer = backend.get("/api/connections?subject=al%20ice");
    let row = &answer["connections"][0];
    assert_eq!(
        (row["subject"].as_str(), answer["connections"].as_array().unwrap().len()),
        (Some("al ice"), 1)
    );
    assert_eq!((&row["read"], &row["read_count"]), (&json!(["a", "b"]), &json!(2)));
    assert_eq!((&row["write"], &row["write_count"]), (&json!(["c"]), &json!(1)));
    let admin = daemon.admin("GET", "/v1/connections?subject=al%20ice", "");
    assert_eq!(
        (&row["connection"], &row["expires_at"]),
        (&admin["connections"][0]["id"], &admin["connections"][0]["expires_at"])
    );
    assert!(humantime::parse_rfc3339(row["connected_at"].as_str().unwrap()).is_ok(), "{row}");
    assert_eq!(row.get("address"), None, "only administrators may see addresses");
    assert_eq!(backend.get("/api/connections?subject=carol"), json!({"connections": [], "next": null}));
    let sentence = backend.refused(400, "GET", "/api/connections", &Value::Null);
    assert_eq!(sentence, "the query needs a subject: ?subject=NAME");
}

#[test]
fn disconnect_closes_and_bans_as_philotectl_does() {
    let daemon = Daemon::start("");
    let backend = Backend::all(&daemon);
    let mut alices = ["a", "b"].map(|channel| named(&daemon, "alice", channel));
    let mut bob = named(&daemon, "bob", "a");
    assert_eq!(
        backend.disconnect(&json!({"subject": "carol"})),
        json!({"disconnected": 0, "refused_until": null})
    );
    let bobs = id_of(&backend, "bob");
    let again = backend.disconnect(&json!({"connection": bobs, "reconnect": true}));
    assert_eq!(again, json!({"disconnected": 1, "refused_until": null}));
    assert_eq!(bob.closed().0, 1012);
    assert_eq!(backend.disconnect(&json!({"subject": "alice"}))["disconnected"], 2);
    for alice in &mut alices {
        assert_eq!(alice.closed().0, 4403);
    }
    let line = daemon.wait_for_line("api: disconnect of connection ");
    assert!(
        line.contains(&format!("{bobs}, to reconnect by \"backend\" (secret, line 1) from 127.0.0.1:")),
        "{line}"
    );
    assert!(line.ends_with(": done, 1 being closed"), "{line}");
    daemon.wait_for_line("api: disconnect of subject \"alice\" by \"backend\"");

    let mut alice = named(&daemon, "alice", "a");
    let answer = backend.disconnect(&json!({"subject": "alice", "refuse_for": "24h"}));
    assert_eq!(answer["disconnected"], 1);
    let (code, sentence, _) = alice.closed();
    assert_eq!(code, 4403, "{sentence}");
    assert_eq!(
        daemon.admin("GET", "/v1/refused", "")["refused"][0],
        json!({"subject": "alice", "until": answer["refused_until"]})
    );
    let token = sign(&json!({"read": ["a"], "sub": "alice"}));
    assert_eq!(status(&daemon.exchange(upgrade(&token, ""))), 403);
    // Her API token is no longer valid either.
    let hers = Backend::new(&daemon, &json!({"api": true, "sub": "alice"}));
    hers.refused(403, "GET", "/api/info", &Value::Null);

    // Also after a restart, on every way in.
    let directory = daemon.take_directory();
    let mut command = crate::support::philote(directory.path());
    command.env("SECRET", SECRET).env("PORT", "0");
    let daemon = Daemon::spawn(command, directory);
    assert_eq!(status(&daemon.exchange(upgrade(&token, ""))), 403);
    daemon.admin("DELETE", "/v1/refused", r#"{"subject": "alice"}"#);
    drop(named(&daemon, "alice", "a"));
}

#[test]
fn a_ban_that_cannot_be_stored_closes_no_connection() {
    let daemon = Daemon::start("");
    let backend = Backend::all(&daemon);
    let mut alice = named(&daemon, "alice", "a");
    let until = crate::support::unix_now() + 3600;
    let state = daemon.directory.path().join(".local/state/philote");
    // A directory has the name of the file.
    std::fs::create_dir_all(state.join("refused.json/x")).unwrap();
    let order = json!({"subject": "alice", "refuse_for": "1h"});
    let sentence = backend.refused(500, "POST", "/api/disconnect", &order);
    assert!(sentence.starts_with("nothing was done: ") && !sentence.contains("refused.json"), "{sentence}");
    daemon.wait_for_line("refused.json");
    alice.settle();

    let directory = daemon.take_directory();
    let refused: serde_json::Map<String, Value> =
        (0..10_000).map(|n| (n.to_string(), json!(until))).collect();
    std::fs::remove_dir_all(state.join("refused.json")).unwrap();
    std::fs::write(state.join("refused.json"), json!(refused).to_string()).unwrap();
    let mut command = crate::support::philote(directory.path());
    command.env("SECRET", SECRET).env("PORT", "0");
    let daemon = Daemon::spawn(command, directory);
    let backend = Backend::all(&daemon);
    let mut alice = named(&daemon, "alice", "a");
    assert_eq!(backend.refused(409, "POST", "/api/disconnect", &order), "10000 subjects are refused already");
    alice.settle();
    assert_eq!(backend.disconnect(&json!({"subject": "7", "refuse_for": "1d"}))["disconnected"], 0);
}

#[test]
fn each_right_allows_only_its_own_route() {
    let daemon = Daemon::start("");
    let routes = [
        ("publish", "POST", "/api/publish", json!({"channel": "c", "data": "x"})),
        ("channels", "GET", "/api/channels", Value::Null),
        ("channels", "GET", "/api/channels/c", Value::Null),
        ("connections", "GET", "/api/connections?subject=alice", Value::Null),
        ("disconnect", "POST", "/api/disconnect", json!({"subject": "alice"})),
        ("info", "GET", "/api/info", Value::Null),
        ("events", "GET", "/api/events", Value::Null),
    ];
    let mut reader = named(&daemon, "reader", "c");
    for opened in ["publish", "channels", "subjects", "connections", "disconnect", "info", "events"] {
        let backend = Backend::new(&daemon, &json!({"api": [opened]}));
        for (right, method, path, body) in &routes {
            if *right == opened {
                // A stream has no end.
                let method = if opened == "events" { "HEAD" } else { method };
                assert_eq!(backend.ask(method, path, body).0, 200, "{opened}: {path}");
            } else {
                let sentence = backend.refused(403, method, path, body);
                assert!(sentence.ends_with(&format!("claim \"api\" lacks \"{right}\"")), "{sentence}");
            }
        }
    }
    assert_eq!(reader.data(), "x");
    reader.settle();
    let channel = |api: Value| Backend::new(&daemon, &json!({"api": api})).get("/api/channels/c");
    assert_eq!(channel(json!(["channels"])), json!({"channel": "c", "readers": 1, "writers": 1}));
    assert_eq!(channel(json!(["channels", "subjects"]))["subjects"], json!(["reader"]));
    // A client's token allows nothing here, whatever channels it names.
    for claims in [json!({"read": ["c"], "write": ["c"]}), json!({"api": false}), json!({"api": []})] {
        let client = Backend::new(&daemon, &claims);
        for (_, method, path, body) in &routes {
            let sentence = client.refused(403, method, path, body);
            assert_eq!(sentence, "this token does not open the API: it needs the claim \"api\": true");
        }
    }
    for (_, method, path, _) in &routes {
        let nobody =
            daemon.exchange(format!("{method} {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"));
        assert_eq!((status(&nobody), header(&nobody, "WWW-Authenticate")), (401, Some("Bearer")), "{path}");
    }
    let wrong = Backend::new(&daemon, &json!({"api": ["publishing"]}));
    let sentence = wrong.refused(401, "GET", "/api/info", &Value::Null);
    let expected = "the token's claim `api` must be true, false or an array of rights ";
    assert!(
        sentence.starts_with(expected) && sentence.ends_with("not an array with an unknown right in it"),
        "{sentence}"
    );
    // philotectl issues such tokens.
    let token = |body: Value| {
        daemon.admin("POST", "/v1/token", &body.to_string())["token"].as_str().unwrap().to_owned()
    };
    let narrow = Backend { daemon: &daemon, token: token(json!({"api": ["channels", "info"]})) };
    assert_eq!(
        narrow.get("/api/channels")["channels"][0]["channel"],
        "c",
        "without `read` the token may show any channel"
    );
    narrow.refused(403, "POST", "/api/publish", &json!({"channel": "c", "data": "x"}));
    daemon.wait_for_line("with api: channels, info by uid");
    let all = Backend { daemon: &daemon, token: token(json!({"api": true, "expires_in": null})) };
    all.get("/api/connections?subject=reader");
}

#[test]
fn openapi_needs_no_token_and_a_405_lists_the_methods() {
    let daemon = Daemon::start("");
    let get =
        |path: &str| daemon.exchange(format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"));
    let answer = get("/api/openapi.json");
    assert_eq!((status(&answer), header(&answer, "Content-Type")), (200, Some("application/json")));
    let document = body_of(&answer);
    assert_eq!(document["openapi"], "3.1.0");
    for (path, item) in document["paths"].as_object().unwrap() {
        let path = path.replace("{channel}", "c");
        let allow = if item.get("post").is_some() { "POST" } else { "GET, HEAD" };
        let answer =
            daemon.exchange(format!("DELETE {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"));
        assert_eq!((status(&answer), header(&answer, "Allow")), (405, Some(allow)), "{path}");
    }
    // Elsewhere a POST publishes.
    let answer = daemon.exchange("PUT /chat HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
    assert_eq!((status(&answer), header(&answer, "Allow")), (405, Some("GET, POST")));
    let head = daemon.exchange("HEAD /api/openapi.json HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
    assert_eq!((status(&head), head.split("\r\n\r\n").nth(1)), (200, Some("")));
    assert_no_secrets(&answer);
}
