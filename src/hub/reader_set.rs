//! The connections that read a channel.

use std::sync::Arc;

use indexmap::IndexSet;

use super::Connection;

/// The most readers that are searched one by one. An index of more pays, but takes five times the memory.
const FEW: usize = 16;

/// The connections that read a channel. A publish visits all of them, and one that leaves is found quickly.
pub(super) enum ReaderSet {
    /// At most [`FEW`].
    Few(Vec<Arc<Connection>>),
    /// Any number, found by their hashes.
    Many(Box<IndexSet<Arc<Connection>>>),
}

impl Default for ReaderSet {
    fn default() -> ReaderSet {
        ReaderSet::Few(Vec::new())
    }
}

impl ReaderSet {
    pub(super) fn len(&self) -> usize {
        match self {
            ReaderSet::Few(readers) => readers.len(),
            ReaderSet::Many(readers) => readers.len(),
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.len() == 0
    }

    #[cfg(test)]
    pub(super) fn capacity(&self) -> usize {
        match self {
            ReaderSet::Few(readers) => readers.capacity(),
            ReaderSet::Many(readers) => readers.capacity(),
        }
    }

    pub(super) fn contains(&self, connection: &Connection) -> bool {
        match self {
            ReaderSet::Few(readers) => find(readers, connection).is_some(),
            ReaderSet::Many(readers) => readers.contains(connection),
        }
    }

    /// Adds a connection, unless it is there.
    pub(super) fn insert(&mut self, connection: Arc<Connection>) {
        match self {
            ReaderSet::Few(readers) if find(readers, &connection).is_some() => {}
            ReaderSet::Few(readers) if readers.len() < FEW => readers.push(connection),
            ReaderSet::Few(readers) => {
                *self = ReaderSet::Many(Box::new(readers.drain(..).chain([connection]).collect()));
            }
            ReaderSet::Many(readers) => {
                readers.insert(connection);
            }
        }
    }

    /// Removes a connection, and frees memory that only many more readers needed.
    pub(super) fn remove(&mut self, connection: &Connection) {
        match self {
            ReaderSet::Few(readers) => {
                if let Some(at) = find(readers, connection) {
                    readers.swap_remove(at);
                }
            }
            ReaderSet::Many(readers) => {
                readers.swap_remove(connection);
                if readers.len() < FEW / 2 {
                    *self = ReaderSet::Few(readers.drain(..).collect());
                } else if readers.len() < readers.capacity() / 8 {
                    readers.shrink_to(readers.len() * 2);
                }
            }
        }
    }

    /// Returns the readers. `for_each` on it is the fastest way to visit all of them.
    pub(super) fn iter(&self) -> impl Iterator<Item = &Arc<Connection>> {
        let (few, many) = match self {
            ReaderSet::Few(readers) => (readers.as_slice(), None),
            ReaderSet::Many(readers) => (&[][..], Some(readers.iter())),
        };
        few.iter().chain(many.into_iter().flatten())
    }
}

/// Returns the position of a reader. It compares addresses, so that it looks at no other reader's memory.
fn find(readers: &[Arc<Connection>], connection: &Connection) -> Option<usize> {
    readers.iter().position(|reader| std::ptr::eq(&**reader, connection))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;
    use crate::outbox::Budget;
    use crate::token::Claims;

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn a_set_holds_each_reader_once_at_any_size(
            steps in proptest::collection::vec((any::<bool>(), 0..3 * FEW), 0..200),
            most in 1..3 * FEW,
        ) {
            let budget = Arc::new(Budget::new(1, 1, 1, 0));
            let connect = |_| {
                let claims = Arc::new(Claims::nobody());
                Arc::new(Connection::new(([127, 0, 0, 1], 1).into(), claims, budget.clone(), 0))
            };
            let all: Vec<_> = (0..3 * FEW).map(connect).collect();
            let (mut set, mut expected) = (ReaderSet::default(), BTreeSet::new());
            // First grows to a size, and then changes.
            let steps = (0..most).map(|which| (true, which)).chain(steps);
            for (joins, which) in steps {
                if joins {
                    set.insert(all[which].clone());
                    expected.insert(which);
                } else {
                    set.remove(&all[which]);
                    expected.remove(&which);
                }
                prop_assert_eq!((set.len(), set.is_empty()), (expected.len(), expected.is_empty()));
                prop_assert_eq!(set.contains(&all[which]), joins);
                prop_assert_eq!(set.iter().count(), expected.len());
                prop_assert!(expected.iter().all(|which| set.iter().any(|reader| Arc::ptr_eq(reader, &all[*which]))));
            }
            for which in expected {
                set.remove(&all[which]);
            }
            prop_assert!(matches!(set, ReaderSet::Few(_)), "an index of many is given up");
        }
    }
}
