//! Settings: from the file, the environment and the command line as written to values that are checked.

pub mod command_line;
mod environment;
mod listen;
mod origin;
mod secret;
mod settings;

pub use command_line::{CommandLine, Overrides};
pub use environment::{Environment, SYSTEM_FILE, admin_socket_places};
pub use listen::{DEFAULT_PORT, Listen};
pub use origin::Origin;
pub use secret::{Secret, SecretSource, Secrets};
pub use settings::{
    AdminSettings, AuthSettings, Drain, LimitSettings, LogFormat, LogLevel, LogSettings, Settings,
    ShutdownSettings, WebSocketSettings,
};
