//! The nodes of a cluster: the command `nodes`, and which nodes an answer is from.

use std::time::SystemTime;

use super::print::{count, in_json, many, short_span};
use super::table::{Column, Table};
use super::{Complaint, Exit, Report};
use crate::admin::api::{ClusterNode, ClusterNodes, Coverage, Link};
use crate::admin::client::Client;
use crate::terminal::{Style, Tone};

/// Says on standard error which nodes are missing in a list, and why.
pub(super) fn listed_from(report: Report, nodes: Option<&Coverage>) -> Report {
    let sentences = nodes.map(Coverage::sentences).unwrap_or_default();
    let asides: Vec<String> = report.aside.clone().into_iter().chain(sentences).collect();
    Report { aside: (!asides.is_empty()).then(|| asides.join("; ")), ..report }
}

/// Says on standard error where something may not have been done. It then fails, whatever was done elsewhere.
pub(super) fn done_on(report: Report, nodes: Option<&Coverage>) -> Report {
    let exit = match nodes {
        Some(nodes) if !nodes.failed.is_empty() => Exit::Failed,
        Some(nodes) if !nodes.unanswered.is_empty() => Exit::TimedOut,
        _ => report.exit,
    };
    Report { exit, ..listed_from(report, nodes) }
}

/// Runs `philotectl nodes`.
pub(super) async fn nodes(client: &Client, json: bool, style: Style) -> Result<Report, Complaint> {
    let answer = client.nodes().await?;
    Ok(in_json(json, &answer).unwrap_or_else(|| table(&answer, style)))
}

const COLUMNS: [Column; 7] = [
    Column::text("NAME"),
    Column::whole("VERSION").spare(2),
    Column::whole("MODE").spare(1),
    Column::figure("CONNECTIONS"),
    Column::figure("MESSAGES/S"),
    Column::whole("LINK"),
    Column::figure("LAST SEEN"),
];

fn table(answer: &ClusterNodes, style: Style) -> Report {
    let mut table = Table::new(&COLUMNS);
    for node in &answer.nodes {
        table.add(vec![
            node.name.clone(),
            node.version.clone(),
            node.mode.clone(),
            count(style, node.connections),
            format!("{:.1}", node.messages_per_second),
            link(node.link).to_owned(),
            last_seen(node, style),
        ]);
    }
    let mut text = table.render(style);
    if style.terminal {
        let footer = format!("{}; the first is this one", many(answer.nodes.len() as u64, "node"));
        text += &(style.paint(Tone::Faint, &footer) + "\n");
    }
    let off = "steering across nodes is off, because cluster.secret_file is not set: other commands act on this node only";
    Report { aside: (!answer.steering).then(|| off.to_owned()), ..Report::new(text) }
}

fn link(link: Link) -> &'static str {
    match link {
        Link::Up => "up",
        Link::Down => "down",
    }
}

fn last_seen(node: &ClusterNode, style: Style) -> String {
    match (style.terminal, node.this) {
        (true, true) => "now".to_owned(),
        (true, false) => {
            let ago = SystemTime::now().duration_since(node.last_seen_at.0).unwrap_or_default();
            format!("{} ago", short_span(ago))
        }
        (false, _) => node.last_seen_at.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::admin::api::FailedNode;

    #[test]
    fn a_node_that_is_missing_is_named_and_an_order_then_fails() {
        let report = || Report { aside: Some("showing 1 of 2".into()), ..Report::new("x") };
        assert_eq!(listed_from(report(), None), report());
        let mut nodes = Coverage { answered: vec!["a".into()], ..Coverage::default() };
        assert_eq!(done_on(report(), Some(&nodes)), report());
        nodes.unanswered = vec!["b".into(), "c".into()];
        let listed = listed_from(report(), Some(&nodes));
        assert_eq!(listed.aside.as_deref(), Some("showing 1 of 2; nodes b, c did not answer in time"));
        assert_eq!((listed.exit, done_on(report(), Some(&nodes)).exit), (Exit::Done, Exit::TimedOut));
        nodes.failed = vec![FailedNode { node: "d".into(), message: "no".into() }];
        let done = done_on(report(), Some(&nodes));
        assert_eq!(done.exit, Exit::Failed);
        assert!(done.aside.unwrap().ends_with("; node d: no"));
        let only = Coverage::only("a", "steering is off");
        let done = done_on(Report::new("x"), Some(&only));
        assert_eq!(
            (done.aside.as_deref(), done.exit),
            (Some("this is node a only: steering is off"), Exit::Done)
        );
    }
}
