//! Origins of web pages (RFC 6454), as browsers send them and as `websocket.allowed_origins` lists them.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::raw::Raw;
use super::{ProblemKind, ValueType, invalid, quoted_list};

/// An origin, `scheme://host[:port]`, in a form that can be compared.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WebOrigin {
    /// In lower case.
    scheme: String,
    /// In lower case; an IPv6 address in its shortest form, in brackets.
    host: String,
    /// `None` for the default port of the scheme.
    port: Option<u16>,
}

impl WebOrigin {
    /// Parses the origin that a browser sent. Returns `None` for anything else, such as `null`, a path or a list.
    pub fn parse(text: &str) -> Option<WebOrigin> {
        let (scheme, rest) = text.split_once("://")?;
        let mut letters = scheme.chars();
        let begins = letters.next().is_some_and(|first| first.is_ascii_alphabetic());
        if !begins || !letters.all(|letter| letter.is_ascii_alphanumeric() || "+-.".contains(letter)) {
            return None;
        }
        let scheme = scheme.to_ascii_lowercase();
        let (host, port) = host_and_port(rest)?;
        let port = port.filter(|port| Some(*port) != implied_port(&scheme));
        Some(WebOrigin { scheme, host, port })
    }

    /// Returns whether a page of this origin came from the host in the header `Host`. The scheme does not count because
    /// a proxy may terminate TLS.
    pub fn is_of_host(&self, host: &str) -> bool {
        let implied = implied_port(&self.scheme);
        let named = host_and_port(host).map(|(host, port)| (host, port.or(implied)));
        implied.is_some()
            && named.is_some_and(|(host, port)| host == self.host && port == self.port.or(implied))
    }

    /// Returns whether a page of this origin came from this machine over HTTP.
    pub fn is_loopback(&self) -> bool {
        implied_port(&self.scheme).is_some() && is_loopback(&self.host)
    }
}

impl fmt::Display for WebOrigin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}://{}", self.scheme, self.host)?;
        self.port.map_or(Ok(()), |port| write!(f, ":{port}"))
    }
}

/// Returns whether the header `Host` names this machine by a name that DNS cannot redirect.
pub fn names_loopback(host: &str) -> bool {
    host_and_port(host).is_some_and(|(host, _)| is_loopback(&host))
}

/// Browsers resolve `localhost` and its subdomains themselves.
fn is_loopback(host: &str) -> bool {
    let name = host.strip_suffix('.').unwrap_or(host);
    let address = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
    name == "localhost"
        || name.ends_with(".localhost")
        || address.parse().is_ok_and(|address: IpAddr| address.to_canonical().is_loopback())
}

/// Returns the port that browsers leave out.
fn implied_port(scheme: &str) -> Option<u16> {
    match scheme {
        "http" => Some(80),
        "https" => Some(443),
        _ => None,
    }
}

/// Splits `host[:port]` as browsers write it. The host becomes lower case.
fn host_and_port(text: &str) -> Option<(String, Option<u16>)> {
    let (host, port) = match text.rsplit_once(':') {
        // The colons of an IPv6 address are within its brackets.
        Some((host, port)) if !port.ends_with(']') => (host, Some(port)),
        _ => (text, None),
    };
    let number = |port: &str| {
        let plain = port.bytes().all(|byte| byte.is_ascii_digit()) && !port.starts_with('0');
        port.parse().ok().filter(|_| plain)
    };
    let port = match port {
        Some(port) => Some(number(port)?),
        None => None,
    };
    let host = match host.strip_prefix('[') {
        Some(rest) => format!("[{}]", rest.strip_suffix(']')?.parse::<Ipv6Addr>().ok()?),
        None => Some(host.to_ascii_lowercase()).filter(|host| is_name(host) || is_ipv4(host))?,
    };
    Some((host, port))
}

/// Returns whether this is a domain name. Browsers read a name whose last label is a number as an IPv4 address.
fn is_name(host: &str) -> bool {
    let host = host.strip_suffix('.').unwrap_or(host);
    let plain = |label: &str| {
        !label.is_empty() && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(&byte))
    };
    let last = host.rsplit('.').next().unwrap_or_default();
    host.split('.').all(plain) && !last.starts_with("0x") && !last.bytes().all(|byte| byte.is_ascii_digit())
}

fn is_ipv4(host: &str) -> bool {
    host.parse::<Ipv4Addr>().is_ok()
}

/// An element of `[websocket] allowed_origins`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AllowedOrigin {
    /// `null`, which browsers send for files, sandboxed frames and some web views.
    Null,
    /// One origin.
    Exact(WebOrigin),
    /// `https://*.example.org`: every subdomain of this origin's host, with its scheme and port.
    Below(WebOrigin),
}

impl AllowedOrigin {
    /// Parses an element.
    ///
    /// # Errors
    /// Returns a description of a valid element if this one could never match an origin that a browser sends.
    fn parse(text: &str) -> Result<AllowedOrigin, &'static str> {
        const EXPECTED: &str =
            "an origin such as \"https://app.example.org\" or \"https://*.example.org\", without a path";
        if text.eq_ignore_ascii_case("null") {
            return Ok(AllowedOrigin::Null);
        }
        let scheme = text.split_once("://").map(|(scheme, _)| scheme.to_ascii_lowercase());
        match scheme.as_deref() {
            Some("ws" | "wss") => return Err("the origin of a page, which begins with http:// or https://"),
            Some("file") => {
                return Err("\"null\", which is the origin of a page that was opened from a file");
            }
            _ if text == "*" => {
                return Err(
                    "an origin (pages of every origin may connect while check_origin is false and this list is empty)",
                );
            }
            _ if !text.is_ascii() => {
                return Err("written as browsers send it, with an international name as xn--...");
            }
            _ => {}
        }
        match text.split_once("://*.") {
            Some((scheme, domain)) => WebOrigin::parse(&format!("{scheme}://{domain}"))
                .filter(|origin| is_name(&origin.host))
                .map(AllowedOrigin::Below),
            None => WebOrigin::parse(text).map(AllowedOrigin::Exact),
        }
        .ok_or(EXPECTED)
    }

    /// Returns whether this element allows the origin that a client sent; `None` stands for `null`.
    pub fn allows(&self, origin: Option<&WebOrigin>) -> bool {
        match (self, origin) {
            (AllowedOrigin::Null, None) => true,
            (AllowedOrigin::Exact(own), Some(origin)) => own == origin,
            (AllowedOrigin::Below(own), Some(origin)) => {
                (&own.scheme, own.port) == (&origin.scheme, origin.port)
                    && origin.host.strip_suffix(&own.host).is_some_and(|label| label.ends_with('.'))
            }
            _ => false,
        }
    }
}

impl fmt::Display for AllowedOrigin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            AllowedOrigin::Null => f.write_str("null"),
            AllowedOrigin::Exact(origin) => origin.fmt(f),
            AllowedOrigin::Below(WebOrigin { scheme, host, port }) => {
                write!(f, "{scheme}://*.{host}")?;
                port.map_or(Ok(()), |port| write!(f, ":{port}"))
            }
        }
    }
}

/// A list of origins whose pages may connect.
pub(in crate::config) struct WebOrigins;

impl ValueType for WebOrigins {
    type Value = Vec<AllowedOrigin>;

    fn read(&self, raw: &Raw) -> Result<Vec<AllowedOrigin>, ProblemKind> {
        const EXPECTED: &str =
            "a list of origins such as [\"https://app.example.org\", \"https://*.example.org\"]";
        let read = |item: Raw| {
            let text = item.text(EXPECTED)?;
            AllowedOrigin::parse(text).map_err(|expected| invalid(expected, text))
        };
        raw.list(EXPECTED)?.into_iter().map(read).collect()
    }

    fn show(&self, value: &Vec<AllowedOrigin>) -> Option<String> {
        Some(quoted_list(value))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_origin_is_a_scheme_a_host_and_a_port_and_nothing_else() {
        for (text, shown) in [
            ("https://a.example.org", "https://a.example.org"),
            ("HTTPS://A.Example.ORG:443", "https://a.example.org"),
            ("http://a.test:443", "http://a.test:443"),
            ("http://localhost:8080", "http://localhost:8080"),
            ("http://127.0.0.1:80", "http://127.0.0.1"),
            ("http://[0:0:0:0:0:0:0:1]:8080", "http://[::1]:8080"),
            ("https://a_b.xn--bcher-kva.example.", "https://a_b.xn--bcher-kva.example."),
            ("chrome-extension://abcdefgh", "chrome-extension://abcdefgh"),
            ("capacitor://localhost", "capacitor://localhost"),
        ] {
            assert_eq!(WebOrigin::parse(text).unwrap().to_string(), shown);
        }
        for text in [
            "",
            "null",
            "*",
            "a.test",
            "//a.test",
            "://a.test",
            "1://a.test",
            "https:a.test",
            "https:///a.test",
            "https://",
            "https://.",
            "https://a..test",
            "https://.a.test",
            "https://a.test/",
            "https://a.test#x",
            "https://a.test?x",
            "https://u@a.test",
            "https://a.test:",
            "https://a.test:0",
            "https://a.test:0443",
            "https://a.test:+443",
            "https://a.test:65536",
            "https://a.test:1:2",
            "https://a.test:1/x",
            "https://a test",
            "https://a.test ",
            " https://a.test",
            "https://a.test https://b.test",
            "https://a.test, https://b.test",
            "https://a.test\\",
            "https://a.test\0",
            "https://b\u{fc}cher.test",
            "https://[::1",
            "https://::1",
            "https://[::1]x",
            "https://[a.test]",
            "https://1.2.3",
            "https://a.1",
            "https://0x7f",
            "https://a.0x7f.1",
            "https://*.a.test",
            "https://a%2etest",
        ] {
            assert_eq!(WebOrigin::parse(text), None, "{text:?}");
        }
    }

    #[test]
    fn an_allowed_origin_is_printed_as_it_is_read() {
        for text in ["null", "https://a.test:1", "https://*.a.test", "http://*.a.test:8080", "https://[::1]"]
        {
            assert_eq!(AllowedOrigin::parse(text).unwrap().to_string(), text);
        }
        assert_eq!(AllowedOrigin::parse("NULL"), Ok(AllowedOrigin::Null));
    }

    #[test]
    fn fault_13_an_origin_that_could_never_match_is_refused() {
        for text in [
            "*",
            "https://*",
            "https://*.",
            "*.example.org",
            "https://a.*.org",
            "https://*a.example.org",
            "https://*.*.org",
            "https://*.1.2.3",
            "https://*.127.0.0.1",
            "https://*.[::1]",
            "https://a.test/",
            "https://a.test/chat",
            "https://a.test:x",
            "ws://a.test",
            "WSS://a.test",
            "file://",
            "file:///x",
            "https://b\u{fc}cher.test",
            "https://u:p@a.test",
            "",
            " ",
            "nul",
            "https://a.test null",
        ] {
            assert!(AllowedOrigin::parse(text).is_err(), "{text:?}");
        }
    }
}
