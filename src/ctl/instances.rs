//! The daemons on this machine: the command `instances`, which `philotectl` without a command runs if there are several.

use std::path::PathBuf;
use std::time::Duration;

use futures_util::future::join_all;
use serde::Serialize;

use super::args::Arguments;
use super::print::{count, in_json, many, short_span};
use super::table::{Column, Table};
use super::{Complaint, Report};
use crate::admin::api::Status;
use crate::admin::client::{Client, Error};
use crate::admin::instance::{self, Instance};
use crate::admin::path;
use crate::terminal::{Style, Tone};

/// The answer in JSON.
#[derive(Debug, Serialize)]
struct Daemons {
    daemons: Vec<Daemon>,
    /// Running instances that were not asked, because there are too many.
    left_out: usize,
}

/// A daemon, and what it answers.
#[derive(Debug, Serialize)]
struct Daemon {
    /// The unit that starts it; for a daemon that a user has started, the one of this machine.
    unit: String,
    socket: PathBuf,
    /// `None` if it does not answer.
    status: Option<Status>,
    /// Why it does not answer.
    error: Option<String>,
}

/// Returns the admin sockets that exist, of the one named daemon or of all, and the number of instances left out.
fn sockets(arguments: &Arguments) -> (Vec<PathBuf>, usize) {
    let mut paths = path::for_client(arguments.named(), |name| std::env::var_os(name));
    if arguments.chooses_one() {
        return (paths, 0);
    }
    let (instances, left_out) = Instance::running();
    // After the system's daemon, before one's own.
    let others = paths.split_off(1.min(paths.len()));
    paths.extend(instances.iter().map(Instance::socket).chain(others));
    paths.retain(|path| path.exists());
    (paths, left_out)
}

/// Returns whether several daemons run and the command line chooses none of them.
pub(super) fn are_several(arguments: &Arguments) -> bool {
    !arguments.chooses_one() && sockets(arguments).0.len() > 1
}

/// Returns a hint with the instances that run, if the command line chooses no daemon.
pub(super) fn hint(arguments: &Arguments) -> Option<String> {
    let (running, _) = Instance::running();
    let names: Vec<_> = running.iter().map(Instance::to_string).collect();
    let hint = || format!("choose an instance with --instance; these run: {}", names.join(", "));
    (!arguments.chooses_one() && !names.is_empty()).then(hint)
}

/// Runs `philotectl instances`. It fails if no daemon answers.
pub(super) async fn list(arguments: &Arguments, within: Duration, style: Style) -> Result<Report, Complaint> {
    let (paths, left_out) = sockets(arguments);
    let asked = join_all(paths.into_iter().map(async |path| {
        let answer = Client::new(vec![path.clone()], within).status().await;
        (path, answer)
    }));
    let mut worst = None;
    let mut daemons = Vec::new();
    for (path, answer) in asked.await {
        let (status, error) = match answer {
            Ok(status) => (Some(status), None),
            Err(error) => {
                let text = error.to_string();
                worst.get_or_insert(error);
                (None, Some(text))
            }
        };
        daemons.push(Daemon { unit: instance::unit(&path), socket: path, status, error });
    }
    if daemons.iter().all(|daemon| daemon.status.is_none()) {
        return Err(worst.unwrap_or(Error::NotRunning { path: path::SYSTEM.into() }).into());
    }
    let aside =
        (left_out > 0).then(|| format!("{} more run and are not listed", many(left_out as u64, "instance")));
    let answer = Daemons { daemons, left_out };
    let report =
        in_json(arguments.json, &answer).unwrap_or_else(|| Report::new(table(&answer.daemons, style)));
    Ok(Report { aside, ..report })
}

const COLUMNS: [Column; 6] = [
    Column::text("UNIT").at_least(16),
    Column::text("STATE"),
    Column::text("LISTENING"),
    Column::figure("CONNECTIONS"),
    Column::figure("UP").spare(1),
    Column::text("SOCKET").spare(2),
];

fn table(daemons: &[Daemon], style: Style) -> String {
    let mut table = Table::new(&COLUMNS);
    for daemon in daemons {
        let socket = daemon.socket.display().to_string();
        let error = daemon.error.clone().unwrap_or_default();
        table.add(match &daemon.status {
            Some(status) => vec![
                daemon.unit.clone(),
                status.state.to_string(),
                status.listeners.join(", "),
                count(style, status.connections),
                up(style, status.uptime_seconds),
                socket,
            ],
            None => vec![daemon.unit.clone(), error, String::new(), String::new(), String::new(), socket],
        });
    }
    let mut text = table.render(style);
    if style.terminal {
        let footer =
            "philotectl COMMAND controls philote; philotectl --instance NAME COMMAND controls philote@NAME";
        text += &(style.paint(Tone::Faint, footer) + "\n");
    }
    text
}

fn up(style: Style, seconds: u64) -> String {
    if style.terminal { short_span(Duration::from_secs(seconds)) } else { seconds.to_string() }
}
