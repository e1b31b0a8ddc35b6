//! Settings: reads them from the configuration file, the environment and the command line, and checks them.
//!
//! In reading order:
//!
//! 1. `settings` ([`Settings`]): the result, which the rest of Philote uses.
//! 2. `value_types`: how a value is read from text and printed. `secret`, `public_keys`, `tls` and `cluster` have the
//!    values that come from files. `error` has every problem with its message.
//! 3. `keys` ([`KEYS`]): the table of everything that can be set. Each key stores its value into `unresolved` settings.
//!    `unknown_keys` suggests the most similar key for any other name.
//! 4. `layers`: file, environment and command line, merged over the `defaults`.
//! 5. `load` ([`load()`]): merges the layers, then `checks` settings against each other, then lets `resolve` read the files
//!    that they name.
//! 6. `changes` ([`changes()`]): what a reload changes. `report`: what `--print-config` and `--check` print.
//!
//! No two files import each other: `settings` is made of the values of step 2, and every later step uses only the steps
//! before it. `memory`, `atomic_file`, `readers` and `service_user` deal with the system. Nothing here knows the network or the rest of
//! the daemon.

mod atomic_file;
mod changes;
mod checks;
mod cluster;
mod defaults;
mod error;
mod keys;
mod layers;
mod load;
mod memory;
mod public_keys;
mod readers;
mod report;
mod resolve;
mod secret;
mod service_user;
mod settings;
mod source;
#[cfg(test)]
mod tests;
mod tls;
mod unknown_keys;
mod unresolved;
mod value_types;

pub use atomic_file::{remove_unfinished, replace_file};
pub use changes::{Change, Changes, changes, keep_fixed};
pub use cluster::{ClusterError, ClusterSettings, ClusterStorage, ClusterTls, SecretFile};
pub use defaults::DEV_SECRET;
pub use error::{ConfigError, EXIT_CONFIG, Problem, ProblemKind};
pub use keys::{KEYS, Key, Reload};
pub use layers::command_line::{CommandLine, Overrides};
pub use layers::environment::{Environment, SYSTEM_FILE};
pub use load::{Loaded, load};
pub use memory::available as available_memory;
#[cfg(any(test, feature = "fuzz"))]
pub(crate) use public_keys::fuzz::parse as fuzz_public_keys;
pub use public_keys::{KeyError, KeyFault, KeyFile, PublicKey};
pub use report::{check, check_for_service, print_config};
pub use secret::{Secret, SecretError, SecretSource, Secrets, warnings as secret_warnings};
pub use settings::{
    AdminSettings, AdminSocket, AuthSettings, HistorySettings, LimitSettings, LogFormat, LogLevel,
    LogSettings, MetricsSettings, Settings, ShutdownSettings, WebSocketSettings,
};
pub use source::Source;
pub use tls::{Expiry, TlsError, TlsSettings, provider};
pub use value_types::{
    Address, AllowedOrigin, DEFAULT_PORT, Drain, Listen, Listener, Network, TrustedProxies, WebOrigin,
    names_loopback,
};
