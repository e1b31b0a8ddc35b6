//! `philotectl secret`: the text of the answers.

use super::Report;
use super::print::many;
use crate::admin::api::{SecretChanged, Secrets};
use crate::escape::escape;

pub(super) fn shown(answer: &Secrets, all: bool) -> Report {
    let shown = if all { answer.secrets.len() } else { 1 };
    let text = answer.secrets.iter().take(shown).map(|secret| format!("{}\n", secret.0)).collect::<String>();
    let hidden = answer.secrets.len().saturating_sub(shown) as u64;
    let verb = if hidden == 1 { "verifies" } else { "verify" };
    let aside = (hidden > 0).then(|| format!("{} still {verb} tokens: --all", many(hidden, "older secret")));
    Report { aside, ..Report::new(text) }
}

pub(super) fn changed(what: &str, answer: &SecretChanged) -> String {
    let mut text = format!("{what}, in {}", escape(&answer.path.display().to_string()));
    text.push_str(&older(answer.secrets));
    text.push_str(&closing(answer.closing).map(|closing| format!("; {closing}")).unwrap_or_default());
    text + "\n"
}

/// Describes the secrets after the first.
pub(super) fn older(secrets: u64) -> String {
    match secrets {
        0 | 1 => String::new(),
        2 => "; 1 older one still verifies".into(),
        more => format!("; {} older ones still verify", more - 1),
    }
}

/// Describes how many connections are being closed, if there are any.
pub(super) fn closing(connections: u64) -> Option<String> {
    let verb = if connections == 1 { "is" } else { "are" };
    let which = many(connections, "connection");
    (connections > 0).then(|| format!("{which} whose key was removed {verb} being closed"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_result_of_a_change_is_one_sentence() {
        let answer = |secrets, closing| SecretChanged { path: "/s".into(), secrets, closing };
        assert_eq!(changed("set", &answer(1, 0)), "set, in /s\n");
        assert_eq!(
            changed("set", &answer(2, 1)),
            "set, in /s; 1 older one still verifies; 1 connection whose key was removed is being closed\n"
        );
        assert_eq!(
            changed("set", &answer(3, 5)),
            "set, in /s; 2 older ones still verify; 5 connections whose key was removed are being closed\n"
        );
    }
}
