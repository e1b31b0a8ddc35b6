//! Tests of a client of philote.v1, for `philotectl conformance`: a program of any language that speaks lines of JSON is driven
//! through faults, and what it got wrong is reported with the sentence of philote-v1(7) that it broke.
//!
//! [`mod@cases`] are the tests. Each has its own server ([`server`]), which does what a server of Philote, a proxy or a broken network
//! may do, and its own process of the client ([`client`]), which speaks [`protocol`]. A [`scene`] has both.

mod cases;
mod client;
mod protocol;
mod scene;
mod server;
#[cfg(test)]
mod tests;

use std::ffi::OsString;
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream;
use serde::Serialize;
use tokio::time::{Instant, sleep};

use self::cases::{CASES, Case};
use self::client::Client;
use self::scene::Scene;
use self::server::Server;

/// The time limit of a case unless another is given. Clients whose timers cannot be set need most of it.
pub const CASE_LIMIT: Duration = Duration::from_secs(45);

/// How many cases run side by side. They mostly wait; the start of a process is what needs a processor.
const AT_ONCE: usize = 12;

/// What a client did that breaks the sentence of a case.
#[derive(Debug)]
struct Broken(String);

/// A case, for a list.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Named {
    /// Its name on the command line.
    pub name: &'static str,
    /// What its server does.
    pub fault: &'static str,
    /// The sentence of philote-v1(7) that it tests.
    pub sentence: &'static str,
}

/// Returns all cases.
pub fn cases() -> impl Iterator<Item = Named> {
    CASES.iter().map(|case| Named { name: case.name, fault: case.fault, sentence: case.sentence })
}

/// The outcome of a case.
#[derive(Clone, Debug, Serialize)]
pub struct Outcome {
    /// The name of the case.
    pub case: &'static str,
    /// What its server did.
    pub fault: &'static str,
    /// Whether the client passed it.
    pub passed: bool,
    /// How long it took.
    pub seconds: f64,
    /// What the client did wrong.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub found: Option<String>,
    /// The sentence of philote-v1(7) that it broke. It is absent if the program failed in another way.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sentence: Option<&'static str>,
}

/// The outcome of all cases.
#[derive(Clone, Debug, Serialize)]
pub struct Tested {
    /// How many cases it passed.
    pub passed: usize,
    /// How many it did not pass.
    pub failed: usize,
    /// Each case, in the order of the list.
    pub cases: Vec<Outcome>,
}

/// Why a case was not passed.
enum Failed {
    /// The client broke the sentence.
    Sentence(String),
    /// It is not a program that can be tested, or this machine cannot test it.
    Otherwise(String),
}

/// Tests a client, which is a program and its arguments, with the cases of these names, or with all if there is none. Each case
/// ends after `limit`.
pub async fn test(program: &[OsString], names: &[String], limit: Duration) -> Tested {
    let chosen = CASES.iter().filter(|case| names.is_empty() || names.iter().any(|name| name == case.name));
    let outcomes = chosen.enumerate().map(|(at, case)| async move {
        let began = Instant::now();
        let result = run(case, program, limit).await;
        let seconds = (began.elapsed().as_secs_f64() * 1000.0).round() / 1000.0;
        let (found, sentence) = match result {
            Ok(()) => (None, None),
            Err(Failed::Sentence(found)) => (Some(found), Some(case.sentence)),
            Err(Failed::Otherwise(found)) => (Some(found), None),
        };
        (
            at,
            Outcome { case: case.name, fault: case.fault, passed: found.is_none(), seconds, found, sentence },
        )
    });
    let mut cases: Vec<(usize, Outcome)> = stream::iter(outcomes).buffer_unordered(AT_ONCE).collect().await;
    cases.sort_by_key(|(at, _)| *at);
    let cases: Vec<Outcome> = cases.into_iter().map(|(_, outcome)| outcome).collect();
    let passed = cases.iter().filter(|case| case.passed).count();
    Tested { passed, failed: cases.len() - passed, cases }
}

async fn run(case: &Case, program: &[OsString], limit: Duration) -> Result<(), Failed> {
    let server = Server::start().await;
    let server = server.map_err(|error| Failed::Otherwise(format!("cannot listen on 127.0.0.1: {error}")))?;
    let (client, mut failure) =
        Client::start(program).await.map_err(|error| Failed::Otherwise(error.to_string()))?;
    let mut scene = Scene::new(server, client);
    let failed = tokio::select! {
        result = (case.run)(&mut scene) => return result.map_err(|Broken(found)| Failed::Sentence(found)),
        error = failure.reason() => Some(error),
        () = sleep(limit) => None,
    };
    Err(match failed {
        Some(error) if error.is_end() => Failed::Sentence(scene.client.explain(error).await.to_string()),
        Some(error) => Failed::Otherwise(error.to_string()),
        None => {
            Failed::Sentence(format!("within {} s it did not {}", limit.as_secs_f64(), scene.waits_for()))
        }
    })
}
