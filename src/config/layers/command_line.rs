//! The command line of `philote`.

use std::fmt;
use std::path::PathBuf;

use clap::{Args, Parser};

/// The exit statuses. The man page has the same list.
const EXIT_STATUS: &str = "\
Exit status:
  0   stopped on request, or the settings are valid (--check)
  1   cannot run, for instance because an address is in use
  2   invalid option
  78  invalid setting; the message names its source and its key

Settings come from the command line, then the environment, then /etc/philote/philote.toml,
then the defaults. `philote --print-config` shows each setting with its source.";

/// The command line of `philote`.
#[derive(Parser, Debug)]
#[command(name = "philote", version, about = "A WebSocket publish/subscribe server", after_help = EXIT_STATUS)]
pub struct CommandLine {
    /// Check the settings and exit
    #[arg(long, conflicts_with = "print_config")]
    pub check: bool,
    /// Print every setting with its value and its source, and exit
    #[arg(long)]
    pub print_config: bool,
    /// The settings that override environment and file.
    #[command(flatten)]
    pub overrides: Overrides,
}

/// The settings on the command line. `Debug` does not show `--set` because it may hold the secret.
#[derive(Args, Clone, Default)]
pub struct Overrides {
    /// Development mode: listen on loopback only, with a publicly known secret and a web page for trying out channels
    #[arg(long)]
    pub dev: bool,
    /// Read this file instead of /etc/philote/philote.toml
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Listen on this address, such as 127.0.0.1:6380 (repeatable)
    #[arg(long, value_name = "ADDRESS")]
    pub listen: Vec<String>,
    /// Listen on this port
    #[arg(long, value_name = "PORT")]
    pub port: Option<u16>,
    /// Read the secret from this file
    #[arg(long, value_name = "FILE")]
    pub secret_file: Option<PathBuf>,
    /// Log messages of this level and above: trace, debug, info, warning, error
    #[arg(long, value_name = "LEVEL")]
    pub log_level: Option<String>,
    /// Set any key of the configuration file, such as limits.queue_bytes=2MiB (repeatable)
    #[arg(long, value_name = "SECTION.KEY=VALUE")]
    pub set: Vec<String>,
}

impl fmt::Debug for Overrides {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Overrides")
            .field("dev", &self.dev)
            .field("config", &self.config)
            .field("listen", &self.listen)
            .field("port", &self.port)
            .field("secret_file", &self.secret_file)
            .field("log_level", &self.log_level)
            .field("set", &format_args!("{} redacted", self.set.len()))
            .finish()
    }
}
