//! The command `doctor`: everything that an experienced administrator would look at. The daemon checks itself; [`MACHINE`]
//! is what this program checks on the machine around it.

mod clock;
mod kernel;
mod socket;

use std::path::{Path, PathBuf};

use serde::Serialize;

use super::print::{in_json, many};
use super::{Complaint, Exit, Report};
use crate::admin::api::{Finding, Findings, Verdict};
use crate::admin::client::{Client, Error};
use crate::escape::escape;
use crate::terminal::{Style, Tone};

/// What the checks of the machine look at.
struct Examined {
    /// The admin socket that answered.
    socket: Option<PathBuf>,
    version: String,
    max_connections: u64,
    /// Whether the socket is that for observers.
    observes_only: bool,
    /// The root of the file system, which tests replace.
    root: PathBuf,
}

/// Examines one subject.
type Check = fn(&Examined, Findings) -> Vec<Finding>;

/// The checks of the machine, in the order of the report.
const MACHINE: [(&str, Check); 6] = [
    ("permissions", socket::permissions),
    ("version", socket::version),
    ("backlog", kernel::backlog),
    ("tcp memory", kernel::tcp_memory),
    ("conntrack", kernel::conntrack),
    ("open files", kernel::open_files),
];

/// The report.
#[derive(Debug, Serialize)]
struct Diagnosis {
    /// The worst of the findings.
    verdict: Verdict,
    findings: Vec<Finding>,
}

/// Runs `philotectl doctor`.
pub(super) async fn doctor(client: &Client, json: bool, style: Style) -> Result<Report, Complaint> {
    let (mut findings, mut exit) = (Vec::new(), None);
    match client.doctor().await {
        Ok(checkup) => {
            let examined = Examined {
                socket: client.reached(),
                version: checkup.version,
                max_connections: checkup.max_connections,
                observes_only: checkup.observes_only,
                root: "/".into(),
            };
            findings.push(socket::reachable(examined.socket.as_deref()));
            findings.extend(checkup.findings);
            findings.extend(machine(&examined));
        }
        // The daemon of another version, which answers and has no such route, is one that cannot be examined.
        Err(error @ Error::OtherVersion { .. }) => return Err(error.into()),
        Err(error) => {
            findings.push(socket::unreachable(&error));
            exit = Some(Complaint::from(error).exit);
        }
    }
    findings.extend(clock::clock(Findings::of("time service")));
    let verdict = findings.iter().map(|finding| finding.verdict).max().unwrap_or(Verdict::Ok);
    let exit = exit.unwrap_or(match verdict {
        Verdict::Ok => Exit::Done,
        Verdict::Warning => Exit::Warnings,
        Verdict::Problem => Exit::Failed,
    });
    let diagnosis = Diagnosis { verdict, findings };
    let report = in_json(json, &diagnosis).unwrap_or_else(|| Report::new(lines(&diagnosis.findings, style)));
    Ok(Report { exit, ..report })
}

fn machine(examined: &Examined) -> Vec<Finding> {
    MACHINE.iter().flat_map(|(subject, check)| check(examined, Findings::of(subject))).collect()
}

/// Reads a file of numbers below the root, such as `proc/sys/net/core/somaxconn`. Returns none if the kernel has no such
/// limit or does not show it.
fn numbers(root: &Path, file: &str) -> Vec<u64> {
    let text = std::fs::read_to_string(root.join(file)).unwrap_or_default();
    text.split_ascii_whitespace().map_while(|word| word.parse().ok()).collect()
}

/// Formats the findings: on a terminal aligned, with each remedy on a line of its own; otherwise with tabs.
fn lines(findings: &[Finding], style: Style) -> String {
    let widest = findings.iter().map(|finding| finding.check.len()).max().unwrap_or(0);
    let mut text = String::new();
    for finding in findings {
        let (verdict, found) = (finding.verdict.to_string(), escape(&finding.found));
        let remedy = finding.remedy.as_deref().map(escape);
        if !style.terminal {
            let remedy = remedy.map(|remedy| format!("\t{remedy}")).unwrap_or_default();
            text += &format!("{verdict}\t{}\t{found}{remedy}\n", escape(&finding.check));
            continue;
        }
        let tone = if finding.verdict == Verdict::Ok { Tone::Good } else { Tone::Bad };
        let verdict = style.paint(tone, &format!("{verdict:7}"));
        text += &format!("{verdict}  {:widest$}  {found}\n", escape(&finding.check));
        if let Some(remedy) = remedy {
            text += &format!("{:9}{:widest$}  -> {remedy}\n", "", "");
        }
    }
    if style.terminal {
        let count = |verdict| findings.iter().filter(|finding| finding.verdict == verdict).count() as u64;
        let footer = format!(
            "{}, {}, {} ok",
            many(count(Verdict::Problem), "problem"),
            many(count(Verdict::Warning), "warning"),
            count(Verdict::Ok)
        );
        text += &(style.paint(Tone::Faint, &footer) + "\n");
    }
    text
}
