//! Which pages may connect: the `Origin` header against `[websocket] check_origin` and `allowed_origins`.

/// Whether a page of `origin` may connect to `host`.
///
/// Without the check everyone may. With it: the same host as in `Host`, or one of the list, in which
/// `https://*.example.org` stands for every host below example.org (RFC 6454 section 7: an opaque origin is `null`).
/// A client that sends no `Origin` is no browser, and never asked.
pub(super) fn allowed(origin: &str, host: &str, check: bool, list: &[String]) -> bool {
    if !check && list.is_empty() {
        return true;
    }
    let same_host = origin.split_once("://").is_some_and(|(scheme, rest)| {
        // Browsers leave out the port that the scheme implies; proxies may write it.
        let implied = if scheme.eq_ignore_ascii_case("https") { ":443" } else { ":80" };
        rest.eq_ignore_ascii_case(host.strip_suffix(implied).unwrap_or(host))
    });
    same_host || list.iter().any(|pattern| matches(pattern, origin))
}

fn matches(pattern: &str, origin: &str) -> bool {
    let (pattern, origin) = (pattern.to_ascii_lowercase(), origin.to_ascii_lowercase());
    match pattern.split_once("*.") {
        Some((scheme, domain)) => origin
            .strip_prefix(scheme)
            .and_then(|host| host.strip_suffix(domain))
            .is_some_and(|label| label.len() > 1 && label.ends_with('.')),
        None => pattern == origin,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fault_13_origins() {
        let list = ["https://*.example.org".to_owned(), "http://one.test:8080".to_owned()];
        let check = |origin| allowed(origin, "philote.test:6380", true, &list);
        for origin in [
            "http://philote.test:6380",
            "https://a.example.org",
            "https://A.B.Example.org",
            "http://one.test:8080",
        ] {
            assert!(check(origin), "{origin}");
        }
        for origin in [
            "null",
            "http://philote.test",
            "https://example.org",
            "https://.example.org",
            "http://a.example.org",
            "https://a.example.org:444",
            "https://evilexample.org",
            "https://a.example.org.evil.test",
            "http://one.test",
        ] {
            assert!(!check(origin), "{origin}");
        }
        assert!(allowed("https://philote.test", "philote.test:443", true, &[]));
        assert!(!allowed("http://philote.test", "philote.test:443", true, &[]));
        assert!(allowed("http://anywhere", "here", false, &[]), "without the check everyone may");
    }
}
