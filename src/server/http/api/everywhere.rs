//! Lists of all nodes of a cluster: what one node asks of the others, and how their pages become one.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use serde_json::Value;
use tokio::time::Instant;

use crate::cluster::steering::{Rows, reply};
use crate::message::{ChannelPattern, ChannelPatterns};
use crate::orders::Coverage;
use crate::server::Server;
use crate::server::ops::everywhere::Reach;
use crate::server::rejection::Rejection;
use crate::token::Claims;

/// The kind of request to other nodes.
const PAGE: &str = "api.page";

/// A list that other nodes are asked for.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Asked {
    pub(super) list: List,
    /// `next` of the previous page.
    pub(super) after: Option<String>,
    pub(super) limit: usize,
    pub(super) visible: Visible,
}

/// Which list.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum List {
    /// The names of channels that have readers.
    Channels {
        /// The start of the names.
        prefix: Option<String>,
    },
    /// The subjects of the readers of one channel, and how many read and may write it.
    Channel {
        /// Its name.
        name: String,
        /// Whether subjects are wanted.
        subjects: bool,
    },
    /// The connections of a subject.
    Connections {
        /// The subject.
        subject: String,
    },
}

/// The channels that the holder of a token may see.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(from = "VisibleText", into = "VisibleText")]
pub(super) enum Visible {
    /// All of them.
    All,
    /// Those that it may join.
    Some { names: HashSet<String>, patterns: ChannelPatterns },
}

/// The names and the patterns, as in a token; `None` is all channels.
#[derive(Serialize, Deserialize)]
struct VisibleText(Option<(HashSet<String>, Vec<String>)>);

impl From<Visible> for VisibleText {
    fn from(visible: Visible) -> VisibleText {
        VisibleText(match visible {
            Visible::All => None,
            Visible::Some { names, patterns } => {
                Some((names, patterns.iter().map(ToString::to_string).collect()))
            }
        })
    }
}

impl From<VisibleText> for Visible {
    fn from(VisibleText(some): VisibleText) -> Visible {
        let Some((names, patterns)) = some else { return Visible::All };
        // The node that sent them has checked them.
        let pattern = |text: &String| ChannelPattern::new(text, usize::MAX).ok();
        Visible::Some { names, patterns: patterns.iter().filter_map(pattern).collect() }
    }
}

impl Visible {
    /// Returns what these claims show.
    pub(super) fn to(claims: &Claims) -> Visible {
        if !claims.sees_only_some() {
            return Visible::All;
        }
        let names = claims.read().iter().map(str::to_owned).collect();
        let patterns = claims.may().and_then(|may| may.read.clone()).unwrap_or_default();
        Visible::Some { names, patterns }
    }

    pub(super) fn contains(&self, channel: &str) -> bool {
        match self {
            Visible::All => true,
            Visible::Some { names, patterns } => names.contains(channel) || patterns.matches(channel),
        }
    }
}

/// A page of a list: the first rows after a key, with their keys.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct Listed {
    pub(super) rows: Vec<(String, Value)>,
    /// The key of the last row, if there are more.
    pub(super) next: Option<String>,
    /// Of one channel.
    pub(super) readers: u64,
    pub(super) writers: u64,
}

impl Rows for Listed {
    fn rows(&self) -> usize {
        self.rows.len()
    }

    fn keep(&mut self, rows: usize) {
        self.rows.truncate(rows);
        self.next = self.rows.last().map(|(key, _)| key.clone());
    }
}

impl Listed {
    /// Makes one page of those of several nodes. Up to its last row, no node has one that is missing.
    fn merged(pages: Vec<Listed>, limit: usize) -> Listed {
        let end = pages.iter().filter_map(|page| page.next.clone()).min();
        let (readers, writers) = pages
            .iter()
            .fold((0, 0), |(readers, writers), page| (readers + page.readers, writers + page.writers));
        let all: BTreeMap<String, Value> = pages.into_iter().flat_map(|page| page.rows).collect();
        let total = all.len();
        let within = |key: &String| end.as_ref().is_none_or(|end| key <= end);
        let rows: Vec<_> = all.into_iter().take_while(|(key, _)| within(key)).take(limit).collect();
        let more = end.is_some() || rows.len() < total;
        let next = rows.last().filter(|_| more).map(|(key, _)| key.clone());
        Listed { rows, next, readers, writers }
    }
}

/// Returns a page of this node and, as far as the order reaches, of all others.
pub(super) async fn list_everywhere(
    server: &Arc<Server>,
    reach: &Reach<'_>,
    deadline: Instant,
    list: fn(&Server, &Asked) -> Listed,
    asked: Asked,
) -> Result<(Listed, Option<Coverage>), Rejection> {
    let limit = asked.limit;
    let here = {
        let asked = asked.clone();
        server.background.run(server, deadline, move |server| list(server, &asked)).await?
    };
    let (parts, coverage) = reach.gather::<_, Listed>(PAGE, &asked).await;
    if parts.is_empty() {
        return Ok((here, coverage));
    }
    let pages = std::iter::once(here).chain(parts.into_iter().map(|(_, page)| page)).collect();
    Ok((Listed::merged(pages, limit), coverage))
}

/// Has `list` carry out a request of another node, if it is for a page.
pub(super) fn carry_out(
    kind: &str,
    body: &[u8],
    room: usize,
    list: impl FnOnce(&Asked) -> Listed,
) -> Option<Vec<u8>> {
    (kind == PAGE).then(|| reply(body, room, |asked: Asked| Ok(list(&asked))))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn page(names: &[&str], after: Option<&str>, limit: usize) -> Listed {
        let mut names: Vec<&str> =
            names.iter().copied().filter(|name| after.is_none_or(|after| *name > after)).collect();
        names.sort_unstable();
        let more = names.len() > limit;
        names.truncate(limit);
        let next = names.last().filter(|_| more).map(|name| (*name).to_owned());
        let rows = names.into_iter().map(|name| (name.to_owned(), Value::Null)).collect();
        Listed { rows, next, readers: 1, writers: 2 }
    }

    proptest! {
        #[test]
        fn the_pages_of_all_nodes_cover_their_lists_once(
            nodes in proptest::collection::vec(proptest::collection::vec("[a-d]{1,2}", 0..8), 1..4),
            limit in 1usize..4,
        ) {
            let mut all: Vec<String> = nodes.iter().flatten().cloned().collect();
            all.sort_unstable();
            all.dedup();
            let mut seen: Vec<String> = Vec::new();
            let mut after: Option<String> = None;
            for _ in 0..100 {
                let pages = nodes.iter().map(|names| {
                    let mut names: Vec<&str> = names.iter().map(String::as_str).collect();
                    names.sort_unstable();
                    names.dedup();
                    page(&names, after.as_deref(), limit)
                });
                let merged = Listed::merged(pages.collect(), limit);
                prop_assert!(merged.rows.len() <= limit);
                prop_assert_eq!(merged.readers, nodes.len() as u64);
                seen.extend(merged.rows.into_iter().map(|(key, _)| key));
                after = merged.next;
                if after.is_none() {
                    break;
                }
            }
            prop_assert_eq!(seen, all);
        }
    }

    #[test]
    fn a_page_that_is_cut_goes_on_behind_its_last_row() {
        let mut page = page(&["a", "b", "c"], None, 3);
        assert_eq!(page.next, None);
        page.keep(2);
        assert_eq!((page.rows(), page.next.as_deref()), (2, Some("b")));
    }

    #[test]
    fn another_node_shows_the_same_channels_to_a_token() {
        let patterns = ["room:*", "one"].map(|text| ChannelPattern::new(text, 255).unwrap());
        let some = Visible::Some {
            names: ["chat".to_owned(), "star*".to_owned()].into(),
            patterns: patterns.into_iter().collect(),
        };
        let sent = |visible: &Visible| -> Visible {
            serde_json::from_str(&serde_json::to_string(visible).unwrap()).unwrap()
        };
        for (channel, visible) in [
            ("chat", true),
            ("room:1", true),
            ("one", true),
            ("star*", true),
            ("start", false),
            ("ones", false),
        ] {
            assert_eq!(sent(&some).contains(channel), visible, "{channel}");
            assert!(sent(&Visible::All).contains(channel));
        }
    }
}
