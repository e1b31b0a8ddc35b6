//! Which pages may connect: checks the `Origin` header against `[websocket] check_origin` and `allowed_origins`.

use hyper::header::{HOST, ORIGIN};

use super::lines::{Lines, visible};
use crate::config::{AllowedOrigin, WebOrigin};
use crate::server::Live;
use crate::server::rejection::Rejection;

/// Checks the page that sends a request, if it is one.
///
/// # Errors
/// The page may not connect.
pub(crate) fn check_origin<L: Lines + ?Sized>(lines: &L, live: &Live) -> Result<(), Rejection> {
    let Some(origin) = lines.first(&ORIGIN) else { return Ok(()) };
    let origin = String::from_utf8_lossy(origin);
    let host = lines.first(&HOST).and_then(visible).unwrap_or_default();
    let websocket = &live.settings.websocket;
    if allowed(&origin, host, websocket.check_origin, &websocket.allowed_origins) {
        Ok(())
    } else {
        Err(Rejection::Origin(origin.into_owned()))
    }
}

/// Returns whether a page of `origin` may connect to `host`.
///
/// Without the check every page may. With it, a page of the host in `Host` may, and one of the list. An opaque origin
/// is `null` (RFC 6454 section 7), which the list may contain. A client that sends no `Origin` is no browser, and is
/// not checked.
pub(crate) fn allowed(origin: &str, host: &str, check: bool, list: &[AllowedOrigin]) -> bool {
    if !check && list.is_empty() {
        return true;
    }
    let parsed = WebOrigin::parse(origin);
    if parsed.is_none() && origin != "null" {
        return false;
    }
    let same_host = parsed.as_ref().is_some_and(|origin| origin.is_of_host(host));
    same_host || list.iter().any(|one| one.allows(parsed.as_ref()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Environment, Overrides, load};

    fn list(origins: &str) -> Vec<AllowedOrigin> {
        let environment = Environment::new([("SECRET", "x"), ("PHILOTE_WEBSOCKET_ALLOWED_ORIGINS", origins)]);
        load(&Overrides::default(), &environment).unwrap().settings.websocket.allowed_origins
    }

    #[test]
    fn fault_13_only_the_own_host_and_listed_origins_are_allowed() {
        let list = list("https://*.example.org, http://one.test:8080, https://*.port.test:8443");
        let check = |origin| allowed(origin, "philote.test:6380", true, &list);
        for origin in [
            "http://philote.test:6380",
            "https://philote.test:6380",
            "https://a.example.org",
            "https://A.B.Example.org",
            "https://a.example.org:443",
            "http://one.test:8080",
            "https://a.port.test:8443",
        ] {
            assert!(check(origin), "{origin}");
        }
        for origin in [
            "null",
            "",
            "*",
            "http://philote.test",
            "https://example.org",
            "https://.example.org",
            "http://a.example.org",
            "https://a.example.org:444",
            "https://evilexample.org",
            "https://a.example.org.evil.test",
            "https://evil.test/.example.org",
            "https://evil.test#.example.org",
            "https://evil.test?.example.org",
            "https://evil.test\\.example.org",
            "https://evil.test:1/.example.org",
            "https://evil.test:1.example.org",
            "https://evil.test@a.example.org",
            "https://evil.test .example.org",
            "https://evil.test,.example.org",
            "https://a.example.org, https://evil.test",
            "https://evil.test, https://a.example.org",
            "https://a.example.org/",
            "https://evil.test\0.example.org",
            "https://*.example.org",
            "http://one.test",
            "https://a.port.test",
            "https://a.port.test:443",
        ] {
            assert!(!check(origin), "{origin}");
        }
        assert!(allowed("http://anywhere", "here", false, &[]), "without the check every page may");
    }

    #[test]
    fn fault_13_null_is_allowed_only_by_name() {
        assert!(!allowed("null", "philote.test", true, &list("https://*.example.org")));
        assert!(allowed("null", "philote.test", true, &list("https://*.example.org,null")));
        let null = list("null");
        for other in
            ["", "nul", "null ", "NULL", "null://null", "http://null", "https://evil.test/null", "x y"]
        {
            assert!(!allowed(other, "philote.test", true, &null), "{other:?}");
        }
    }

    #[test]
    fn fault_13_the_same_host_is_compared_with_the_port_that_the_scheme_implies() {
        let same = |origin, host| allowed(origin, host, true, &[]);
        for (origin, host) in [
            ("https://philote.test", "philote.test:443"),
            ("https://philote.test", "philote.test"),
            ("http://philote.test", "Philote.Test:80"),
            ("https://philote.test:8443", "philote.test:8443"),
            ("http://[::1]:6380", "[::1]:6380"),
        ] {
            assert!(same(origin, host), "{origin} {host}");
        }
        for (origin, host) in [
            ("http://philote.test", "philote.test:443"),
            ("https://philote.test:8443", "philote.test"),
            ("https://philote.test", "philote.test:8443"),
            ("https://evil.test", "philote.test"),
            ("https://philote.test.evil.test", "philote.test"),
            ("app://philote.test", "philote.test"),
            ("https://philote.test/", "philote.test/"),
            ("https://", ""),
            ("null", "null"),
        ] {
            assert!(!same(origin, host), "{origin} {host}");
        }
    }
}
