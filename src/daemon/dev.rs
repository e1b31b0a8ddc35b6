//! The output of `--dev` at its start: a warning, and what a developer needs for trying it out.

use std::io::Write;

use crate::config::{Address, DEV_SECRET, Listener, SecretSource, Settings};
use crate::server::{Server, unix_now};
use crate::terminal::{Style, Tone};
use crate::token::{ApiRights, NewToken, issue};

/// The lifetime of the printed token, in seconds: one day.
const TOKEN_LASTS: u64 = 24 * 60 * 60;

const WARNING: &str = "for development only: the secret of philote --dev is public";

/// The channel and the subject of the token.
const CHANNEL: &str = "chat";
const SUBJECT: &str = "dev";

/// Prints a warning, the address of the page, the secret and a token on standard output. They are not logged, because the
/// log never contains a token.
pub(super) fn announce(server: &Server, listeners: &[Listener]) {
    let live = server.live();
    let mut token = NewToken { read: vec![CHANNEL.to_owned()], api: ApiRights::ALL, ..NewToken::default() };
    token.write = Some(token.read.clone());
    token.subject = Some(SUBJECT.to_owned());
    token.expires = Some(unix_now() + TOKEN_LASTS);
    token.issuer = live.policy.issuer.clone();
    token.audience = live.policy.audience.clone();

    let mut output = std::io::stdout();
    let warning = Style::of(&output).paint(Tone::Bad, WARNING);
    let page = |listener: &Listener| match &listener.address {
        Address::Tcp(address) => Some(format!("page    http://{address}/\n")),
        Address::Unix(_) => None,
    };
    let pages: String = listeners.iter().filter_map(page).collect();
    let token = issue(&token, &live.keys).unwrap_or_else(|error| format!("none: {error}"));
    let text = format!("{warning}\n{pages}secret  {}\ntoken   {token}\n", secret(&live.settings));
    // The output may be closed. The daemon serves all the same.
    let _ = output.write_all(text.as_bytes());
}

/// Returns the public secret, or the source of the developer's secret, which is not shown.
fn secret(settings: &Settings) -> String {
    match settings.auth.secrets.source() {
        SecretSource::Dev => DEV_SECRET.to_owned(),
        other => other.to_string(),
    }
}
