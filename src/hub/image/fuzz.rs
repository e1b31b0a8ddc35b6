//! Images of any bytes: none makes the hub panic, and one that is taken is the image of histories that go on.

#![allow(clippy::unwrap_used, reason = "a failure is a finding")]

use std::io::Cursor;
use std::sync::Arc;
use std::time::Duration;

use aws_lc_rs::digest::{SHA256, digest};

use super::Boot;
use crate::hub::{FlushList, Hub};
use crate::message::Delivery;
use crate::outbox::Budget;
use crate::sync::lock;

const BOOT: Boot = Boot { id: Some(*b"this boot's name"), ends_with_it: true };

/// The bytes that all histories may hold.
const MAX_BYTES: usize = 1 << 20;

fn hub() -> Hub {
    let hub = Hub::new(Arc::new(Budget::new(64, 1 << 16, 1 << 20, 0)));
    hub.keep(8, Duration::from_secs(3_600), MAX_BYTES);
    hub
}

/// Appends the checksum that is right.
pub(crate) fn with_sum(mut image: Vec<u8>) -> Vec<u8> {
    let sum = digest(&SHA256, &image);
    image.extend_from_slice(sum.as_ref());
    image
}

/// An image as it comes; with a checksum that is right; or channels, with all else that is right.
pub(crate) fn image(data: &[u8]) {
    let Some((mode, data)) = data.split_first() else { return };
    let image = match mode % 3 {
        0 => data.to_vec(),
        1 => with_sum(data.to_vec()),
        _ => {
            let mut image = b"philote history\n\x01\0\0\0this boot's name\0\0\0\0\0\0\0\0".to_vec();
            image.extend_from_slice(data);
            image.push(0);
            with_sum(image)
        }
    };
    let first = hub();
    let Ok(taken) = first.take_over(Cursor::new(&image), &BOOT) else {
        assert_eq!(first.history_bytes(), 0, "all or nothing");
        return;
    };
    assert!(first.history_bytes() <= MAX_BYTES);
    let mut image = Vec::new();
    let handed = first.hand_over(&mut image, &BOOT).unwrap();
    assert_eq!((handed.channels, handed.left_out), (taken.channels, 0));
    let second = hub();
    let again = second.take_over(Cursor::new(&image), &BOOT).unwrap();
    // A message may have expired in between.
    assert!(again.channels == handed.channels && again.messages <= handed.messages);
    let names =
        second.channels.shards().iter().flat_map(|shard| lock(shard).keys().cloned().collect::<Vec<_>>());
    for name in names {
        let before = second.position(&name).unwrap();
        let delivery = Delivery { issuer: "i", channel: name.as_str(), data: None, subject: None };
        let queued = second.publish_except(&delivery, &[], &mut FlushList::new());
        let last = queued.last.unwrap();
        assert_eq!((last.epoch, last.number), (before.epoch, before.number + 1));
    }
}
