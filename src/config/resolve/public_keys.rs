//! Reads the files of public keys.

use super::super::error::ProblemKind;
use super::super::layers::Layers;
use super::super::public_keys::{KeyError, MAX_KEYS};

const PEM: &str = "auth.public_keys";
const JWKS: &str = "auth.jwks_file";

/// Reads the keys of every file into the settings.
pub(super) fn read(layers: &mut Layers) {
    let mut problems = Vec::new();
    let auth = &mut layers.unresolved.settings.auth;
    for file in &mut auth.public_keys {
        if let Err(error) = file.read_pem() {
            problems.push((PEM, ProblemKind::PublicKeys(file.path.clone(), error)));
        }
    }
    if let Some(file) = &mut auth.jwks_file
        && let Err(error) = file.read_jwks(&mut layers.warnings)
    {
        problems.push((JWKS, ProblemKind::PublicKeys(file.path.clone(), error)));
    }
    let files = || auth.public_keys.iter().chain(&auth.jwks_file);
    if files().map(|file| file.keys.len()).sum::<usize>() > MAX_KEYS
        && let Some(last) = files().last()
    {
        let key = if auth.jwks_file.is_some() { JWKS } else { PEM };
        problems.push((key, ProblemKind::PublicKeys(last.path.clone(), KeyError::TooMany)));
    }
    for (key, kind) in problems {
        layers.add_problem(key, layers.sources.get(key).cloned(), kind);
    }
}
