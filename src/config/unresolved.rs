//! The settings while the layers are merged.

use std::path::PathBuf;

use super::cluster::ClusterSettings;
use super::settings::Settings;

/// Settings whose secret and TLS files are named but not read yet. It has no `Debug` because it holds the secret as text.
pub(super) struct Unresolved {
    /// Every other setting. The `keys` of its key files are still empty, and it has no cluster.
    pub(super) settings: Settings,
    /// The text of `auth.secret`.
    pub(super) secret: Option<String>,
    /// `auth.secret_file`.
    pub(super) secret_file: Option<PathBuf>,
    /// `tls.certificate`.
    pub(super) certificate: Option<PathBuf>,
    /// `tls.key`.
    pub(super) key: Option<PathBuf>,
    /// `[cluster]`. Its secret files are still empty.
    pub(super) cluster: ClusterSettings,
}

impl Unresolved {
    /// Starts with these settings, and without any of the files of the others.
    pub(super) fn new(settings: Settings, cluster: ClusterSettings) -> Self {
        Unresolved { settings, secret: None, secret_file: None, certificate: None, key: None, cluster }
    }
}
