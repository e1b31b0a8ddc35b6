//! philotectl's command line.

use std::path::PathBuf;
use std::time::Duration;

use clap::builder::PossibleValuesParser;
use clap::{ArgGroup, Args, Parser, Subcommand};

use super::follow::EventsArgs;
use super::lists::{ChannelsArgs, ConnectionsArgs, RefusedArgs, Watch};
use super::steer::{DisconnectArgs, LevelArgs, PublishArgs};
use super::top::TopArgs;
use super::values::positive;
use crate::access_key::ApiRight;
use crate::bench::Options;
use crate::completions::Shell;

const COMMON: &str = "Options of every command";
const AFTER_HELP: &str = "\
Exit status: 0 done, 1 the daemon refused or failed, 2 wrong usage, 3 philote is not running,
4 permission denied, 5 timed out, 6 nothing matched what was to be changed.";

/// Ask and steer the Philote daemon on this machine
#[derive(Debug, Parser)]
#[command(name = "philotectl", version, after_help = AFTER_HELP)]
pub(super) struct Arguments {
    /// The daemon's admin socket [env: PHILOTE_ADMIN_SOCKET; default: the first that answers of
    /// /run/philote/admin.sock, $XDG_RUNTIME_DIR/philote/admin.sock and admin.sock in the state directory]
    #[arg(long, global = true, value_name = "PATH", help_heading = COMMON)]
    pub(super) socket: Option<PathBuf>,
    /// Print one JSON document: times in RFC 3339 UTC, sizes in bytes, durations in seconds
    #[arg(long, global = true, help_heading = COMMON)]
    pub(super) json: bool,
    /// How long to wait for the daemon [default: 10s; reload 2m, wait-ready 30s]
    #[arg(long, global = true, value_name = "DURATION", value_parser = positive, help_heading = COMMON)]
    pub(super) timeout: Option<Duration>,
    #[command(subcommand)]
    pub(super) command: Command,
}

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Show how the daemon is doing
    Status {
        /// Fail, with exit status 1, where more of max_connections are in use than this share
        #[arg(long, value_name = "PERCENT", value_parser = percent)]
        max_used: Option<u64>,
        #[command(flatten)]
        watch: Watch,
    },
    /// List who is connected, or who has left or was refused and why
    Connections(ConnectionsArgs),
    /// List the channels that somebody reads
    Channels(ChannelsArgs),
    /// Close connections; exit status 6 if there are none
    Disconnect(DisconnectArgs),
    /// List the subjects that are kept out, or let one in again
    Refused(RefusedArgs),
    /// Publish a message, or each line of standard input
    Publish(PublishArgs),
    /// Follow connects, refusals, closes, reloads and, if wanted, messages
    Events(EventsArgs),
    /// Watch it live: rates, the busiest channels, the slowest connections, who was dropped and why
    Top(TopArgs),
    /// Issue a token and print it alone; when it expires is told on standard error
    Token(Token),
    /// Say what is in a token and whether this daemon would accept it; exit status 1 if not
    Inspect {
        /// The token; without it, or as "-", it is read from standard input, where no other user can see it
        token: Option<String>,
    },
    /// Show or change the secret that tokens are signed with
    #[command(subcommand)]
    Secret(Secret),
    /// Read the configuration again; say what was applied and what needs a restart, or why all stays as it was
    Reload {
        /// Only say what it would come to
        #[arg(long)]
        dry_run: bool,
    },
    /// Show or change how much is logged
    LogLevel(LevelArgs),
    /// Wait until the daemon serves clients, or fail at --timeout
    WaitReady,
    /// Load a Philote server, and measure what each delivery and each connection costs it
    Bench(Options),
    /// Print a script that makes a shell complete this program's command lines
    Completions {
        /// The shell
        shell: Shell,
    },
}

impl Command {
    /// How often to show it again.
    pub(super) fn watch(&self) -> Option<Duration> {
        match self {
            Command::Status { watch, .. } => watch.watch,
            Command::Connections(list) => list.rows.watch.watch,
            Command::Channels(list) => list.rows.watch.watch,
            Command::Refused(list) => list.watch.watch,
            _ => None,
        }
    }
}

#[derive(Args, Debug)]
#[command(group = ArgGroup::new("rights").required(true).multiple(true).args(["read", "write", "api"]))]
pub(super) struct Token {
    /// A channel that its holder may read (repeatable)
    #[arg(long, value_name = "CHANNEL")]
    pub(super) read: Vec<String>,
    /// A channel that its holder may write (repeatable)
    #[arg(long, value_name = "CHANNEL")]
    pub(super) write: Vec<String>,
    /// Open the HTTP API, or only these parts of it (separated by commas); it publishes on the channels of --write and
    /// shows those of --read, or any without them
    #[arg(long, value_name = "RIGHT", num_args = 0..=1, value_delimiter = ',', value_parser = rights())]
    pub(super) api: Option<Vec<String>>,
    /// Who it is for: shown to administrators, and to readers of what its holder publishes
    #[arg(long, value_name = "NAME")]
    pub(super) subject: Option<String>,
    /// How long it is good: a duration such as 1h or 30d, or "never"
    #[arg(long, value_name = "DURATION", value_parser = life, default_value = "7d")]
    pub(super) expires_in: Life,
}

#[derive(Debug, Subcommand)]
pub(super) enum Secret {
    /// Print the secret that signs (root and the daemon's own user only)
    Show {
        /// Print all that verify tokens, one a line; the first is the one that signs
        #[arg(long)]
        all: bool,
    },
    /// Replace the daemon's own secret by standard input: one a line, the first signs, all verify
    /// (root and the daemon's own user only). Connections whose key is then gone are closed.
    #[command(after_help = "To end a rotation, forget all but the one that signs:\n  \
                            sudo philotectl secret show | sudo philotectl secret set")]
    Set,
    /// Make a new secret that signs from now on; tokens signed with the older ones stay good
    Rotate,
}

/// How long a token is good; `None` is for ever.
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

/// The parts of the HTTP API, by name.
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
    fn the_command_line_is_sound() {
        Arguments::command().debug_assert();
    }

    #[test]
    fn a_token_lives_seven_days_when_nobody_says() {
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
    fn what_makes_no_sense_is_refused() {
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
