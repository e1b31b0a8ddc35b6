//! `explain`: what an administrator is told that a client got, in ten situations in which the test knows it.

use std::io::Write;

use rustix::process::Signal;
use serde_json::{Value, json};

use crate::compression::{OFFER, ON, Raw};
use crate::support::{Client, Daemon, sign};

const CONFIG: &str = "[shutdown]\ndrain = \"1s\"\n[history]\nmessages = 1000\n";

fn claims(channels: &[&str]) -> Value {
    json!({"sub": "alice", "read": channels, "write": channels, "may": {"read": ["*"], "write": []}})
}

/// Enters with philote.v1; returns the ids that it was told.
fn enter(daemon: &Daemon, channels: &[&str], since: &Value) -> (Client, Value) {
    let mut request = daemon.request("/");
    request.headers_mut().insert("Sec-WebSocket-Protocol", "philote.v1".parse().unwrap());
    let mut client = daemon.open(request).unwrap();
    client.send(json!({"auth": sign(&claims(channels)), "since": since}).to_string());
    let ids = client.receive()["access"]["ids"].take();
    (client, ids)
}

/// Publishes messages; returns the id of the last one.
fn publish(daemon: &Daemon, channel: &str, count: usize) -> String {
    let messages = vec![json!({"channel": channel, "data": "x"}); count];
    let body = json!(messages).to_string();
    let (code, answer) = daemon.http("POST", "/api/publish", &sign(&json!({"api": true})), &body);
    assert_eq!(code, 200, "{answer}");
    answer["published"][count - 1]["id"].as_str().unwrap().to_owned()
}

/// The id of the message that comes so many after another one.
fn after(id: &str, by: i64) -> String {
    let (epoch, number) = id.split_once('-').unwrap();
    format!("{epoch}-{}", number.parse::<i64>().unwrap() + by)
}

/// Reads this number of messages; returns the id of the last one.
fn read(client: &mut Client, count: usize) -> String {
    let last = (0..count).map(|_| client.receive()).last().unwrap();
    last["id"].as_str().unwrap().to_owned()
}

fn explain(daemon: &Daemon, channel: &str, id: Option<&str>) -> Value {
    let id = id.map_or_else(String::new, |id| format!("&id={id}"));
    daemon.admin("GET", &format!("/v1/explain?subject=alice&channel={channel}{id}"), "")
}

fn verdict(daemon: &Daemon, channel: &str, id: &str) -> String {
    explain(daemon, channel, Some(id))["verdict"]["verdict"].as_str().unwrap().to_owned()
}

fn place(row: &Value) -> [&str; 3] {
    ["after", "up_to", "last"].map(|key| row["place"][key].as_str().unwrap_or("null"))
}

/// Waits until all connections have ended, and those that ended are remembered.
fn all_gone(daemon: &Daemon, ended: usize) {
    daemon.wait_until("all are gone", |status| status["connections"] == 0);
    daemon.ended(ended);
}

#[test]
fn what_is_told_of_a_client_that_comes_and_goes_is_true() {
    let daemon = Daemon::start(CONFIG);
    // 1. One that is connected, and has all.
    let (mut client, ids) = enter(&daemon, &["c"], &json!({}));
    let start = ids["c"].as_str().unwrap().to_owned();
    let third = publish(&daemon, "c", 3);
    assert_eq!(read(&mut client, 3), third);
    let told = explain(&daemon, "c", None);
    assert_eq!(
        (place(&told["connections"][0]), &told["connections"][0]["reads"]),
        ([&*start, &*third, &*third], &json!(true))
    );
    assert_eq!(
        [&third, &start].map(|id| verdict(&daemon, "c", id)),
        ["written", "unknown"],
        "no message is at the start"
    );
    assert_eq!(verdict(&daemon, "c", &after(&third, 1)), "unknown", "there is none yet");
    assert_eq!(verdict(&daemon, "c", "abc-1"), "unknown", "another history");

    // 2. What it publishes itself counts as had.
    client.send(json!({"channel": "c", "data": "own", "ack": "1"}).to_string());
    let own = client.receive()["id"].as_str().unwrap().to_owned();
    assert_eq!(verdict(&daemon, "c", &own), "written");

    // 3. Gone, and back without a gap.
    drop(client);
    all_gone(&daemon, 1);
    let missed = publish(&daemon, "c", 2);
    assert_eq!(verdict(&daemon, "c", &missed), "not_written");
    let (mut client, _) = enter(&daemon, &["c"], &json!({"c": own}));
    assert_eq!(read(&mut client, 2), missed);
    let told = explain(&daemon, "c", Some(&missed));
    assert_eq!(
        [0, 1].map(|row| place(&told["connections"][row])),
        [[&start, &own, &own], [&own, &missed, &missed]]
    );
    assert_eq!(told["connections"][0]["closed"]["code"], 1006);
    assert_eq!(told["verdict"]["verdict"], "written");

    // 4. Back without its place: what came in between is not there.
    drop(client);
    all_gone(&daemon, 2);
    let gap = publish(&daemon, "c", 1);
    let mut client = daemon.client_with(&claims(&["c"]));
    let later = publish(&daemon, "c", 1);
    assert_eq!(read(&mut client, 1), later);
    assert_eq!([&gap, &later].map(|id| verdict(&daemon, "c", id)), ["not_written", "written"]);

    // 5. It joins another channel, leaves it, and comes back there.
    let first = publish(&daemon, "other", 1);
    client.send(json!({"join": ["other"]}).to_string());
    client.receive();
    let seen = publish(&daemon, "other", 1);
    assert_eq!(read(&mut client, 1), seen);
    client.send(json!({"leave": ["other"]}).to_string());
    client.receive();
    let unseen = publish(&daemon, "other", 1);
    client.send(json!({"join": ["other"]}).to_string());
    client.receive();
    let again = publish(&daemon, "other", 1);
    assert_eq!(read(&mut client, 1), again);
    let told = explain(&daemon, "other", None);
    let rows: Vec<_> =
        told["connections"].as_array().unwrap().iter().filter(|row| row.get("place").is_some()).collect();
    assert_eq!(
        rows.iter().map(|row| place(row)).collect::<Vec<_>>(),
        [[&first, &seen, &seen], [&unseen, &again, &again]]
    );
    assert_eq!((&rows[0]["reads"], &rows[1]["reads"]), (&json!(false), &json!(true)));
    assert_eq!(verdict(&daemon, "other", &seen), "written");
    // Two connections before this one are not known to have read it.
    assert_eq!(verdict(&daemon, "other", &unseen), "unknown");

    // 6. An administrator closes it; its places are remembered.
    daemon.admin("POST", "/v1/disconnect", &json!({"subject": "alice"}).to_string());
    assert_eq!(client.closed().0, 4403);
    all_gone(&daemon, 3);
    let told = explain(&daemon, "other", None);
    let rows: Vec<_> =
        told["connections"].as_array().unwrap().iter().filter(|row| row.get("place").is_some()).collect();
    assert_eq!(
        rows.iter().map(|row| place(row)).collect::<Vec<_>>(),
        [[&first, &seen, &seen], [&unseen, &again, &again]]
    );
    assert_eq!(rows[1]["closed"]["code"], 4403);

    // Another subject has nothing of it.
    let other = daemon.admin("GET", "/v1/explain?subject=bob&channel=c", "");
    assert_eq!((&other["matched"], &other["complete"]), (&json!(0), &json!(true)));
    let refused = daemon.admin("GET", "/v1/explain?subject=alice&channel=c&id=x", "");
    assert_eq!(
        refused["error"]["code"].as_str().or(refused["error"].as_str()),
        Some("bad_request"),
        "{refused}"
    );
}

/// A text that becomes only half as long when it is compressed.
fn text(length: usize) -> String {
    let mut state = 1_u32;
    let mut digit = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        char::from_digit(state >> 28, 16).unwrap()
    };
    (0..length).map(|_| digit()).collect()
}

/// Publishes until the queue of a client that does not read is full, or the client closed. Returns the id of the last message.
fn flood(daemon: &Daemon, until: impl Fn(&Daemon) -> bool) -> String {
    let body = json!(vec![json!({"channel": "c", "data": text(10_000)}); 50]).to_string();
    for _ in 0..2_000 {
        let (code, answer) = daemon.http("POST", "/api/publish", &sign(&json!({"api": true})), &body);
        assert_eq!(code, 200, "{answer}");
        if until(daemon) {
            return answer["published"][49]["id"].as_str().unwrap().to_owned();
        }
    }
    panic!("its socket takes everything");
}

fn is_closed(daemon: &Daemon) -> bool {
    daemon.admin("GET", "/v1/connections/closed", "")["matched"] == 1
        || daemon.admin("GET", "/v1/connections", "")["connections"][0]["closing"].is_string()
}

#[test]
fn what_is_told_of_a_slow_client_is_true() {
    let daemon =
        Daemon::start("[limits]\nqueue_bytes = \"4MiB\"\n[history]\nmessages = 100000\nbytes = \"1GiB\"\n");
    // 7. What waits for a socket that is full is not written yet.
    let (mut client, _) = enter(&daemon, &["c"], &json!({}));
    let waits = |daemon: &Daemon| {
        explain(daemon, "c", None)["connections"][0]["place"]["up_to"].is_string() && {
            let told = explain(daemon, "c", None);
            let [_, up_to, last] = place(&told["connections"][0]).map(str::to_owned);
            up_to != last
        }
    };
    let last = flood(&daemon, waits);
    assert_eq!(verdict(&daemon, "c", &last), "waiting");

    // 8. It is closed as too slow, and has what it could read before.
    let last = flood(&daemon, is_closed);
    let (code, _, messages) = client.closed();
    assert_eq!(code, 4413);
    drop(client);
    all_gone(&daemon, 1);
    let got = messages.last().unwrap()["id"].as_str().unwrap();
    let told = explain(&daemon, "c", Some(&after(got, 1)));
    assert_eq!(place(&told["connections"][0])[1], got, "exactly what arrived");
    assert_eq!(told["verdict"]["verdict"], "not_written");
    assert!(told["verdict"]["message"].as_str().unwrap().contains("4413"), "{told}");
    assert_eq!([got, &last].map(|id| verdict(&daemon, "c", id)), ["written", "not_written"]);
}

/// What waits for such a client is compressed, and was not looked into.
#[test]
fn what_is_told_of_a_slow_client_with_compression_is_true() {
    let daemon = Daemon::start(&format!(
        "{ON}[limits]\nqueue_bytes = \"1MiB\"\n[history]\nmessages = 100000\nbytes = \"1GiB\"\n"
    ));
    let mut client = Raw::connect(&daemon, &claims(&["c"]), OFFER);
    let up_to = |daemon: &Daemon| explain(daemon, "c", None)["connections"][0]["place"].clone();
    let waits = |daemon: &Daemon| up_to(daemon)["up_to"] != up_to(daemon)["last"];
    let last = flood(&daemon, waits);
    assert_eq!(verdict(&daemon, "c", &last), "waiting");
    flood(&daemon, is_closed);
    let (got, code) = client.last_message();
    assert_eq!(code, 4413);
    drop(client);
    all_gone(&daemon, 1);
    let got = got["id"].as_str().unwrap();
    let told = explain(&daemon, "c", Some(&after(got, 1)));
    assert_eq!(place(&told["connections"][0])[1], got, "exactly what arrived");
    assert_eq!(told["verdict"]["verdict"], "not_written");
    assert!(daemon.metric("philote_messages_compressed_total") > 0);
}

#[test]
fn what_is_told_without_a_history_and_after_a_restart_is_true() {
    // 9. Without a history messages have no ids.
    let daemon = Daemon::start("");
    let client = daemon.client_with(&claims(&["c"]));
    let told = explain(&daemon, "c", None);
    assert!(told.get("history").is_none() && told["connections"][0].get("place").is_none(), "{told}");
    assert_eq!(told["connections"][0]["reads"], true);
    drop(client);

    // 10. The next process goes on with the history, and knows no connection of the one before.
    let mut first = Daemon::start(CONFIG);
    let (mut client, _) = enter(&first, &["c"], &json!({}));
    let before = publish(&first, "c", 1);
    assert_eq!(read(&mut client, 1), before);
    client.stream().flush().unwrap();
    first.signal(Signal::TERM);
    client.closed();
    drop(client);
    assert!(first.wait().success());
    let directory = first.take_directory();
    let mut command = crate::support::philote(directory.path());
    command.env("SECRET", crate::support::SECRET).env("PORT", "0");
    let second = Daemon::spawn(command, directory);
    let told = explain(&second, "c", Some(&before));
    assert_eq!((&told["history"]["before_start"], &told["matched"]), (&json!(before), &json!(0)));
    assert_eq!(told["verdict"]["verdict"], "unknown");
    let now = publish(&second, "c", 1);
    assert_eq!(verdict(&second, "c", &now), "not_written");
}
