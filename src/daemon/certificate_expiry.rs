//! Warns once each when a certificate expires within 21 days, expires within 7 days, and has expired.

use crate::config::{Expiry, TlsSettings};

/// The last warning about the certificate.
#[derive(Debug)]
pub(super) struct ExpiryWatch(Expiry);

impl Default for ExpiryWatch {
    fn default() -> ExpiryWatch {
        ExpiryWatch(Expiry::Far)
    }
}

impl ExpiryWatch {
    /// Returns the warning to log at `now`, in seconds since 1970, if there is a new one.
    pub(super) fn look(&mut self, tls: Option<&TlsSettings>, now: u64) -> Option<String> {
        let expiry = tls.map_or(Expiry::Far, |tls| tls.expiry(now));
        let before = std::mem::replace(&mut self.0, expiry);
        tls.filter(|_| expiry > before).map(|tls| warning(tls, now))
    }
}

/// Returns when the certificate expires and what to do.
fn warning(tls: &TlsSettings, now: u64) -> String {
    let (path, end) = (tls.certificate.display(), tls.expires_text());
    match tls.expires.saturating_sub(now) / (24 * 60 * 60) {
        _ if tls.expires <= now => {
            format!("the certificate in {path} expired at {end}, so clients refuse it: renew it and reload")
        }
        days => format!("the certificate in {path} expires in {days} days, at {end}: renew it and reload"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Environment, Overrides, load};

    #[test]
    fn fault_71_each_warning_about_a_certificate_is_logged_once() {
        const DAY: u64 = 24 * 60 * 60;
        let directory = tempfile::tempdir().unwrap();
        let pair = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
        let (certificate, key) = (directory.path().join("c.pem"), directory.path().join("k.pem"));
        std::fs::write(&certificate, pair.cert.pem()).unwrap();
        std::fs::write(&key, pair.signing_key.serialize_pem()).unwrap();
        let set =
            vec![format!("tls.certificate={}", certificate.display()), format!("tls.key={}", key.display())];
        let environment = Environment::new([("SECRET", "a secret of more than thirty-two characters")]);
        let settings = load(&Overrides { set, ..Overrides::default() }, &environment).unwrap().settings;
        let mut tls = settings.tls.unwrap();
        tls.expires = 100 * DAY;
        let mut watch = ExpiryWatch::default();
        let mut look = |days| watch.look(Some(&tls), days * DAY).map(|text| text.contains("expired"));
        assert_eq!(look(10), None);
        assert_eq!(look(78), None);
        assert_eq!(look(79), Some(false));
        assert_eq!(look(80), None, "once");
        assert_eq!(look(93), Some(false));
        assert_eq!(look(94), None);
        assert_eq!(look(100), Some(true));
        assert_eq!(look(101), None);
        assert_eq!(look(20), None, "a new certificate");
        assert_eq!(look(79), Some(false), "gets a warning again");
        assert_eq!(watch.look(None, 100 * DAY), None);
    }
}
