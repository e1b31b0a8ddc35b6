//! Functions for tests/fuzz: each takes any bytes, as a stranger may send them, and panics if what must hold does not.
//!
//! Only the feature `fuzz` builds this. What needs private items is beside them: `server/fuzz.rs`,
//! `config/public_keys/fuzz.rs`, `hub/image/fuzz.rs` and `cluster/fuzz.rs`.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a failure is a finding, or a fault of the machine"
)]

use std::io::{Read, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use aws_lc_rs::hmac;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::Value;

mod control;

use crate::config::{self, Environment, Overrides, load};
use crate::hub::{Connection, Hub, PresenceLimits};
use crate::message::{ApiMessage, ChannelName, Delivery, FromClient};
use crate::outbox::Budget;
use crate::token::{Claims, Keys, NewToken, Policy, claimed_subject, inspect, issue, verify};
use crate::{admin, cluster, hub, server};

/// A function that takes any bytes.
pub type Target = fn(&[u8]);

/// The targets by name.
pub const TARGETS: &[(&str, Target)] = &[
    ("admin", admin_request),
    ("api", server::fuzz::api_body),
    ("cluster", cluster::fuzz::message_and_subject),
    ("config", config_file),
    ("environment", environment),
    ("events", server::fuzz::events),
    ("forwarded", server::fuzz::forwarded),
    ("frames", server::fuzz::frames),
    ("image", hub::image::fuzz::image),
    ("message", message),
    ("order", cluster::fuzz::order),
    ("presence", presence),
    ("proxy", server::fuzz::proxy_header),
    ("public_keys", config::fuzz_public_keys),
    ("request", server::fuzz::request),
    ("token", token),
];

/// Runs the target with this name.
///
/// # Panics
/// There is none, or the target has found something.
pub fn run(name: &str, data: &[u8]) {
    let (_, target) = TARGETS.iter().find(|(known, _)| *known == name).expect("a target of this name");
    target(data);
}

/// The secret with which tokens of the targets are signed.
const SECRET: &str = "the secret of the fuzzer, of more than 32 bytes";

/// Writes a file of this process, always the same one for each thread.
fn tempfile(text: &[u8]) -> std::path::PathBuf {
    let id = format!("{:?}", std::thread::current().id()).replace(['(', ')'], "-");
    let path = std::env::temp_dir().join(format!("philote-fuzz-{}-{id}", std::process::id()));
    std::fs::write(&path, text).unwrap();
    path
}

/// A token as it comes, or signed with the secret: what a stranger can send, and what a backend can sign.
fn token(data: &[u8]) {
    static KEYS: LazyLock<Keys> = LazyLock::new(|| Keys::new([SECRET.as_bytes()]));
    let Some((mode, rest)) = data.split_first() else { return };
    let policy = Policy {
        leeway: 5,
        require_expiry: mode & 2 != 0,
        issuer: (mode & 4 != 0).then(|| "issuer".to_owned()),
        audience: (mode & 8 != 0).then(|| "audience".to_owned()),
        channels: 16,
        channel_name_bytes: 64,
    };
    let signed = mode & 1 != 0;
    let token = if signed {
        let mut parts = rest.splitn(2, |byte| *byte == b'\n');
        let (header, claims) = (parts.next().unwrap_or_default(), parts.next().unwrap_or_default());
        let signing = format!("{}.{}", URL_SAFE_NO_PAD.encode(header), URL_SAFE_NO_PAD.encode(claims));
        let key = hmac::Key::new(hmac::HMAC_SHA256, SECRET.as_bytes());
        format!("{signing}.{}", URL_SAFE_NO_PAD.encode(hmac::sign(&key, signing.as_bytes())))
    } else {
        String::from_utf8_lossy(rest).into_owned()
    };
    let verified = verify(&token, &KEYS, &policy, 1_000_000);
    let inspected = inspect(&token, &KEYS, &policy, 1_000_000);
    let _ = claimed_subject(&token);
    if let Err(error) = &verified {
        // The sentence is sent to the client and logged, so it must not quote what may be secret.
        let sentence = error.to_string();
        assert!(sentence.len() < 1024 && !sentence.contains('\n'), "{sentence}");
    }
    if let Ok(claims) = verified {
        assert!(signed, "a token without the secret was accepted");
        assert!(inspected.verdict.is_ok() && inspected.signed_by.is_some());
        assert!(claims.read().len() <= policy.channels);
        assert!(claims.read().iter().is_sorted_by(|one, next| one < next), "sorted, each once");
        for channel in claims.read().iter() {
            assert!(ChannelName::check(channel, policy.channel_name_bytes).is_ok());
        }
    }
}

/// A message, join, leave, presence or auth frame of a client, and the same text as the body of the API.
fn message(data: &[u8]) {
    const NAMES: usize = 255;
    let Some((v1, text)) = data.split_first() else { return };
    let Ok(text) = std::str::from_utf8(text) else { return };
    let parsed = FromClient::parse(text, NAMES, v1 & 1 != 0);
    let _ = FromClient::ack_of(text);
    let model: Option<Value> = serde_json::from_str(text).ok();
    match parsed {
        Ok(FromClient::Publish(publish)) => {
            assert!(ChannelName::check(&publish.channel, NAMES).is_ok());
            let delivery = Delivery {
                issuer: "i",
                channel: &publish.channel,
                data: publish.data,
                subject: Some("\"\u{1}"),
            };
            let frame = delivery.encode();
            let payload = frame.payloads().next().unwrap();
            let sent: Value = serde_json::from_slice(payload).expect("readers get JSON");
            assert_eq!(sent["channel"], *publish.channel);
            assert_eq!(sent["subject"], "\"\u{1}");
            // Keys match in any case, so only the plain spelling is compared.
            if let Some(model) = model.filter(|model| model.get("data").is_some()) {
                assert_eq!(sent["data"], model["data"]);
            }
        }
        Ok(_) => {}
        Err(error) => {
            let sentence = error.to_string();
            assert!(sentence.len() < 4096, "{} bytes", sentence.len());
        }
    }
    let _ = ApiMessage::parse_many(text, NAMES);
}

/// Messages of presence of other nodes, while clients read and follow two channels here.
fn presence(data: &[u8]) {
    thread_local! {
        static CLAIMS: Arc<Claims> = {
            let names = ["hall".to_owned(), "room:1".to_owned()];
            let keys = Keys::new([SECRET.as_bytes()]);
            let policy = Policy {
                leeway: 0,
                require_expiry: false,
                issuer: None,
                audience: None,
                channels: 16,
                channel_name_bytes: 64,
            };
            let new = NewToken { read: names.to_vec(), subject: Some("here".to_owned()), ..NewToken::default() };
            Arc::new(verify(&issue(&new, &keys).unwrap(), &keys, &policy, 0).unwrap())
        };
    }
    let hub = Hub::new(Arc::new(Budget::new(64, 1 << 16, 1 << 20, 0)));
    let claims = CLAIMS.with(Clone::clone);
    let address = ([192, 0, 2, 1], 1).into();
    let client = Arc::new(Connection::new(address, claims.clone(), hub.budget().clone(), 0));
    hub.share_presence();
    hub.enter(&client);
    let limits = PresenceLimits { grace: Duration::ZERO, subjects: 20 };
    for name in claims.read().iter().map(ChannelName::checked) {
        hub.look_at_presence(&client, &name, Some(true), (limits, &[]), drop);
    }
    cluster::fuzz::presence(data, &hub);
    // A connection and its channels hold each other.
    hub.leave(&client);
}

/// A philote.toml.
fn config_file(data: &[u8]) {
    let path = tempfile(data);
    let overrides = Overrides { config: Some(path), ..Overrides::default() };
    loads(&overrides, &Environment::new([("SECRET", SECRET), ("HOME", "/nonexistent")]));
}

/// Variables, one on each line.
fn environment(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    let named = text.split('\n').filter_map(|line| line.split_once('='));
    // No other file of this machine must be read.
    let variables =
        named.filter(|(name, _)| *name != "PHILOTE_CONFIG").map(|(name, value)| (name, value.to_owned()));
    let overrides = Overrides { config: Some(tempfile(b"")), ..Overrides::default() };
    loads(&overrides, &Environment::new(variables));
}

/// Loads settings, and checks the report or the errors.
fn loads(overrides: &Overrides, environment: &Environment) {
    match load(overrides, environment) {
        Ok(loaded) => {
            let printed = config::print_config(&loaded);
            assert!(!printed.contains(SECRET), "the secret is printed: {printed}");
        }
        Err(error) => {
            let text = error.to_string();
            assert!(!text.is_empty() && !text.contains(SECRET), "{text}");
        }
    }
}

/// A request to the admin socket, sent in two parts.
fn admin_request(data: &[u8]) {
    static SERVER: LazyLock<(std::path::PathBuf, admin::server::Server)> = LazyLock::new(|| {
        let path = std::env::temp_dir().join(format!("philote-fuzz-{}.sock", std::process::id()));
        let _ = std::fs::remove_file(&path);
        let socket = admin::socket::Socket::bind(&path, 0o600, admin::socket::Access::Administer).unwrap();
        let server = admin::server::Server::start(vec![socket], Arc::new(control::Nobody)).unwrap();
        (path, server)
    });
    let mut stream = UnixStream::connect(&SERVER.0).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    let (first, second) = data.split_at(data.first().map_or(0, |byte| usize::from(*byte).min(data.len())));
    let _ = stream.write_all(first).and_then(|()| stream.write_all(second));
    let _ = stream.shutdown(Shutdown::Write);
    let mut answer = Vec::new();
    match stream.read_to_end(&mut answer) {
        Ok(_) => assert!(answer.is_empty() || answer.starts_with(b"HTTP/1."), "an answer of HTTP"),
        Err(error) => assert!(error.kind() != std::io::ErrorKind::WouldBlock, "no answer within 5 s"),
    }
}

#[cfg(test)]
mod tests;
