//! jane's command line, with the two options that the original spelt with one dash.

use std::ffi::OsString;
use std::path::PathBuf;

use clap::error::ErrorKind;
use clap::{ArgGroup, CommandFactory, Parser};

/// The default port of a server.
const PORT: u16 = 6380;

const AFTER_HELP: &str = "\
Each line of standard input is published on the first channel. Messages of other clients are printed as
\"ISSUER SUBJECT CHANNEL: DATA\", with the first eight characters of the issuer and control characters as escapes.

When standard input ends (Ctrl-D, or the end of a pipe or file), jane exits as soon as the server has received all of
it: \"echo hi | jane -c chat\" publishes and exits. With < /dev/null it only listens, until it is interrupted.

jane reconnects after a lost connection. If the server refuses it, it prints the reason and exits with status 1.
-secure and -info may be written with one dash.";

/// Talk through a Philote server from a terminal
#[derive(Debug, Parser)]
#[command(name = "jane", version, after_help = AFTER_HELP)]
#[command(group = ArgGroup::new("access").args(["secret", "secret_file", "token"]))]
pub(super) struct Arguments {
    /// The server; ws://HOST/PATH or wss://HOST/PATH for a server with a path prefix
    #[arg(short = 'p', long, value_name = "HOST:PORT|URL", default_value = "localhost:6380", value_parser = server)]
    pub(super) server: Server,
    /// A channel to read; input is published on the first (repeatable)
    #[arg(short, long = "channel", value_name = "CHANNEL", required_unless_present = "info")]
    pub(super) channels: Vec<String>,
    /// The server's secret, which signs a token; other users can see it, so -S is better
    #[arg(short, long)]
    pub(super) secret: Option<String>,
    /// A file whose first line is the server's secret
    #[arg(short = 'S', long, value_name = "FILE")]
    pub(super) secret_file: Option<PathBuf>,
    /// A token [default without -s, -S and -t: a token from the daemon on this machine]
    #[arg(short, long)]
    pub(super) token: Option<String>,
    /// Connect with TLS
    #[arg(long)]
    pub(super) secure: bool,
    /// Trust the certificate authorities in this file [default: those of the system]
    #[arg(long, value_name = "FILE")]
    pub(super) ca: Option<PathBuf>,
    /// Print information about the server, and exit
    #[arg(long)]
    pub(super) info: bool,
}

/// The address of a server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Server {
    /// A host name, or an IP address without brackets.
    pub(super) host: String,
    pub(super) port: u16,
    /// The other parts of a URL.
    pub(super) url: Option<Url>,
}

/// The scheme and the path of a URL.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Url {
    pub(super) tls: bool,
    /// With its query; starts with a slash.
    path: String,
}

impl Server {
    /// Returns the value of the header `Host`. As in a URL, the default port of the scheme is left out.
    pub(super) fn authority(&self) -> String {
        let authority = authority(&self.host, self.port);
        match &self.url {
            Some(url) if self.port == url.implied_port() => {
                authority.rsplit_once(':').map_or(authority.clone(), |(host, _)| host.to_owned())
            }
            _ => authority,
        }
    }

    /// Returns the path of the WebSocket.
    pub(super) fn path(&self) -> &str {
        self.url.as_ref().map_or("/", |url| &url.path)
    }

    /// Returns the path of a route of the HTTP API, with the same prefix.
    pub(super) fn api(&self, route: &str) -> String {
        let path = self.path().split('?').next().unwrap_or_default();
        format!("{}{route}", path.trim_end_matches('/'))
    }

    /// Whether the URL asks for TLS.
    pub(super) fn is_secure(&self) -> bool {
        self.url.as_ref().is_some_and(|url| url.tls)
    }
}

impl Url {
    fn implied_port(&self) -> u16 {
        if self.tls { 443 } else { 80 }
    }
}

fn authority(host: &str, port: u16) -> String {
    if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") }
}

impl std::fmt::Display for Server {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match &self.url {
            // Without the query, which may contain a token.
            Some(url) => {
                let scheme = if url.tls { "wss" } else { "ws" };
                write!(f, "{scheme}://{}{}", self.authority(), self.api(""))
            }
            None => f.write_str(&authority(&self.host, self.port)),
        }
    }
}

/// Replaces `-secure` and `-info` with `--secure` and `--info`, because clap would parse `-s ecure`.
pub(super) fn with_two_dashes(words: impl Iterator<Item = OsString>) -> impl Iterator<Item = OsString> {
    words.map(|word| match word.to_str() {
        Some("-secure") => "--secure".into(),
        Some("-info") => "--info".into(),
        _ => word,
    })
}

/// Parses the command line.
///
/// # Errors
/// Those of clap, and `--ca` or `--secure` with a URL that contradicts it.
pub(super) fn parse(words: impl Iterator<Item = OsString>) -> Result<Arguments, clap::Error> {
    let mut arguments = Arguments::try_parse_from(with_two_dashes(words))?;
    if arguments.secure && arguments.server.url.as_ref().is_some_and(|url| !url.tls) {
        let message = "--secure needs a wss:// URL, and -p gives ws://";
        return Err(Arguments::command().error(ErrorKind::ArgumentConflict, message));
    }
    arguments.secure |= arguments.server.is_secure();
    if arguments.ca.is_some() && !arguments.secure {
        let message = "--ca needs --secure, or a server URL that starts with wss://";
        return Err(Arguments::command().error(ErrorKind::MissingRequiredArgument, message));
    }
    Ok(arguments)
}

fn server(text: &str) -> Result<Server, String> {
    let Some((scheme, rest)) = text.split_once("://") else { return host_and_port(text, PORT) };
    let tls = match scheme.to_ascii_lowercase().as_str() {
        "ws" => false,
        "wss" => true,
        _ => return Err("a server URL starts with ws:// or wss://".to_owned()),
    };
    if rest.chars().any(|c| !c.is_ascii_graphic() || "#\"<>\\^`{|}".contains(c)) {
        return Err(
            "a server URL has no fragment and no spaces; write non-ASCII characters as %XX".to_owned()
        );
    }
    let (place, path) = rest.split_at(rest.find(['/', '?']).unwrap_or(rest.len()));
    let slash = if path.starts_with('/') { "" } else { "/" };
    let url = Url { tls, path: format!("{slash}{path}") };
    let server = host_and_port(place, url.implied_port())?;
    Ok(Server { url: Some(url), ..server })
}

fn host_and_port(text: &str, usual: u16) -> Result<Server, String> {
    let wrong = || {
        "give HOST or HOST:PORT, such as localhost:6380 or [::1]:6380, or a URL, such as wss://example.org/path"
            .to_owned()
    };
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
    let port = port.map_or(Ok(usual), |port| port.parse().map_err(|_| wrong()))?;
    // The resolver checks the rest of a name. These characters would break the head of the request.
    if host.is_empty() || port == 0 || host.contains(|c: char| c.is_control() || " /@?#".contains(c)) {
        return Err(wrong());
    }
    Ok(Server { host: host.into(), port, url: None })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(line: &str) -> Result<Arguments, clap::Error> {
        super::parse(std::iter::once("jane").chain(line.split_whitespace()).map(OsString::from))
    }

    #[test]
    fn the_command_line_of_the_original_works() {
        Arguments::command().debug_assert();
        let arguments = parse("-p philote.example:6380 -c chat -c news -s hunter2 -secure").unwrap();
        assert_eq!(arguments.server.to_string(), "philote.example:6380");
        assert_eq!(arguments.channels, ["chat", "news"]);
        assert_eq!((arguments.secret.as_deref(), arguments.secure), (Some("hunter2"), true));
        assert!(parse("-info").unwrap().info && parse("--info").unwrap().info);
        assert_eq!(parse("-s ecret -c c").unwrap().secret.as_deref(), Some("ecret"));
        assert_eq!(parse("-c c").unwrap().server, Server { host: "localhost".into(), port: 6380, url: None });
        let ours = parse("-secure --ca ca.pem -c c").unwrap().ca;
        assert_eq!(ours.as_deref(), Some(std::path::Path::new("ca.pem")));
        for wrong in ["", "-c c --ca ca.pem", "-c c -s a -t b", "-s a -S b -c c", "-c c more"] {
            assert!(parse(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_server_is_a_name_an_address_or_a_url() {
        for (text, host, port) in [
            ("a", "a", 6380),
            ("a:1", "a", 1),
            ("127.0.0.1:80", "127.0.0.1", 80),
            ("[::1]", "::1", 6380),
            ("[::1]:9", "::1", 9),
        ] {
            assert_eq!(server(text), Ok(Server { host: host.into(), port, url: None }), "{text}");
        }
        for (text, shown, header, path, info) in [
            ("ws://a", "ws://a", "a", "/", "/api/info"),
            ("wss://A.test/chat/", "wss://A.test/chat", "A.test", "/chat/", "/chat/api/info"),
            ("WSS://a:444/x/y?z=1", "wss://a:444/x/y", "a:444", "/x/y?z=1", "/x/y/api/info"),
            ("ws://[::1]?auth=t", "ws://[::1]", "[::1]", "/?auth=t", "/api/info"),
            ("ws://[::1]:9/p", "ws://[::1]:9/p", "[::1]:9", "/p", "/p/api/info"),
        ] {
            let server = server(text).unwrap();
            assert_eq!((server.to_string().as_str(), server.authority().as_str()), (shown, header), "{text}");
            assert_eq!((server.path(), server.api("/api/info").as_str()), (path, info), "{text}");
        }
        assert!(parse("-p wss://a/x -c c --ca ca.pem").unwrap().secure);
        assert!(!parse("-p ws://a/x -c c").unwrap().secure);
        for wrong in ["-p ws://a -c c --secure", "-p ws://a -c c --ca ca.pem"] {
            assert!(parse(wrong).is_err(), "{wrong}");
        }
        for wrong in [
            "http://a",
            "ws://",
            "ws:///x",
            "ws://u@a",
            "ws://a/#x",
            "ws://a/x y",
            "ws://a/\r\nX: y",
            "ws://a:0/",
            "ws://a:/ü",
        ] {
            assert!(server(wrong).is_err(), "{wrong}");
        }
        for wrong in ["", ":1", "a:", "a:b", "a:0", "a:70000", "::1", "[::1", "[::1]9", "a b:1", "a\r\n:1"] {
            assert!(server(wrong).is_err(), "{wrong}");
        }
    }
}
