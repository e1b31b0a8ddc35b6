//! The commands: their requests, and the text of the answers.

use std::time::{Duration, Instant};

use serde::Serialize;

use super::args::{Arguments, Command, Secret};
use super::input::standard_input;
use super::print::{Facts, in_json, many};
use super::{
    Complaint, Exit, PROGRAM, Report, actions, bench, cluster, conformance, doctor, explain, follow,
    instances, lists, secrets, status, tokens, top,
};
use crate::admin::api::{Hidden, InspectRequest, Reloaded, SecretSet};
use crate::admin::client::{Client, Error};
use crate::admin::path;
use crate::completions;
use crate::terminal::Style;
use crate::timestamp::span;

/// The default timeout. A daemon without problems answers from memory.
const ANSWER: Duration = Duration::from_secs(10);
/// The default timeout of a reload, which may read files over a slow network.
const RELOAD: Duration = Duration::from_secs(120);
/// The default timeout of `wait-ready`. A daemon that starts creates a secret and binds sockets.
const WAIT_READY: Duration = Duration::from_secs(30);
/// The pause between two checks of a daemon that is not ready.
const READY_PAUSE: Duration = Duration::from_millis(100);

/// Runs the command; `style` is that of standard output.
pub(super) fn run(arguments: &Arguments, style: Style) -> Result<Report, Complaint> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(|error| {
        Complaint { message: format!("cannot start: {error}"), hint: None, exit: Exit::Failed }
    })?;
    let paths = path::for_client(arguments.named(), |name| std::env::var_os(name));
    let client = |usual| Client::new(paths.clone(), arguments.timeout.unwrap_or(usual));
    let json = arguments.json;
    // These use the thread alone.
    if let Command::Top(args) = &arguments.command {
        return top::run(&client(ANSWER), args, json, style);
    }
    if let Command::Bench(options) = &arguments.command {
        let measured = bench::load(options, &client(ANSWER), &runtime)?;
        return Ok(in_json(json, &measured).unwrap_or_else(|| Report::new(measured.table())));
    }
    runtime.block_on(async {
        let report = match &arguments.command {
            Command::Status { max_used, .. } => {
                let answer = client(ANSWER).status().await?;
                let report =
                    in_json(json, &answer).unwrap_or_else(|| Report::new(status::text(&answer, style)));
                match max_used.and_then(|share| status::too_full(&answer, share)) {
                    Some(aside) => Report { aside: Some(aside), exit: Exit::Failed, ..report },
                    None => report,
                }
            }
            Command::Instances => {
                instances::list(arguments, arguments.timeout.unwrap_or(ANSWER), style).await?
            }
            Command::Doctor => doctor::doctor(&client(ANSWER), json, style).await?,
            Command::Connections(args) => lists::connections(&client(ANSWER), args, json, style).await?,
            Command::Channels(args) => lists::channels(&client(ANSWER), args, json, style).await?,
            Command::Explain(args) => explain::explain(&client(ANSWER), args, json, style).await?,
            Command::Refused(args) => lists::refused(&client(ANSWER), args, json, style).await?,
            Command::Nodes(_) => cluster::nodes(&client(ANSWER), json, style).await?,
            Command::Disconnect(args) => actions::disconnect(&client(ANSWER), args, json).await?,
            Command::Publish(args) => actions::publish(&client(ANSWER), args, json).await?,
            Command::LogLevel(args) => actions::log_level(&client(ANSWER), args, json).await?,
            Command::Events(args) => follow::events(&client(ANSWER), args, json, style).await?,
            Command::Conformance(args) => {
                conformance::conformance(args, arguments.timeout, json, style).await?
            }
            Command::Completions { shell } => Report::new(completions::script(PROGRAM, *shell)),
            Command::Token(token) => {
                let answer = client(ANSWER).issue_token(&tokens::request(token)).await?;
                tokens::warn(token);
                in_json(json, &answer).unwrap_or_else(|| tokens::issued(&answer))
            }
            Command::Inspect { token } => {
                let request = InspectRequest { token: tokens::to_inspect(token.as_deref())? };
                let answer = client(ANSWER).inspect(&request).await?;
                let report =
                    in_json(json, &answer).unwrap_or_else(|| Report::new(tokens::inspection(&answer, style)));
                Report { exit: if answer.accepted { Exit::Done } else { Exit::Failed }, ..report }
            }
            Command::Secret(Secret::Show { all }) => {
                let answer = client(ANSWER).secret_show().await?;
                in_json(json, &answer).unwrap_or_else(|| secrets::shown(&answer, *all))
            }
            Command::Secret(Secret::Set) => {
                let secret = Hidden(standard_input("secret", "philotectl secret set < FILE")?);
                let answer = client(ANSWER).secret_set(&SecretSet { secret }).await?;
                in_json(json, &answer)
                    .unwrap_or_else(|| Report::new(secrets::changed("the secret is set", &answer)))
            }
            Command::Secret(Secret::Rotate) => {
                let answer = client(ANSWER).secret_rotate().await?;
                in_json(json, &answer).unwrap_or_else(|| Report {
                    aside: Some("give it to your backend: sudo philotectl secret show".into()),
                    ..Report::new(secrets::changed("a new secret signs", &answer))
                })
            }
            Command::Reload { dry_run } => {
                let answer = client(RELOAD).reload(*dry_run).await?;
                in_json(json, &answer).unwrap_or_else(|| Report::new(reloaded(&answer, style)))
            }
            Command::WaitReady => {
                let within = arguments.timeout.unwrap_or(WAIT_READY);
                let answer = wait_ready(&paths, within).await?;
                in_json(json, &answer).unwrap_or_else(|| Report::new("philote is ready\n"))
            }
            Command::Bench(_) | Command::Top(_) => Report::new(""),
        };
        Ok(report)
    })
}

fn reloaded(answer: &Reloaded, style: Style) -> String {
    if answer.applied.is_empty() && answer.needs_restart.is_empty() && answer.closing == 0 {
        let did = if answer.dry_run { "a reload would change nothing" } else { "reloaded: nothing changed" };
        return format!("{did}\n");
    }
    let mut facts = Facts::new(style);
    facts.add_list(if answer.dry_run { "would be applied" } else { "applied" }, &answer.applied);
    facts.add_list("needs a restart", &answer.needs_restart);
    if answer.dry_run && answer.closing > 0 {
        let which = many(answer.closing, "connection");
        facts.add("would be closed", format!("{which} whose key would be removed"));
    } else if let Some(closing) = secrets::closing(answer.closing) {
        facts.add("closing", closing);
    }
    facts.render()
}

/// Waits until the daemon serves clients. Errors that waiting cannot resolve end it early.
async fn wait_ready(paths: &[std::path::PathBuf], within: Duration) -> Result<impl Serialize, Complaint> {
    let start = Instant::now();
    loop {
        let left = within.saturating_sub(start.elapsed()).max(Duration::from_millis(1));
        let error = match Client::new(paths.to_vec(), left).ready().await {
            Ok(ready) => return Ok(ready),
            Err(
                error @ (Error::SwitchedOff
                | Error::PermissionDenied { .. }
                | Error::NotPhilote { .. }
                | Error::OtherVersion { .. }),
            ) => {
                return Err(error.into());
            }
            Err(error) => error,
        };
        if start.elapsed() + READY_PAUSE >= within {
            let within = span(within);
            let hint = error.hint();
            let message = format!("not ready within {within}: {error}");
            return Err(Complaint { message, hint, exit: Exit::TimedOut });
        }
        tokio::time::sleep(READY_PAUSE).await;
    }
}
