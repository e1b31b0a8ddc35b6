//! Types of `[cluster]`: NATS servers, subjects and the name of a node.

use std::net::Ipv6Addr;
use std::path::{Path, PathBuf};

use super::super::cluster::{ClusterError, LONGEST_NAME, SecretFile};
use super::super::secret::Secret;
use super::raw::Raw;
use super::scalars::OptionalPath;
use super::{ProblemKind, ValueType, check_count, invalid, quoted, quoted_list};

/// A client connects to one server and learns the others from it, so a few are enough.
const MAX_SERVERS: usize = 32;
/// Bytes; a subject also has the name of a channel, and NATS servers limit the line of a message to 4 KiB.
const LONGEST_PREFIX: usize = 64;

/// URLs of NATS servers.
pub(in crate::config) struct NatsServers;

impl ValueType for NatsServers {
    type Value = Vec<String>;

    fn read(&self, raw: &Raw) -> Result<Vec<String>, ProblemKind> {
        const EXPECTED: &str =
            "a list of URLs such as [\"nats://nats.example.org:4222\"] or [\"tls://nats.example.org\"]";
        let items = raw.list(EXPECTED)?;
        let texts = items.iter().map(|item| item.text(EXPECTED)).collect::<Result<Vec<_>, _>>()?;
        // Checked for all first, because a comma in a password divides it in the environment. Other programs take a token in a
        // query.
        if texts.iter().any(|text| text.contains(['@', '?', '#'])) {
            return Err(ProblemKind::Cluster(ClusterError::LoginInUrl));
        }
        let mut servers: Vec<String> = Vec::new();
        for text in texts {
            let url = text.strip_suffix('/').unwrap_or(text).to_owned();
            let authority = url.strip_prefix("nats://").or_else(|| url.strip_prefix("tls://"));
            if !authority.is_some_and(is_authority) {
                return Err(invalid(EXPECTED, text));
            }
            if servers.contains(&url) {
                return Err(ProblemKind::Repeated { found: url });
            }
            servers.push(url);
        }
        check_count(servers.len(), 0..=MAX_SERVERS, "servers").map(|()| servers)
    }

    fn show(&self, servers: &Vec<String>) -> Option<String> {
        Some(quoted_list(servers))
    }
}

/// Returns whether this is `HOST` or `HOST:PORT`. An IPv6 address is in brackets.
fn is_authority(text: &str) -> bool {
    let (host, port) = match text.rsplit_once(':') {
        Some((host, port)) if !text.ends_with(']') => (host, Some(port)),
        _ => (text, None),
    };
    let digits = |port: &str| port.bytes().all(|byte| byte.is_ascii_digit());
    let in_brackets = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
    let is_host = match in_brackets {
        Some(address) => address.parse::<Ipv6Addr>().is_ok(),
        None => !host.is_empty() && host.bytes().all(|byte| is_name(byte, b"-._")),
    };
    is_host && port.is_none_or(|port| digits(port) && port.parse::<u16>().is_ok_and(|port| port > 0))
}

fn is_name(byte: u8, others: &[u8]) -> bool {
    byte.is_ascii_alphanumeric() || others.contains(&byte)
}

/// The first tokens of a NATS subject, joined by dots.
pub(in crate::config) struct SubjectPrefix;

impl ValueType for SubjectPrefix {
    type Value = String;

    fn read(&self, raw: &Raw) -> Result<String, ProblemKind> {
        const EXPECTED: &str = "the beginning of a NATS subject: letters, digits, - and _, such as \"philote\" or \"example.philote\"";
        let text = raw.text(EXPECTED)?;
        check_count(text.len(), 1..=LONGEST_PREFIX, "bytes long")?;
        let is_token = |token: &str| !token.is_empty() && token.bytes().all(|byte| is_name(byte, b"-_"));
        if text.split('.').all(is_token) { Ok(text.to_owned()) } else { Err(invalid(EXPECTED, text)) }
    }

    fn show(&self, value: &String) -> Option<String> {
        Some(quoted(value))
    }
}

/// The name of a node. Empty text is the host name.
pub(in crate::config) struct NodeName;

impl ValueType for NodeName {
    type Value = String;

    fn read(&self, raw: &Raw) -> Result<String, ProblemKind> {
        const EXPECTED: &str = "a name of letters, digits, -, . and _, such as \"philote-1\"";
        let text = raw.text(EXPECTED)?;
        if text.is_empty() {
            return Ok(host_name());
        }
        check_count(text.len(), 1..=LONGEST_NAME, "bytes long")?;
        let is_valid = text.bytes().all(|byte| is_name(byte, b"-._"));
        if is_valid { Ok(text.to_owned()) } else { Err(invalid(EXPECTED, text)) }
    }

    fn show(&self, value: &String) -> Option<String> {
        Some(quoted(value))
    }
}

/// Returns the host name, with `-` in place of what is not allowed in the name of a node.
pub(in crate::config) fn host_name() -> String {
    node_name(&rustix::system::uname().nodename().to_string_lossy())
}

fn node_name(host: &str) -> String {
    let allowed = |c: char| if c.is_ascii() && is_name(c as u8, b"-._") { c } else { '-' };
    let name: String = host.chars().map(allowed).take(LONGEST_NAME).collect();
    if name.is_empty() { "philote".to_owned() } else { name }
}

/// A file with a secret, relative to this directory. It is read later.
pub(in crate::config) struct OptionalSecretFile<'a>(pub(in crate::config) &'a Path);

impl ValueType for OptionalSecretFile<'_> {
    type Value = Option<SecretFile>;

    fn read(&self, raw: &Raw) -> Result<Option<SecretFile>, ProblemKind> {
        let named = |path: PathBuf| SecretFile { path, content: Secret::new("") };
        Ok(OptionalPath(self.0).read(raw)?.map(named))
    }

    fn show(&self, value: &Option<SecretFile>) -> Option<String> {
        value.as_ref().map(|file| quoted(file.path.display()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_host_name_becomes_the_name_of_a_node() {
        assert_eq!(node_name("web-1.example_x"), "web-1.example_x");
        assert_eq!(node_name("b\u{fc}ro 1"), "b-ro-1");
        assert_eq!(node_name(""), "philote");
        assert_eq!(node_name(&"x".repeat(100)).len(), LONGEST_NAME);
        assert!(NodeName.read(&Raw::String(host_name())).is_ok());
    }

    #[test]
    fn a_server_is_a_host_with_an_optional_port() {
        for valid in
            ["a", "a:1", "a.example.org:4222", "127.0.0.1:4222", "[::1]", "[::1]:4222", "nats_1:65535"]
        {
            assert!(is_authority(valid), "{valid}");
        }
        for invalid in [
            "", ":1", "a:", "a:0", "a:65536", "a:+1", "a:x", "a/b", "a?b", "::1", "[::1", "[x]", "a b",
            "a:1:2",
        ] {
            assert!(!is_authority(invalid), "{invalid}");
        }
    }
}
