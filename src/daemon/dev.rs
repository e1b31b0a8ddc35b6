//! What `--dev` says at start: a warning, and all that is needed to try it.

use std::io::Write;
use std::net::SocketAddr;

use crate::access_key::{ApiRights, NewToken, issue};
use crate::config::{DEV_SECRET, SecretSource, Settings};
use crate::server::{Server, unix_now};
use crate::terminal::{Style, Tone};

/// How long the token lasts that is printed, in seconds: a day's work.
const TOKEN_LASTS: u64 = 24 * 60 * 60;

const WARNING: &str = "for development only: everybody knows the secret of philote --dev";

/// The channel that the token is for, and whose it is.
const CHANNEL: &str = "chat";
const SUBJECT: &str = "dev";

/// Warns, and prints the page, the secret and a token on standard output: the log holds no token, not even one that
/// everybody could make.
pub(super) fn announce(server: &Server, addresses: &[SocketAddr]) {
    let live = server.live();
    let mut token = NewToken { read: vec![CHANNEL.to_owned()], api: ApiRights::ALL, ..NewToken::default() };
    token.write = Some(token.read.clone());
    token.subject = Some(SUBJECT.to_owned());
    token.expires = Some(unix_now() + TOKEN_LASTS);
    token.issuer = live.policy.issuer.clone();
    token.audience = live.policy.audience.clone();

    let mut output = std::io::stdout();
    let warning = Style::of(&output).paint(Tone::Bad, WARNING);
    let pages: String = addresses.iter().map(|address| format!("page    http://{address}/\n")).collect();
    let token = issue(&token, &live.keys).unwrap_or_else(|error| format!("none: {error}"));
    let text = format!("{warning}\n{pages}secret  {}\ntoken   {token}\n", secret(&live.settings));
    // Nobody may be there to read it, which is no reason not to serve.
    let _ = output.write_all(text.as_bytes());
}

/// The secret that everybody knows; one of the developer's own is not shown.
fn secret(settings: &Settings) -> String {
    match settings.auth.secrets.source() {
        SecretSource::Dev => DEV_SECRET.to_owned(),
        other => other.to_string(),
    }
}
