//! Public keys: tokens of every algorithm, well-known attacks on JWT, and rotation while clients are connected.

use aws_lc_rs::encoding::AsDer;
use aws_lc_rs::rsa::KeySize;
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_FIXED_SIGNING, ECDSA_P384_SHA384_FIXED_SIGNING, EcdsaKeyPair, Ed25519KeyPair, KeyPair,
    RsaKeyPair,
};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD as BASE64;
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use serde_json::{Value, json};

use tokio_tungstenite::tungstenite::Message;

use crate::support::{Client, Daemon, SECRET, body_of, config_file, philote, sign, status, upgrade};

/// The key pair of an issuer.
struct Issuer {
    encoding: EncodingKey,
    algorithms: &'static [Algorithm],
    /// The public half: as SubjectPublicKeyInfo, and as an entry of a JWKS.
    spki: Vec<u8>,
    jwk: Value,
}

impl Issuer {
    fn rsa() -> Issuer {
        use Algorithm::*;
        let pair = RsaKeyPair::generate(KeySize::Rsa2048).unwrap();
        let private: aws_lc_rs::encoding::Pkcs8V1Der<'_> = pair.as_der().unwrap();
        // The library signs with the key inside PKCS#8, which has 26 bytes before it at this size.
        let encoding = EncodingKey::from_rsa_der(&private.as_ref()[26..]);
        let spki = pair.public_key().as_der().unwrap().as_ref().to_vec();
        let (n, e) = (pair.public_key().modulus(), pair.public_key().exponent());
        let jwk = json!({"kty": "RSA", "use": "sig", "x5c": ["ignored"],
            "n": BASE64.encode(n.big_endian_without_leading_zero()),
            "e": BASE64.encode(e.big_endian_without_leading_zero())});
        Issuer { encoding, algorithms: &[RS256, RS384, RS512, PS256, PS384, PS512], spki, jwk }
    }

    fn elliptic(algorithm: &'static [Algorithm; 1]) -> Issuer {
        let (kind, curve, size) = match algorithm {
            [Algorithm::ES256] => (&ECDSA_P256_SHA256_FIXED_SIGNING, "P-256", 32),
            _ => (&ECDSA_P384_SHA384_FIXED_SIGNING, "P-384", 48),
        };
        let pair = EcdsaKeyPair::generate(kind).unwrap();
        let encoding = EncodingKey::from_ec_der(pair.to_pkcs8v1().unwrap().as_ref());
        let spki = pair.public_key().as_der().unwrap().as_ref().to_vec();
        let point = &pair.public_key().as_ref()[1..];
        let jwk = json!({"kty": "EC", "crv": curve, "key_ops": ["verify"],
            "x": BASE64.encode(&point[..size]), "y": BASE64.encode(&point[size..])});
        Issuer { encoding, algorithms: algorithm, spki, jwk }
    }

    fn edwards() -> Issuer {
        let pair = Ed25519KeyPair::generate().unwrap();
        let encoding = EncodingKey::from_ed_der(pair.to_pkcs8v1().unwrap().as_ref());
        let spki = pair.public_key().as_der().unwrap().as_ref().to_vec();
        let jwk = json!({"kty": "OKP", "crv": "Ed25519", "alg": "EdDSA",
            "x": BASE64.encode(pair.public_key().as_ref())});
        Issuer { encoding, algorithms: &[Algorithm::EdDSA], spki, jwk }
    }

    fn all() -> [Issuer; 4] {
        let [p256, p384] = [&[Algorithm::ES256], &[Algorithm::ES384]].map(Issuer::elliptic);
        [Issuer::rsa(), p256, p384, Issuer::edwards()]
    }

    fn pem(&self) -> String {
        pem::encode(&pem::Pem::new("PUBLIC KEY", self.spki.clone()))
    }

    fn jwk(&self, kid: &str) -> Value {
        let mut jwk = self.jwk.clone();
        jwk["kid"] = kid.into();
        jwk
    }

    fn sign(&self, algorithm: Algorithm, kid: Option<&str>) -> String {
        let header = Header { kid: kid.map(str::to_owned), ..Header::new(algorithm) };
        jsonwebtoken::encode(&header, &json!({"read": ["c"], "write": ["c"]}), &self.encoding).unwrap()
    }
}

fn inspect(daemon: &Daemon, token: &str) -> Value {
    daemon.admin("POST", "/v1/inspect", &json!({"token": token}).to_string())["signed_by"].clone()
}

/// The rejection of a client with this token, or `null` if it is connected.
fn refusal(daemon: &Daemon, token: &str) -> Value {
    let mut stream = daemon.connect();
    std::io::Write::write_all(&mut stream, upgrade(token, "").as_bytes()).unwrap();
    let mut answer = vec![0; 2048];
    let length = std::io::Read::read(&mut stream, &mut answer).unwrap();
    let answer = String::from_utf8_lossy(&answer[..length]).into_owned();
    match status(&answer) {
        101 => Value::Null,
        401 => body_of(&answer)["message"].clone(),
        other => panic!("{other}: {answer}"),
    }
}

#[test]
fn tokens_of_every_algorithm_are_verified_from_pem_and_from_a_jwks() {
    let (by_pem, by_jwks, stranger) = (Issuer::all(), Issuer::all(), Issuer::all());
    let daemon = Daemon::start_with("", |command| {
        let directory = command
            .get_envs()
            .find_map(|(name, value)| (name == "HOME").then(|| std::path::PathBuf::from(value.unwrap())))
            .unwrap();
        let (first, rest) = by_pem.split_first().unwrap();
        std::fs::write(directory.join("named.pem"), first.pem()).unwrap();
        std::fs::write(directory.join("keys.pem"), rest.iter().map(Issuer::pem).collect::<String>()).unwrap();
        let keys: Vec<_> =
            by_jwks.iter().enumerate().map(|(at, key)| key.jwk(&format!("kid {at}"))).collect();
        std::fs::write(directory.join("jwks.json"), json!({"keys": keys}).to_string()).unwrap();
        config_file(
            &directory,
            "[auth]\npublic_keys = [\"named.pem#first\", \"keys.pem\"]\njwks_file = \"jwks.json\"\n",
        );
    });
    let place = |name: &str| daemon.directory.path().join(name).display().to_string();
    for (at, issuer) in by_pem.iter().enumerate() {
        let (kid, name) = match at {
            0 => (Some("first"), format!("public_keys {}#first", place("named.pem"))),
            at => (None, format!("public_keys {}, key {at}", place("keys.pem"))),
        };
        for algorithm in issuer.algorithms {
            let token = issuer.sign(*algorithm, kid);
            assert_eq!(
                (refusal(&daemon, &token), inspect(&daemon, &token)),
                (Value::Null, name.clone().into())
            );
            // Without a kid the key is found by its algorithm.
            assert_eq!(refusal(&daemon, &issuer.sign(*algorithm, None)), Value::Null, "{algorithm:?}");
        }
    }
    for (at, (issuer, stranger)) in by_jwks.iter().zip(&stranger).enumerate() {
        let kid = format!("kid {at}");
        for algorithm in issuer.algorithms {
            let token = issuer.sign(*algorithm, Some(&kid));
            let name = format!("jwks_file {}#{kid}", place("jwks.json"));
            assert_eq!((refusal(&daemon, &token), inspect(&daemon, &token)), (Value::Null, name.into()));
            // Fault 23, and the kid of another key.
            for unknown in ["kid 9", "../../x", "first"] {
                assert_ne!(
                    refusal(&daemon, &issuer.sign(*algorithm, Some(unknown))),
                    Value::Null,
                    "{unknown}"
                );
            }
            assert_ne!(
                refusal(&daemon, &stranger.sign(*algorithm, Some(&kid))),
                Value::Null,
                "the key of another issuer"
            );
            assert_ne!(
                refusal(&daemon, &stranger.sign(*algorithm, None)),
                Value::Null,
                "the key of another issuer"
            );
        }
    }
    let unknown = refusal(&daemon, &by_jwks[0].sign(Algorithm::RS256, Some("../../x")));
    assert_eq!(unknown, "this server has no public key with the token's kid and algorithm");
    // The secret is still accepted, also from libraries that add a `kid` to every token.
    daemon.client(&["c"]).settle();
    for kid in ["first", "kid 0", "../../x", ""] {
        let header = Header { kid: Some(kid.to_owned()), ..Header::new(Algorithm::HS256) };
        let key = EncodingKey::from_secret(SECRET.as_bytes());
        let token = jsonwebtoken::encode(&header, &json!({"read": ["c"], "write": ["c"]}), &key).unwrap();
        assert_eq!(
            (refusal(&daemon, &token), inspect(&daemon, &token)),
            (Value::Null, "secret, line 1".into()),
            "{kid:?}"
        );
    }
}

#[test]
fn fault_19_a_public_key_is_never_used_as_a_secret() {
    let issuers = Issuer::all();
    let daemon = Daemon::start("");
    let keys: Vec<_> = issuers.iter().enumerate().map(|(at, key)| key.jwk(&format!("kid {at}"))).collect();
    std::fs::write(daemon.directory.path().join("jwks.json"), json!({"keys": keys}).to_string()).unwrap();
    config_file(daemon.directory.path(), "[auth]\njwks_file = \"jwks.json\"\n");
    assert_eq!(daemon.admin("POST", "/v1/reload", "")["applied"], json!(["auth.jwks_file"]));
    for (at, issuer) in issuers.iter().enumerate() {
        let kid = format!("kid {at}");
        // Public forms of the key, each used as an HMAC secret: the text, the encoding, and the entry of the JWKS.
        let known = [
            issuer.pem().into_bytes(),
            issuer.pem().trim_end().as_bytes().to_vec(),
            issuer.spki.clone(),
            issuer.jwk(&kid).to_string().into_bytes(),
        ];
        for secret in known {
            for algorithm in [Algorithm::HS256, Algorithm::HS384, Algorithm::HS512] {
                for kid in [None, Some(&kid)] {
                    let header = Header { kid: kid.cloned(), ..Header::new(algorithm) };
                    let token = jsonwebtoken::encode(
                        &header,
                        &json!({"read": ["c"]}),
                        &EncodingKey::from_secret(&secret),
                    );
                    assert_ne!(refusal(&daemon, &token.unwrap()), Value::Null);
                }
            }
        }
        // A header that names another algorithm than the signature's, and none at all.
        let token = issuer.sign(issuer.algorithms[0], Some(&kid));
        let (_, rest) = token.split_once('.').unwrap();
        let (payload, signature) = rest.split_once('.').unwrap();
        for alg in ["none", "None", "NONE", "HS256", "RS256", "PS256", "ES256", "ES384", "EdDSA"] {
            let header = BASE64.encode(json!({"alg": alg, "kid": kid}).to_string());
            assert_ne!(refusal(&daemon, &format!("{header}.{payload}.{signature}")), Value::Null, "{alg}");
            assert_ne!(refusal(&daemon, &format!("{header}.{payload}.")), Value::Null, "{alg}");
        }
    }
    // The secret is not accepted as a public key: a JWKS with an entry of kty oct is refused.
    let oct = json!({"keys": [{"kty": "oct", "k": BASE64.encode(SECRET)}]});
    std::fs::write(daemon.directory.path().join("jwks.json"), oct.to_string()).unwrap();
    let refused = daemon.admin("POST", "/v1/reload", "");
    let sentence = refused["message"].as_str().unwrap();
    assert!(sentence.contains("auth.jwks_file") && sentence.contains("key 1: a symmetric key"), "{sentence}");
}

#[test]
fn fault_29_a_jwks_rotates_while_clients_are_connected() {
    let daemon = Daemon::start("[shutdown]\ndrain = \"1s\"\n");
    let [old, new] = [Issuer::elliptic(&[Algorithm::ES256]), Issuer::rsa()];
    let reload = |text: &str| {
        std::fs::write(daemon.directory.path().join("jwks.json"), text).unwrap();
        config_file(
            daemon.directory.path(),
            "[auth]\njwks_file = \"jwks.json\"\n[shutdown]\ndrain = \"1s\"\n",
        );
        daemon.admin("POST", "/v1/reload", "")
    };
    let set = |keys: &[Value]| json!({"keys": keys}).to_string();
    let (by_old, by_new) = (old.sign(Algorithm::ES256, Some("1")), new.sign(Algorithm::PS256, Some("2")));

    reload(&set(&[old.jwk("1")]));
    let mut first = daemon.try_client(&by_old).unwrap();
    let mut by_secret = daemon.client(&["c"]);
    assert!(daemon.try_client(&by_new).is_err());

    let both = reload(&set(&[old.jwk("1"), new.jwk("2")]));
    assert_eq!((&both["applied"], &both["closing"]), (&json!(["auth.jwks_file"]), &json!(0)));
    let mut second = daemon.try_client(&by_new).unwrap();
    first.publish("c", "both are in");
    assert_eq!((second.data(), by_secret.data()), ("both are in".into(), "both are in".into()));

    // An incomplete file changes nothing (guarantee 6).
    let broken = reload("{\"keys\": [{\"kty\":");
    let sentence = broken["message"].as_str().unwrap();
    assert!(
        sentence.contains("auth.jwks_file: ") && sentence.contains("jwks.json: not a JSON Web"),
        "{sentence}"
    );
    first.settle();

    assert_eq!(reload(&set(&[new.jwk("2")]))["closing"], 1);
    let (code, reason, _) = first.closed();
    assert_eq!((code, reason.contains("no longer accepted")), (4401, true));
    assert!(daemon.try_client(&by_old).is_err());
    second.publish("c", "still here");
    assert_eq!(by_secret.data(), "still here");
    second.settle();
}

#[test]
fn a_key_that_moves_to_another_file_keeps_its_connections() {
    let daemon = Daemon::start("");
    let issuers = Issuer::all();
    let file = |name: &str, content: &str| {
        std::fs::write(daemon.directory.path().join(name), content).unwrap();
    };
    file("keys.pem", &issuers.iter().map(Issuer::pem).collect::<String>());
    file(
        "jwks.json",
        &json!({"keys": issuers.iter().map(|issuer| issuer.jwk("1")).collect::<Vec<_>>()}).to_string(),
    );
    let reload = |auth: &str| {
        config_file(daemon.directory.path(), &format!("[auth]\n{auth}\n"));
        daemon.admin("POST", "/v1/reload", "")
    };
    reload("public_keys = [\"keys.pem\"]");
    let sign = |issuer: &Issuer| issuer.sign(issuer.algorithms[0], None);
    let mut clients: Vec<_> =
        issuers.iter().map(|issuer| daemon.try_client(&sign(issuer)).unwrap()).collect();
    for auth in ["jwks_file = \"jwks.json\"", "public_keys = [\"keys.pem\"]"] {
        assert_eq!(reload(auth)["closing"], 0, "{auth}");
        clients.iter_mut().for_each(Client::settle);
    }
}

#[test]
fn a_connection_that_replaces_its_token_before_it_is_closed_stays() {
    let drain = "[shutdown]\ndrain = \"1m\"\n";
    let daemon = Daemon::start(drain);
    let old = Issuer::elliptic(&[Algorithm::ES256]);
    let jwks = json!({"keys": [old.jwk("1")]}).to_string();
    std::fs::write(daemon.directory.path().join("jwks.json"), jwks).unwrap();
    config_file(daemon.directory.path(), &format!("[auth]\njwks_file = \"jwks.json\"\n{drain}"));
    daemon.admin("POST", "/v1/reload", "");
    let by_old = old.sign(Algorithm::ES256, Some("1"));
    // The connections are closed one after the other, in an unspecified order.
    let open = || (0..20).map(|_| daemon.try_client(&by_old).unwrap()).collect::<Vec<_>>();
    let (mut renewing, mut waiting) = (open(), open());
    config_file(daemon.directory.path(), drain);
    assert_eq!(daemon.admin("POST", "/v1/reload", "")["closing"], 40);
    for client in &mut renewing {
        let token = sign(&json!({"read": ["c"], "write": ["c"]}));
        // Some connections may be closed already.
        let _ = client.socket.send(Message::text(json!({"auth": token}).to_string()));
    }
    renewing.retain_mut(|client| match client.socket.read() {
        Ok(Message::Text(text)) => text.starts_with("{\"access\":"),
        _ => false,
    });
    assert!(!renewing.is_empty(), "all were closed before one could send its token");
    for client in &mut waiting {
        assert_eq!(client.closed().0, 4401);
    }
    renewing.iter_mut().for_each(Client::settle);
}

#[test]
fn more_than_32_public_keys_are_refused() {
    let directory = tempfile::TempDir::new().unwrap();
    let check = |count: usize| {
        let files: Vec<_> = (0..count).map(|number| format!("\"{number}.pem\"")).collect();
        config_file(directory.path(), &format!("[auth]\npublic_keys = [{}]\n", files.join(", ")));
        let output = philote(directory.path()).env("SECRET", SECRET).arg("--check").output().unwrap();
        (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
    };
    let issuer = Issuer::edwards();
    for number in 0..33 {
        std::fs::write(directory.path().join(format!("{number}.pem")), issuer.pem()).unwrap();
    }
    assert_eq!(check(32).0, Some(0));
    let (code, said) = check(33);
    let wanted = "philote.toml:2: auth.public_keys: must be from 0 to 32 files, not 33";
    assert!(code == Some(78) && said.contains(wanted), "{said}");
}

#[test]
fn files_without_a_public_key_are_reported_with_the_reason() {
    // A key of 1024 bits.
    const WEAK: &str = "-----BEGIN PUBLIC KEY-----
MIGfMA0GCSqGSIb3DQEBAQUAA4GNADCBiQKBgQC7NzKsCs5PxtnhDExbRgjseFJR
VlANHC4ssr6bweVrxDf8g7419poiuum1gNXzg5v2TBVp893SmGtwAArtEkOBnmR6
K8WruVy0Twk7KYRrVDaWtIvMz8CaaI3iX2lyirkG5LqyRN2E/TiAUhA3RHvcApkS
0jO5O2qR6QA5bGfrdQIDAQAB
-----END PUBLIC KEY-----
";
    let good = Issuer::edwards();
    let block = |tag: &str| pem::encode(&pem::Pem::new(tag, good.spki.clone()));
    let set = |key: Value| json!({"keys": [key]}).to_string();
    let weak_jwk = json!({"kty": "RSA", "kid": "w", "n": BASE64.encode([0x9d; 128]), "e": "AQAB"});
    let many = json!({"keys": vec![good.jwk("x"); 33]}).to_string();
    let cases = [
        ("public_keys", WEAK.to_owned(), "key 1: an RSA key of 1024 bits: it must have 2048 to 8192"),
        ("public_keys", block("PRIVATE KEY"), "key 1: a private key, which must stay with its issuer"),
        (
            "public_keys",
            block("PUBLIC KEY") + &block("CERTIFICATE"),
            "key 2: a certificate: give its public key",
        ),
        ("public_keys", "nothing".into(), "not PEM: it must hold -----BEGIN PUBLIC KEY-----"),
        ("public_keys", block("PUBLIC KEY").replace("MCow", "MCox"), "key 1: "),
        ("public_keys", "x".repeat(300_000), "larger than 262144 bytes"),
        ("public_keys", block("PUBLIC KEY").repeat(33), "more than 32 public keys in all"),
        ("jwks_file", set(weak_jwk), "key 1, kid \"w\": an RSA key of 1024 bits"),
        ("jwks_file", set(json!({"kty": "EC", "crv": "P-256", "x": "AQ", "y": "AQ"})), "key 1: malformed"),
        (
            "jwks_file",
            set(json!({"kty": "OKP", "crv": "Ed25519", "x": "AQ", "d": "AQ"})),
            "key 1: a private key",
        ),
        ("jwks_file", set(json!({"kty": "EC", "crv": "P-521", "x": "AQ", "y": "AQ"})), "it has no key"),
        ("jwks_file", "{}".into(), "not a JSON Web Key Set, {\"keys\": [...]}, at line 1"),
        ("jwks_file", many, "more than 32 public keys in all"),
    ];
    for (key, text, sentence) in cases {
        let directory = tempfile::TempDir::new().unwrap();
        let value = if key == "public_keys" { "[\"keys\"]" } else { "\"keys\"" };
        config_file(directory.path(), &format!("[auth]\n{key} = {value}\n"));
        std::fs::write(directory.path().join("keys"), text).unwrap();
        let check = || philote(directory.path()).env("SECRET", SECRET).arg("--check").output().unwrap();
        let output = check();
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(78), "{said}");
        let place = format!("philote.toml:2: auth.{key}: {}: ", directory.path().join("keys").display());
        assert!(said.contains(&place) && said.contains(sentence), "{sentence}: {said}");
        std::fs::remove_file(directory.path().join("keys")).unwrap();
        assert!(String::from_utf8_lossy(&check().stderr).contains("No such file or directory"));
    }
}
