//! The files that the settings name: reads the secret, the public keys, the TLS certificate and those of the
//! cluster into the merged settings.

mod cluster;
mod public_keys;
mod secret;
mod tls;

use std::path::Path;

use super::layers::Layers;
use super::layers::environment::Environment;

/// Reads every file that the settings name, and adds the problems and warnings. It writes nothing.
pub(super) fn resolve(layers: &mut Layers, environment: &Environment) {
    public_keys::read(layers);
    secret::read(layers, environment);
    tls::read(layers);
    cluster::read(layers);
}

/// Permission bits that are too open, and the argument of chmod that removes them. An administrator may let a group read
/// a file, such as that of the service. Nobody else needs to read the generated file.
const OTHERS: (u32, &str) = (0o007, "o-rwx");
const GROUP_AND_OTHERS: (u32, &str) = (0o077, "go-rwx");

/// Warns of a file that other users can read although it holds `what`.
fn warn_of_readers(
    warnings: &mut Vec<String>,
    path: &Path,
    what: &str,
    mode: u32,
    (bits, chmod): (u32, &str),
) {
    if mode & bits != 0 {
        let path = path.display();
        warnings
            .push(format!("other users can read or write {path}, which holds {what}: chmod {chmod} {path}"));
    }
}
