//! Pages of a list: some rows in order, and the start of the next page.

use std::borrow::Borrow;
use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::Value;

use crate::server::rejection::Rejection;

/// The default number of rows of a page.
const DEFAULT_ROWS: usize = 100;

/// The most bytes of the rows of a page. A page always has at least one row.
const MAX_BYTES: usize = 256 * 1024;

/// The query of a list. Unknown parameters, such as `auth`, are ignored.
#[derive(Debug, Default, Deserialize)]
pub(crate) struct Query {
    limit: Option<String>,
    /// `next` of the previous page.
    pub(crate) after: Option<String>,
    /// The start of the names.
    pub(crate) prefix: Option<String>,
    /// The subject of the connections.
    pub(crate) subject: Option<String>,
    local: Option<String>,
}

impl Query {
    pub(crate) fn parse(query: &str) -> Result<Query, Rejection> {
        serde_urlencoded::from_str(query)
            .map_err(|error| Rejection::BadParameter(format!("the query of the URL is invalid: {error}")))
    }

    /// Returns whether the list is of this node only.
    pub(crate) fn local(&self) -> Result<bool, Rejection> {
        match self.local.as_deref() {
            None | Some("false") => Ok(false),
            Some("true") => Ok(true),
            Some(_) => Err(Rejection::BadRequest("local must be true or false")),
        }
    }

    /// Returns the number of rows of the page, at most `max`.
    pub(crate) fn limit(&self, max: usize) -> Result<usize, Rejection> {
        let Some(limit) = &self.limit else { return Ok(DEFAULT_ROWS.min(max)) };
        let wrong = || Rejection::BadParameter(format!("limit must be a number from 1 to {max}"));
        limit.parse().ok().filter(|limit| (1..=max).contains(limit)).ok_or_else(wrong)
    }
}

/// Collects the first `limit` rows after a key, while all rows are visited in any order.
pub(crate) struct Page<K, V> {
    after: Option<K>,
    limit: usize,
    rows: BTreeMap<K, V>,
    /// Whether there are more rows.
    more: bool,
}

impl<K: Ord, V> Page<K, V> {
    pub(crate) fn new(after: Option<K>, limit: usize) -> Page<K, V> {
        Page { after, limit, rows: BTreeMap::new(), more: false }
    }

    /// Visits a row, and creates it if it is among the first so far.
    pub(crate) fn offer<Q: Ord + ?Sized>(&mut self, key: &Q, row: impl FnOnce() -> (K, V))
    where
        K: Borrow<Q>,
    {
        if self.after.as_ref().is_some_and(|after| key <= after.borrow()) || self.rows.contains_key(key) {
            return;
        }
        let last = self.rows.last_key_value();
        if self.rows.len() == self.limit && last.is_some_and(|(last, _)| key > last.borrow()) {
            self.more = true;
            return;
        }
        self.rows.extend([row()]);
        if self.rows.len() > self.limit {
            self.rows.pop_last();
            self.more = true;
        }
    }

    /// Returns the keys of the rows.
    pub(crate) fn keys(&self) -> impl Iterator<Item = &K> {
        self.rows.keys()
    }

    /// Writes the rows, as many as fit into [`MAX_BYTES`]. Also returns `after` for the next page, or `None` if this is the
    /// last page.
    pub(crate) fn write(&self, row: impl Fn(&K, &V) -> Value) -> (Vec<Value>, Option<&K>) {
        let mut written = Vec::new();
        let (mut bytes, mut last) = (0, None);
        for (key, value) in &self.rows {
            let row = row(key, value);
            bytes += row.to_string().len();
            if bytes > MAX_BYTES && last.is_some() {
                return (written, last);
            }
            written.push(row);
            last = Some(key);
        }
        (written, last.filter(|_| self.more))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_pages_cover_the_list() {
        let all = ["d", "a", "c", "a", "e", "b"];
        let mut seen = Vec::new();
        let mut after = None;
        loop {
            let mut page = Page::new(after.take(), 2);
            for name in all {
                page.offer(name, || (name.to_owned(), ()));
                assert!(page.rows.len() <= 2);
            }
            seen.extend(page.keys().cloned());
            after = page.write(|_, ()| Value::Null).1.cloned();
            if after.is_none() {
                break;
            }
        }
        assert_eq!(seen, ["a", "b", "c", "d", "e"]);
        let mut exact = Page::new(Some("c".to_owned()), 2);
        all.iter().for_each(|name| exact.offer(*name, || ((*name).to_owned(), ())));
        assert_eq!(exact.write(|_, ()| Value::Null).1, None, "the last page has no next one");
    }

    #[test]
    fn a_page_has_a_limit_in_bytes() {
        let mut page = Page::new(None, 3);
        ["a", "b", "c"].iter().for_each(|name| page.offer(*name, || ((*name).to_owned(), ())));
        // The length includes the quotation marks.
        let of_bytes = |bytes: usize| move |_: &String, (): &()| Value::from("x".repeat(bytes - 2));
        let sizes = |bytes| {
            let (rows, next) = page.write(of_bytes(bytes));
            (rows.len(), next.map(String::as_str))
        };
        assert_eq!(sizes(MAX_BYTES / 3), (3, None));
        assert_eq!(sizes(MAX_BYTES / 2), (2, Some("b")));
        assert_eq!(sizes(MAX_BYTES / 2 + 1), (1, Some("a")));
        assert_eq!(sizes(MAX_BYTES + 1), (1, Some("a")), "otherwise the rest could not be reached");
    }

    #[test]
    fn a_limit_has_a_range() {
        let limit = |query: &str| Query::parse(query).unwrap().limit(1000);
        assert_eq!(limit(""), Ok(DEFAULT_ROWS));
        assert_eq!((limit("limit=1"), limit("limit=1000&auth=x&more=y")), (Ok(1), Ok(1000)));
        for wrong in ["limit=0", "limit=1001", "limit=-1", "limit=1.0", "limit=", "limit=many"] {
            assert!(limit(wrong).is_err(), "{wrong}");
        }
        assert!(Query::parse("limit=1&limit=2").is_err());
    }
}
