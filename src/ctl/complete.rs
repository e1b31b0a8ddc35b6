//! Shell completions from the daemon: names of channels, ids of connections, banned subjects.

use std::ffi::OsStr;
use std::time::Duration;

use clap_complete::engine::{ArgValueCompleter, CompletionCandidate};

use crate::admin::api::{ChannelQuery, ConnectionQuery, RefusedQuery};
use crate::admin::client::{Client, Error};
use crate::admin::instance::Instance;
use crate::admin::path;
use crate::escape::{escape, is_invisible};

/// How long a shell waits for completions.
const DEADLINE: Duration = Duration::from_millis(500);

/// The most candidates, which a user can still read.
const CANDIDATES: usize = 200;

/// Completes names of channels that have readers.
pub(super) fn channels() -> ArgValueCompleter {
    ArgValueCompleter::new(|typed: &OsStr| {
        let query = ChannelQuery {
            prefix: typed.to_str().map(str::to_owned),
            limit: Some(CANDIDATES),
            local: true,
            ..ChannelQuery::default()
        };
        let names = ask(async |client| {
            let channels = client.channels(&query).await?.channels;
            Ok(channels.into_iter().map(|channel| (channel.channel, None)).collect())
        });
        candidates(names, typed)
    })
}

/// Completes ids of open connections, with their subjects and addresses.
pub(super) fn connections() -> ArgValueCompleter {
    ArgValueCompleter::new(|typed: &OsStr| {
        let id = typed.to_str().and_then(|text| text.parse().ok());
        let query =
            ConnectionQuery { id, limit: Some(CANDIDATES), local: true, ..ConnectionQuery::default() };
        let ids = ask(async |client| {
            let connections = client.connections(&query).await?.connections;
            Ok(connections
                .into_iter()
                .map(|one| {
                    let whose = one.subject.map(|subject| format!("{subject}, {}", one.address));
                    (one.id.to_string(), Some(whose.unwrap_or_else(|| one.address.to_string())))
                })
                .collect())
        });
        candidates(ids, typed)
    })
}

/// Completes names of instances.
pub(super) fn instances() -> ArgValueCompleter {
    ArgValueCompleter::new(|typed: &OsStr| {
        let names = Instance::running().0.iter().map(|instance| (instance.to_string(), None)).collect();
        candidates(names, typed)
    })
}

/// Completes banned subjects.
pub(super) fn refused() -> ArgValueCompleter {
    ArgValueCompleter::new(|typed: &OsStr| {
        let subjects = ask(async |client| {
            let refused = client.refused(&RefusedQuery { local: true }).await?.refused;
            Ok(refused.into_iter().map(|one| (one.subject, Some(format!("until {}", one.until)))).collect())
        });
        candidates(subjects, typed)
    })
}

/// Candidates and their descriptions.
type Candidates = Vec<(String, Option<String>)>;

/// Returns the daemon's answer, or nothing on an error, because a shell does not show errors.
fn ask(request: impl AsyncFnOnce(Client) -> Result<Candidates, Error>) -> Candidates {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let client = Client::new(path::for_client(None, |name| std::env::var_os(name)), DEADLINE);
    runtime.ok().and_then(|runtime| runtime.block_on(request(client)).ok()).unwrap_or_default()
}

fn candidates(found: Candidates, typed: &OsStr) -> Vec<CompletionCandidate> {
    let typed = typed.to_string_lossy();
    let fits = |word: &str| word.starts_with(&*typed) && is_harmless(word);
    let candidate = |(word, help): (String, Option<String>)| {
        CompletionCandidate::new(word).help(help.map(|help| escape(&help).into_owned().into()))
    };
    found.into_iter().filter(|(word, _)| fits(word)).map(candidate).collect()
}

/// Returns whether a word means no more than itself to every shell. Clients choose names, and bash inserts them into a command
/// line as they are.
fn is_harmless(word: &str) -> bool {
    let plain = |character: char| match character {
        ' '..='~' => character.is_ascii_alphanumeric() || "_-.,:/@%+=".contains(character),
        _ => !is_invisible(character),
    };
    !word.starts_with('-') && word.chars().all(plain)
}

#[cfg(test)]
mod tests {
    use super::is_harmless;

    #[test]
    fn words_that_a_shell_would_interpret_are_not_offered() {
        for word in ["chat", "room:42", "a/b", "eve@example.org", "1.5", "50%", "a=b", "größe", "部屋"] {
            assert!(is_harmless(word), "{word}");
        }
        let special = "\t\n !\"#$&'()*;<>?[\\]^`{|}~\u{7f}\u{a0}\u{202e}";
        for word in special.chars().map(|special| format!("room{special}x")).chain(["-x".to_owned()]) {
            assert!(!is_harmless(&word), "{word:?}");
        }
    }
}
