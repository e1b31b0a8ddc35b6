//! What completions know of the daemon: names of channels, ids of connections, refused subjects.

use std::ffi::OsStr;
use std::time::Duration;

use clap_complete::engine::{ArgValueCompleter, CompletionCandidate};

use crate::admin::api::{ChannelQuery, ConnectionQuery};
use crate::admin::client::{Client, Error};
use crate::admin::path;
use crate::escape::{escape, is_invisible};

/// Whoever presses the tabulator waits no longer.
const PATIENCE: Duration = Duration::from_millis(500);

/// Candidates that a person can still look through.
const CANDIDATES: usize = 200;

/// Names of channels that somebody reads.
pub(super) fn channels() -> ArgValueCompleter {
    ArgValueCompleter::new(|typed: &OsStr| {
        let query = ChannelQuery {
            prefix: typed.to_str().map(str::to_owned),
            limit: Some(CANDIDATES),
            ..ChannelQuery::default()
        };
        let names = ask(async |client| {
            let channels = client.channels(&query).await?.channels;
            Ok(channels.into_iter().map(|channel| (channel.channel, None)).collect())
        });
        candidates(names, typed)
    })
}

/// Ids of open connections, with whose they are.
pub(super) fn connections() -> ArgValueCompleter {
    ArgValueCompleter::new(|typed: &OsStr| {
        let id = typed.to_str().and_then(|text| text.parse().ok());
        let query = ConnectionQuery { id, limit: Some(CANDIDATES), ..ConnectionQuery::default() };
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

/// Subjects that are refused.
pub(super) fn refused() -> ArgValueCompleter {
    ArgValueCompleter::new(|typed: &OsStr| {
        let subjects = ask(async |client| {
            let refused = client.refused().await?.refused;
            Ok(refused.into_iter().map(|one| (one.subject, Some(format!("until {}", one.until)))).collect())
        });
        candidates(subjects, typed)
    })
}

/// Words and what is said of them.
type Words = Vec<(String, Option<String>)>;

/// What the daemon says, or nothing: a shell has no place for errors.
fn ask(question: impl AsyncFnOnce(Client) -> Result<Words, Error>) -> Words {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let client = Client::new(path::for_client(None, |name| std::env::var_os(name)), PATIENCE);
    runtime.ok().and_then(|runtime| runtime.block_on(question(client)).ok()).unwrap_or_default()
}

fn candidates(words: Words, typed: &OsStr) -> Vec<CompletionCandidate> {
    let typed = typed.to_string_lossy();
    // A name with characters that nobody sees is left out: the shell would show it as it is.
    let fits = |word: &str| word.starts_with(&*typed) && !word.contains(is_invisible);
    let candidate = |(word, help): (String, Option<String>)| {
        CompletionCandidate::new(word).help(help.map(|help| escape(&help).into_owned().into()))
    };
    words.into_iter().filter(|(word, _)| fits(word)).map(candidate).collect()
}
