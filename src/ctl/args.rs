//! philotectl's command line.

use std::path::PathBuf;
use std::time::Duration;

use clap::builder::PossibleValuesParser;
use clap::{ArgGroup, Args, Parser, Subcommand};

use super::actions::{DisconnectArgs, LevelArgs, PublishArgs};
use super::complete;
use super::conformance::ConformanceArgs;
use super::explain::ExplainArgs;
use super::follow::EventsArgs;
use super::lists::{ChannelsArgs, ConnectionsArgs, RefusedArgs, Watch};
use super::top::TopArgs;
use super::values::positive;
use crate::admin::instance::Instance;
use crate::admin::path;
use crate::bench::Options;
use crate::completions::Shell;
use crate::token::ApiRight;

const COMMON: &str = "Options of every command";
const AFTER_HELP: &str = "\
Exit status: 0 done, 1 the daemon refused or failed, 2 wrong usage, 3 philote is not running,
4 permission denied, 5 timed out, 6 nothing matched, 7 doctor found warnings only.";

/// Control the Philote daemon on this machine
#[derive(Debug, Parser)]
#[command(name = "philotectl", version, after_help = AFTER_HELP)]
pub(super) struct Arguments {
    /// The daemon's admin socket [env: PHILOTE_ADMIN_SOCKET; default: the first that accepts a connection of
    /// /run/philote/admin.sock, $XDG_RUNTIME_DIR/philote/admin.sock and admin.sock in the state directory]
    #[arg(long, global = true, value_name = "PATH", help_heading = COMMON)]
    pub(super) socket: Option<PathBuf>,
    /// The daemon of philote@NAME.service, whose admin socket is /run/philote@NAME/admin.sock
    #[arg(long, global = true, value_name = "NAME", conflicts_with = "socket", help_heading = COMMON,
          add = complete::instances())]
    pub(super) instance: Option<Instance>,
    /// Print one JSON document, with times in RFC 3339 UTC, sizes in bytes and durations in seconds
    #[arg(long, global = true, help_heading = COMMON)]
    pub(super) json: bool,
    /// How long to wait for the daemon, or for a case of conformance [default: 10s; reload 2m, wait-ready 30s,
    /// conformance 45s]
    #[arg(long, global = true, value_name = "DURATION", value_parser = positive, help_heading = COMMON)]
    pub(super) timeout: Option<Duration>,
    #[command(subcommand)]
    pub(super) command: Command,
}

impl Arguments {
    /// Returns the admin socket that the command line names.
    pub(super) fn named(&self) -> Option<PathBuf> {
        self.socket.clone().or_else(|| self.instance.as_ref().map(Instance::socket))
    }

    /// Returns whether the command line or the environment chooses a daemon.
    pub(super) fn chooses_one(&self) -> bool {
        self.named().is_some() || std::env::var_os(path::ENVIRONMENT).is_some_and(|value| !value.is_empty())
    }
}

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Show the state of the daemon
    Status {
        /// Fail with exit status 1 if more than this share of max_connections is in use
        #[arg(long, value_name = "PERCENT", value_parser = percent)]
        max_used: Option<u64>,
        #[command(flatten)]
        watch: Watch,
    },
    /// List the daemons on this machine; also philotectl without a command if there are several
    Instances,
    /// Check the daemon, its settings and the machine, and say what to do; exit status 1 for problems, 7 for warnings
    Doctor,
    /// List open connections, or closed connections and rejected requests with the reason
    Connections(ConnectionsArgs),
    /// List the channels that have readers
    Channels(ChannelsArgs),
    /// Tell up to which message of a channel a subject has got all, over its connections
    Explain(ExplainArgs),
    /// List the nodes of the cluster
    Nodes(Watch),
    /// Close connections; exit status 6 if none match
    Disconnect(DisconnectArgs),
    /// List the banned subjects, or lift a ban
    Refused(RefusedArgs),
    /// Publish a message, or each line of standard input
    Publish(PublishArgs),
    /// Follow connects, rejections, closes, reloads and optionally messages
    Events(EventsArgs),
    /// Show a live view: rates, the busiest channels, the slowest connections, and why connections were closed
    Top(TopArgs),
    /// Issue a token and print it; standard error says when it expires
    Token(Token),
    /// Show the contents of a token and whether this daemon would accept it; exit status 1 if not
    Inspect {
        /// The token; "-" or none reads it from standard input, where no other user can see it
        token: Option<String>,
    },
    /// Show or change the secret that signs tokens
    #[command(subcommand)]
    Secret(Secret),
    /// Reload the configuration; print what was applied and what needs a restart, or why nothing changed
    Reload {
        /// Only print what a reload would change
        #[arg(long)]
        dry_run: bool,
    },
    /// Show or change the log level
    LogLevel(LevelArgs),
    /// Wait until the daemon serves clients, or fail after --timeout
    WaitReady,
    /// Load a Philote server, and measure the cost of each delivery and each connection
    Bench(Options),
    /// Test a client of philote.v1 with faults, and print what it got wrong; exit status 1 if it failed a case
    Conformance(ConformanceArgs),
    /// Print a script that makes a shell complete this program's command lines
    Completions {
        /// The shell
        shell: Shell,
    },
}

impl Command {
    /// Returns how often to repeat the command.
    pub(super) fn watch(&self) -> Option<Duration> {
        match self {
            Command::Status { watch, .. } => watch.watch,
            Command::Connections(list) => list.rows.watch.watch,
            Command::Channels(list) => list.rows.watch.watch,
            Command::Refused(list) => list.watch.watch,
            Command::Nodes(watch) => watch.watch,
            _ => None,
        }
    }
}

#[derive(Args, Debug)]
#[command(group = ArgGroup::new("rights").required(true).multiple(true).args(["read", "write", "may_read", "may_write", "api"]))]
pub(super) struct Token {
    /// A channel that its holder may read (repeatable)
    #[arg(long, value_name = "CHANNEL")]
    pub(super) read: Vec<String>,
    /// A channel that its holder may write (repeatable)
    #[arg(long, value_name = "CHANNEL")]
    pub(super) write: Vec<String>,
    /// A channel that its holder may join, or with * at its end the beginning of the names of such channels (repeatable)
    #[arg(long, value_name = "PATTERN")]
    pub(super) may_read: Vec<String>,
    /// A channel that its holder may write, or with * at its end the beginning of the names of such channels (repeatable)
    #[arg(long, value_name = "PATTERN")]
    pub(super) may_write: Vec<String>,
    /// Let its holder see who reads the channels that it reads
    #[arg(long)]
    pub(super) presence: bool,
    /// What others see of its holder there: a JSON object of at most 256 bytes, such as {"name": "Alice"}
    #[arg(long, value_name = "OBJECT", value_parser = info)]
    pub(super) info: Option<Info>,
    /// Grant all rights to the HTTP API, or these rights (separated by commas); it publishes only on the channels of
    /// --write and --may-write and shows only those of --read and --may-read, if given
    #[arg(long, value_name = "RIGHT", num_args = 0..=1, value_delimiter = ',', value_parser = rights())]
    pub(super) api: Option<Vec<String>>,
    /// The subject: shown to administrators, and to the readers of its holder's messages
    #[arg(long, value_name = "NAME")]
    pub(super) subject: Option<String>,
    /// How long it is valid: a duration such as 1h or 30d, or "never"
    #[arg(long, value_name = "DURATION", value_parser = life, default_value = "7d")]
    pub(super) expires_in: Life,
}

#[derive(Debug, Subcommand)]
pub(super) enum Secret {
    /// Print the secret that signs tokens (root and the daemon's own user only)
    Show {
        /// Print all secrets that verify tokens, one per line; the first one signs
        #[arg(long)]
        all: bool,
    },
    /// Replace the daemon's secrets with standard input: one per line, the first signs, all verify (root and the
    /// daemon's own user only). Connections whose key is removed are closed.
    #[command(after_help = "To end a rotation, keep only the secret that signs:\n  \
                            sudo philotectl secret show | sudo philotectl secret set")]
    Set,
    /// Add a new secret that signs from now on; tokens signed with the older ones stay valid
    Rotate,
}

/// The claim `info` of a token.
#[derive(Clone, Debug)]
pub(super) struct Info(pub(super) serde_json::Map<String, serde_json::Value>);

fn info(text: &str) -> Result<Info, String> {
    serde_json::from_str(text).map(Info).map_err(|error| format!("give a JSON object: {error}"))
}

/// How long a token is valid; `None` for no limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Life(pub(super) Option<Duration>);

fn life(text: &str) -> Result<Life, String> {
    if text == "never" {
        return Ok(Life(None));
    }
    match positive(text) {
        Ok(life) if life.as_secs() > 0 => Ok(Life(Some(life))),
        Ok(_) => Err("less than a second".into()),
        Err(error) => Err(format!("{error}, or \"never\"")),
    }
}

/// The names of the rights to the HTTP API.
fn rights() -> PossibleValuesParser {
    PossibleValuesParser::new(ApiRight::ALL.map(ApiRight::name))
}

fn percent(text: &str) -> Result<u64, String> {
    let share = text.strip_suffix('%').unwrap_or(text).parse().ok().filter(|share| *share <= 100);
    share.ok_or_else(|| "give a share such as 80%".to_owned())
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;
    use crate::admin::api::DEFAULT_TOKEN_LIFE;

    #[test]
    fn the_command_line_is_consistent() {
        Arguments::command().debug_assert();
    }

    #[test]
    fn a_token_is_valid_for_seven_days_by_default() {
        let life = |arguments: &[&str]| {
            let start = ["philotectl", "token", "--read", "chat"];
            match Arguments::try_parse_from(start.iter().chain(arguments)).unwrap().command {
                Command::Token(token) => token.expires_in.0,
                other => panic!("{other:?}"),
            }
        };
        assert_eq!(life(&[]), Some(DEFAULT_TOKEN_LIFE));
        assert_eq!(life(&["--expires-in", "1h"]), Some(Duration::from_secs(3600)));
        assert_eq!(life(&["--expires-in", "never"]), None);
    }

    #[test]
    fn invalid_arguments_are_errors() {
        for arguments in [
            &["token"][..],
            &["token", "--read", "c", "--expires-in", "soon"],
            &["token", "--read", "c", "--expires-in", "10ms"],
            &["wait-ready", "--timeout", "0s"],
            &["secret"],
            &[],
        ] {
            assert!(
                Arguments::try_parse_from([&["philotectl"], arguments].concat()).is_err(),
                "{arguments:?}"
            );
        }
    }
}
