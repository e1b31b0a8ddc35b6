//! What a reload changes: a pure comparison of two settings.

use std::fmt;

use super::keys::{KEYS, Key, Reload};
use super::settings::Settings;

/// What a reload changes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Changes {
    /// What applies at once.
    pub applied: Vec<Change>,
    /// What waits for the next start.
    pub needs_restart: Vec<Change>,
}

/// A key with another value. Prints as `limits.queue_bytes: "1MiB" -> "2MiB"`; never shows a secret.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// `section.key`.
    pub key: &'static str,
    /// The value before, as it would be written in the file.
    pub old: String,
    /// The value after.
    pub new: String,
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {} -> {}", self.key, self.old, self.new)
    }
}

/// What is different in `new`, in the order of [`KEYS`].
pub fn changes(old: &Settings, new: &Settings) -> Changes {
    let mut changes = Changes::default();
    for key in KEYS.iter().filter(|key| !key.same(old, new)) {
        let mut change = Change { key: key.path(), old: text(key, old), new: text(key, new) };
        if change.old == change.new && ["auth.public_keys", "auth.jwks_file"].contains(&change.key) {
            // The files are the same and what stands in them is not.
            change.new += " (with other keys in it)";
        }
        match key.reload() {
            Reload::Live => changes.applied.push(change),
            Reload::Restart => changes.needs_restart.push(change),
        }
    }
    changes
}

/// The settings to go on with after a reload: the new ones, but the old values of keys that need a restart.
pub fn keep_fixed(old: &Settings, new: &Settings) -> Settings {
    let mut settings = new.clone();
    for key in KEYS.iter().filter(|key| key.reload() == Reload::Restart) {
        key.keep(old, &mut settings);
    }
    // The listeners that speak TLS do so until the next start, with or without new settings for it.
    if settings.tls.is_none() && settings.listen.listeners().iter().any(|listener| listener.tls) {
        settings.tls.clone_from(&old.tls);
    }
    settings
}

fn text(key: &Key, settings: &Settings) -> String {
    // A renewed certificate stands in the same file.
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
