//! The settings of `[cluster]`, and what can be wrong with the files that they name.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use super::secret::Secret;

/// The greatest value of `limits.channel_name_bytes` in a cluster. A byte may take three in a subject, and a line of NATS's
/// protocol has 4,096 by default, with the prefix, a reply subject and numbers.
pub(super) const LONGEST_NAMES: usize = 1024;

/// Bytes. The secret is the key of HMAC-SHA256, which has at least as many bits as the hash.
pub(super) const SHORTEST_SECRET: usize = 32;
/// Bytes; the limit of Linux for a host name, which is the default.
pub(super) const LONGEST_NAME: usize = 64;

/// The connection to NATS, and this node's part in the cluster.
#[derive(Clone, Debug, PartialEq)]
pub struct ClusterSettings {
    /// The URLs of NATS servers, `nats://HOST:PORT` or `tls://HOST:PORT`. At least one.
    pub servers: Vec<String>,
    /// The first tokens of every subject, joined by dots.
    pub subject_prefix: String,
    /// The name of this node.
    pub name: String,
    /// The NATS credentials file, with its text. Excludes `user`.
    pub credentials_file: Option<SecretFile>,
    /// The NATS user. Has a password.
    pub user: Option<String>,
    /// The file of the user's password, with the password without the newline at its end.
    pub password_file: Option<SecretFile>,
    /// The file of the secret that authenticates steering messages between nodes, with the secret without the newline at
    /// its end.
    pub secret_file: Option<SecretFile>,
    /// Where JetStream stores the log.
    pub storage: ClusterStorage,
    /// The number of NATS servers that each store the log.
    pub replicas: usize,
    /// The size of the log, in bytes.
    pub log_bytes: usize,
    /// The time that a publisher waits for a link that is down.
    pub patience: Duration,
    /// Whether `/health` reports 503 while the link is down.
    pub required: bool,
    /// The files of `[cluster.tls]`.
    pub tls: ClusterTls,
}

/// Where JetStream stores the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClusterStorage {
    /// In files.
    File,
    /// In memory.
    Memory,
}

/// TLS to the NATS servers. Each file is in PEM and was checked when the settings were loaded.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ClusterTls {
    /// The certificates of authorities that are trusted besides those of the system.
    pub ca: Option<PathBuf>,
    /// The certificate chain of this client. Has a key.
    pub certificate: Option<PathBuf>,
    /// Its private key.
    pub key: Option<PathBuf>,
    /// A hash of the content of each of the three, by which a reload notices a renewed file.
    pub hashes: [u64; 3],
}

impl ClusterTls {
    /// Returns whether any file is set, so that connections must use TLS.
    pub fn is_set(&self) -> bool {
        *self != ClusterTls::default()
    }
}

impl ClusterSettings {
    /// Returns the keys of files that are read again for each link to NATS, and that have the same path and another content in
    /// `new`.
    pub(super) fn renewed(&self, new: &ClusterSettings) -> Vec<&'static str> {
        let secret = |key, old: &Option<SecretFile>, new: &Option<SecretFile>| {
            let (Some(old), Some(new)) = (old, new) else { return None };
            (old.path == new.path && old.content != new.content).then_some(key)
        };
        let paths = |tls: &ClusterTls| [tls.ca.clone(), tls.certificate.clone(), tls.key.clone()];
        let (old_paths, new_paths) = (paths(&self.tls), paths(&new.tls));
        let tls = ["cluster.tls.ca", "cluster.tls.certificate", "cluster.tls.key"];
        let tls = tls.into_iter().enumerate().filter(|(at, _)| {
            old_paths[*at] == new_paths[*at] && self.tls.hashes[*at] != new.tls.hashes[*at]
        });
        [
            secret("cluster.credentials_file", &self.credentials_file, &new.credentials_file),
            secret("cluster.password_file", &self.password_file, &new.password_file),
        ]
        .into_iter()
        .flatten()
        .chain(tls.map(|(_, key)| key))
        .collect()
    }

    /// Takes the contents of those files.
    pub(super) fn renew(&mut self, new: &ClusterSettings) {
        for key in self.renewed(new) {
            match key {
                "cluster.credentials_file" => self.credentials_file.clone_from(&new.credentials_file),
                "cluster.password_file" => self.password_file.clone_from(&new.password_file),
                _ => self.tls.hashes = new.tls.hashes,
            }
        }
    }
}

/// A file that holds a secret. `Debug` shows its path only.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SecretFile {
    /// The file.
    pub path: PathBuf,
    /// Its content. Empty until the file is read.
    pub content: Secret,
}

/// Why the settings of `[cluster]` cannot be used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ClusterError {
    /// A file cannot be read.
    Unreadable {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// A file is not UTF-8.
    NotText(PathBuf),
    /// A file is empty.
    Empty(PathBuf),
    /// A file has several lines, where one is expected.
    SeveralLines(PathBuf),
    /// The secret is too short.
    ShortSecret(PathBuf),
    /// The file has no user JWT with its seed.
    NotCredentials(PathBuf),
    /// A URL has a user, a token or a password.
    LoginInUrl,
    /// Credentials and a user are set.
    TwoLogins,
    /// A key needs another one.
    Alone {
        /// The missing key.
        missing: &'static str,
    },
    /// The names of channels may be longer than a subject of NATS.
    LongNames,
}

impl fmt::Display for ClusterError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ClusterError::Unreadable { path, reason } => {
                write!(f, "cannot read {}: {reason}", path.display())
            }
            ClusterError::NotText(path) => write!(f, "{} is not UTF-8 text", path.display()),
            ClusterError::Empty(path) => write!(f, "{} is empty", path.display()),
            ClusterError::SeveralLines(path) => {
                write!(f, "{} has several lines: write the password on one", path.display())
            }
            ClusterError::ShortSecret(path) => write!(
                f,
                "{} has less than {SHORTEST_SECRET} bytes, too short for the cluster's secret: make one with `openssl \
                 rand -base64 32`",
                path.display()
            ),
            ClusterError::NotCredentials(path) => write!(
                f,
                "{} is not a NATS credentials file, which has a user JWT and a user NKEY seed (nsc generate creds)",
                path.display()
            ),
            ClusterError::LoginInUrl => f.write_str(
                "a URL must have no user, no password and no query, because it is printed: set cluster.user and \
                 cluster.password_file, or cluster.credentials_file",
            ),
            ClusterError::TwoLogins => f.write_str(
                "set cluster.credentials_file, or cluster.user and cluster.password_file, but not both",
            ),
            ClusterError::Alone { missing } => write!(f, "{missing} is not set: set both or neither"),
            ClusterError::LongNames => write!(
                f,
                "must be at most {LONGEST_NAMES} in a cluster, because NATS ends the connection of a node that uses a \
                 longer subject"
            ),
        }
    }
}
