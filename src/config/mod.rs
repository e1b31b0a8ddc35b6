//! Settings: from the file, the environment and the command line as written to values that are checked.
//!
//! In reading order: [`settings`](Settings) is what comes of it, [`KEYS`] the one table of what can be set,
//! [`load()`] the way from one to the other, [`changes()`] what a reload does, [`print_config`] and [`check`]
//! what is said about it.

mod changes;
mod command_line;
mod dev;
mod draft;
mod environment;
mod error;
mod file;
mod keys;
mod kinds;
mod listen;
mod load;
mod memory;
mod networks;
mod origin;
mod public_keys;
mod raw;
mod replace;
mod report;
mod secret;
mod secret_choice;
mod secret_file;
mod settings;
#[cfg(test)]
mod tests;
mod tls;
mod web_origin;

pub use changes::{Change, Changes, changes, keep_fixed};
pub use command_line::{CommandLine, Overrides};
pub use dev::DEV_SECRET;
pub use environment::{Environment, SYSTEM_FILE, admin_socket_places};
pub use error::{ConfigError, Problem, Situation};
pub use keys::{KEYS, Key, Reload};
pub use listen::{Address, DEFAULT_PORT, Listen, Listener};
pub use load::{Loaded, load};
pub use networks::{Network, TrustedProxies};
pub use origin::Origin;
pub use public_keys::{Fault, KeyError, KeyFile, PublicKey};
pub use replace::{remove_unfinished, replace_file};
pub use report::{check, check_for_service, print_config};
pub use secret::{Secret, SecretError, SecretSource, Secrets};
pub use settings::{
    AdminSettings, AdminSocket, AuthSettings, Drain, LimitSettings, LogFormat, LogLevel, LogSettings,
    MetricsSettings, Settings, ShutdownSettings, WebSocketSettings,
};
pub use tls::{Expiry, TlsError, TlsSettings, provider};
pub use web_origin::{AllowedOrigin, WebOrigin, names_loopback};
