//! Tokens of new clients and of open connections.

use serde_json::json;

use crate::support::{Daemon, body_of, config_file, header, sign, sign_with, status, unix_now, upgrade};

#[test]
fn fault_18_20_21_rejections_give_the_reason() {
    let daemon = Daemon::start("");
    let expired = sign(&json!({"read": ["c"], "exp": unix_now() - 60}));
    // Without the header, and with an empty parameter.
    for request in [
        upgrade("", "").replace("Authorization: Bearer \r\n", ""),
        upgrade("", "").replace("Authorization: Bearer \r\n", "").replace("GET /", "GET /?auth="),
        upgrade("", "").replace("Bearer ", ""),
        upgrade("", "").replace("Bearer ", "Bearer"),
    ] {
        let answer = daemon.exchange(&request);
        assert_eq!(
            (status(&answer), header(&answer, "WWW-Authenticate")),
            (401, Some("Bearer")),
            "{request}"
        );
    }
    let early = sign(&json!({"read": ["c"], "nbf": unix_now() + 60}));
    let forged = sign_with(&json!({"read": ["c"]}), "another secret");
    for (token, sentence) in [
        (
            "",
            "a token is required: send it as \"Authorization: Bearer TOKEN\" or as the query parameter auth",
        ),
        ("x.y.z", "the token is malformed: it must be a signed JSON Web Token"),
        (&expired, "the token has expired"),
        (&early, "the token is not yet valid"),
        (&forged, "the token has a bad signature: it was not signed with this server's secret"),
        (
            &"x".repeat(9_000),
            "the token is too long: a request accepts at most 8192 bytes; the subprotocol philote.v1 accepts a longer token in its \
             first message, {\"auth\": TOKEN}",
        ),
        (
            &sign(&json!({"exp": "1000000"})),
            "the token's claim `exp` must be a number of seconds since 1970, not a string",
        ),
        (
            &sign(&json!({"exp": null})),
            "the token's claim `exp` must be a number of seconds since 1970, not null; leave the \
             claim out for no limit",
        ),
    ] {
        let answer = daemon.exchange(upgrade(token, ""));
        assert_eq!((status(&answer), header(&answer, "WWW-Authenticate")), (401, Some("Bearer")));
        assert_eq!(body_of(&answer), json!({"error": "unauthorized", "message": sentence}));
    }
}

#[test]
fn an_authorization_header_of_another_scheme_is_reported() {
    let daemon = Daemon::start("");
    let token = sign(&json!({"read": ["c"], "api": true}));
    let told = |value: &str, path: &str| {
        let upgrade = if path == "/" {
            "Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n\
             Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
        } else {
            ""
        };
        let answer = daemon
            .exchange(format!("GET {path} HTTP/1.1\r\nHost: x\r\n{upgrade}Authorization: {value}\r\n\r\n"));
        assert_eq!(status(&answer), 401);
        body_of(&answer)["message"].as_str().unwrap().to_owned()
    };
    for path in ["/", "/api/info"] {
        for (value, scheme) in [
            ("Basic eA==", "the scheme Basic"),
            ("basic", "the scheme Basic"),
            ("tOKEN x", "the scheme Token"),
        ] {
            let sentence =
                format!("the Authorization header has {scheme}: send \"Authorization: Bearer TOKEN\"");
            assert_eq!(told(value, path), sentence);
        }
        let unknown = "the Authorization header has an unknown scheme: send \"Authorization: Bearer TOKEN\"";
        assert_eq!(told(&format!("Secret-in-front {token}"), path), unknown);
        assert_eq!(told(&format!("Bearer: {token}"), path), unknown);
        assert_eq!(told("Bearer", path), told("", path), "the token is missing");
    }
}

#[test]
fn white_space_around_a_token_is_ignored() {
    let daemon = Daemon::start("");
    let token = sign(&json!({"read": ["a"], "write": ["a"]}));
    for encoded in ["%0A", "%20", "+", "%0D%0A"] {
        daemon.open(daemon.request(&format!("/?auth={token}{encoded}"))).unwrap().settle();
        daemon.open(daemon.request(&format!("/?auth={encoded}{token}"))).unwrap().settle();
    }
    for value in [format!("Bearer {token}  "), format!("Bearer \t {token}\t"), format!("Bearer\t{token}")] {
        let mut request = daemon.request("/");
        request.headers_mut().insert("Authorization", value.parse().unwrap());
        daemon.open(request).unwrap().settle();
    }
}

#[test]
fn fault_14_the_header_comes_before_the_query_and_they_are_never_merged() {
    let daemon = Daemon::start("");
    let (a, b) =
        (sign(&json!({"read": ["a"], "write": ["a"]})), sign(&json!({"read": ["b"], "write": ["b"]})));
    let open = |header: Option<&str>, path: &str| {
        let mut request = daemon.request(path);
        if let Some(value) = header {
            request.headers_mut().insert("Authorization", value.parse().unwrap());
        }
        daemon.open(request)
    };
    let may_write = |client: &mut crate::support::Client, channel: &str| {
        client.publish(channel, "x");
        client.publish("nowhere", "x");
        client.receive()["channel"] == "nowhere"
    };
    for header in [format!("Bearer {a}"), format!("bearer  {a}"), format!("BEARER {a}"), a.clone()] {
        let mut client = open(Some(&header), &format!("/any/path?x=1&auth={b}")).unwrap();
        assert!(may_write(&mut client, "a"), "{header}");
        assert!(!may_write(&mut client, "b"));
    }
    for header in [None, Some("Bearer bad"), Some("Basic eA=="), Some("Bearer")] {
        let mut client = open(header, &format!("/?auth={b}")).unwrap();
        assert!(may_write(&mut client, "b"), "{header:?}");
    }
    for header in [None, Some(format!("Bearer {a}"))] {
        let error =
            open(header.as_deref(), &format!("/?auth={b}&auth={b}")).map(drop).unwrap_err().to_string();
        assert!(error.contains("400"), "{error}");
    }
}

#[test]
fn fault_28_a_token_that_expires_ends_its_connection() {
    let daemon = Daemon::start("[auth]\nleeway = \"2s\"\n");
    let expires = unix_now() + 2;
    let mut reader = daemon.client_with(&json!({"read": ["c"], "exp": expires}));
    let mut writer = daemon.client(&["c"]);
    writer.publish("c", "in time");
    let (code, reason, messages) = reader.closed();
    assert_eq!((code, reason.as_str()), (4401, "the token has expired; get a new one"));
    let late = unix_now() - expires;
    // Within a second after the leeway; the other two are for a busy machine.
    assert!((2..=5).contains(&late), "{late} s after its end, with a leeway of 2 s");
    assert_eq!(messages[0]["data"], "in time");
    writer.settle();
}

#[test]
fn fault_29_a_reload_rotates_the_secret() {
    let daemon = Daemon::start_with("", |command| {
        command.env_remove("SECRET");
    });
    let file = daemon.directory.path().join("secrets");
    let reload = |lines: &str| {
        std::fs::write(&file, lines).unwrap();
        config_file(
            daemon.directory.path(),
            "[auth]\nsecret_file = \"secrets\"\n[shutdown]\ndrain = \"1s\"\n",
        );
        daemon.admin("POST", "/v1/reload", "")
    };
    let (old, new) = ("the old secret, of more than 32 bytes", "the new secret, of more than 32 bytes");
    reload(&format!("{old}\n"));
    let claims = json!({"read": ["c"], "write": ["c"]});
    let mut by_old = daemon.try_client(&sign_with(&claims, old)).unwrap();
    assert!(daemon.try_client(&sign_with(&claims, new)).is_err());

    assert_eq!(reload(&format!("{new}\n{old}\n"))["closing"], 0);
    let mut by_new = daemon.try_client(&sign_with(&claims, new)).unwrap();
    by_old.settle();
    daemon.try_client(&sign_with(&claims, old)).unwrap().settle();
    daemon.wait_until("the third connection has ended", |status| status["connections"] == 2);

    assert_eq!(reload(&format!("{new}\n"))["closing"], 1);
    let (code, _, _) = by_old.closed();
    assert_eq!(code, 4401);
    let error = daemon.try_client(&sign_with(&claims, old)).map(drop).unwrap_err().to_string();
    assert!(error.contains("401"), "{error}");
    by_new.settle();
}

/// A token that names the location of its key causes no request there.
#[test]
fn fault_23_a_url_in_a_token_is_never_fetched() {
    let daemon = Daemon::start("");
    let trap = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    trap.set_nonblocking(true).unwrap();
    let url = format!("http://{}/keys", trap.local_addr().unwrap());
    let key = jsonwebtoken::EncodingKey::from_secret(crate::support::SECRET.as_bytes());
    let mut header = jsonwebtoken::Header::new(jsonwebtoken::Algorithm::HS256);
    (header.jku, header.x5u) = (Some(url.clone()), Some(url));
    let good = jsonwebtoken::encode(&header, &json!({"read": ["c"]}), &key).unwrap();
    header.alg = jsonwebtoken::Algorithm::HS384;
    let forged =
        jsonwebtoken::encode(&header, &json!({}), &jsonwebtoken::EncodingKey::from_secret(b"x")).unwrap();
    for _ in 0..10 {
        daemon.try_client(&good).unwrap().settle();
        assert!(daemon.try_client(&forged).is_err());
    }
    let error = trap.accept().map(drop).unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::WouldBlock, "{error}");
}
