//! Sealed messages of steering: their format, and what makes one acceptable.
//!
//! A message is one header line and a body:
//!
//! `1 HMAC NODE@START MILLISECONDS NONCE ANSWERED KIND\nBODY`
//!
//! 1 is the version of the format. `HMAC` is HMAC-SHA256 with the cluster's secret over the subject prefix, a newline, and
//! the message without the field itself. The time is Unix time. `ANSWERED` is the nonce of the request that the message
//! answers, and `-` in a request.

use std::fmt;
use std::str::FromStr;

use aws_lc_rs::hmac::{self, HMAC_SHA256};

/// The version of the format.
const VERSION: &str = "1";

/// Milliseconds that the clocks of two nodes may differ, and that a message may be on its way.
pub(super) const MAX_AGE_MS: u64 = 30_000;

/// The longest header that [`Seal::seal`] writes, in bytes: a name of 64 bytes, the fixed fields, and the kind.
pub const MAX_HEADER: usize = 512;

/// The longest kind, in bytes.
const MAX_KIND: usize = 32;

/// Why a message was dropped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rejected {
    /// It has another version of the format.
    Version,
    /// It has no valid header.
    Malformed,
    /// Its HMAC is not that of the cluster's secret.
    Forged,
    /// Its time is too far from this node's, or before this node's start.
    Stale,
    /// Its nonce was used before.
    Replayed,
    /// Too many nonces would have to be remembered.
    Full,
}

impl Rejected {
    /// Every reason, in the order of the metrics.
    pub const ALL: [Rejected; 6] = [
        Rejected::Version,
        Rejected::Malformed,
        Rejected::Forged,
        Rejected::Stale,
        Rejected::Replayed,
        Rejected::Full,
    ];

    /// Returns the name in metrics.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Rejected::Version => "version",
            Rejected::Malformed => "malformed",
            Rejected::Forged => "forged",
            Rejected::Stale => "stale",
            Rejected::Replayed => "replayed",
            Rejected::Full => "full",
        }
    }
}

/// A random number that no other message has. As random as the id of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Nonce(u128);

impl Nonce {
    /// Returns a new one.
    pub fn random() -> Nonce {
        Nonce(uuid::Uuid::new_v4().as_u128())
    }
}

impl fmt::Display for Nonce {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

impl FromStr for Nonce {
    type Err = Rejected;

    fn from_str(text: &str) -> Result<Nonce, Rejected> {
        let digits = text.bytes().all(|byte| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte));
        if text.len() != 32 || !digits {
            return Err(Rejected::Malformed);
        }
        u128::from_str_radix(text, 16).map(Nonce).map_err(|_| Rejected::Malformed)
    }
}

/// A message without its seal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Message<'a> {
    /// The sender: the name of the node, `@`, and the number of its process.
    pub node: &'a str,
    /// When it was sent, in milliseconds since 1970.
    pub sent_ms: u64,
    /// Its own nonce.
    pub nonce: Nonce,
    /// The nonce of the request that it answers.
    pub answered: Option<Nonce>,
    /// What is asked, or how it is answered.
    pub kind: &'a str,
    /// The rest of it.
    pub body: &'a [u8],
}

/// The cluster's secret, with the subject prefix of the cluster. `Debug` shows no secret.
pub struct Seal {
    key: hmac::Key,
    prefix: String,
}

impl fmt::Debug for Seal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Seal").field("prefix", &self.prefix).finish_non_exhaustive()
    }
}

impl Seal {
    /// Seals with this secret. Two clusters may have the same secret if their prefixes differ.
    pub fn new(secret: &[u8], prefix: &str) -> Seal {
        Seal { key: hmac::Key::new(HMAC_SHA256, secret), prefix: prefix.to_owned() }
    }

    /// Returns the message as bytes.
    pub fn seal(&self, message: &Message<'_>) -> Vec<u8> {
        let Message { node, sent_ms, nonce, answered, kind, body } = message;
        let answered = answered.map_or_else(|| "-".to_owned(), |nonce| nonce.to_string());
        let header = format!("{node} {sent_ms} {nonce} {answered} {kind}\n");
        let tag: String = self
            .context(header.as_bytes(), body)
            .sign()
            .as_ref()
            .iter()
            .map(|byte| format!("{byte:02x}"))
            .collect();
        [format!("{VERSION} {tag} {header}").as_bytes(), body].concat()
    }

    /// Checks everything but the nonce, and returns the message.
    ///
    /// # Errors
    /// The reason to drop it.
    pub fn open<'a>(&self, bytes: &'a [u8], now_ms: u64) -> Result<Message<'a>, Rejected> {
        let (version, rest) = cut(bytes, b' ')?;
        if version != VERSION.as_bytes() {
            let is_number = !version.is_empty() && version.iter().all(u8::is_ascii_digit);
            return Err(if is_number { Rejected::Version } else { Rejected::Malformed });
        }
        let (tag, signed) = cut(rest, b' ')?;
        let newline = memchr::memchr(b'\n', signed.get(..MAX_HEADER).unwrap_or(signed));
        let (header, body) = signed.split_at(newline.ok_or(Rejected::Malformed)? + 1);
        let tag = from_hex(tag).ok_or(Rejected::Malformed)?;
        if !self.context(header, body).is_tag(&tag) {
            return Err(Rejected::Forged);
        }
        let header = std::str::from_utf8(header).map_err(|_| Rejected::Malformed)?;
        let fields: Vec<&str> = header.trim_end_matches('\n').split(' ').collect();
        let &[node, sent_ms, nonce, answered, kind] = fields.as_slice() else {
            return Err(Rejected::Malformed);
        };
        let sent_ms: u64 = sent_ms.parse().map_err(|_| Rejected::Malformed)?;
        let answered = if answered == "-" { None } else { Some(answered.parse()?) };
        if !node.contains('@') || kind.is_empty() || kind.len() > MAX_KIND {
            return Err(Rejected::Malformed);
        }
        if sent_ms.abs_diff(now_ms) > MAX_AGE_MS {
            return Err(Rejected::Stale);
        }
        Ok(Message { node, sent_ms, nonce: nonce.parse()?, answered, kind, body })
    }

    fn context<'a>(&'a self, header: &'a [u8], body: &'a [u8]) -> Signed<'a> {
        Signed { key: &self.key, parts: [self.prefix.as_bytes(), b"\n1 ", header, body] }
    }
}

/// What the HMAC is over.
struct Signed<'a> {
    key: &'a hmac::Key,
    parts: [&'a [u8]; 4],
}

impl Signed<'_> {
    fn sign(&self) -> hmac::Tag {
        let mut context = hmac::Context::with_key(self.key);
        self.parts.iter().for_each(|part| context.update(part));
        context.sign()
    }

    /// Takes the same time wherever the two differ.
    fn is_tag(&self, tag: &[u8]) -> bool {
        aws_lc_rs::constant_time::verify_slices_are_equal(self.sign().as_ref(), tag).is_ok()
    }
}

/// Returns the sender that a message names, as it stands in a valid header. It can be invented.
pub fn claimed_node(bytes: &[u8]) -> Option<&str> {
    let header = bytes.get(..MAX_HEADER).unwrap_or(bytes);
    std::str::from_utf8(header.split(|byte| *byte == b' ').nth(2)?).ok()
}

fn cut(bytes: &[u8], at: u8) -> Result<(&[u8], &[u8]), Rejected> {
    let place = memchr::memchr(at, bytes.get(..MAX_HEADER).unwrap_or(bytes)).ok_or(Rejected::Malformed)?;
    Ok((&bytes[..place], &bytes[place + 1..]))
}

fn from_hex(digits: &[u8]) -> Option<Vec<u8>> {
    let pair = |pair: &[u8]| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok();
    let plain = digits.len() == 64 && digits.iter().all(u8::is_ascii_hexdigit);
    plain.then(|| digits.chunks(2).map(pair).collect::<Option<Vec<u8>>>())?
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const NOW: u64 = 1_800_000_000_000;

    fn seal() -> Seal {
        Seal::new(b"0123456789abcdef0123456789abcdef", "philote")
    }

    fn message(body: &[u8]) -> Message<'_> {
        Message { node: "a@00ff", sent_ms: NOW, nonce: Nonce(7), answered: None, kind: "disconnect", body }
    }

    #[test]
    fn a_sealed_message_is_opened_as_it_was_and_readable() {
        let answer = Message { answered: Some(Nonce(9)), ..message(b"{}\n{}") };
        for message in [message(b""), message(b"{\"a\": 1}"), answer] {
            let bytes = seal().seal(&message);
            assert_eq!(seal().open(&bytes, NOW), Ok(message));
            assert!(bytes.len() <= MAX_HEADER + message.body.len());
        }
        let text = String::from_utf8(seal().seal(&message(b"{}"))).unwrap();
        let fields: Vec<&str> = text.split([' ', '\n']).collect();
        assert_eq!(
            (fields[0], fields[2], fields[5], fields[6], fields[7]),
            ("1", "a@00ff", "-", "disconnect", "{}")
        );
    }

    #[test]
    fn another_secret_prefix_version_or_time_is_rejected() {
        let bytes = seal().seal(&message(b"{}"));
        let other = Seal::new(b"0123456789abcdef0123456789abcdeF", "philote");
        assert_eq!(other.open(&bytes, NOW), Err(Rejected::Forged));
        assert_eq!((claimed_node(&bytes), claimed_node(b"1 x")), (Some("a@00ff"), None));
        let other = Seal::new(b"0123456789abcdef0123456789abcdef", "philote2");
        assert_eq!(other.open(&bytes, NOW), Err(Rejected::Forged));
        for (late, outcome) in [(30_000, None), (30_001, Some(Rejected::Stale))] {
            assert_eq!(seal().open(&bytes, NOW + late).err(), outcome);
            assert_eq!(seal().open(&bytes, NOW - late).err(), outcome);
        }
        let next = [b"2", &bytes[1..]].concat();
        assert_eq!(seal().open(&next, NOW), Err(Rejected::Version));
        for malformed in
            [&b""[..], b"1", b"1 ", b"x y\n", b"1 00 a\n", b"\n\n\n", &[0xff; 2000], &[b' '; 2000]]
        {
            assert_eq!(seal().open(malformed, NOW), Err(Rejected::Malformed), "{malformed:?}");
        }
    }

    proptest! {
        #[test]
        fn a_changed_byte_is_noticed(at in 0usize..200, flip in 1u8..=255) {
            let mut bytes = seal().seal(&message(b"{\"subject\": \"alice\", \"seconds\": 3600}"));
            let at = at % bytes.len();
            // The tag may be in either case.
            prop_assume!(!(flip == 0x20 && (2..66).contains(&at) && bytes[at].is_ascii_alphabetic()));
            bytes[at] ^= flip;
            prop_assert!(seal().open(&bytes, NOW).is_err());
        }

        #[test]
        fn no_bytes_make_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            prop_assert!(seal().open(&bytes, NOW).is_err());
        }
    }

    #[test]
    fn nonces_differ_and_are_read_back() {
        let (a, b) = (Nonce::random(), Nonce::random());
        assert_ne!(a, b);
        assert_eq!(a.to_string().parse(), Ok(a));
        for wrong in ["", "7", "+0000000000000000000000000000007", &"F".repeat(32), &"0".repeat(33)] {
            assert!(wrong.parse::<Nonce>().is_err(), "{wrong}");
        }
    }
}
