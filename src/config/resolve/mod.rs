//! The files that the settings name: reads the secret, the public keys, the TLS certificate and those of the
//! cluster into the merged settings.

mod cluster;
mod public_keys;
mod secret;
mod tls;

use super::layers::Layers;
use super::layers::environment::Environment;

/// Reads every file that the settings name, and adds the problems and warnings. It writes nothing.
pub(super) fn resolve(layers: &mut Layers, environment: &Environment) {
    public_keys::read(layers);
    secret::read(layers, environment);
    tls::read(layers);
    cluster::read(layers);
}
