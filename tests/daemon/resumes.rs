//! Resumes by many clients, and many resumes by one: their messages must fit into the queues.

use std::io::Write;

use serde_json::{Value, json};

use crate::support::{Client, Daemon, frame, sign};

const MIB: u64 = 1 << 20;

fn fill(daemon: &Daemon, messages: usize, text: &str) {
    let mut writer = daemon.client_with(&json!({"write": ["c"]}));
    for number in 0..messages {
        writer.publish("c", &format!("{number} {text}"));
    }
    writer.settle();
}

/// Before, each resume was counted separately, and the socket was tried only after the last.
fn resume_many_times(leaves: bool) {
    const CLIENTS: usize = 200;
    const PAIRS: usize = 50;
    let daemon = Daemon::start(
        "max_connections = 300\n[limits]\ntotal_queue_bytes = \"16MiB\"\n[history]\nmessages = 4000\n",
    );
    fill(&daemon, 4_000, &"x".repeat(100));
    let before = daemon.memory().0;
    let mut done = daemon.client_with(&json!({"read": ["done"]}));
    let reads = sign(&json!({"read": ["c"], "write": ["done"]}));
    let writes = sign(&json!({"write": ["done"]}));
    let enter = json!({"auth": reads, "since": {"c": null}}).to_string();
    let leave = json!({"auth": writes}).to_string();
    let mut packet = Vec::new();
    for _ in 0..PAIRS {
        packet.extend(frame(0x81, enter.as_bytes()));
        if leaves {
            packet.extend(frame(0x81, leave.as_bytes()));
        }
    }
    packet.extend(frame(0x81, json!({"channel": "done", "data": ""}).to_string().as_bytes()));
    let mut clients: Vec<Client> = (0..CLIENTS).map(|_| daemon.try_client(&writes).unwrap()).collect();
    let (mut queued, mut memory) = (0, 0);
    for client in &mut clients {
        client.stream().write_all(&packet).unwrap();
    }
    for _ in 0..CLIENTS {
        assert_eq!(done.data(), "");
        queued = queued.max(daemon.admin("GET", "/v1/status", "")["queued_bytes"].as_u64().unwrap());
        memory = memory.max(daemon.memory().0);
    }
    let rows = daemon.admin("GET", "/v1/connections?sort=queued&limit=1000", "");
    let longest = rows["connections"].as_array().unwrap().iter();
    let longest = longest.map(|row| row["queued_messages"].as_u64().unwrap()).max().unwrap();
    println!(
        "queued KiB {}, longest queue {longest}, resident KiB {} to {}",
        queued >> 10,
        before >> 10,
        memory >> 10
    );
    assert!(queued <= 16 * MIB, "{queued}");
    assert!(longest <= 4096, "{longest}");
    assert!(memory < before + 64 * MIB, "{before} to {memory}");
    let closed = daemon.admin("GET", "/v1/connections/closed", "")["reasons"].to_string();
    assert!(!closed.contains("slow") && !closed.contains("queue"), "no client may be closed: {closed}");
    drop(clients);
    daemon.wait_until("they are gone", |status| status["queued_bytes"] == 0 && status["connections"] == 1);
}

#[test]
fn fault_80_many_resumes_in_one_packet_stay_within_the_queues() {
    resume_many_times(true);
}

/// A channel that is named with null is delivered again, although the connection already reads it.
#[test]
fn fault_80_a_channel_that_is_delivered_again_stays_within_the_queues() {
    resume_many_times(false);
}

/// Opens a connection whose token comes with [`resume`].
fn open(daemon: &Daemon) -> Client {
    let mut request = daemon.request("/");
    request.headers_mut().insert("Sec-WebSocket-Protocol", "philote.v1".parse().unwrap());
    daemon.open(request).unwrap()
}

fn resume(client: &mut Client, token: &str, since: &Value) {
    client.send(json!({"auth": token, "since": since}).to_string());
}

/// After a restart of a proxy all clients resume at the same instant. Those that read get everything, and no client is
/// closed because of the total.
#[test]
fn clients_that_resume_at_once_get_what_recovered_promises() {
    const CLIENTS: usize = 1_000;
    const MISSED: usize = 1_000;
    let daemon = Daemon::start(
        "max_connections = 1100\n[limits]\ntotal_queue_bytes = \"8MiB\"\n[history]\nmessages = 1000\n",
    );
    let token = sign(&json!({"read": ["c"]}));
    let mut first = open(&daemon);
    resume(&mut first, &token, &json!({}));
    let since = first.receive()["access"]["ids"].take();
    fill(&daemon, MISSED, &"x".repeat(100));
    drop(first);
    let mut clients: Vec<Client> = (0..CLIENTS).map(|_| open(&daemon)).collect();
    clients.iter_mut().for_each(|client| resume(client, &token, &since));
    let mut promised = 0;
    for client in &mut clients {
        if client.receive()["access"]["recovered"]["c"] == true {
            promised += 1;
            for number in 0..MISSED {
                assert!(client.data().starts_with(&format!("{number} ")), "{number}");
            }
        }
        client.settle();
    }
    println!("{promised} of {CLIENTS} had all");
    assert!(promised > CLIENTS / 2, "the sockets accept everything at once, so there is room");
    let closed = daemon.admin("GET", "/v1/connections/closed", "")["reasons"].to_string();
    assert!(!closed.contains("slow") && !closed.contains("queue"), "{closed}");
}

/// Many resumes of one client that reads: each delivers everything, because the previous messages have been written.
#[test]
fn a_reader_that_resumes_often_gets_everything_each_time() {
    const PAIRS: usize = 20;
    let daemon = Daemon::start("[limits]\nqueue_messages = 1000\n[history]\nmessages = 400\n");
    fill(&daemon, 400, "x");
    let mut client = open(&daemon);
    resume(&mut client, &sign(&json!({"read": ["c"]})), &json!({"c": null}));
    let access = client.receive()["access"].take();
    (0..400).for_each(|number| assert_eq!(client.data(), format!("{number} x")));
    let again = json!({"auth": sign(&json!({"read": ["c"]})), "since": access["ids"]}).to_string();
    let leave = json!({"auth": sign(&json!({}))}).to_string();
    let mut packet = frame(0x81, leave.as_bytes());
    for _ in 0..PAIRS {
        packet.extend(frame(0x81, again.as_bytes()));
        packet.extend(frame(0x81, leave.as_bytes()));
    }
    client.stream().write_all(&packet).unwrap();
    client.receive();
    for turn in 0..PAIRS {
        assert_eq!(client.receive()["access"]["recovered"], json!({"c": true}), "{turn}");
        (0..400).for_each(|number| assert_eq!(client.data(), format!("{number} x")));
        client.receive();
    }
}
