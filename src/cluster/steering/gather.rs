//! Answers of several nodes as documents, and which nodes they are from.

use std::collections::BTreeSet;

use async_nats::Client;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::{Answer, MAX_ANSWER_BYTES, Outcome, Steering, Wait, name_of};
use crate::orders::{Coverage, FailedNode};

/// The least room that each answer gets, in bytes.
const LEAST_ROOM: usize = 16 * 1024;

/// What a node sends as a request.
#[derive(Serialize, Deserialize)]
struct Request<Q> {
    /// The most bytes of each answer, so that those of all nodes fit into [`MAX_ANSWER_BYTES`].
    room: usize,
    query: Q,
}

/// What a node sends as an answer: its part, or a sentence that says why it could not do it.
type Remote<T> = Result<Part<T>, String>;

/// The part of one node in an answer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Part<T> {
    /// Whether rows are missing because they would not fit into a message of NATS.
    cut: bool,
    /// The document.
    document: T,
}

/// The parts of the other nodes.
#[derive(Debug)]
pub struct Gathered<T> {
    /// The name of each node that answered, with its part.
    pub parts: Vec<(String, T)>,
    /// Which nodes these are, with this one.
    pub coverage: Coverage,
}

/// A document of which the last rows may be left out.
pub trait Rows {
    /// Returns the number of rows.
    fn rows(&self) -> usize {
        0
    }

    /// Keeps only the first rows.
    fn keep(&mut self, _rows: usize) {}
}

/// Parses a request, has it carried out, and returns the body of the answer: at most `room` bytes and what the request
/// allows, and without the last rows if it would be longer.
pub fn reply<Q: DeserializeOwned, T: Serialize + Rows>(
    body: &[u8],
    room: usize,
    work: impl FnOnce(Q) -> Result<T, String>,
) -> Vec<u8> {
    let request: Result<Request<Q>, String> =
        serde_json::from_slice(body).map_err(|_| "the request is not one of this version".to_owned());
    let room = request.as_ref().map_or(room, |request| room.min(request.room.max(LEAST_ROOM)));
    let done = request.and_then(|Request { query, .. }| work(query));
    let mut remote = done.map(|document| Part { cut: false, document });
    loop {
        let bytes = serde_json::to_vec(&remote).unwrap_or_default();
        if bytes.len() <= room {
            return bytes;
        }
        match &mut remote {
            Ok(part) if part.document.rows() > 0 => {
                part.cut = true;
                let rows = part.document.rows();
                // A little less than what fits if all rows have the same length.
                part.document.keep((rows * room / bytes.len() * 9 / 10).min(rows - 1));
            }
            Ok(_) => remote = Err("its answer exceeds a message of NATS".to_owned()),
            Err(_) => return Vec::new(),
        }
    }
}

impl Steering {
    /// Asks all other nodes on this link; `known` are those that are known, as `NAME@START`.
    pub(in crate::cluster) async fn gather<Q: Serialize, T: DeserializeOwned>(
        &self,
        client: Option<Client>,
        kind: &str,
        query: &Q,
        known: &BTreeSet<String>,
        wait: Wait,
    ) -> Gathered<T> {
        // A query of this crate always has a JSON form.
        let request = Request { room: MAX_ANSWER_BYTES / known.len().max(1), query };
        let body = serde_json::to_vec(&request).unwrap_or_default();
        match self.ask(client, kind, &body, known, wait).await {
            Ok(answers) => self.sort(answers, known),
            Err(error) => {
                let mut gathered = self.sort(Vec::new(), known);
                let failed = |node| FailedNode { node, message: error.to_string() };
                gathered.coverage.failed = gathered.coverage.unanswered.drain(..).map(failed).collect();
                gathered
            }
        }
    }

    fn sort<T: DeserializeOwned>(&self, answers: Vec<Answer>, known: &BTreeSet<String>) -> Gathered<T> {
        let mut coverage = Coverage { answered: vec![name_of(&self.node).to_owned()], ..Coverage::default() };
        let mut parts = Vec::new();
        let heard: BTreeSet<String> = answers.iter().map(|answer| answer.node.clone()).collect();
        for Answer { node, outcome } in answers {
            let name = name_of(&node).to_owned();
            let part: Remote<T> = match outcome {
                Outcome::Body(body) => serde_json::from_slice(&body)
                    .unwrap_or_else(|_| Err("its answer is not one of this version".to_owned())),
                Outcome::Busy => Err("it has too many requests of other nodes to carry out".to_owned()),
                Outcome::Unknown => Err("its version does not know this request".to_owned()),
                Outcome::TooMuch => Err("the answers of all nodes are too large".to_owned()),
            };
            match part {
                Ok(Part { cut, document }) => {
                    if cut {
                        coverage.cut.push(name.clone());
                    }
                    coverage.answered.push(name.clone());
                    parts.push((name, document));
                }
                Err(message) => coverage.failed.push(FailedNode { node: name, message }),
            }
        }
        let silent = known.difference(&heard).map(|node| name_of(node).to_owned());
        coverage.unanswered = silent.collect();
        coverage.answered.sort_unstable();
        coverage.cut.sort_unstable();
        parts.sort_by(|(a, _), (b, _)| a.cmp(b));
        Gathered { parts, coverage }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nodes_are_named_by_what_they_answered() {
        let steering = Steering::new("a@1", "philote", b"0123456789abcdef0123456789abcdef");
        let answer = |node: &str, outcome| Answer { node: node.to_owned(), outcome };
        let body = |remote: &Remote<u64>| Outcome::Body(serde_json::to_vec(remote).unwrap().into());
        let known = ["b@1", "c@1", "d@1"].map(str::to_owned).into();
        let gathered: Gathered<u64> = steering.sort(
            vec![
                answer("e@1", body(&Ok(Part { cut: true, document: 5 }))),
                answer("b@1", body(&Ok(Part { cut: false, document: 2 }))),
                answer("f@1", body(&Err("no".to_owned()))),
                answer("g@1", Outcome::Body("x".into())),
                answer("h@1", Outcome::Busy),
            ],
            &known,
        );
        assert_eq!(gathered.parts, [("b".to_owned(), 2), ("e".to_owned(), 5)]);
        let Coverage { answered, unanswered, failed, cut, note } = gathered.coverage;
        assert_eq!(answered, ["a", "b", "e"]);
        assert_eq!(unanswered, ["c", "d"]);
        assert_eq!(cut, ["e"]);
        assert_eq!(note, None);
        let failed: Vec<_> = failed.iter().map(|failed| (&*failed.node, &*failed.message)).collect();
        assert_eq!(failed[0], ("f", "no"));
        assert_eq!((failed[1].0, failed[2].0), ("g", "h"));
    }

    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    struct List(Vec<String>);

    impl Rows for List {
        fn rows(&self) -> usize {
            self.0.len()
        }

        fn keep(&mut self, rows: usize) {
            self.0.truncate(rows);
        }
    }

    #[test]
    fn an_answer_that_would_exceed_a_message_is_cut_and_says_so() {
        let list = || Ok(List((0..1000).map(|n| format!("row {n}")).collect()));
        let asked = |room| format!("{{\"room\": {room}, \"query\": 7}}");
        let answer = |room| reply(asked(1 << 20).as_bytes(), room, |_: u64| list());
        let read = |bytes: &[u8]| serde_json::from_slice::<Remote<List>>(bytes).unwrap();
        let whole = read(&answer(1 << 20)).unwrap();
        assert_eq!((whole.cut, whole.document.0.len()), (false, 1000));
        let bytes = answer(5000);
        let cut = read(&bytes).unwrap();
        assert!(cut.cut && bytes.len() <= 5000, "{}", bytes.len());
        assert!(cut.document.0.len() > 300 && cut.document.0[299] == "row 299", "the first rows stay");
        assert!(read(&answer(60)).unwrap().document.0.len() < 5);
        assert!(answer(1).is_empty());
        // Nor does it exceed what the node that asks has room for.
        let long = || Ok(List((0..5000).map(|n| format!("row {n}")).collect()));
        let bytes = reply(asked(20_000).as_bytes(), 1 << 20, |_: u64| long());
        assert!(read(&bytes).unwrap().cut && bytes.len() <= 20_000, "{}", bytes.len());
        assert_eq!(
            read(&reply(b"x", 999, |_: u64| list())).unwrap_err(),
            "the request is not one of this version"
        );
    }

    #[tokio::test(start_paused = true)]
    async fn a_request_that_cannot_be_sent_is_no_silence_of_the_others() {
        let steering = Steering::new("a@1", "philote", b"0123456789abcdef0123456789abcdef");
        let known = ["b@1".to_owned()].into();
        let gather = || steering.gather::<_, u64>(None, "x", &(), &known, Wait::ForKnown);
        assert_eq!(gather().await.coverage.unanswered, ["b"], "there is no link");
        let _all = steering.asked.acquire_many(8).await.unwrap();
        let coverage = gather().await.coverage;
        assert_eq!((coverage.unanswered.len(), &*coverage.failed[0].node), (0, "b"));
    }
}
