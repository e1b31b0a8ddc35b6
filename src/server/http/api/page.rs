//! Lists in pages: some rows in order, and where the next page begins.

use std::borrow::Borrow;
use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::Value;

use crate::server::rejection::Rejection;

/// Rows of a page when nobody says how many.
const DEFAULT_ROWS: usize = 100;

/// The most bytes of a page's rows, except that there is always one.
const MAX_BYTES: usize = 256 * 1024;

/// What is asked of a list, in a URL. Parameters that no list has, such as `auth`, are not looked at.
#[derive(Debug, Default, Deserialize)]
pub(crate) struct Query {
    limit: Option<String>,
    /// `next` of the page before.
    pub(crate) after: Option<String>,
    /// Only names that begin so.
    pub(crate) prefix: Option<String>,
    /// Whose connections.
    pub(crate) subject: Option<String>,
}

impl Query {
    pub(crate) fn parse(query: &str) -> Result<Query, Rejection> {
        serde_urlencoded::from_str(query)
            .map_err(|error| Rejection::BadParameter(format!("the query of the URL: {error}")))
    }

    /// Rows of the page, at most `max`.
    pub(crate) fn limit(&self, max: usize) -> Result<usize, Rejection> {
        let Some(limit) = &self.limit else { return Ok(DEFAULT_ROWS.min(max)) };
        let wrong = || Rejection::BadParameter(format!("limit must be a number from 1 to {max}"));
        limit.parse().ok().filter(|limit| (1..=max).contains(limit)).ok_or_else(wrong)
    }
}

/// The first rows behind a place in a list, kept in room for `limit` of them while all are looked at.
pub(crate) struct Page<K, V> {
    after: Option<K>,
    limit: usize,
    rows: BTreeMap<K, V>,
    /// Something was left out.
    more: bool,
}

impl<K: Ord, V> Page<K, V> {
    pub(crate) fn new(after: Option<K>, limit: usize) -> Page<K, V> {
        Page { after, limit, rows: BTreeMap::new(), more: false }
    }

    /// Looks at a row, and makes it if it is among the first so far.
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

    /// The rows' keys.
    pub(crate) fn keys(&self) -> impl Iterator<Item = &K> {
        self.rows.keys()
    }

    /// Writes the rows, as many as [`MAX_BYTES`] let; and what `after` is to be for the next page, `None` where there is
    /// none.
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
    fn pages_follow_one_another_to_the_end() {
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
        assert_eq!(exact.write(|_, ()| Value::Null).1, None, "the last page knows that it is the last");
    }

    #[test]
    fn a_page_ends_before_it_grows_too_long() {
        let mut page = Page::new(None, 3);
        ["a", "b", "c"].iter().for_each(|name| page.offer(*name, || ((*name).to_owned(), ())));
        // With its quotes.
        let of_bytes = |bytes: usize| move |_: &String, (): &()| Value::from("x".repeat(bytes - 2));
        let sizes = |bytes| {
            let (rows, next) = page.write(of_bytes(bytes));
            (rows.len(), next.map(String::as_str))
        };
        assert_eq!(sizes(MAX_BYTES / 3), (3, None));
        assert_eq!(sizes(MAX_BYTES / 2), (2, Some("b")));
        assert_eq!(sizes(MAX_BYTES / 2 + 1), (1, Some("a")));
        assert_eq!(sizes(MAX_BYTES + 1), (1, Some("a")), "or the rest would never be seen");
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
