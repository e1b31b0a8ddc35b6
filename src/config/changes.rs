//! Compares old and new settings for a reload.

use std::fmt;

use super::keys::{KEYS, Key, Reload};
use super::settings::Settings;

/// The changed settings of a reload.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Changes {
    /// Changes that the reload applies.
    pub applied: Vec<Change>,
    /// Changes that only a restart applies.
    pub needs_restart: Vec<Change>,
}

/// A changed setting. Its `Display` is `limits.queue_bytes: "1MiB" -> "2MiB"`, and never shows a secret.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// `section.key`.
    pub key: &'static str,
    /// The old value, as the file would write it.
    pub old: String,
    /// The new value.
    pub new: String,
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {} -> {}", self.key, self.old, self.new)
    }
}

/// Returns the changes from `old` to `new`, in the order of [`KEYS`].
pub fn changes(old: &Settings, new: &Settings) -> Changes {
    let mut changes = Changes::default();
    for key in KEYS.iter().filter(|key| !key.same(old, new)) {
        let mut change = Change { key: key.path(), old: text(key, old), new: text(key, new) };
        if change.old == change.new {
            // The names of the files are the same, but what is in them changed.
            match change.key {
                "auth.public_keys" | "auth.jwks_file" => change.new += " (with other keys in it)",
                key if key.starts_with("cluster.") => change.new += " (with another content)",
                _ => {}
            }
        }
        match reload(key, old, new) {
            Reload::Live => changes.applied.push(change),
            Reload::Restart => changes.needs_restart.push(change),
        }
    }
    // Files of TLS are compared by their paths above.
    let tls = renewed(old, new).into_iter().filter(|path| path.starts_with("cluster.tls."));
    for key in tls.filter_map(|path| KEYS.iter().find(|key| key.path() == path)) {
        let (old, new) = (text(key, old), text(key, new) + " (with another content)");
        changes.applied.push(Change { key: key.path(), old, new });
    }
    changes
}

/// Returns the keys of files of the cluster that have another content.
fn renewed(old: &Settings, new: &Settings) -> Vec<&'static str> {
    match (&old.cluster, &new.cluster) {
        (Some(old), Some(new)) => old.renewed(new),
        _ => Vec::new(),
    }
}

/// Returns the settings to run with after a reload: the new values, but the old ones of keys that need a restart.
pub fn keep_fixed(old: &Settings, new: &Settings) -> Settings {
    let mut settings = new.clone();
    for key in KEYS.iter().filter(|key| reload(key, old, new) == Reload::Restart) {
        key.keep(old, &mut settings);
    }
    if let (Some(cluster), Some(new)) = (&mut settings.cluster, &new.cluster) {
        cluster.renew(new);
    }
    // The listeners that speak TLS need the certificate until the restart, even if the new settings have none.
    if settings.tls.is_none() && settings.listen.listeners().iter().any(|listener| listener.tls) {
        settings.tls.clone_from(&old.tls);
    }
    settings
}

/// Returns whether a reload applies the change of this key.
fn reload(key: &Key, old: &Settings, new: &Settings) -> Reload {
    // A cluster with a history is a different one: its messages take another way.
    let decides = ["history.messages", "history.channels"].contains(&key.path());
    if old.cluster.is_some() && decides && old.history.is_on() != new.history.is_on() {
        return Reload::Restart;
    }
    if renewed(old, new).contains(&key.path()) {
        return Reload::Live;
    }
    key.reload()
}

fn text(key: &Key, settings: &Settings) -> String {
    // A renewed certificate has the same path.
    if let (super::tls::CERTIFICATE, Some(tls)) = (key.path(), &settings.tls) {
        return format!("{} until {}", key.show(settings).unwrap_or_default(), tls.expires_text());
    }
    key.show(settings).unwrap_or_else(|| match key.path() {
        "auth.secret" => match settings.auth.secrets.iter().count() {
            1 => "1 secret (redacted)".to_owned(),
            count => format!("{count} secrets (redacted)"),
        },
        _ => "(not set)".to_owned(),
    })
}
