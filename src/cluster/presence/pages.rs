//! Divides what is to be told into messages that NATS takes.

use serde_json::value::RawValue;

use super::wire::{Body, Part};
use crate::cluster::wire::NodeId;
use crate::hub::{Told, ToldSubject};
use crate::message::ChannelName;

/// Bytes that a message takes without its lists.
const BODY_BYTES: usize = 256;

/// Bytes that an entry of a list takes beside its texts.
const ENTRY_BYTES: usize = 64;

/// Messages in the making.
pub(super) struct Pages<'a> {
    node: &'a str,
    /// The most bytes of a message.
    room: usize,
    bytes: usize,
    /// The number of the last message.
    number: &'a mut u64,
    body: Body,
    is_empty: bool,
    done: Vec<Body>,
}

impl<'a> Pages<'a> {
    /// Begins. `number` is that of the last message so far. If `begins`, there is a message even if it is empty.
    pub(super) fn new(node: &'a str, room: usize, begins: bool, number: &'a mut u64) -> Pages<'a> {
        let body = Body { begins, ..Body::default() };
        Pages { node, room, bytes: BODY_BYTES, number, body, is_empty: !begins, done: Vec::new() }
    }

    /// Has a node tell everything again.
    pub(super) fn ask(&mut self, node: &NodeId) {
        let node = node.to_string();
        if self.make_room(node.len()) {
            self.body.again.push(node);
        }
    }

    pub(super) fn follow(&mut self, name: &ChannelName, follow: bool) {
        if self.make_room(length(name.as_str())) {
            let list = if follow { &mut self.body.follows } else { &mut self.body.unfollows };
            list.push(name.as_str().to_owned());
        }
    }

    pub(super) fn tell(&mut self, name: &ChannelName, told: Told) {
        let part = |whole| Part {
            channel: name.as_str().to_owned(),
            whole,
            anonymous: told.anonymous,
            ..Part::default()
        };
        let part_bytes = length(name.as_str());
        if !self.make_room(part_bytes) {
            return;
        }
        let mut open = part(told.whole);
        for ToldSubject { subject, connections, info } in told.subjects {
            let bytes = length(&subject) + info.as_ref().map_or(0, |info| info.len());
            if BODY_BYTES + part_bytes + bytes + 2 * ENTRY_BYTES > self.room {
                continue;
            }
            if !self.fits(bytes) {
                let mut full = std::mem::replace(&mut open, part(false));
                full.more = told.whole;
                self.body.channels.push(full);
                self.turn();
                self.make_room(part_bytes);
            }
            self.make_room(bytes);
            // It was the claim of a token, or of another node.
            let info = info.and_then(|info| RawValue::from_string(info.to_string()).ok());
            open.subjects.push((subject.to_string(), connections, info));
        }
        self.body.channels.push(open);
    }

    fn fits(&self, bytes: usize) -> bool {
        self.bytes + bytes + ENTRY_BYTES <= self.room
    }

    /// Takes room for an entry, in the next message if this one is full. Returns false for one that no message takes, and
    /// that is left out: NATS would end the link.
    fn make_room(&mut self, bytes: usize) -> bool {
        if BODY_BYTES + bytes + ENTRY_BYTES > self.room {
            return false;
        }
        if !self.fits(bytes) {
            self.turn();
        }
        self.bytes += bytes + ENTRY_BYTES;
        self.is_empty = false;
        true
    }

    fn turn(&mut self) {
        *self.number += 1;
        let body = std::mem::take(&mut self.body);
        self.done.push(Body { node: self.node.to_owned(), number: *self.number, ..body });
        (self.bytes, self.is_empty) = (BODY_BYTES, true);
    }

    /// Returns the messages.
    pub(super) fn end(mut self) -> Vec<Body> {
        if !self.is_empty {
            self.turn();
        }
        self.done
    }
}

/// Returns the length of a text in JSON.
fn length(text: &str) -> usize {
    serde_json::to_string(text).map_or(0, |text| text.len())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::sync::Arc;

    use super::*;

    fn told(names: impl Iterator<Item = String>, whole: bool) -> Told {
        let subject = |name: String| ToldSubject {
            info: Some(Arc::from(format!("{{\"name\":{}}}", serde_json::to_string(&name).unwrap()))),
            subject: Arc::from(name),
            connections: 2,
        };
        Told { whole, more: false, subjects: names.map(subject).collect(), anonymous: 3 }
    }

    #[test]
    fn messages_have_at_most_the_bytes_that_nats_takes_and_lose_nothing() {
        let hostile = "\u{1}\"\\\u{fffd}".repeat(12);
        for room in [1_000, 3_000, 20_000] {
            let mut number = 7;
            let mut pages = Pages::new("node@0000000000000001", room, true, &mut number);
            let names: Vec<String> = (0..200).map(|number| format!("{number}{hostile}")).collect();
            names.iter().for_each(|name| pages.follow(&ChannelName::checked(name), true));
            pages.follow(&ChannelName::checked("ended"), false);
            pages.tell(&ChannelName::checked("hall"), told(names.iter().cloned(), true));
            pages.tell(&ChannelName::checked("empty"), told(std::iter::empty(), true));
            let bodies = pages.end();
            assert_eq!(number, 7 + bodies.len() as u64);
            let (mut follows, mut hall, mut open) = (Vec::new(), BTreeMap::new(), false);
            for (at, body) in bodies.iter().enumerate() {
                let bytes = body.encode();
                assert!(bytes.len() <= room, "{} of {room}", bytes.len());
                let (_, body) = Body::parse(&bytes).unwrap();
                assert_eq!((body.number, body.begins), (8 + at as u64, at == 0));
                follows.extend(body.follows);
                for part in body.channels.iter().filter(|part| part.channel == "hall") {
                    assert_eq!(part.whole, !open, "only the first page begins");
                    open = part.more;
                    part.subjects.iter().for_each(|(name, count, _)| _ = hall.insert(name.clone(), *count));
                }
            }
            assert!(!open, "the last page ends it");
            assert_eq!(follows, names);
            assert_eq!(hall, names.iter().map(|name| (name.clone(), 2)).collect());
        }
    }

    #[test]
    fn what_no_message_takes_is_left_out() {
        let mut number = 0;
        let mut pages = Pages::new("node@0000000000000001", 600, false, &mut number);
        pages.follow(&ChannelName::checked(&"x".repeat(700)), true);
        pages.tell(&ChannelName::checked("c"), told(["y".repeat(255), "z".to_owned()].into_iter(), false));
        let bodies = pages.end();
        assert_eq!(bodies.len(), 1);
        assert!(bodies[0].follows.is_empty());
        assert_eq!(bodies[0].channels[0].subjects.len(), 1);
        let pages = Pages::new("node@0000000000000001", 600, false, &mut number);
        assert!(pages.end().is_empty(), "nothing is told where there is nothing");
    }
}
