//! `philotectl conformance`: tests a client, and prints what it got wrong with the sentence of the manual.

use std::ffi::OsString;
use std::time::Duration;

use clap::Args;
use clap::builder::PossibleValuesParser;
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::iterator::Signals;
use tokio::sync::oneshot;

use super::print::{in_json, many};
use super::table::{Column, Table};
use super::{Complaint, Exit, Report};
use crate::conformance::{CASE_LIMIT, Named, Tested, cases, test};
use crate::escape::escape;
use crate::terminal::{Style, Tone};

#[derive(Args, Debug)]
pub(super) struct ConformanceArgs {
    /// List the cases, and test nothing
    #[arg(long, conflicts_with_all = ["case", "program"])]
    list: bool,
    /// Only this case (repeatable) [default: all]
    #[arg(long, value_name = "NAME", value_parser = PossibleValuesParser::new(cases().map(|case| case.name)), hide_possible_values = true)]
    case: Vec<String>,
    /// The client and its arguments: a program that speaks lines of JSON, as philote-v1(7) describes
    #[arg(last = true, required_unless_present = "list", value_name = "PROGRAM")]
    program: Vec<OsString>,
}

/// Runs `philotectl conformance`.
pub(super) async fn conformance(
    args: &ConformanceArgs,
    limit: Option<Duration>,
    json: bool,
    style: Style,
) -> Result<Report, Complaint> {
    if args.list {
        let cases: Vec<Named> = cases().collect();
        return Ok(in_json(json, &cases).unwrap_or_else(|| Report::new(list(&cases, style))));
    }
    // From before the first client starts.
    let interrupted = interrupted();
    let tested = tokio::select! {
        tested = test(&args.program, &args.case, limit.unwrap_or(CASE_LIMIT)) => tested,
        // The clients end when the test is dropped. They do not get the signal.
        () = interrupted => {
            let message = "interrupted".into();
            return Err(Complaint { message, hint: None, exit: Exit::Failed });
        }
    };
    let report = in_json(json, &tested).unwrap_or_else(|| Report::new(results(&tested, style)));
    Ok(Report { exit: if tested.failed == 0 { Exit::Done } else { Exit::Failed }, ..report })
}

/// Takes SIGINT and SIGTERM from now on. The future waits for one of them.
fn interrupted() -> impl Future<Output = ()> {
    let (tell, told) = oneshot::channel();
    if let Ok(mut signals) = Signals::new([SIGINT, SIGTERM]) {
        std::thread::spawn(move || signals.forever().next().map(|_| tell.send(())));
    }
    async {
        if told.await.is_err() {
            std::future::pending().await
        }
    }
}

fn list(cases: &[Named], style: Style) -> String {
    const COLUMNS: [Column; 3] =
        [Column::whole("CASE"), Column::text("THE SERVER").at_least(30), Column::text("THE CLIENT")];
    let mut table = Table::new(&COLUMNS);
    for case in cases {
        table.add(vec![case.name.into(), case.fault.into(), case.sentence.into()]);
    }
    table.render(style)
}

fn results(tested: &Tested, style: Style) -> String {
    const COLUMNS: [Column; 4] = [
        Column::whole("CASE"),
        Column::whole("RESULT"),
        Column::figure("SECONDS"),
        Column::text("THE SERVER"),
    ];
    let mut table = Table::new(&COLUMNS);
    for case in &tested.cases {
        let result = if case.passed { "passed" } else { "FAILED" };
        table.add(vec![case.case.into(), result.into(), format!("{:.1}", case.seconds), case.fault.into()]);
    }
    let mut text = table.render(style);
    for case in &tested.cases {
        let Some(found) = &case.found else { continue };
        text += &format!("\n{}: the server {}\n", style.paint(Tone::Bad, case.case), case.fault);
        text += &format!("  found: {}\n", escape(found));
        if let Some(sentence) = case.sentence {
            text += &format!("  philote-v1(7): {sentence}\n");
        }
    }
    let all = many((tested.passed + tested.failed) as u64, "case");
    text + &format!("\n{} of {all} passed\n", tested.passed)
}
