//! The command line of `philote`.

use std::fmt;
use std::path::PathBuf;

use clap::{Args, Parser};

/// What the exit status means, as the help and the man page say it.
const EXIT_STATUS: &str = "\
Exit status:
  0   stopped as asked, or the settings are good (--check)
  1   cannot run: an address in use, a socket that cannot be made
  2   a wrong option
  78  a wrong setting; the message names the place and the key

Settings come from the command line, then the environment, then /etc/philote/philote.toml,
then the defaults. `philote --print-config` shows each with where it came from.";

/// The command line of `philote`.
#[derive(Parser, Debug)]
#[command(name = "philote", version, about = "A WebSocket publish/subscribe server", after_help = EXIT_STATUS)]
pub struct CommandLine {
    /// Say whether the settings are good, and do nothing else
    #[arg(long, conflicts_with = "print_config")]
    pub check: bool,
    /// Print the settings in force, each with where it came from, and do nothing else
    #[arg(long)]
    pub print_config: bool,
    /// What wins over environment and file.
    #[command(flatten)]
    pub overrides: Overrides,
}

/// The settings given on the command line. `Debug` does not show `--set`, which may hold the secret.
#[derive(Args, Clone, Default)]
pub struct Overrides {
    /// For development: listen on this machine alone, with a secret that everybody knows and a page to try channels on
    #[arg(long)]
    pub dev: bool,
    /// Read this file in place of /etc/philote/philote.toml
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
    /// Log from this level on: trace, debug, info, warning, error
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
