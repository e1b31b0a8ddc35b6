//! The wire format's cases, good and bad.

use super::*;
use crate::frame::Frame;

fn parse(text: &str) -> Result<Publish<'_>, BadMessage> {
    match FromClient::parse(text, 255, false)? {
        FromClient::Publish(publish) => Ok(publish),
        other => panic!("{text}: {other:?}"),
    }
}

fn accepted(text: &str) -> (String, String) {
    let publish = parse(text).unwrap();
    (publish.channel.into_owned(), publish.data.unwrap_or_default().to_owned())
}

fn payload(frame: &Frame) -> serde_json::Value {
    let text = std::str::from_utf8(&frame[if frame[1] < 126 { 2 } else { 4 }..]).unwrap();
    serde_json::from_str(text).unwrap()
}

#[test]
fn keys_match_in_any_case_and_unknown_ones_are_skipped() {
    let expected = ("c".to_owned(), "\"x\"".to_owned());
    assert_eq!(accepted(r#"{"channel":"c","data":"x"}"#), expected);
    assert_eq!(accepted(r#"{"Channel":"c","Data":"x"}"#), expected);
    assert_eq!(
        accepted(r#" {"DATA":"x","event":"message","n":[1,{"a":null}],"issuer":7,"cHANNEL":"c"} "#),
        expected
    );
    assert_eq!(accepted(r#"{"ch\u0061nnel":"\u0063","data":"x"}"#), expected);
}

#[test]
fn data_is_carried_over_as_it_was_written() {
    assert_eq!(
        accepted(r#"{"channel":"c","data":"a\u0000\n\ud83d\ude00ü"}"#).1,
        r#""a\u0000\n\ud83d\ude00ü""#
    );
}

#[test]
fn fault_43_bad_messages() {
    let deep =
        format!(r#"{{"channel":"c","data":"x","more":{}1{}}}"#, "[".repeat(10_000), "]".repeat(10_000));
    let nested = "[".repeat(10_000);
    for (text, expected) in [
        ("", "a message must be JSON: it ends too early"),
        ("hello", "a message must be JSON: invalid at byte 1"),
        ("\n\n hello", "a message must be JSON: invalid at byte 4"),
        ("{\n  \"channel\": \"c\",\n  \"data\": x\n}", "a message must be JSON: invalid at byte 31"),
        ("{\r\n\"channel\": \"\u{fc}\",\r\n\r\n,", "a message must be JSON: invalid at byte 24"),
        ("null", BadMessage::NotAnObject.to_string().as_str()),
        ("7", BadMessage::NotAnObject.to_string().as_str()),
        (r#"[{"channel":"c","data":"x"}]"#, BadMessage::NotAnObject.to_string().as_str()),
        ("{}", BadMessage::NoChannel.to_string().as_str()),
        (r#"{"channel":"c","data":false}"#, BadMessage::DataNotAString.to_string().as_str()),
        (r#"{"channel":"c","data":["null"]}"#, BadMessage::DataNotAString.to_string().as_str()),
        (r#"{"channel":"c","data":null,"Data":"y"}"#, "the key data appears twice"),
        (r#"{"channel":"c","data":nul}"#, "a message must be JSON: invalid at byte 26"),
        (r#"{"channel":"c","data":{"a":1}}"#, BadMessage::DataNotAString.to_string().as_str()),
        (r#"{"channel":7,"data":"x"}"#, BadMessage::NoChannel.to_string().as_str()),
        (r#"{"channel":"c","data":"x","Data":"y"}"#, "the key data appears twice"),
        (r#"{"channel":"c","CHANNEL":"c","data":"x"}"#, "the key channel appears twice"),
        (r#"{"channel":"c","data":"\ud800"}"#, "data has an invalid escape, such as half a surrogate pair"),
        (
            r#"{"channel":"\udc00","data":"x"}"#,
            "channel has an invalid escape, such as half a surrogate pair",
        ),
    ] {
        assert_eq!(parse(text).unwrap_err().to_string(), expected, "{text}");
    }
    for text in [
        r#"{"channel":"c","data":"x"}x"#,
        r#"{"channel":"c","data":"x","n":1e400}"#,
        r#"{"channel":"c","data":"x","n":"\ud800"}"#,
        "{\"channel\":\"c\",\"data\":\"a\nb\"}",
        "{\"channel\":\"c\",\"data\":\"a\0b\"}",
        "\0",
        &deep,
        &nested,
    ] {
        assert!(matches!(parse(text), Err(BadMessage::NotJson(_))), "{}", &text[..text.len().min(60)]);
    }
}

#[test]
fn fault_44_channel_names_follow_one_rule() {
    for name in ["__proto__", "*", ">", "a.b", " ", "a b", "ü", &"x".repeat(255)] {
        assert_eq!(ChannelName::check(name, 255), Ok(()), "{name}");
    }
    for (name, error) in [
        ("", ChannelNameError::Empty),
        (&*"x".repeat(256), ChannelNameError::TooLong { bytes: 256, max: 255 }),
        ("a\nb", ChannelNameError::ControlCharacter),
        ("\u{7f}", ChannelNameError::ControlCharacter),
        ("\u{85}", ChannelNameError::ControlCharacter),
    ] {
        assert_eq!(ChannelName::check(name, 255), Err(error.clone()));
        let text = serde_json::json!({"channel": name, "data": "x"}).to_string();
        assert_eq!(parse(&text).unwrap_err(), BadMessage::ChannelName(error));
    }
}

#[test]
fn many_messages_name_the_bad_one() {
    let two = r#"[{"channel":"a","data":"1"},{"channel":"b","data":"2"}]"#;
    assert_eq!(ApiMessage::parse_many(two, 255).unwrap().len(), 2);
    let one = r#"{"channel":"a","data":"1"}"#;
    assert_eq!(ApiMessage::parse_many(one, 255).unwrap().len(), 1);
    let bad = r#"[{"channel":"a","data":"1"},{"channel":"b","data":7}]"#;
    assert_eq!(ApiMessage::parse_many(bad, 255).unwrap_err(), (1, BadMessage::DataNotAString));
    assert!(ApiMessage::parse_many("[", 255).is_err());
}

#[test]
fn a_delivery_has_its_keys_in_the_documented_order() {
    let delivery =
        Delivery { issuer: "id", channel: "a\"b", data: Some(r#""x\ny""#), subject: Some("alice") };
    let frame = delivery.encode();
    assert_eq!(
        std::str::from_utf8(&frame[2..]).unwrap(),
        r#"{"issuer":"id","channel":"a\"b","data":"x\ny","subject":"alice"}"#
    );
    let quiet = Delivery { subject: None, ..delivery }.encode();
    assert!(payload(&quiet).get("subject").is_none());
}

#[test]
fn an_ack_has_the_place_of_its_own_message() {
    let delivery = Delivery { issuer: "id", channel: "a", data: Some(r#""x""#), subject: None };
    let mut batch = Batch::new();
    for ack in [Some("\"first\""), None, Some("\"third\""), None] {
        batch.add(&delivery);
        ack.into_iter().for_each(|ack| batch.ask(ack));
    }
    batch.clear(Some(MessageId { epoch: 0xe, number: 12 }));
    let acks = batch.take_acks(ReaderCount::All(7)).unwrap();
    let texts: Vec<_> = acks.payloads().map(|text| std::str::from_utf8(text).unwrap()).collect();
    assert_eq!(
        texts,
        [r#"{"ack":"first","readers":7,"id":"e-9"}"#, r#"{"ack":"third","readers":7,"id":"e-11"}"#]
    );
    assert!(batch.take_acks(ReaderCount::All(7)).is_none());
}

#[test]
fn a_batch_is_its_messages_one_behind_the_other() {
    let delivery = |channel| Delivery { issuer: "id", channel, data: Some(r#""x""#), subject: None };
    let mut batch = Batch::new();
    assert!(batch.is_empty() && batch.takes("a"));
    batch.add(&delivery("a"));
    batch.add(&Delivery { data: Some("\"second\""), ..delivery("a") });
    assert_eq!((batch.channel(), batch.takes("a"), batch.takes("b")), ("a", true, false));
    let frame = batch.encode();
    let (first, second) =
        (delivery("a").encode(), Delivery { data: Some("\"second\""), ..delivery("a") }.encode());
    assert_eq!((frame[..].to_vec(), frame.messages()), ([&first[..], &second[..]].concat(), 2));
    batch.clear(None);
    assert!(batch.takes("b"), "it is empty");

    let large = format!("\"{}\"", "x".repeat(Batch::FULL));
    batch.add(&Delivery { data: Some(&large), ..delivery("b") });
    assert!(!batch.takes("b"), "it is full");
}

#[test]
fn error_replies_are_json_whatever_the_channel_is_called() {
    let reply = payload(&ErrorReply::Forbidden { channel: "a\"\\b", ack: None }.encode());
    assert_eq!(reply["error"], "forbidden");
    assert_eq!(reply["channel"], "a\"\\b");
    assert_eq!(reply["message"], "this token may not write to channel \"a\"\\b\"");
}

fn from_client(text: &str) -> Result<FromClient<'_>, BadMessage> {
    FromClient::parse(text, 255, true)
}

#[test]
fn exclude_is_an_id_or_a_bounded_array_of_ids() {
    const ID: &str = "5f0c6b0e-6c3c-4c0e-9a53-0d8e3c1f3b7a";
    let of = |exclude: &str| format!(r#"{{"channel": "c", "data": "x", "Exclude": {exclude}}}"#);
    let excluded = |text: &str| {
        ApiMessage::parse_many(text, 255)
            .map(|messages| messages[0].excluded.iter().map(|id| id.to_string()).collect::<Vec<_>>())
            .map_err(|(_, error)| error)
    };
    let quoted = format!("\"{ID}\"");
    let list = |count| format!("[{}]", vec![&*quoted; count].join(","));
    assert_eq!(excluded(&of(&quoted)).unwrap(), [ID]);
    assert!(excluded(&of("[]")).unwrap().is_empty());
    assert_eq!(excluded(&of(&list(MAX_EXCLUDED))).unwrap().len(), MAX_EXCLUDED);
    assert!(excluded(r#"{"channel": "c", "data": "x"}"#).unwrap().is_empty());
    let simple = ID.replace('-', "");
    for bad in [&*list(MAX_EXCLUDED + 1), "null", "7", "{}", "\"\"", "[7]", "[[]]", &format!("\"{simple}\"")]
    {
        assert_eq!(excluded(&of(bad)).unwrap_err(), BadMessage::Exclude, "{bad}");
    }
    let twice = format!(r#"{{"channel": "c", "data": "x", "exclude": {quoted}, "exclude": {quoted}}}"#);
    assert_eq!(excluded(&twice).unwrap_err(), BadMessage::DuplicateKey("exclude"));
    // From a client it is a key like any other.
    assert!(parse(&of("7")).is_ok());
}

#[test]
fn an_error_tells_the_ack_where_it_can_be_read() {
    let ack = |text| FromClient::ack_of(text);
    assert_eq!(ack(r#"{"channel": "c", "data": 7, "ack": "a\u0031"}"#), Some("\"a\\u0031\""));
    for none in
        [r#"{"channel": "c"}"#, r#"{"ack": 7}"#, r#"{"ack": "a", "ack": "b"}"#, r#"{"ack": "a""#, "[]"]
    {
        assert_eq!(ack(none), None, "{none}");
    }
}

#[test]
fn an_object_with_auth_and_no_message_presents_a_token() {
    let text = r#"{"Auth": "t\u006fken", "since": {"a": "ff-7", "b": null, "c": "what?"}}"#;
    let Ok(FromClient::Auth(auth)) = from_client(text) else { panic!("an auth") };
    let id = |epoch, number| Some(MessageId { epoch, number });
    assert_eq!(auth.token, "token");
    assert_eq!(
        auth.since,
        [("a".into(), id(255, 7)), ("b".into(), None), ("c".into(), Some(MessageId::NONE))]
    );
    assert!(!format!("{auth:?}").contains("token"));
    for text in
        [r#"{"channel": "c", "data": "x", "auth": 7}"#, r#"{"auth": "a", "channel": "c", "data": "x"}"#]
    {
        assert!(matches!(from_client(text), Ok(FromClient::Publish(_))), "{text}");
    }
    assert!(matches!(from_client(r#"{"auth": "a", "channel": "c"}"#), Ok(FromClient::Publish(_))));
    for (text, error) in [
        (r#"{"auth": 7}"#, BadMessage::Auth),
        (r#"{"auth": "a", "auth": "b"}"#, BadMessage::DuplicateKey("auth")),
        (r#"{"auth": "\ud800"}"#, BadMessage::BadEscape("auth")),
        (r#"{"auth": "a", "since": []}"#, BadMessage::Since),
        (r#"{"auth": "a", "since": {"a": 7}}"#, BadMessage::Since),
        (r#"{"auth": "a", "data": null}"#, BadMessage::NoChannel),
    ] {
        assert_eq!(from_client(text).unwrap_err(), error, "{text}");
    }
}

#[test]
fn an_ack_is_bounded_and_means_nothing_where_it_was_not_offered() {
    let of = |ack: &str| format!(r#"{{"channel": "c", "data": "x", "ack": {ack}}}"#);
    let longest = format!("\"{}\"", "x".repeat(MAX_ACK_BYTES));
    assert!(matches!(from_client(&of(&longest)), Ok(FromClient::Publish(Publish { ack: Some(_), .. }))));
    for bad in [&*format!("\"{}\"", "x".repeat(MAX_ACK_BYTES + 1)), "7", "null", "[]"] {
        assert_eq!(from_client(&of(bad)).unwrap_err(), BadMessage::Ack);
        assert!(FromClient::parse(&of(bad), 255, false).is_ok());
    }
    assert!(FromClient::parse(r#"{"channel":"c","data":"x","ack":1,"ack":2}"#, 255, false).is_ok());
}

#[test]
fn ids_are_read_as_they_are_written() {
    let id = MessageId { epoch: u64::MAX, number: u64::MAX };
    assert_eq!(MessageId::parse(&id.to_string()), id);
    for text in
        ["", "-", "1", "1-", "-1", "+1-1", "1-+1", "g-1", "1-a", "1--1", "1ffffffffffffffff-1", "1-1 "]
    {
        assert_eq!(MessageId::parse(text), MessageId::NONE, "{text}");
    }
}

#[test]
fn requests_for_channels_are_read() {
    let join = |text: &str, v1: bool| match FromClient::parse(text, 8, v1) {
        Ok(FromClient::Join(join)) => Ok((
            join.channels.iter().map(|name| name.as_str().to_owned()).collect::<Vec<_>>(),
            join.since.len(),
        )),
        Ok(other) => panic!("{text}: {other:?}"),
        Err(error) => Err(error.to_string()),
    };
    let text = r#"{"JOIN":["b","a","b","\u0063"],"since":{"a":null,"x":"1-2"},"event":"message"}"#;
    let names = vec!["a".to_owned(), "b".to_owned(), "c".to_owned()];
    assert_eq!(join(text, true), Ok((names.clone(), 2)));
    assert_eq!(join(text, false), Ok((names, 0)), "the classic protocol has no since");
    assert_eq!(
        join(r#"{"join":["123456789"]}"#, true).unwrap_err(),
        ChannelNameError::TooLong { bytes: 9, max: 8 }.to_string()
    );
    assert_eq!(join(r#"{"join":["\ud800"]}"#, true).unwrap_err(), "join must be an array of channel names");
    assert!(join(r#"{"join":[],"since":[]}"#, true).unwrap_err().starts_with("since must be"));
    assert!(
        matches!(FromClient::parse(r#"{"leave":["a"]}"#, 8, true), Ok(FromClient::Leave(names)) if names.len() == 1)
    );
    assert!(
        FromClient::is_request(r#"{"leave":["a"]}"#)
            && !FromClient::is_request(r#"{"leave":["a"],"data":"x"}"#)
    );
}

#[test]
fn the_answers_about_channels_are_json() {
    let names: Vec<ChannelName> = ["a\"", "b", "c"].map(|name| ChannelName::new(name, 8).unwrap()).into();
    let reply = JoinedReply {
        channels: &names,
        recovered: &[(names[1].clone(), false)],
        ids: &[
            (names[0].clone(), MessageId { epoch: 1, number: 2 }),
            (names[1].clone(), MessageId { epoch: 1, number: 3 }),
        ],
    };
    let told = payload(&reply.encode());
    let id = |number| MessageId { epoch: 1, number }.to_string();
    let expected = serde_json::json!({
        "a\"": {"id": id(2)}, "b": {"id": id(3), "recovered": false}, "c": {}
    });
    assert_eq!(told["joined"], expected);
    assert_eq!(payload(&encode_left(&names))["left"], serde_json::json!(["a\"", "b", "c"]));
}
