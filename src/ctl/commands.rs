//! The commands: their requests, and the text of the answers.

use std::io::{self, IsTerminal, Read};
use std::time::{Duration, Instant, SystemTime};

use serde::Serialize;

use super::args::{Arguments, Command, Secret, Token};
use super::print::{Facts, bytes, count, in_json, list, many};
use super::{
    Complaint, Exit, PROGRAM, Report, actions, bench, cluster, conformance, doctor, follow, instances, lists,
    top,
};
use crate::admin::api::{
    ClusterStatus, Hidden, InspectRequest, Inspection, IssuedToken, Reloaded, SecretChanged, SecretSet,
    Secrets, Status, Timestamp, TokenRequest,
};
use crate::admin::client::{Client, Error};
use crate::admin::{path, server};
use crate::completions;
use crate::escape::{escape, escape_json};
use crate::terminal::{self, Style, Tone};
use crate::timestamp::span;
use crate::token::{ApiRight, ApiRights, NewMay};

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
                let report = in_json(json, &answer).unwrap_or_else(|| Report::new(status(&answer, style)));
                match max_used.and_then(|share| too_full(&answer, share)) {
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
                let answer = client(ANSWER).issue_token(&request(token)).await?;
                for (option, channels) in [
                    ("--read", &token.read),
                    ("--write", &token.write),
                    ("--may-read", &token.may_read),
                    ("--may-write", &token.may_write),
                ] {
                    let warnings = channels.iter().filter_map(|channel| warning(option, channel));
                    warnings.for_each(|warning| terminal::complain(&warning, None));
                }
                in_json(json, &answer).unwrap_or_else(|| issued(&answer))
            }
            Command::Inspect { token } => {
                let request = InspectRequest { token: token_to_inspect(token.as_deref())? };
                let answer = client(ANSWER).inspect(&request).await?;
                let report =
                    in_json(json, &answer).unwrap_or_else(|| Report::new(inspection(&answer, style)));
                Report { exit: if answer.accepted { Exit::Done } else { Exit::Failed }, ..report }
            }
            Command::Secret(Secret::Show { all }) => {
                let answer = client(ANSWER).secret_show().await?;
                in_json(json, &answer).unwrap_or_else(|| secrets(&answer, *all))
            }
            Command::Secret(Secret::Set) => {
                let secret = Hidden(standard_input("secret", "philotectl secret set < FILE")?);
                let answer = client(ANSWER).secret_set(&SecretSet { secret }).await?;
                in_json(json, &answer).unwrap_or_else(|| Report::new(changed("the secret is set", &answer)))
            }
            Command::Secret(Secret::Rotate) => {
                let answer = client(ANSWER).secret_rotate().await?;
                in_json(json, &answer).unwrap_or_else(|| Report {
                    aside: Some("give it to your backend: sudo philotectl secret show".into()),
                    ..Report::new(changed("a new secret signs", &answer))
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

fn status(status: &Status, style: Style) -> String {
    let mut facts = Facts::new(style);
    let number = |value| count(style, value);
    facts.add("version", escape(&status.version));
    let state = match status.drain_ends_at {
        Some(end) => format!("{}, until {end} at most", status.state),
        None => status.state.to_string(),
    };
    facts.add("state", state);
    facts.add("process", status.pid.to_string());
    let up = Duration::from_secs(status.uptime_seconds);
    facts.add("up", format!("{}, since {}", span(up), status.started_at));
    facts.add_list("listening", &status.listeners);
    if let Some(tls) = &status.tls {
        let days = tls.expires_in_seconds.div_euclid(24 * 60 * 60);
        let left = if days < 0 { "EXPIRED".to_owned() } else { format!("in {days} days") };
        let text =
            format!("{} until {}, {left}", escape(&tls.certificate.display().to_string()), tls.expires_at);
        facts.add("certificate", if tls.warning { style.paint(Tone::Bad, &text).to_string() } else { text });
    }
    let settings = status.config_file.as_ref().map(|path| path.display().to_string());
    let mut connections = format!("{} of {}", number(status.connections), number(status.max_connections));
    if status.connections >= status.max_connections {
        let file = settings.as_deref().unwrap_or("/etc/philote/philote.toml");
        let full = match status.descriptor_limit {
            // A variable or an option wins over the file.
            None => match status.max_connections_source.as_deref().filter(|set| set.contains(' ')) {
                Some(set) => format!("FULL: raise max_connections, which is set by {}", escape(set)),
                None => format!("FULL: raise max_connections in {}", escape(file)),
            },
            Some(limit) => format!(
                "FULL: raise the limit of {} open files (LimitNOFILE= in the unit, ulimit -n in a shell)",
                number(limit)
            ),
        };
        connections = format!("{connections}, {}", style.paint(Tone::Bad, &full));
    }
    facts.add("connections", connections);
    facts.add(
        "since start",
        format!(
            "{} accepted, {} refused, {} closed",
            number(status.accepted),
            number(status.refused),
            number(status.closed)
        ),
    );
    facts.add("channels", number(status.channels));
    let rate = |per_second: f64, total| format!("{per_second:.1}/s, {} since start", number(total));
    facts.add("messages in", rate(status.messages_in_per_second, status.messages_in));
    if status.rate_limited > 0 {
        facts.add("over their rate", many(status.rate_limited, "message"));
    }
    facts.add("deliveries", rate(status.deliveries_per_second, status.deliveries));
    if let Some(compression) = &status.compression {
        let (before, after) = (bytes(style, compression.bytes_before), bytes(style, compression.bytes_after));
        let messages = many(compression.messages, "message");
        facts.add("compressed", format!("{messages}, {before} to {after}"));
    }
    facts.add(
        "queued",
        format!("{} of {}", bytes(style, status.queued_bytes), bytes(style, status.max_queued_bytes)),
    );
    facts.add("memory", bytes(style, status.memory_bytes));
    facts.add("settings", settings.map_or_else(|| "no file".into(), |file| escape(&file).into_owned()));
    facts.add("secret", format!("{}{}", escape(&status.secret_source), older(status.secrets)));
    if let Some(last) = &status.last_reload {
        let outcome = match &last.error {
            Some(error) => style.paint(Tone::Bad, &format!("refused: {}", escape(error))),
            None if last.needs_restart.is_empty() => "ok".into(),
            None => format!("ok, needs a restart: {}", list(&last.needs_restart)),
        };
        facts.add("last reload", format!("{}, {outcome}", last.at));
    }
    if let Some(cluster) = &status.cluster {
        facts.add("cluster", cluster_line(cluster, style));
        let counts = format!(
            "{} sent, {} received, {} lost, {} dropped, {} closed",
            number(cluster.sent),
            number(cluster.received),
            number(cluster.lost + cluster.unavailable + cluster.unanswered),
            number(cluster.dropped + cluster.repeated),
            many(cluster.readers_closed, "reader"),
        );
        facts.add("between nodes", counts);
    }
    if status.log_records_dropped > 0 {
        let dropped = format!("{} dropped", many(status.log_records_dropped, "record"));
        facts.add("log", style.paint(Tone::Bad, &dropped));
    }
    facts.render()
}

/// `node web-1, relay: the link is up since TIME, 3 nodes`.
fn cluster_line(cluster: &ClusterStatus, style: Style) -> String {
    let ClusterStatus { node, mode, since, .. } = cluster;
    let link = match &cluster.reason {
        _ if cluster.up => format!("the link is up since {since}, {}", many(cluster.nodes, "node")),
        Some(reason) => {
            style.paint(Tone::Bad, &format!("the link is DOWN since {since}: {}", escape(reason))).to_string()
        }
        None => "connecting".to_owned(),
    };
    format!("node {}, {mode}: {link}", escape(node))
}

/// Returns a message if more than `share` percent of the connections are in use.
fn too_full(status: &Status, share: u64) -> Option<String> {
    let (used, max) = (status.connections, status.max_connections);
    let message = || {
        let cause = status.descriptor_limit.map(|limit| format!(" (limited by {limit} open files)"));
        format!("{used} of {max} connections{} are in use: more than {share}%", cause.unwrap_or_default())
    };
    (used.saturating_mul(100) > max.saturating_mul(share)).then(message)
}

fn request(token: &Token) -> TokenRequest {
    TokenRequest {
        read: token.read.clone(),
        // With --api, no --write means any channel, which is expressed by leaving the claim out.
        write: (!token.write.is_empty()).then(|| token.write.clone()),
        may: NewMay { read: token.may_read.clone(), write: token.may_write.clone() },
        presence: token.presence,
        info: token.info.as_ref().map(|info| info.0.clone()),
        // --api without values grants all rights.
        api: token.api.as_ref().map_or(ApiRights::NONE, |names| match names.as_slice() {
            [] => ApiRights::ALL,
            names => names.iter().filter_map(|name| ApiRight::named(name)).collect(),
        }),
        subject: token.subject.clone(),
        expires_in: token.expires_in.0.map(|life| life.as_secs()),
    }
}

/// Returns a warning if a channel's name looks like a list or a pattern, because it is neither. For `--may-read` and
/// `--may-write`, a `*` at the end is no part of the name.
fn warning(option: &str, channel: &str) -> Option<String> {
    let may = option.starts_with("--may-");
    let text = if may { channel.strip_suffix('*').unwrap_or(channel) } else { channel };
    let parts: Vec<&str> = channel
        .split(|c: char| ",;".contains(c) || c.is_whitespace())
        .filter(|part| !part.is_empty())
        .collect();
    let pattern = text.contains('*')
        || [">", "#", "+"].iter().any(|wild| text.split(['.', '/']).any(|part| part == *wild));
    let what = if may { "one name or one beginning" } else { "the name of one channel" };
    let name = format!("warning: {option} \"{channel}\" is {what}");
    if parts.len() > 1 {
        let each: Vec<String> = parts.iter().map(|part| format!("{option} {part}")).collect();
        return Some(format!("{name}, not a list; for several: {}", each.join(" ")));
    }
    if pattern && may {
        return Some(format!("{name}, not a pattern: only a * at its end is special"));
    }
    if pattern {
        let may = channel.ends_with('*').then(|| format!(", or use --may-{} \"{channel}\"", &option[2..]));
        return Some(format!("{name}, not a pattern: name each channel{}", may.unwrap_or_default()));
    }
    (parts.first() != Some(&channel)).then(|| format!("{name}, which differs from \"{}\"", parts.concat()))
}

fn issued(issued: &IssuedToken) -> Report {
    let aside = match issued.expires_at {
        Some(end) => format!("expires {}", moment(end)),
        None => "never expires".into(),
    };
    Report { aside: Some(aside), ..Report::new(format!("{}\n", issued.token.0)) }
}

/// Formats a time, and its distance from now.
fn moment(at: Timestamp) -> String {
    let now = SystemTime::now();
    match (at.0.duration_since(now), now.duration_since(at.0)) {
        (Ok(ahead), _) => format!("{at} (in {})", span(ahead + Duration::from_millis(999))),
        (_, Ok(ago)) => format!("{at} ({} ago)", span(ago)),
        _ => at.to_string(),
    }
}

/// Returns the token to inspect, without the scheme of a pasted `Authorization` header.
fn token_to_inspect(argument: Option<&str>) -> Result<Hidden, Complaint> {
    let text = match argument {
        Some(token) if token != "-" => token.to_owned(),
        _ => standard_input("token", "philotectl token --read chat | philotectl inspect")?,
    };
    let token = text.trim();
    let bare =
        token.split_once(char::is_whitespace).filter(|(scheme, _)| scheme.eq_ignore_ascii_case("bearer"));
    Ok(Hidden(bare.map_or(token, |(_, rest)| rest.trim()).to_owned()))
}

/// Reads all of standard input. A terminal is an error, because it would show what is typed.
fn standard_input(thing: &str, example: &str) -> Result<String, Complaint> {
    let complaint =
        |message, exit| Complaint { message, hint: Some(format!("for example: {example}")), exit };
    if io::stdin().is_terminal() {
        let message = format!("the {thing} is read from standard input, which is a terminal");
        return Err(complaint(message, Exit::Usage));
    }
    let mut text = String::new();
    let limit = server::MAX_BODY as u64;
    match io::stdin().lock().take(limit + 1).read_to_string(&mut text) {
        Err(error) => {
            Err(complaint(format!("cannot read the {thing} from standard input: {error}"), Exit::Failed))
        }
        Ok(_) if text.trim().is_empty() => {
            Err(complaint(format!("there is no {thing} on standard input"), Exit::Usage))
        }
        Ok(_) if text.len() as u64 > limit => {
            Err(complaint(format!("the {thing} on standard input has more than {limit} bytes"), Exit::Usage))
        }
        Ok(_) => Ok(text),
    }
}

fn inspection(token: &Inspection, style: Style) -> String {
    let mut facts = Facts::new(style);
    let accepted = match &token.reason {
        None => style.paint(Tone::Good, "yes"),
        Some(reason) => format!("{}: {}", style.paint(Tone::Bad, "no"), escape(reason)),
    };
    facts.add("accepted", accepted);
    if let Some(expires) = token.expires_at {
        facts.add("expires", moment(expires));
    } else if token.accepted {
        facts.add("expires", "never");
    }
    if let Some(key) = &token.signed_by {
        facts.add("signed by", escape(key));
    }
    for (label, part) in [("claims", &token.claims), ("header", &token.header)] {
        if let Some(value) = part {
            facts.add(label, escape_json(&value.to_string()));
        }
    }
    facts.render()
}

fn secrets(answer: &Secrets, all: bool) -> Report {
    let shown = if all { answer.secrets.len() } else { 1 };
    let text = answer.secrets.iter().take(shown).map(|secret| format!("{}\n", secret.0)).collect::<String>();
    let hidden = answer.secrets.len().saturating_sub(shown) as u64;
    let verb = if hidden == 1 { "verifies" } else { "verify" };
    let aside = (hidden > 0).then(|| format!("{} still {verb} tokens: --all", many(hidden, "older secret")));
    Report { aside, ..Report::new(text) }
}

fn changed(what: &str, answer: &SecretChanged) -> String {
    let mut text = format!("{what}, in {}", escape(&answer.path.display().to_string()));
    text.push_str(&older(answer.secrets));
    text.push_str(&closing(answer.closing).map(|closing| format!("; {closing}")).unwrap_or_default());
    text + "\n"
}

/// Describes the secrets after the first.
fn older(secrets: u64) -> String {
    match secrets {
        0 | 1 => String::new(),
        2 => "; 1 older one still verifies".into(),
        more => format!("; {} older ones still verify", more - 1),
    }
}

fn closing(connections: u64) -> Option<String> {
    let verb = if connections == 1 { "is" } else { "are" };
    let which = many(connections, "connection");
    (connections > 0).then(|| format!("{which} whose key was removed {verb} being closed"))
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
    } else if let Some(closing) = closing(answer.closing) {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_channel_that_looks_like_a_list_or_a_pattern_causes_a_warning() {
        for (channel, words) in [
            ("chat,news", "not a list; for several: --read chat --read news"),
            ("chat, news", "not a list; for several: --read chat --read news"),
            ("chat news", "not a list"),
            ("*", "not a pattern"),
            ("room:*", "not a pattern: name each channel, or use --may-read \"room:*\""),
            ("a.>", "not a pattern"),
            ("a/#", "not a pattern"),
            ("chat ", "which differs from \"chat\""),
            ("chat,", "which differs from \"chat\""),
        ] {
            let text = warning("--read", channel).unwrap_or_default();
            assert!(text.contains(words) && text.contains(channel), "{channel}: {text}");
        }
        for plain in ["chat", "room:42", "c++", "room#1", "a>b", "a.b/c"] {
            assert_eq!(warning("--read", plain), None);
        }
        for (pattern, words) in [
            (
                "room:*,dm:*",
                "is one name or one beginning, not a list; for several: --may-read room:* --may-read dm:*",
            ),
            ("a*b", "only a * at its end is special"),
            ("room:**", "only a * at its end is special"),
            ("room:* ", "only a * at its end is special"),
        ] {
            let text = warning("--may-read", pattern).unwrap_or_default();
            assert!(text.contains(words) && text.contains(pattern), "{pattern}: {text}");
        }
        for plain in ["*", "room:*", "room:42"] {
            assert_eq!(warning("--may-write", plain), None);
        }
    }

    #[test]
    fn a_token_may_be_pasted_with_the_scheme_of_its_header() {
        for text in ["a.b.c", " a.b.c\n", "Bearer a.b.c", "bearer  a.b.c "] {
            assert_eq!(token_to_inspect(Some(text)).unwrap().0, "a.b.c");
        }
    }

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
