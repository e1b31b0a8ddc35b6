//! jane's command line, with the two words that the original spelt with one dash.

use std::ffi::OsString;
use std::path::PathBuf;

use clap::{ArgGroup, Parser};

/// The port of a server that names none.
const PORT: u16 = 6380;

const AFTER_HELP: &str = "\
Each line of standard input is published on the first channel, and what others publish is printed as
\"ISSUER SUBJECT CHANNEL: DATA\", with the issuer's first eight characters and control characters as escapes.

When standard input ends (Ctrl-D, or the end of a pipe or file), jane leaves as soon as the server has all of it:
\"echo hi | jane -c chat\" publishes and ends. With < /dev/null it only listens, until it is interrupted.

A lost connection is made again; being refused ends it, with the reason and exit status 1.
-secure and -info may be written with one dash.";

/// Talk through a Philote server from a terminal
#[derive(Debug, Parser)]
#[command(name = "jane", version, after_help = AFTER_HELP)]
#[command(group = ArgGroup::new("access").args(["secret", "secret_file", "token"]))]
pub(super) struct Arguments {
    /// The server
    #[arg(short = 'p', long, value_name = "HOST:PORT", default_value = "localhost:6380", value_parser = server)]
    pub(super) server: Server,
    /// A channel to listen to; what is typed goes to the first (repeatable)
    #[arg(short, long = "channel", value_name = "CHANNEL", required_unless_present = "info")]
    pub(super) channels: Vec<String>,
    /// The server's secret, to sign a token with; other users can see it: rather use -S
    #[arg(short, long)]
    pub(super) secret: Option<String>,
    /// A file whose first line is the server's secret
    #[arg(short = 'S', long, value_name = "FILE")]
    pub(super) secret_file: Option<PathBuf>,
    /// A token [default without -s, -S and -t: one from the daemon on this machine]
    #[arg(short, long)]
    pub(super) token: Option<String>,
    /// Connect with TLS
    #[arg(long)]
    pub(super) secure: bool,
    /// Trust the authorities in this file [default: those of the system]
    #[arg(long, value_name = "FILE", requires = "secure")]
    pub(super) ca: Option<PathBuf>,
    /// Print what the server says about itself, and end
    #[arg(long)]
    pub(super) info: bool,
}

/// Where a server listens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Server {
    /// A name, or an address without brackets.
    pub(super) host: String,
    pub(super) port: u16,
}

impl std::fmt::Display for Server {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { host, port } = self;
        if host.contains(':') { write!(f, "[{host}]:{port}") } else { write!(f, "{host}:{port}") }
    }
}

/// What was typed, with `-secure` and `-info` as clap wants them: it would read `-s ecure`.
pub(super) fn with_two_dashes(words: impl Iterator<Item = OsString>) -> impl Iterator<Item = OsString> {
    words.map(|word| match word.to_str() {
        Some("-secure") => "--secure".into(),
        Some("-info") => "--info".into(),
        _ => word,
    })
}

fn server(text: &str) -> Result<Server, String> {
    let wrong = || "give HOST or HOST:PORT, such as localhost:6380 or [::1]:6380".to_owned();
    let (host, port) = match text.strip_prefix('[') {
        Some(rest) => {
            let (host, rest) = rest.split_once(']').ok_or_else(wrong)?;
            (host, if rest.is_empty() { None } else { Some(rest.strip_prefix(':').ok_or_else(wrong)?) })
        }
        None => match text.split_once(':') {
            Some((host, port)) => (host, Some(port)),
            None => (text, None),
        },
    };
    let port = port.map_or(Ok(PORT), |port| port.parse().map_err(|_| wrong()))?;
    // What else may stand in a name is for the resolver to say; these would get into the request's head.
    if host.is_empty() || port == 0 || host.contains(|c: char| c.is_control() || " /@?#".contains(c)) {
        return Err(wrong());
    }
    Ok(Server { host: host.into(), port })
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    fn parse(line: &str) -> Result<Arguments, clap::Error> {
        let words = std::iter::once("jane").chain(line.split_whitespace()).map(OsString::from);
        Arguments::try_parse_from(with_two_dashes(words))
    }

    #[test]
    fn the_original_s_command_line_works() {
        Arguments::command().debug_assert();
        let arguments = parse("-p philote.example:6380 -c chat -c news -s hunter2 -secure").unwrap();
        assert_eq!(arguments.server.to_string(), "philote.example:6380");
        assert_eq!(arguments.channels, ["chat", "news"]);
        assert_eq!((arguments.secret.as_deref(), arguments.secure), (Some("hunter2"), true));
        assert!(parse("-info").unwrap().info && parse("--info").unwrap().info);
        assert_eq!(parse("-s ecret -c c").unwrap().secret.as_deref(), Some("ecret"));
        assert_eq!(parse("-c c").unwrap().server, Server { host: "localhost".into(), port: 6380 });
        let ours = parse("-secure --ca ca.pem -c c").unwrap().ca;
        assert_eq!(ours.as_deref(), Some(std::path::Path::new("ca.pem")));
        for wrong in ["", "-c c --ca ca.pem", "-c c -s a -t b", "-s a -S b -c c", "-c c more"] {
            assert!(parse(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn servers_are_names_and_addresses() {
        for (text, host, port) in [
            ("a", "a", 6380),
            ("a:1", "a", 1),
            ("127.0.0.1:80", "127.0.0.1", 80),
            ("[::1]", "::1", 6380),
            ("[::1]:9", "::1", 9),
        ] {
            assert_eq!(server(text), Ok(Server { host: host.into(), port }), "{text}");
        }
        for wrong in
            ["", ":1", "a:", "a:b", "a:0", "a:70000", "::1", "[::1", "[::1]9", "ws://a", "a b:1", "a\r\n:1"]
        {
            assert!(server(wrong).is_err(), "{wrong}");
        }
    }
}
