//! History: a client that reconnects gets what it missed, or is told that it does not.

use std::io::{Read, Write};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::support::{Client, Daemon, config_file, sign};

const MIB: u64 = 1 << 20;

fn enter(daemon: &Daemon, claims: &Value, since: &Value) -> (Client, Value) {
    let mut request = daemon.request("/");
    request.headers_mut().insert("Sec-WebSocket-Protocol", "philote.v1".parse().unwrap());
    let mut client = daemon.open(request).unwrap();
    client.send(json!({"auth": sign(claims), "since": since}).to_string());
    let access = client.receive()["access"].take();
    (client, access)
}

#[test]
fn a_client_that_resumes_gets_what_it_missed() {
    let daemon = Daemon::start("[history]\nmessages = 5\n");
    let claims = json!({"read": ["chat", "news"], "write": ["chat"]});
    let mut classic = daemon.client(&["chat", "news"]);
    let (mut client, access) = enter(&daemon, &claims, &json!({}));
    assert!(access.get("recovered").is_none());
    let places = &access["ids"];
    assert!(places["chat"].as_str().unwrap().ends_with("-0") && places.as_object().unwrap().len() == 2);
    classic.publish("chat", "1");
    let message = client.receive();
    assert_eq!(message["data"], "1");
    let id = message["id"].as_str().unwrap().to_owned();
    assert_eq!(id.split_once('-').unwrap().0, places["chat"].as_str().unwrap().split_once('-').unwrap().0);
    drop(client);
    daemon.wait_until("it is gone", |status| status["connections"] == 1);
    classic.publish("chat", "2");
    classic.publish("chat", "3");
    classic.settle();
    let (mut client, access) =
        enter(&daemon, &claims, &json!({"chat": id, "news": "0-1", "secret": id, "other": null}));
    assert_eq!(access["recovered"], json!({"chat": true, "news": false}));
    assert_eq!(access["ids"], json!({"chat": id, "news": places["news"]}));
    classic.publish("chat", "4");
    assert_eq!([client.data(), client.data(), client.data()], ["2", "3", "4"]);

    let later = json!({"auth": sign(&json!({"read": ["news"]}))}).to_string();
    client.send(later);
    assert!(client.receive()["access"].get("ids").is_none(), "it joins no channel");
    classic.publish("chat", "5");
    classic.settle();
    client.send(json!({"auth": sign(&claims), "since": {"chat": id, "news": id}}).to_string());
    let access = client.receive()["access"].take();
    assert_eq!(access["recovered"], json!({"chat": true}), "the client never left the channel news");
    assert_eq!(access["ids"], json!({"chat": id}));
    assert_eq!([client.data(), client.data(), client.data(), client.data()], ["2", "3", "4", "5"]);

    for number in 6..=9 {
        classic.publish("chat", &number.to_string());
    }
    classic.settle();
    let (mut late, access) = enter(&daemon, &claims, &json!({"chat": id}));
    assert_eq!(access["recovered"], json!({"chat": false}));
    classic.publish("chat", "10");
    assert_eq!(late.data(), "10", "new messages follow");
    let (mut new, _) = enter(&daemon, &claims, &json!({"chat": null}));
    assert_eq!((0..5).map(|_| new.data()).collect::<Vec<_>>(), ["6", "7", "8", "9", "10"]);
}

#[test]
fn a_channel_named_with_null_is_delivered_again_although_it_is_read() {
    let daemon = Daemon::start("[history]\nmessages = 3\n");
    let claims = json!({"read": ["chat", "news"]});
    let mut classic = daemon.client(&["chat", "news"]);
    let (mut client, _) = enter(&daemon, &claims, &json!({}));
    for text in ["1", "2", "3", "4"] {
        classic.publish("chat", text);
        assert_eq!(client.data(), text);
    }
    client.send(json!({"auth": sign(&claims), "since": {"chat": null, "secret": null}}).to_string());
    let access = client.receive()["access"].take();
    assert!(access["ids"]["chat"].as_str().unwrap().ends_with("-1"), "{access}");
    assert_eq!((access.get("recovered"), access["ids"].as_object().unwrap().len()), (None, 1));
    classic.publish("chat", "5");
    classic.publish("news", "n");
    let rest: Vec<String> = (0..5).map(|_| client.data()).collect();
    assert_eq!(rest, ["2", "3", "4", "5", "n"], "everything kept, then new messages, without a duplicate");
}

#[test]
fn without_history_nothing_is_recovered_and_nothing_has_an_id() {
    let daemon = Daemon::start("");
    let mut classic = daemon.client(&["chat"]);
    let claims = json!({"read": ["chat"]});
    let (mut client, access) = enter(&daemon, &claims, &json!({"chat": "1-1"}));
    assert_eq!(access["recovered"], json!({"chat": false}));
    assert!(access.get("ids").is_none());
    classic.publish("chat", "x");
    assert!(client.receive().get("id").is_none());
}

/// A backend reads a state with the channel's id, and its clients get everything that is published later.
#[test]
fn the_api_gives_the_ids_from_which_clients_resume() {
    let daemon = Daemon::start("[history]\nmessages = 5\n");
    let api = sign(&json!({"api": true}));
    let ask = |method: &str, path: &str, body: &str| {
        let (code, answer) = daemon.http(method, path, &api, body);
        assert_eq!(code, 200, "{answer}");
        answer
    };
    let position = || ask("GET", "/api/channels/orders", "")["id"].clone();
    let empty = position();
    let (epoch, number) = empty.as_str().unwrap().split_once('-').unwrap();
    assert_eq!(number, "0");
    let body =
        json!([{"channel": "orders", "data": "1"}, {"channel": "other"}, {"channel": "orders", "data": "2"}]);
    let answer = ask("POST", "/api/publish", &body.to_string());
    let ids = |at: usize| answer["published"][at]["id"].clone();
    assert_eq!([ids(0), ids(2)], [1, 2].map(|n| json!(format!("{epoch}-{n}"))));
    assert!(ids(1).as_str().unwrap().ends_with("-1"), "{answer}");
    assert_eq!(position(), ids(2));
    let claims = json!({"read": ["orders"]});
    for (id, missed) in [(empty, 2), (ids(0), 1), (position(), 0)] {
        let (mut client, access) = enter(&daemon, &claims, &json!({"orders": id}));
        assert_eq!((&access["recovered"]["orders"], &access["ids"]["orders"]), (&json!(true), &id));
        for number in 2 - missed..2 {
            assert_eq!(client.data(), (number + 1).to_string());
        }
        client.settle();
    }

    let daemon = Daemon::start("");
    let (_, answer) = daemon.http("POST", "/api/publish", &api, "{\"channel\": \"orders\"}");
    assert_eq!(answer["published"][0], json!({"channel": "orders", "readers": 0}));
    let (_, answer) = daemon.http("GET", "/api/channels/orders", &api, "");
    assert!(answer.get("id").is_none(), "{answer}");
}

#[test]
fn channels_are_kept_by_the_beginning_of_their_names() {
    let tables = "[[history.channels]]\nprefix = \"ai:\"\nmessages = 3\n[[history.channels]]\nprefix = \"ai:draft:\"\nmessages = 0\n";
    let daemon = Daemon::start(tables);
    let claims = json!({"read": ["chat", "ai:1", "ai:draft:1"]});
    let names = ["chat", "ai:1", "ai:draft:1"];
    let all = json!({"chat": null, "ai:1": null, "ai:draft:1": null});
    let mut writer = daemon.client(&names);
    let publish_all = |writer: &mut Client| {
        for name in names {
            (1..=5).for_each(|number| writer.publish(name, &number.to_string()));
        }
        writer.settle();
    };
    publish_all(&mut writer);
    let (mut client, access) = enter(&daemon, &claims, &all);
    assert_eq!(access["ids"].as_object().unwrap().keys().collect::<Vec<_>>(), ["ai:1"]);
    assert_eq!([client.data(), client.data(), client.data()], ["3", "4", "5"]);
    client.settle();
    config_file(daemon.directory.path(), &format!("[history]\nmessages = 1\n{tables}"));
    assert_eq!(daemon.admin("POST", "/v1/reload", "")["applied"], json!(["history.messages"]));
    publish_all(&mut writer);
    let (mut late, access) = enter(&daemon, &claims, &all);
    assert_eq!(access["ids"].as_object().unwrap().keys().collect::<Vec<_>>(), ["ai:1", "chat"]);
    let mut got: Vec<String> = (0..4).map(|_| late.data()).collect();
    late.settle();
    got.sort_unstable();
    assert_eq!(got, ["3", "4", "5", "5"]);
    let api = sign(&json!({"api": true}));
    let (_, answer) = daemon.http("GET", "/api/channels/ai:draft:1", &api, "");
    assert!(answer.get("id").is_none(), "{answer}");
    let (_, answer) =
        daemon.http("POST", "/api/publish", &api, "[{\"channel\":\"ai:draft:1\"},{\"channel\":\"ai:1\"}]");
    assert!(
        answer["published"][0].get("id").is_none() && answer["published"][1]["id"].is_string(),
        "{answer}"
    );
}

#[test]
fn a_restart_changes_the_epoch() {
    let mut id = String::new();
    for turn in 0..2 {
        let daemon = Daemon::start("[history]\nmessages = 5\n");
        let mut classic = daemon.client(&["chat"]);
        let (mut client, access) = enter(&daemon, &json!({"read": ["chat"]}), &json!({"chat": id}));
        assert_eq!(access["recovered"], json!({"chat": false}), "{turn}");
        classic.publish("chat", "x");
        let now = client.receive()["id"].as_str().unwrap().to_owned();
        assert!(now.ends_with("-1") && now != id);
        id = now;
    }
}

#[test]
fn a_reload_turns_history_off_and_on_and_recovered_stays_correct() {
    let on = "[history]\nmessages = 5\n";
    let daemon = Daemon::start(on);
    let reload = |settings| {
        config_file(daemon.directory.path(), settings);
        assert_eq!(daemon.admin("POST", "/v1/reload", "")["applied"], json!(["history.messages"]));
    };
    let claims = json!({"read": ["chat", "quiet"], "write": ["chat"]});
    let mut classic = daemon.client(&["chat"]);
    let (client, access) = enter(&daemon, &claims, &json!({}));
    let places = access["ids"].clone();
    drop(client);
    daemon.wait_until("it is gone", |status| status["connections"] == 1);
    reload("[history]\nmessages = 0\n");
    let (client, access) = enter(&daemon, &claims, &places);
    assert_eq!(access["recovered"], json!({"chat": false, "quiet": false}));
    classic.publish("chat", "1");
    classic.settle();
    drop(client);
    reload(on);
    let (_client, access) = enter(&daemon, &claims, &places);
    assert_eq!(access["recovered"]["chat"], false, "messages without a history are not kept");
    assert_ne!(access["ids"]["chat"], places["chat"]);
}

#[test]
fn own_messages_are_not_missed_messages() {
    let daemon = Daemon::start("[history]\nmessages = 5\n");
    let claims = json!({"read": ["chat"], "write": ["chat"]});
    let (mut client, access) = enter(&daemon, &claims, &json!({}));
    let mut place = json!({});
    for number in 1..=8 {
        client.send(json!({"channel": "chat", "data": "mine", "ack": "x"}).to_string());
        let answer = client.receive();
        assert!(answer["id"].as_str().unwrap().ends_with(&format!("-{number}")), "{answer}");
        place = json!({"chat": answer["id"]});
    }
    drop(client);
    daemon.wait_until("it is gone", |status| status["connections"] == 0);
    let (client, told) = enter(&daemon, &claims, &access["ids"]);
    assert_eq!(told["recovered"], json!({"chat": false}), "more messages followed than are kept");
    drop(client);
    let (mut client, told) = enter(&daemon, &claims, &place);
    assert_eq!(told["recovered"], json!({"chat": true}));
    daemon.client(&["chat"]).publish("chat", "yours");
    assert_eq!(client.data(), "yours", "and no message before it");
}

/// Each of these channels gets one message and has no reader. Their memory must stay within `bytes`, and they must not
/// delay others. Before, all of them were walked every second, and they took three times as much memory.
#[test]
fn fault_81_many_kept_channels_stay_within_the_history_limit() {
    const CHANNELS: usize = 130_000;
    const BATCH: usize = 10_000;
    let daemon = Daemon::start("[history]\nmessages = 10\nbytes = \"64MiB\"\n");
    let before = daemon.memory().0;
    let api = sign(&json!({"api": true}));
    let (mut reader, mut writer) = (daemon.client(&["elsewhere"]), daemon.client(&["elsewhere"]));
    let mut longest = Duration::ZERO;
    let mut pass = |times: usize| {
        for _ in 0..times {
            let began = Instant::now();
            writer.publish("elsewhere", "x");
            assert_eq!(reader.data(), "x");
            longest = longest.max(began.elapsed());
        }
    };
    pass(100);
    let (port, began) = (daemon.address(), Instant::now());
    let filling = std::thread::spawn(move || {
        let mut stream = std::net::TcpStream::connect(port).unwrap();
        for first in (0..CHANNELS).step_by(BATCH) {
            let messages: Vec<Value> = (first..first + BATCH)
                .map(|n| json!({"channel": format!("room {n}"), "data": "x"}))
                .collect();
            let body = Value::from(messages).to_string();
            let length = body.len();
            let head = format!("POST /api/publish HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {api}\r\n");
            write!(stream, "{head}Content-Length: {length}\r\n\r\n{body}").unwrap();
            let mut answer = Vec::new();
            while !answer.ends_with(b"}]}") {
                let mut bytes = [0; 65536];
                let count = stream.read(&mut bytes).unwrap();
                assert!(count > 0, "{}", String::from_utf8_lossy(&answer));
                answer.extend_from_slice(&bytes[..count]);
            }
            assert!(answer.starts_with(b"HTTP/1.1 200"));
        }
    });
    while !filling.is_finished() {
        pass(10);
    }
    filling.join().unwrap();
    let filled = began.elapsed();
    let cpu = cpu_ticks(&daemon);
    let idle = Instant::now();
    // The work of every second continues meanwhile.
    while idle.elapsed() < Duration::from_secs(5) {
        std::thread::sleep(Duration::from_millis(100));
    }
    let cpu = cpu_ticks(&daemon) - cpu;
    let resident = daemon.memory().0 - before;
    println!(
        "{CHANNELS} channels filled in {filled:?}, longest delivery elsewhere {longest:?}, CPU ms per idle second {}, \
         MiB resident {}",
        cpu * 10 / 5,
        resident / MIB
    );
    assert!(resident <= 96 * MIB, "{resident}");
}

/// CPU time of the daemon in hundredths of a second.
fn cpu_ticks(daemon: &Daemon) -> u64 {
    let stat = std::fs::read_to_string(format!("/proc/{}/stat", daemon.pid())).unwrap();
    let fields: Vec<&str> = stat.rsplit_once(')').unwrap().1.split_whitespace().collect();
    fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap()
}
