//! Reads the certificate and the key of `[tls]`.

use super::super::error::ProblemKind;
use super::super::layers::Layers;
use super::super::tls::{CERTIFICATE, KEY, TlsError, read_pair};

/// Reads certificate and key into the settings, and turns on TLS for the listeners that follow `[tls]`.
pub(super) fn read(layers: &mut Layers) {
    let matters = |key: &String| key == CERTIFICATE || key == KEY || key == "listen";
    if layers.problems.iter().any(|problem| problem.key.as_ref().is_some_and(matters)) {
        return;
    }
    let unresolved = &mut layers.unresolved;
    let (wrong, error) = match (&unresolved.certificate, &unresolved.key) {
        (None, None) => {
            let needed = unresolved.settings.listen.listeners().iter().any(|listener| listener.tls);
            if !needed {
                return;
            }
            ("listen", TlsError::Missing)
        }
        (None, Some(_)) => (KEY, TlsError::Alone { missing: CERTIFICATE }),
        (Some(_), None) => (CERTIFICATE, TlsError::Alone { missing: KEY }),
        (Some(certificate), Some(key)) => match read_pair(certificate, key) {
            Ok(pair) => {
                unresolved.settings.tls = Some(pair);
                unresolved.settings.listen.default_to_tls();
                return;
            }
            Err(wrong) => wrong,
        },
    };
    layers.add_problem(wrong, layers.sources.get(wrong).cloned(), ProblemKind::Tls(error));
}
