//! Which nodes of a cluster an answer is from.

use serde::{Deserialize, Serialize};

/// Which nodes of a cluster an answer is from, by name.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Coverage {
    /// Nodes whose part is in the answer, this one included.
    pub answered: Vec<String>,
    /// Known nodes that did not answer in time. What was ordered may still be done there.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub unanswered: Vec<String>,
    /// Nodes that answered that they could not do it, and why.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub failed: Vec<FailedNode>,
    /// Nodes whose rows did not all fit into a message of NATS.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub cut: Vec<String>,
    /// Why the answer is of this node only.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub note: Option<String>,
}

/// A node that could not carry out an order.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FailedNode {
    /// Its name.
    pub node: String,
    /// Why, as a sentence.
    pub message: String,
}

impl Coverage {
    /// Returns the coverage of an answer of this node only, because orders do not reach the others.
    #[must_use]
    pub fn only(node: &str, why: &str) -> Coverage {
        Coverage {
            answered: vec![node.to_owned()],
            note: Some(format!("this is node {node} only: {why}")),
            ..Coverage::default()
        }
    }

    /// Returns the most serious sentence for people: who did not answer, who failed, whose rows are cut.
    #[must_use]
    pub fn sentences(&self) -> Vec<String> {
        let mut sentences: Vec<String> = self.note.iter().cloned().collect();
        if !self.unanswered.is_empty() {
            let plural = if self.unanswered.len() == 1 { "node" } else { "nodes" };
            sentences.push(format!("{plural} {} did not answer in time", self.unanswered.join(", ")));
        }
        sentences
            .extend(self.failed.iter().map(|failed| format!("node {}: {}", failed.node, failed.message)));
        if !self.cut.is_empty() {
            sentences.push(format!(
                "rows are missing because they exceed a message of NATS (max_payload): {}",
                self.cut.join(", ")
            ));
        }
        sentences
    }
}
