//! What verified claims allow.

use super::*;

#[test]
fn the_api_publishes_on_every_channel_or_only_those_of_write() {
    let any = check(&sign(json!({"api": true}))).unwrap();
    assert!(any.may_publish("x") && !any.may_write("x"));
    let some = check(&sign(json!({"api": true, "write": ["x"]}))).unwrap();
    assert!(some.may_publish("x") && !some.may_publish("y"));
    let none = check(&sign(json!({"api": true, "write": null}))).unwrap();
    assert!(!none.may_publish("x"), "null is the empty list, not the absent claim");
}

#[test]
fn the_api_shows_every_channel_or_only_those_of_read() {
    let any = check(&sign(json!({"api": true}))).unwrap();
    assert!(any.may_see("x") && !any.may_read("x"));
    let some = check(&sign(json!({"api": true, "read": ["x"]}))).unwrap();
    assert!(some.may_see("x") && !some.may_see("y"));
    let none = check(&sign(json!({"api": true, "read": null}))).unwrap();
    assert!(!none.may_see("x"), "null is the empty list, not the absent claim");
}

#[test]
fn the_claim_may_allows_names_and_beginnings() {
    let access = check(&sign(json!({
        "read": ["news"], "write": ["chat"], "may": {"read": ["room:*", "dm:17"], "write": ["room:*"]}
    })))
    .unwrap();
    assert_eq!(names(&access), ["news"], "nothing of it is read at once");
    for (channel, join, write) in [
        ("news", true, false),
        ("chat", false, true),
        ("room:", true, true),
        ("room:42", true, true),
        ("dm:17", true, false),
        ("dm:170", false, false),
        ("room", false, false),
        ("Room:1", false, false),
    ] {
        assert_eq!((access.may_join(channel), access.may_write(channel)), (join, write), "{channel}");
    }
    let star = check(&sign(json!({"read": ["room:*"], "write": ["room:*"]}))).unwrap();
    assert!(
        !star.may_join("room:1") && !star.may_write("room:1"),
        "no character in read and write is special"
    );
    assert!(star.may_join("room:*") && star.may_write("room:*"));
    for none in [json!({}), json!(null), json!({"read": null, "write": []})] {
        let access = check(&sign(json!({"may": none.clone()}))).unwrap();
        assert!(!access.may_join("a") && !access.may_write("a"), "{none}");
    }
}

#[test]
fn the_claim_may_restricts_the_api_as_read_and_write_do() {
    for (may, sees, publishes) in [
        (json!({}), [true, true], [true, true]),
        (json!({"read": ["x*"]}), [true, false], [true, true]),
        (json!({"write": ["x*"]}), [true, true], [true, false]),
        (json!({"read": ["x*"], "write": []}), [true, false], [false, false]),
        (json!(null), [false, false], [false, false]),
    ] {
        let access = check(&sign(json!({"api": true, "may": may.clone()}))).unwrap();
        assert_eq!(["xy", "y"].map(|channel| access.may_see(channel)), sees, "{may}");
        assert_eq!(["xy", "y"].map(|channel| access.may_publish(channel)), publishes, "{may}");
    }
    let both = json!({"api": true, "read": ["y"], "write": ["y"], "may": {"read": ["x*"], "write": ["x*"]}});
    let both = check(&sign(both)).unwrap();
    assert!(["xy", "y"].into_iter().all(|channel| both.may_see(channel) && both.may_publish(channel)));
    assert!(!both.may_see("z") && !both.may_publish("z"));
}

#[test]
fn a_wrong_claim_may_is_refused_and_explained() {
    const START: &str = "the token's claim `may` must be an object whose keys read and write have arrays of at most 64 \
                         channel names or beginnings, not ";
    let many: Vec<String> = (0..=MAX_PATTERNS).map(|number| number.to_string()).collect();
    assert!(check(&sign(json!({"may": {"read": &many[1..], "write": &many[1..]}}))).is_ok());
    for (may, found) in [
        (json!(["room:*"]), "an array"),
        (json!([["room:*"], ["room:*"]]), "an array"),
        (json!("room:*"), "a string"),
        (json!(true), "a boolean"),
        (json!({"reads": ["room:*"]}), "one with another key"),
        (json!({"read": "room:*"}), "one with something else in read or write"),
        (json!({"write": [7]}), "one with something else in read or write"),
        (json!({"read": many}), "one with more than 64 entries in an array"),
        (json!({"read": [""]}), "an array with an empty name in it"),
        (json!({"write": ["a\n*"]}), "an array with a control character in a name"),
    ] {
        assert_eq!(refused(json!({"may": may.clone()})).to_string(), format!("{START}{found}"), "{may}");
    }
    let long = refused(json!({"may": {"read": ["123456789*"]}}));
    assert_eq!(long, TokenError::Claim("may", ClaimError::LongName(8)));
    assert!(check(&sign(json!({"may": {"read": ["12345678*"]}}))).is_ok());
    let header = r#"{"alg":"HS256"}"#;
    let twice = check(&sign_raw(header, r#"{"may":{"read":["a"]},"may":{"read":["b"]}}"#)).unwrap_err();
    assert_eq!(twice, TokenError::Claim("may", ClaimError::Twice));
    assert!(check(&sign_raw(header, r#"{"may":{"read":["a"],"read":["b"]}}"#)).is_err());
}

#[test]
fn the_claim_api_gives_all_rights_or_some_or_none() {
    let open = |api: Value| {
        let access = check(&sign(json!({"api": api}))).unwrap();
        ApiRight::ALL
            .into_iter()
            .filter(|right| access.api.has(*right))
            .map(ApiRight::name)
            .collect::<Vec<_>>()
    };
    let all = ["publish", "channels", "subjects", "connections", "disconnect", "info", "events"];
    assert_eq!(open(json!(true)), all);
    assert_eq!(open(json!(all)), all);
    assert_eq!(open(json!(["info", "channels", "info"])), ["channels", "info"]);
    for none in [json!(false), json!(null), json!([])] {
        assert!(open(none.clone()).is_empty(), "{none}");
    }
    for wrong in
        [json!("publish"), json!(["publishing"]), json!(["Publish"]), json!([true]), json!(1), json!({})]
    {
        let error = refused(json!({"api": wrong.clone()}));
        assert!(matches!(error, TokenError::Claim("api", _)), "{wrong}: {error}");
    }
    let unnarrowed = check(&sign(json!({"api": ["channels"]}))).unwrap();
    assert!(!unnarrowed.may_publish("x"));
    for rights in [ApiRights::ALL, ApiRights::NONE, ApiRight::ALL[1..3].iter().copied().collect()] {
        let token = issue(&NewToken { api: rights, ..NewToken::default() }, &keys()).unwrap();
        assert_eq!(check(&token).unwrap().api, rights);
    }
}

#[test]
fn the_lists_and_the_subject_stay_apart_in_one_text() {
    fn sorted(list: &Value) -> Vec<&str> {
        let mut names: Vec<_> = list.as_array().into_iter().flatten().filter_map(Value::as_str).collect();
        names.sort_unstable();
        names
    }
    let lists = [json!(null), json!([]), json!(["a"]), json!(["b", "a"]), json!(["ab"])];
    for read in &lists {
        for write in &lists {
            for subject in [json!(null), json!(""), json!("a"), json!("a\nb\n")] {
                let claims = json!({"read": read, "write": write, "sub": subject});
                let access = check(&sign(claims.clone())).unwrap();
                assert!(access.read().iter().eq(sorted(read)), "{claims}");
                assert!(access.write().iter().eq(sorted(write)), "{claims}");
                assert_eq!(access.subject(), subject.as_str(), "{claims}");
                for channel in ["a", "b", "ab", "", "a\nb"] {
                    assert_eq!(
                        access.may_read(channel),
                        sorted(read).contains(&channel),
                        "{claims} {channel:?}"
                    );
                    assert_eq!(
                        access.may_write(channel),
                        sorted(write).contains(&channel),
                        "{claims} {channel:?}"
                    );
                }
            }
        }
    }
}
