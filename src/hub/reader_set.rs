//! The connections that read a channel.

use std::sync::Arc;

use hashbrown::HashTable;
use hashbrown::hash_table::Entry;

use super::Connection;

/// The most readers that are searched one by one. An index of more pays, but takes more memory.
const FEW: usize = 16;

/// The connections that read a channel. A publish visits all of them, and one that leaves is found quickly.
pub(super) enum ReaderSet {
    /// At most [`FEW`].
    Few(Vec<Arc<Connection>>),
    /// Any number.
    Many(Box<Indexed>),
}

/// Connections that are found by their ids.
#[derive(Default)]
pub(super) struct Indexed {
    readers: Vec<Arc<Connection>>,
    /// The position of each among them.
    positions: HashTable<u32>,
}

impl Default for ReaderSet {
    fn default() -> ReaderSet {
        ReaderSet::Few(Vec::new())
    }
}

impl ReaderSet {
    /// Returns the readers, which lie side by side.
    fn as_slice(&self) -> &[Arc<Connection>] {
        match self {
            ReaderSet::Few(readers) => readers,
            ReaderSet::Many(many) => &many.readers,
        }
    }

    pub(super) fn iter(&self) -> std::slice::Iter<'_, Arc<Connection>> {
        self.as_slice().iter()
    }

    pub(super) fn len(&self) -> usize {
        self.as_slice().len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.as_slice().is_empty()
    }

    #[cfg(test)]
    pub(super) fn capacity(&self) -> usize {
        match self {
            ReaderSet::Few(readers) => readers.capacity(),
            ReaderSet::Many(many) => many.readers.capacity().max(many.positions.capacity()),
        }
    }

    pub(super) fn contains(&self, connection: &Connection) -> bool {
        match self {
            ReaderSet::Few(readers) => find(readers, connection).is_some(),
            ReaderSet::Many(many) => {
                many.positions.find(hash(connection), |&at| many.is_at(at, connection)).is_some()
            }
        }
    }

    /// Adds a connection, unless it is there.
    pub(super) fn insert(&mut self, connection: Arc<Connection>) {
        match self {
            ReaderSet::Few(readers) if find(readers, &connection).is_some() => {}
            ReaderSet::Few(readers) if readers.len() < FEW => readers.push(connection),
            ReaderSet::Few(readers) => {
                let mut many = Indexed::default();
                readers.drain(..).chain([connection]).for_each(|reader| many.insert(reader));
                *self = ReaderSet::Many(Box::new(many));
            }
            ReaderSet::Many(many) => many.insert(connection),
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
            ReaderSet::Many(many) => {
                many.remove(connection);
                if many.readers.len() < FEW / 2 {
                    *self = ReaderSet::Few(many.readers.drain(..).collect());
                }
            }
        }
    }
}

impl Indexed {
    fn is_at(&self, at: u32, connection: &Connection) -> bool {
        std::ptr::eq(&*self.readers[at as usize], connection)
    }

    fn insert(&mut self, connection: Arc<Connection>) {
        let Indexed { readers, positions } = self;
        let is_it = |at: &u32| Arc::ptr_eq(&readers[*at as usize], &connection);
        let hash_at = |at: &u32| hash(&readers[*at as usize]);
        if let Entry::Vacant(position) = positions.entry(hash(&connection), is_it, hash_at) {
            position.insert(readers.len() as u32);
            readers.push(connection);
        }
    }

    /// Removes a connection. The last one takes its position.
    fn remove(&mut self, connection: &Connection) {
        let Indexed { readers, positions } = self;
        let is_it = |at: &u32| std::ptr::eq(&*readers[*at as usize], connection);
        let Ok(found) = positions.find_entry(hash(connection), is_it) else { return };
        let (at, _) = found.remove();
        let last = readers.len() as u32 - 1;
        if at != last
            && let Some(position) = positions.find_mut(hash(&readers[last as usize]), |of| *of == last)
        {
            *position = at;
        }
        readers.swap_remove(at as usize);
        if readers.len() < readers.capacity() / 8 {
            readers.shrink_to(readers.len() * 2);
            positions.shrink_to(readers.len() * 2, |at| hash(&readers[*at as usize]));
        }
    }
}

/// Returns the hash of a connection: a half of its id, which is random but for the bits that the other half makes random.
fn hash(connection: &Connection) -> u64 {
    let (high, low) = connection.id().as_u64_pair();
    high ^ low
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
