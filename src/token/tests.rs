use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD as BASE64;
use serde_json::{Value, json};

use jsonwebtoken::{Algorithm, EncodingKey, Header};

use super::*;

mod rights;

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

/// Signs a header and a payload that no library would write.
fn sign_raw(header: &str, payload: &str) -> String {
    let signed = format!("{}.{}", BASE64.encode(header), BASE64.encode(payload));
    let key = EncodingKey::from_secret(SECRET);
    let signature = jsonwebtoken::crypto::sign(signed.as_bytes(), &key, Algorithm::HS256).unwrap();
    format!("{signed}.{signature}")
}

fn check(token: &str) -> Result<Claims, TokenError> {
    verify(token, &keys(), &policy(), NOW)
}

fn refused(claims: Value) -> TokenError {
    check(&sign(claims)).unwrap_err()
}

fn names(access: &Claims) -> Vec<&str> {
    access.read().iter().collect()
}

#[test]
fn every_hmac_algorithm_and_unknown_claims_are_accepted() {
    for algorithm in [Algorithm::HS256, Algorithm::HS384, Algorithm::HS512] {
        let token = sign_with(algorithm, SECRET, &json!({"read": ["b", "a", "b"], "write": ["c"]}));
        let access = check(&token).unwrap();
        assert_eq!(names(&access), ["a", "b"]);
        assert!(access.may_write("c") && !access.may_write("a"));
        assert!(!access.may_publish("c"), "without api");
    }
    assert!(check(&sign(json!({"aud": "someone", "iss": "else", "jti": "1", "more": {"x": [1]}}))).is_ok());
}

#[test]
fn fault_18_a_missing_token_is_refused() {
    assert_eq!(check("").unwrap_err(), TokenError::Missing);
}

#[test]
fn fault_19_other_algorithms_are_refused() {
    const ALGORITHM: &str = "the token's algorithm is not accepted: sign with HS256, HS384 or HS512";
    for alg in ["none", "None", "NONE", "nOnE"] {
        let header = format!(r#"{{"alg":"{alg}","typ":"JWT"}}"#);
        let unsigned = format!("{}.{}.", BASE64.encode(&header), BASE64.encode("{}"));
        for token in [unsigned, sign_raw(&header, "{}")] {
            assert_eq!(check(&token).unwrap_err().to_string(), ALGORITHM, "{alg}");
        }
    }
    for alg in ["RS256", "PS512", "ES256", "EdDSA", "HS1"] {
        let error = check(&sign_raw(&format!(r#"{{"alg":"{alg}"}}"#), "{}")).unwrap_err();
        assert_eq!(error.to_string(), ALGORITHM, "{alg}");
    }
    for header in [r#"{"typ":"JWT"}"#, r#"{"alg":null}"#, r#"{"alg":256}"#] {
        assert_eq!(check(&sign_raw(header, "{}")).unwrap_err().to_string(), ALGORITHM, "{header}");
    }
    assert_eq!(check(&sign_raw("[]", "{}")).unwrap_err(), TokenError::Malformed);
}

#[test]
fn fault_20_a_wrong_secret_a_flipped_bit_and_a_truncated_token_are_refused() {
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
fn fault_21_expired_tokens_and_invalid_dates_are_refused() {
    let valid = |exp: Value| check(&sign(json!({"exp": exp})));
    assert_eq!(valid(json!(NOW)).unwrap().expires(), Some(NOW));
    assert!(valid(json!(NOW - 4)).is_ok(), "within the leeway");
    assert_eq!(valid(json!(NOW - 5)).unwrap_err(), TokenError::Expired);
    assert_eq!(valid(json!(NOW as f64 + 0.5)).unwrap().expires(), Some(NOW));
    for (exp, found) in [
        (json!("1000000"), "a string"),
        (json!(-1), "a negative number"),
        (json!(null), "null; leave the claim out for no limit"),
        (json!(1e30), "a date after the year 9999; perhaps it is in milliseconds"),
        (json!(NOW * 1_000_000), "a date after the year 9999; perhaps it is in milliseconds"),
        (json!([1]), "an array"),
        (json!({"a": 1}), "an object"),
        (json!(true), "a boolean"),
    ] {
        for claim in ["exp", "nbf"] {
            let sentence =
                format!("the token's claim `{claim}` must be a number of seconds since 1970, not {found}");
            assert_eq!(refused(json!({claim: exp.clone()})).to_string(), sentence);
        }
    }
    let strict = Policy { require_expiry: true, ..policy() };
    assert_eq!(verify(&sign(json!({})), &keys(), &strict, NOW).unwrap_err(), TokenError::NoExpiry);
}

#[test]
fn fault_22_a_token_before_its_nbf_is_refused() {
    assert_eq!(refused(json!({"nbf": NOW + 6})), TokenError::NotYetValid);
    assert!(check(&sign(json!({"nbf": NOW + 5}))).is_ok());
    assert!(check(&sign(json!({"iat": NOW + 1_000}))).is_ok(), "the clocks of backends differ");
}

#[test]
fn fault_23_critical_headers_are_refused_and_others_ignored() {
    let with = |rest: &str| check(&sign_raw(&format!(r#"{{"alg":"HS256",{rest}}}"#), "{}"));
    assert_eq!(with(r#""crit":["exp"]"#).unwrap_err(), TokenError::Critical);
    assert!(with(r#""jku":"http://127.0.0.1:1/","x5u":"http://127.0.0.1:1/""#).is_ok(), "nothing is fetched");
    for kid in ["unknown", "../../x", ""] {
        assert!(with(&format!(r#""kid":"{kid}""#)).is_ok(), "a secret has no name: {kid:?}");
    }
}

#[test]
fn fault_23_a_kid_selects_among_public_keys_and_never_another_family() {
    let public = rcgen::KeyPair::generate().unwrap();
    let mut keys = keys();
    let point = rcgen::PublicKeyData::der_bytes(&public);
    keys.add_public(
        &jsonwebtoken::DecodingKey::from_ec_der(point),
        &[Algorithm::ES256],
        point,
        Some("p"),
        "p",
    );
    let private = EncodingKey::from_ec_der(&public.serialize_der());
    let check = |algorithm, kid: Option<&str>, key: &EncodingKey| {
        let header = Header { kid: kid.map(str::to_owned), ..Header::new(algorithm) };
        let token = jsonwebtoken::encode(&header, &json!({}), key).unwrap();
        verify(&token, &keys, &policy(), NOW).map(|access| access.key.unwrap().name().to_owned())
    };
    let secret = EncodingKey::from_secret(SECRET);
    for kid in [None, Some("p"), Some("other"), Some("")] {
        assert_eq!(check(Algorithm::HS256, kid, &secret).as_deref(), Ok("secret, line 1"), "{kid:?}");
        // A token with the key's kid that is signed with the public key as its secret.
        let forged = check(Algorithm::HS256, kid, &EncodingKey::from_secret(point));
        assert_eq!(forged, Err(TokenError::BadSignature), "{kid:?}");
    }
    for (kid, verdict) in [
        (None, Ok("p".to_owned())),
        (Some("p"), Ok("p".to_owned())),
        (Some("other"), Err(TokenError::UnknownKey)),
        (Some(""), Err(TokenError::UnknownKey)),
    ] {
        assert_eq!(check(Algorithm::ES256, kid, &private), verdict, "{kid:?}");
    }
}

#[test]
fn fault_24_invalid_channel_lists_are_refused() {
    assert!(check(&sign(json!({"read": null, "write": null}))).unwrap().read().is_empty());
    for (bad, found) in [
        (json!("a"), "a string"),
        (json!(1), "a number"),
        (json!({"a": 1}), "an object"),
        (json!(false), "a boolean"),
        (json!([["a"]]), "an array with an array in it"),
        (json!(["a", 1]), "an array with a number in it"),
        (json!([null]), "an array with null in it"),
        (json!([true]), "an array with a boolean in it"),
        (json!([{"a": 1}]), "an array with an object in it"),
        (json!([""]), "an array with an empty name in it"),
        (json!(["a\n"]), "an array with a control character in a name"),
    ] {
        for claim in ["read", "write"] {
            let sentence =
                format!("the token's claim `{claim}` must be an array of channel names, not {found}");
            assert_eq!(refused(json!({claim: bad.clone()})).to_string(), sentence);
        }
    }
    assert_eq!(
        refused(json!({"read": ["123456789"]})).to_string(),
        "the token's claim `read` has a channel name of more than 8 bytes (channel_name_bytes)"
    );
    assert_eq!(refused(json!({"read": ["a", "b", "c", "d", "e"]})), TokenError::TooManyChannels);
}

#[test]
fn fault_25_long_tokens_are_refused_before_decoding() {
    let token = "x".repeat(MAX_REQUEST_TOKEN_BYTES + 1);
    assert_eq!(check(&token).unwrap_err(), TokenError::TooLong);
    assert!(check(&token).unwrap_err().to_string().contains("philote.v1 accepts a longer token"));
    let most = policy().longest_token();
    let in_message = |length| verify_in_frame(&"x".repeat(length), &keys(), &policy(), NOW).unwrap_err();
    assert_eq!(in_message(most), TokenError::Malformed, "decoded");
    assert_eq!(in_message(most + 1), TokenError::TooLongForMessage(most));
}

#[test]
fn fault_25_a_token_full_of_the_longest_names_fits_into_a_message() {
    let policy = Policy { channels: 1024, channel_name_bytes: 255, ..policy() };
    let names: Vec<String> = (0..1024).map(|number| format!("{number:0255}")).collect();
    let token =
        sign(json!({"read": names, "write": names, "sub": "x".repeat(MAX_SUBJECT_BYTES), "exp": NOW}));
    assert_eq!(verify_in_frame(&token, &keys(), &policy, NOW).unwrap().read().len(), 1024);
    assert_eq!(verify(&token, &keys(), &policy, NOW).unwrap_err(), TokenError::TooLong);
}

#[test]
fn white_space_around_a_token_is_ignored() {
    let token = sign(json!({"read": ["a"]}));
    for (before, behind) in [("", "\n"), ("", " "), ("", "\r\n"), ("\t", ""), (" \n", "\n\n ")] {
        assert!(check(&format!("{before}{token}{behind}")).is_ok(), "{before:?} {behind:?}");
    }
    let (head, tail) = token.split_at(20);
    assert_eq!(check(&format!("{head} {tail}")).unwrap_err(), TokenError::Malformed);
    for blank in ["", " ", "\n"] {
        assert_eq!(check(blank).unwrap_err(), TokenError::Missing);
    }
}

#[test]
fn fault_26_duplicate_claims_and_payloads_other_than_objects_are_refused() {
    let header = r#"{"alg":"HS256"}"#;
    let refused = |payload: &str| check(&sign_raw(header, payload)).unwrap_err();
    for (claim, one, other) in [
        ("read", r#"["a"]"#, r#"["b"]"#),
        ("write", r#"["a"]"#, "null"),
        ("api", "true", "false"),
        ("sub", r#""a""#, r#""b""#),
        ("exp", "1000000", "2000000"),
        ("nbf", "1", "2"),
        ("iss", r#""a""#, r#""a""#),
        ("aud", r#""a""#, r#""a""#),
    ] {
        let payload = format!(r#"{{"{claim}":{one},"other":1,"{claim}":{other}}}"#);
        assert_eq!(refused(&payload), TokenError::Claim(claim, ClaimError::Twice));
        assert_eq!(refused(&payload).to_string(), format!("the token has the claim `{claim}` twice"));
    }
    for payload in [r#"[["a"]]"#, "null", "1", "\"x\"", "{", ""] {
        assert_eq!(refused(payload), TokenError::NotClaims, "{payload}");
    }
    assert!(check(&sign_raw(header, r#"{"x":1,"x":2}"#)).is_ok(), "unknown claims do not matter");
}

#[test]
fn null_counts_as_absent_except_for_lists_and_dates() {
    let null = |claim: &str| check(&sign(json!({claim: null, "api": true})));
    for claim in ["sub", "iat", "jti", "iss", "aud", "unknown"] {
        assert!(null(claim).is_ok(), "{claim}");
    }
    assert!(check(&sign(json!({"api": null}))).unwrap().api.is_none());
    // An absent `read` or `write` allows every channel in the API, so null is the empty list.
    assert!(!null("read").unwrap().may_see("a") && check(&sign(json!({"api": true}))).unwrap().may_see("a"));
    assert!(!null("write").unwrap().may_publish("a"));
    // An absent date means no limit, so null is an error.
    for claim in ["exp", "nbf"] {
        assert!(matches!(null(claim), Err(TokenError::Claim(name, _)) if name == claim));
    }
    let policy = Policy { issuer: Some("me".into()), audience: Some("you".into()), ..policy() };
    let check = |claims: Value| verify(&sign(claims), &keys(), &policy, NOW).map(drop);
    assert_eq!(check(json!({"iss": null, "aud": "you"})), Err(TokenError::Issuer));
    assert_eq!(check(json!({"iss": "me", "aud": null})), Err(TokenError::Audience));
}

#[test]
fn errors_of_other_claims_say_what_they_must_be() {
    let rights = "true, false or an array of rights (publish, channels, subjects, connections, disconnect, info, events)";
    for (api, found) in [
        (json!("true"), "a string"),
        (json!(1), "a number"),
        (json!({}), "an object"),
        (json!([1]), "an array with a number in it"),
        (json!(["publish", "mark"]), "an array with an unknown right in it"),
    ] {
        let sentence = format!("the token's claim `api` must be {rights}, not {found}");
        assert_eq!(refused(json!({"api": api})).to_string(), sentence);
    }
    for right in ApiRight::ALL {
        assert!(rights.contains(right.name()));
    }
    assert_eq!(check(&sign(json!({"sub": "alice"}))).unwrap().subject(), Some("alice"));
    for (sub, found) in [
        (json!(7), "a number"),
        (json!(["a"]), "an array"),
        (json!("x".repeat(MAX_SUBJECT_BYTES + 1)), "a longer one"),
    ] {
        let sentence = format!(
            "the token's claim `sub` must be a string of at most {MAX_SUBJECT_BYTES} bytes, not {found}"
        );
        assert_eq!(refused(json!({"sub": sub})).to_string(), sentence);
    }
}

#[test]
fn issuer_and_audience_are_checked_if_configured() {
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
