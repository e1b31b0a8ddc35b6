//! Who reads a channel, as clients see it.

use serde_json::{Value, json};

use crate::support::{Client, Daemon, sign};

fn claims(subject: &str) -> Value {
    json!({
        "sub": subject, "read": ["hall"], "may": {"read": ["room:*"]}, "presence": ["hall", "room:*"],
        "info": {"name": subject.to_uppercase()},
    })
}

fn enter(daemon: &Daemon, claims: &Value) -> Client {
    let mut request = daemon.request("/");
    request.headers_mut().insert("Sec-WebSocket-Protocol", "philote.v1".parse().unwrap());
    let mut client = daemon.open(request).unwrap();
    client.send(json!({"auth": sign(claims)}).to_string());
    assert!(client.receive()["access"].is_object());
    client
}

fn ask(client: &mut Client, frame: &Value) -> Value {
    client.send(frame.to_string());
    client.receive()
}

fn look(client: &mut Client, channel: &str) -> Value {
    ask(client, &json!({"presence": [channel], "follow": true}))["presence"].take()
}

#[test]
fn readers_see_who_else_reads_a_channel_and_who_comes_and_goes() {
    let daemon = Daemon::start("[presence]\ngrace = \"0s\"\n");
    let mut ann = enter(&daemon, &claims("ann"));
    ask(&mut ann, &json!({"join": ["room:1"]}));
    let mut bob = [enter(&daemon, &claims("bob")), enter(&daemon, &claims("bob"))];
    for bob in &mut bob {
        ask(bob, &json!({"join": ["room:1"]}));
    }
    let _nobody = daemon.client(&["room:1"]);
    let told = look(&mut ann, "room:1");
    let expected = json!({
        "channel": "room:1", "subjects": {"ann": 1, "bob": 2}, "info": {"ann": {"name": "ANN"}, "bob": {"name": "BOB"}},
        "count": 2, "anonymous": 1
    });
    assert_eq!(told, expected);
    let mut cy = enter(&daemon, &claims("cy"));
    ask(&mut cy, &json!({"join": ["room:1"]}));
    let told = ann.receive()["presence"].take();
    let expected = json!({"channel": "room:1", "joined": ["cy"], "left": [], "count": 3, "info": {"cy": {"name": "CY"}}});
    assert_eq!(told, expected);
    let [one, other] = bob;
    drop(one);
    drop(other);
    let told = ann.receive()["presence"].take();
    assert_eq!(told, json!({"channel": "room:1", "joined": [], "left": ["bob"], "count": 2}));
    ask(&mut cy, &json!({"leave": ["room:1"]}));
    assert_eq!(ann.receive()["presence"]["left"], json!(["cy"]));
    // Nobody is told any more: the next frame is the answer.
    let told = ask(&mut ann, &json!({"presence": ["room:1"], "follow": false}));
    assert_eq!(told["presence"]["count"], 1);
    ask(&mut cy, &json!({"join": ["room:1"]}));
    assert_eq!(
        ask(&mut ann, &json!({"presence": ["hall"]}))["presence"]["subjects"],
        json!({"ann": 1, "cy": 1})
    );
}

#[test]
fn a_return_within_the_grace_is_no_event() {
    let daemon = Daemon::start("[presence]\ngrace = \"1h\"\n");
    let mut ann = enter(&daemon, &claims("ann"));
    let bob = enter(&daemon, &claims("bob"));
    assert_eq!(look(&mut ann, "hall")["count"], 2);
    drop(bob);
    daemon.wait_until("bob has gone", |status| status["connections"] == 1);
    let told = ask(&mut ann, &json!({"presence": ["hall"]}));
    assert_eq!(told["presence"]["subjects"], json!({"ann": 1, "bob": 0}), "as a follower knows it");
    let _bob = enter(&daemon, &claims("bob"));
    let _cy = enter(&daemon, &claims("cy"));
    let told = ann.receive()["presence"].take();
    assert_eq!((&told["joined"], &told["left"], &told["count"]), (&json!(["cy"]), &json!([]), &json!(3)));
}

#[test]
fn of_many_subjects_only_the_number_is_told() {
    let daemon = Daemon::start("[presence]\ngrace = \"0s\"\nsubjects = 2\n");
    let mut ann = enter(&daemon, &claims("ann"));
    let _bob = enter(&daemon, &claims("bob"));
    assert_eq!(look(&mut ann, "hall")["subjects"], json!({"ann": 1, "bob": 1}));
    let cy = enter(&daemon, &claims("cy"));
    assert_eq!(ann.receive()["presence"], json!({"channel": "hall", "count": 3, "anonymous": 0}));
    drop(cy);
    // Below the limit again, all of them are named.
    assert_eq!(ann.receive()["presence"]["subjects"], json!({"ann": 1, "bob": 1}));
}

#[test]
fn nobody_sees_presence_without_the_claim_or_without_reading_the_channel() {
    let daemon = Daemon::start("");
    let mut without = enter(&daemon, &json!({"read": ["hall"], "sub": "eve", "info": {"name": "Eve"}}));
    let answer = ask(&mut without, &json!({"presence": ["hall"], "follow": true}));
    let message = "this token may not see who reads channel \"hall\"";
    assert_eq!(answer, json!({"error": "forbidden", "channel": "hall", "message": message}));

    let mut ann = enter(&daemon, &claims("ann"));
    let _bob = enter(&daemon, &claims("bob"));
    for (request, error) in [
        (
            json!({"presence": ["hall", "room:1"]}),
            "only readers of channel \"room:1\" see who reads it: join it first",
        ),
        (json!({"presence": ["hall", "lobby"]}), "this token may not see who reads channel \"lobby\""),
        (json!({"presence": "hall"}), "presence must be an array of channel names"),
        (json!({"presence": ["hall"], "follow": 1}), "follow must be true or false"),
        (
            json!({"presence": ["hall"], "leave": ["hall"]}),
            "a message may have only one of auth, join, leave and presence",
        ),
    ] {
        assert_eq!(ask(&mut ann, &request)["message"], error);
    }
    // Another token ends the following that it does not allow.
    assert_eq!(look(&mut ann, "hall")["count"], 3);
    let token = sign(&json!({"sub": "ann", "read": ["hall", "later"]}));
    assert!(ask(&mut ann, &json!({"auth": token}))["access"].is_object());
    let mut cy = enter(&daemon, &claims("cy"));
    assert_eq!(look(&mut cy, "hall")["count"], 4);
    let _dan = enter(&daemon, &claims("dan"));
    assert_eq!(cy.receive()["presence"]["joined"], json!(["dan"]), "a follower was told");
    ann.settle();
    // The classic protocol has no presence.
    let mut classic = daemon.client_with(&claims("ann"));
    assert_eq!(ask(&mut classic, &json!({"presence": ["hall"]}))["error"], "bad_message");
}

#[test]
fn a_client_cannot_ask_for_presence_without_end() {
    let daemon = Daemon::start("");
    let mut ann = enter(&daemon, &claims("ann"));
    for _ in 0..300 {
        ann.send(json!({"presence": ["hall"]}).to_string());
    }
    let answers: Vec<Value> = (0..300).map(|_| ann.receive()).collect();
    let refused = answers.iter().filter(|answer| answer["error"] == "rate_limited").count();
    assert!(refused > 0 && refused < 300, "{refused}");
}

#[test]
fn a_token_with_a_wrong_presence_or_info_is_refused() {
    let daemon = Daemon::start("");
    for (claims, sentence) in [
        (
            json!({"presence": "hall"}),
            "the token's claim `presence` must be true, false or an array of at most 64 channel names or beginnings, not a string",
        ),
        (
            json!({"presence": [1]}),
            "the token's claim `presence` must be true, false or an array of at most 64 channel names or beginnings, not an array with a number in it",
        ),
        (
            json!({"info": "Ann"}),
            "the token's claim `info` must be an object of at most 256 bytes, not a string",
        ),
        (
            json!({"info": {"name": "x".repeat(250)}}),
            "the token's claim `info` must be an object of at most 256 bytes, not a longer one",
        ),
    ] {
        let answer = daemon.exchange(crate::support::upgrade(&sign(&claims), ""));
        assert_eq!(crate::support::body_of(&answer)["message"], sentence);
    }
    assert!(daemon.try_client(&sign(&json!({"presence": null, "info": {"name": "x".repeat(245)}}))).is_ok());
}
