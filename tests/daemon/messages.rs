//! Messages in both directions, as the published clients send and expect them.

use serde_json::json;
use tokio_tungstenite::tungstenite::Message;

use crate::support::{Daemon, frame, sign};

#[test]
fn messages_of_published_clients_are_accepted() {
    let daemon = Daemon::start("");
    let mut reader = daemon.client_with(&json!({"read": ["c"]}));
    let mut writer = daemon.client_with(&json!({"write": ["c"], "sub": "ada", "aud": "someone else"}));
    writer.send(r#"{"Channel":"c","Data":"go"}"#);
    writer.send(r#"{"event":"message","channel":"c","data":"browser","issuer":"forged"}"#);
    writer.socket.send(Message::binary(r#"{"channel":"c","data":"binary"}"#)).unwrap();
    let first = reader.receive();
    assert_eq!(first["data"], "go");
    assert_eq!(first["subject"], "ada");
    let issuer = first["issuer"].as_str().unwrap();
    assert_eq!(issuer.len(), 36, "a UUID");
    let second = reader.receive();
    assert_eq!((&second["data"], &second["issuer"]), (&json!("browser"), &json!(issuer)));
    assert_eq!(reader.data(), "binary");
    writer.settle();
}

#[test]
fn keys_have_the_documented_order_and_subjects_can_be_hidden() {
    let daemon = Daemon::start("[websocket]\nshow_subject = false\n");
    let mut reader = daemon.client(&["c"]);
    let mut writer = daemon.client_with(&json!({"write": ["c"], "sub": "ada"}));
    writer.publish("c", "x");
    let Message::Text(text) = reader.socket.read().unwrap() else { panic!("text") };
    let issuer = &text[11..47];
    assert_eq!(text.as_str(), format!(r#"{{"issuer":"{issuer}","channel":"c","data":"x"}}"#));
}

#[test]
fn fault_43_bad_messages_are_answered_and_the_connection_stays_open() {
    let daemon = Daemon::start("");
    let (mut client, mut other) = (daemon.client(&["c"]), daemon.client(&["c"]));
    for text in [
        "null",
        "7",
        "[]",
        "{}",
        "hello",
        "",
        "\0",
        "true",
        r#""text""#,
        r#"[{"channel":"c","data":"x"}]"#,
        "{\"channel\":\"c\",\"data\":\"a\0b\"}",
        r#"{"channel":"c","data":"x","more":1e400}"#,
        r#"{"channel":"c","data":"\ud800"}"#,
        r#"{"channel":"c","data":"x","more":"\udc00"}"#,
        r#"{"channel":"c","data":"x","data":"x"}"#,
        r#"{"channel":"c","Channel":"c","data":"x"}"#,
        r#"{"data":null}"#,
        r#"{"channel":"c","data":false}"#,
        r#"{"channel":"c","data":{"a":1}}"#,
    ] {
        client.send(text);
        let reply = client.receive();
        assert_eq!(reply["error"], "bad_message", "{text}");
        assert!(reply["message"].as_str().unwrap().len() > 10);
    }
    client.send(r#"{"channel":"c","data":1}"#);
    assert_eq!(client.receive()["message"], "data must be a string; send JSON.stringify(value)");
    client.socket.send(Message::binary(vec![0xff, 0xfe])).unwrap();
    assert_eq!(client.receive()["error"], "bad_message");
    client.send(format!(
        r#"{{"channel":"c","data":"x","deep":{}{}}}"#,
        "[".repeat(10_000),
        "]".repeat(10_000)
    ));
    assert_eq!(client.receive()["error"], "bad_message");
    client.send("[".repeat(10_000));
    assert_eq!(client.receive()["error"], "bad_message");
    other.settle();
    client.publish("c", "alive");
    assert_eq!(other.data(), "alive");
    assert_eq!(daemon.metric("philote_panics_total"), 0);
}

/// The rule: 1 to `channel_name_bytes` bytes without control characters, compared byte for byte.
#[test]
fn fault_44_channel_names_follow_one_rule() {
    let daemon = Daemon::start("[limits]\nchannel_name_bytes = 100\n");
    let (longest, too_long) = ("\u{e9}".repeat(50), "\u{e9}".repeat(50) + "x");
    let names = [
        "__proto__",
        "*",
        ">",
        "a.*",
        "a.b",
        "a.b ",
        " ",
        "A.b",
        "/",
        "\u{e9}",
        "e\u{301}",
        "constructor",
        &longest,
    ];
    // One reader for each name, so that a message on another channel would show.
    let mut readers = names.map(|name| daemon.client_with(&json!({"read": [name]})));
    let mut writer = daemon.client_with(&json!({"write": names}));
    for name in names {
        writer.publish(name, name);
    }
    for (reader, name) in readers.iter_mut().zip(names) {
        let message = reader.receive();
        assert_eq!((&message["channel"], &message["data"]), (&json!(name), &json!(name)));
        reader.settle();
    }
    for channel in [
        json!(""),
        json!(too_long),
        json!("a\nb"),
        json!("\u{0}"),
        json!("\u{7f}"),
        json!("\u{85}"),
        json!(7),
        json!(null),
    ] {
        writer.send(json!({"channel": channel, "data": "x"}).to_string());
        assert_eq!(writer.receive()["error"], "bad_message", "{channel}");
        assert!(
            daemon.try_client(&sign(&json!({"read": [channel]}))).is_err(),
            "the name is not accepted in a token either: {channel}"
        );
    }
    writer.send(r#"{"data":"x"}"#);
    assert_eq!(writer.receive()["error"], "bad_message");
    writer.settle();
}

/// A published browser client that publishes undefined omits `data`, and one that publishes null sends null. The original
/// server delivered both without the key.
#[test]
fn a_message_without_data_is_delivered_without_data() {
    for settings in ["", "[history]\nmessages = 5\n"] {
        let daemon = Daemon::start(settings);
        let mut reader = daemon.client(&["c"]);
        let mut writer = daemon.client(&["c"]);
        let mut request = daemon.request("/");
        request.headers_mut().insert("Sec-WebSocket-Protocol", "philote.v1".parse().unwrap());
        let mut v1 = daemon.open(request).unwrap();
        v1.send(json!({"auth": sign(&json!({"write": ["c"]}))}).to_string());
        v1.receive();
        let mut expect = |how: &str| {
            let message = reader.receive();
            assert_eq!(message["channel"], "c", "{how}: {message}");
            assert!(message.get("data").is_none() && message["issuer"].is_string(), "{how}: {message}");
            assert_eq!(message["id"].is_string(), !settings.is_empty(), "{how}: {message}");
        };
        for signal in [r#"{"channel":"c"}"#, r#"{"Channel":"c","Data":null,"event":"message"}"#] {
            writer.send(signal);
            expect("classic");
            v1.send(signal.replacen('{', r#"{"ack":"1","#, 1));
            assert_eq!(v1.receive()["readers"], 2, "{signal}");
            expect("philote.v1");
            let api = sign(&json!({"api": true}));
            let (status, answer) = daemon.http("POST", "/api/publish", &api, &format!("[{signal},{signal}]"));
            assert_eq!((status, &answer["published"][1]["readers"]), (200, &json!(2)), "{answer}");
            expect("the API, first");
            expect("the API, second");
        }
        for messages in [json!([{"channel": "c"}]), json!([{"channel": "c", "data": null}])] {
            let answer = daemon.admin("POST", "/v1/publish", &json!({"messages": messages}).to_string());
            assert_eq!(answer["published"][0]["readers"], 2, "{answer}");
            expect("the administrator");
        }
        writer.publish("c", "");
        assert_eq!(reader.data(), "", "an empty text is delivered as a text");
        let (status, answer) =
            daemon.http("POST", "/api/publish", &sign(&json!({"api": true})), r#"{"channel":"c","data":0}"#);
        assert_eq!((status, &answer["error"]), (400, &json!("bad_message")), "{answer}");
    }
}

#[test]
fn fault_45_no_right_to_write_is_answered_and_counted() {
    let daemon = Daemon::start("");
    let mut reader = daemon.client(&["secret"]);
    let mut client = daemon.client_with(&json!({"read": ["secret"], "write": ["c"]}));
    client.publish("secret", "x");
    assert_eq!(
        client.receive(),
        json!({"error": "forbidden", "channel": "secret", "message": "this token may not write to channel \"secret\""})
    );
    for _ in 0..9 {
        client.publish("secret", "x");
        assert_eq!(client.receive()["error"], "forbidden");
    }
    client.send("{");
    assert_eq!(client.receive()["error"], "bad_message");
    client.settle();
    reader.settle();
    assert_eq!(daemon.metric("philote_messages_refused_total{reason=\"forbidden\"}"), 10);
    assert_eq!(daemon.metric("philote_messages_refused_total{reason=\"bad_message\"}"), 1);
    assert_eq!(daemon.metric("philote_deliveries_total"), 0);
}

#[test]
fn fault_46_a_forged_issuer_is_replaced() {
    let daemon = Daemon::start("");
    let mut reader = daemon.client_with(&json!({"read": ["c"]}));
    let mut other = daemon.client_with(&json!({"write": ["c"], "sub": "other"}));
    let mut writer = daemon.client_with(&json!({"write": ["c"], "sub": "writer"}));
    other.publish("c", "x");
    let forged = reader.receive()["issuer"].as_str().unwrap().to_owned();
    for (key, subject) in [("issuer", "subject"), ("Issuer", "SUBJECT"), ("iss\\u0075er", "sub")] {
        writer.send(format!(r#"{{"{key}":"{forged}","{subject}":"other","channel":"c","data":"x"}}"#));
        let Message::Text(text) = reader.socket.read().unwrap() else { panic!("text") };
        assert_eq!(text.matches("issuer").count(), 1, "{text}");
        assert!(!text.contains(&forged) && !text.contains("other") && text.contains("writer"), "{text}");
    }
}

#[test]
fn fault_47_unknown_fields_count_towards_the_size() {
    let daemon = Daemon::start("");
    let mut client = daemon.client(&["c"]);
    client.send(json!({"channel": "c", "data": "x", "more": "x".repeat(70_000)}).to_string());
    let (code, reason, _) = client.closed();
    assert_eq!((code, reason.as_str()), (1009, "a message is over this server's max_message_size"));
}

#[test]
fn fault_48_two_connections_with_one_token_get_each_other_s_messages() {
    let daemon = Daemon::start("");
    let token = sign(&json!({"read": ["c"], "write": ["c"]}));
    let (mut one, mut two) = (daemon.try_client(&token).unwrap(), daemon.try_client(&token).unwrap());
    one.publish("c", "from one");
    two.publish("c", "from two");
    assert_eq!((two.data(), one.data()), ("from one".to_owned(), "from two".to_owned()));
    one.settle();
    two.settle();
}

#[test]
fn text_of_every_kind_arrives_unchanged() {
    let daemon = Daemon::start("");
    let (mut writer, mut reader) = (daemon.client(&["ü \u{1f600}"]), daemon.client(&["ü \u{1f600}"]));
    for text in [
        "",
        "\u{0}\n\t\"\\/",
        "שלום \u{1f468}\u{200d}\u{1f469}",
        "\u{2028}\u{feff}\u{10ffff}",
        &"é".repeat(15_000),
    ] {
        writer.publish("ü \u{1f600}", text);
        assert_eq!(reader.data(), text);
    }
    // Escapes that the publisher chose are kept.
    writer.send(r#"{"channel":"ü \ud83d\ude00","data":"\u0041\ud83d\ude00"}"#);
    assert_eq!(reader.data(), "A\u{1f600}");
}

#[test]
fn a_message_published_right_after_open_arrives() {
    let daemon = Daemon::start("");
    let mut writer = daemon.client(&["c"]);
    for number in 0..200 {
        let mut reader = daemon.client_with(&json!({"read": ["c"]}));
        writer.publish("c", &number.to_string());
        assert_eq!(reader.data(), number.to_string());
    }
}

#[test]
fn fault_33_a_character_split_over_fragments_arrives() {
    use std::io::Write;
    let daemon = Daemon::start("");
    let (mut writer, mut reader) = (daemon.client(&["c"]), daemon.client(&["c"]));
    let text = r#"{"channel":"c","data":"ü"}"#.as_bytes();
    let cut = text.iter().position(|byte| *byte >= 0x80).unwrap() + 1;
    let mut bytes = frame(0x01, &text[..cut]);
    bytes.extend(frame(0x89, b"between"));
    bytes.extend(frame(0x80, &text[cut..]));
    writer.stream().write_all(&bytes).unwrap();
    assert_eq!(reader.data(), "ü");
}
