//! What a reload replaces: the settings in force, the keys, and what follows from both.

use super::rejection::Rejection;
use crate::config::Settings;
use crate::token::{Keys, Policy};

/// Descriptors that are reserved for listeners, the admin socket, the log and files.
pub const SPARE_DESCRIPTORS: usize = 64;

/// The state that may change while the server runs. A reload replaces it as a whole.
#[derive(Debug)]
pub struct Live {
    /// The settings in force.
    pub settings: Settings,
    /// The keys that tokens may be signed with.
    pub keys: Keys,
    /// The further requirements of a token.
    pub policy: Policy,
    /// The most connections: the setting, or what the descriptor limit leaves.
    pub max_connections: usize,
    /// The limit on open files, if it allows fewer connections than the setting.
    pub descriptor_limit: Option<usize>,
}

impl Live {
    /// Derives the state from `settings`; `max_descriptors` is the limit of the process.
    pub fn new(settings: Settings, max_descriptors: usize) -> Live {
        let policy = Policy {
            leeway: settings.auth.leeway.as_secs(),
            require_expiry: settings.auth.require_expiry,
            issuer: settings.auth.issuer.clone(),
            audience: settings.auth.audience.clone(),
            channels: settings.limits.channels_per_token,
            channel_name_bytes: settings.limits.channel_name_bytes,
        };
        let mut keys = Keys::new(settings.auth.secrets.iter().map(|secret| secret.as_bytes()));
        for key in
            settings.auth.public_keys.iter().chain(&settings.auth.jwks_file).flat_map(|file| &file.keys)
        {
            keys.add_public(&key.decoding, &key.algorithms, &key.material, key.kid.as_deref(), &key.name);
        }
        let left = max_descriptors.saturating_sub(SPARE_DESCRIPTORS);
        Live {
            keys,
            policy,
            max_connections: settings.max_connections.min(left),
            descriptor_limit: (left < settings.max_connections).then_some(max_descriptors),
            settings,
        }
    }

    /// Returns the rejection when there are [`Live::max_connections`].
    pub(super) fn full_rejection(&self) -> Rejection {
        match self.descriptor_limit {
            None => Rejection::Full(self.max_connections),
            Some(limit) => Rejection::OutOfDescriptors { limit, max: self.max_connections },
        }
    }
}
