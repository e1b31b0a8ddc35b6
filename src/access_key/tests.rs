use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD as BASE64;
use serde_json::{Value, json};

use jsonwebtoken::{Algorithm, EncodingKey, Header};

use super::*;

const SECRET: &[u8] = b"the secret of these tests";
const NOW: UnixSeconds = 1_000_000;

fn keys() -> Keys {
    Keys::new([SECRET])
}

fn policy() -> Policy {
    Policy {
        leeway: 5,
        require_expiry: false,
        issuer: None,
        audience: None,
        channels: 4,
        channel_name_bytes: 8,
    }
}

fn sign_with(algorithm: Algorithm, secret: &[u8], claims: &Value) -> String {
    jsonwebtoken::encode(&Header::new(algorithm), claims, &EncodingKey::from_secret(secret)).unwrap()
}

fn sign(claims: Value) -> String {
    sign_with(Algorithm::HS256, SECRET, &claims)
}

/// Signs parts that no library would write.
fn sign_raw(header: &str, payload: &str) -> String {
    let signed = format!("{}.{}", BASE64.encode(header), BASE64.encode(payload));
    let key = EncodingKey::from_secret(SECRET);
    let signature = jsonwebtoken::crypto::sign(signed.as_bytes(), &key, Algorithm::HS256).unwrap();
    format!("{signed}.{signature}")
}

fn check(token: &str) -> Result<AccessKey, TokenError> {
    verify(token, &keys(), &policy(), NOW)
}

fn refused(claims: Value) -> TokenError {
    check(&sign(claims)).unwrap_err()
}

fn names(channels: &[ChannelName]) -> Vec<&str> {
    channels.iter().map(ChannelName::as_str).collect()
}

#[test]
fn every_hmac_algorithm_is_taken_and_tokens_of_the_published_clients_too() {
    for algorithm in [Algorithm::HS256, Algorithm::HS384, Algorithm::HS512] {
        let token = sign_with(algorithm, SECRET, &json!({"read": ["b", "a", "b"], "write": ["c"]}));
        let access = check(&token).unwrap();
        assert_eq!(names(&access.read), ["a", "b"]);
        assert!(access.may_write("c") && !access.may_write("a"));
        assert!(!access.may_publish("c"), "without api");
    }
    assert!(check(&sign(json!({"aud": "someone", "iss": "else", "jti": "1", "more": {"x": [1]}}))).is_ok());
}

#[test]
fn the_api_publishes_on_any_channel_or_on_those_of_write() {
    let any = check(&sign(json!({"api": true}))).unwrap();
    assert!(any.may_publish("x") && !any.may_write("x"));
    let some = check(&sign(json!({"api": true, "write": ["x"]}))).unwrap();
    assert!(some.may_publish("x") && !some.may_publish("y"));
    let none = check(&sign(json!({"api": true, "write": null}))).unwrap();
    assert!(!none.may_publish("x"), "null is the empty list, not the absent claim");
}

#[test]
fn the_api_shows_any_channel_or_those_of_read() {
    let any = check(&sign(json!({"api": true}))).unwrap();
    assert!(any.may_see("x") && !any.may_read("x"));
    let some = check(&sign(json!({"api": true, "read": ["x"]}))).unwrap();
    assert!(some.may_see("x") && !some.may_see("y"));
    let none = check(&sign(json!({"api": true, "read": null}))).unwrap();
    assert!(!none.may_see("x"), "null is the empty list, not the absent claim");
}

#[test]
fn the_api_is_open_whole_in_parts_or_not_at_all() {
    let open = |api: Value| {
        let access = check(&sign(json!({"api": api}))).unwrap();
        ApiRight::ALL
            .into_iter()
            .filter(|right| access.api.has(*right))
            .map(ApiRight::name)
            .collect::<Vec<_>>()
    };
    let all = ["publish", "channels", "subjects", "connections", "disconnect", "info"];
    assert_eq!(open(json!(true)), all);
    assert_eq!(open(json!(all)), all);
    assert_eq!(open(json!(["info", "channels", "info"])), ["channels", "info"]);
    for none in [json!(false), json!(null), json!([])] {
        assert!(open(none.clone()).is_empty(), "{none}");
    }
    for wrong in
        [json!("publish"), json!(["publishing"]), json!(["Publish"]), json!([true]), json!(1), json!({})]
    {
        assert_eq!(refused(json!({"api": wrong.clone()})), TokenError::Claim("api"), "{wrong}");
    }
    let unnarrowed = check(&sign(json!({"api": ["channels"]}))).unwrap();
    assert!(!unnarrowed.may_publish("x"));
    for rights in [ApiRights::ALL, ApiRights::NONE, ApiRight::ALL[1..3].iter().copied().collect()] {
        let token = issue(&NewToken { api: rights, ..NewToken::default() }, &keys()).unwrap();
        assert_eq!(check(&token).unwrap().api, rights);
    }
}

#[test]
fn fault_18_missing() {
    assert_eq!(check("").unwrap_err(), TokenError::Missing);
}

#[test]
fn fault_19_other_algorithms() {
    for alg in ["none", "None", "NONE", "nOnE"] {
        let header = format!(r#"{{"alg":"{alg}","typ":"JWT"}}"#);
        let unsigned = format!("{}.{}.", BASE64.encode(&header), BASE64.encode("{}"));
        assert!(check(&unsigned).is_err(), "{alg}");
        assert!(check(&sign_raw(&header, "{}")).is_err(), "{alg}");
    }
    for alg in ["RS256", "PS512", "ES256", "EdDSA"] {
        let error = check(&sign_raw(&format!(r#"{{"alg":"{alg}"}}"#), "{}")).unwrap_err();
        assert_eq!(
            error.to_string(),
            "the token's algorithm is not accepted: sign with HS256, HS384 or HS512",
            "{alg}"
        );
    }
}

#[test]
fn fault_20_wrong_secret_a_flipped_bit_truncated() {
    let token = sign(json!({"read": ["a"]}));
    let other = sign_with(Algorithm::HS256, b"another", &json!({"read": ["a"]}));
    assert_eq!(check(&other).unwrap_err(), TokenError::BadSignature);
    for at in 0..token.len() {
        for bit in 0..8 {
            let mut bytes = token.clone().into_bytes();
            bytes[at] ^= 1 << bit;
            if let Ok(text) = std::str::from_utf8(&bytes) {
                assert!(check(text).is_err(), "bit {bit} of byte {at}");
            }
        }
        assert!(check(&token[..at]).is_err(), "cut at {at}");
    }
}

#[test]
fn fault_21_expiry() {
    let valid = |exp: Value| check(&sign(json!({"exp": exp})));
    assert_eq!(valid(json!(NOW)).unwrap().expires, Some(NOW));
    assert!(valid(json!(NOW - 4)).is_ok(), "within the leeway");
    assert_eq!(valid(json!(NOW - 5)).unwrap_err(), TokenError::Expired);
    assert_eq!(valid(json!(NOW as f64 + 0.5)).unwrap().expires, Some(NOW));
    for exp in [json!("1000000"), json!(-1), json!(null), json!(1e30), json!([1]), json!(true)] {
        assert_eq!(valid(exp.clone()).unwrap_err(), TokenError::Claim("exp"), "{exp}");
    }
    let strict = Policy { require_expiry: true, ..policy() };
    assert_eq!(verify(&sign(json!({})), &keys(), &strict, NOW).unwrap_err(), TokenError::NoExpiry);
}

#[test]
fn fault_22_not_yet_valid() {
    assert_eq!(refused(json!({"nbf": NOW + 6})), TokenError::NotYetValid);
    assert!(check(&sign(json!({"nbf": NOW + 5}))).is_ok());
    assert!(check(&sign(json!({"iat": NOW + 1_000}))).is_ok(), "backends' clocks differ");
}

#[test]
fn fault_23_headers() {
    let with = |rest: &str| check(&sign_raw(&format!(r#"{{"alg":"HS256",{rest}}}"#), "{}"));
    assert_eq!(with(r#""crit":["exp"]"#).unwrap_err(), TokenError::Critical);
    assert!(with(r#""jku":"http://127.0.0.1:1/","x5u":"http://127.0.0.1:1/""#).is_ok(), "nothing is fetched");
    for kid in ["unknown", "../../x"] {
        assert_eq!(with(&format!(r#""kid":"{kid}""#)).unwrap_err(), TokenError::UnknownKey);
    }
}

#[test]
fn fault_24_channel_lists() {
    assert!(check(&sign(json!({"read": null, "write": null}))).unwrap().read.is_empty());
    for bad in
        [json!("a"), json!(1), json!([["a"]]), json!([1]), json!({"a": 1}), json!([""]), json!(["a\n"])]
    {
        assert_eq!(refused(json!({"read": bad.clone()})), TokenError::Claim("read"), "{bad}");
        assert_eq!(refused(json!({"write": bad.clone()})), TokenError::Claim("write"), "{bad}");
    }
    assert_eq!(refused(json!({"read": ["123456789"]})), TokenError::Claim("read"), "a name over the limit");
    assert_eq!(refused(json!({"read": ["a", "b", "c", "d", "e"]})), TokenError::TooManyChannels);
}

#[test]
fn fault_25_long_tokens_are_refused_before_decoding() {
    assert_eq!(check(&"x".repeat(MAX_TOKEN_BYTES + 1)).unwrap_err(), TokenError::TooLong);
}

#[test]
fn fault_26_duplicate_claims_and_payloads_that_are_no_object() {
    let header = r#"{"alg":"HS256"}"#;
    for payload in [r#"{"read":["a"],"read":["b"]}"#, r#"[["a"]]"#, "null", "1", "\"x\"", "{", ""] {
        assert!(check(&sign_raw(header, payload)).is_err(), "{payload}");
    }
}

#[test]
fn subjects_have_a_length() {
    assert_eq!(check(&sign(json!({"sub": "alice"}))).unwrap().subject.as_deref(), Some("alice"));
    assert_eq!(refused(json!({"sub": 7})), TokenError::Claim("sub"));
    assert_eq!(refused(json!({"sub": "x".repeat(MAX_SUBJECT_BYTES + 1)})), TokenError::Claim("sub"));
}

#[test]
fn issuer_and_audience_count_where_configured() {
    let policy = Policy { issuer: Some("me".into()), audience: Some("you".into()), ..policy() };
    let check = |claims: Value| verify(&sign(claims), &keys(), &policy, NOW).map(drop);
    assert_eq!(check(json!({"iss": "me", "aud": "you"})), Ok(()));
    assert_eq!(check(json!({"iss": "me", "aud": ["them", "you"]})), Ok(()));
    assert_eq!(check(json!({"aud": "you"})), Err(TokenError::Issuer));
    assert_eq!(check(json!({"iss": "me"})), Err(TokenError::Audience));
    assert_eq!(check(json!({"iss": "me", "aud": ["them"]})), Err(TokenError::Audience));
}

#[test]
fn fault_29_the_first_key_signs_and_all_verify() {
    let both = Keys::new([b"new".as_slice(), SECRET]);
    let old = verify(&sign(json!({})), &both, &policy(), NOW).unwrap();
    let token = issue(&NewToken::default(), &both).unwrap();
    let new = verify(&token, &both, &policy(), NOW).unwrap();
    let rotated = Keys::new([b"new".as_slice()]);
    assert!(rotated.contains(&new.key.unwrap()) && !rotated.contains(&old.key.unwrap()));
    assert_eq!(verify(&sign(json!({})), &rotated, &policy(), NOW).unwrap_err(), TokenError::BadSignature);
}

#[test]
fn no_error_quotes_the_token() {
    let claims = json!({"read": "mark-in-read", "exp": "mark-in-exp", "sub": {"mark-in-sub": 1}});
    let error = refused(claims);
    assert!(!format!("{error} {error:?} {:?}", keys()).contains("mark"));
}
