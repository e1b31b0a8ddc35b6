//! Hands the histories over to the next process on this machine, as an image of all of them.
//!
//! An id promises that no message is missing after it. So the image is made when no message can come any more: the histories
//! are sealed first, and each is taken with its channel locked. A message is then in the image, or it is refused.
//! [`format`](mod@format) has the bytes of an image.

mod format;
#[cfg(any(test, feature = "fuzz"))]
pub(crate) mod fuzz;

use std::fmt;
use std::io::{self, Read, Seek, Write};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::time::{ClockId, clock_gettime};

use self::format::{Reader, Writer};
use super::history::History;
use super::{Channel, Hub};
use crate::frame::Frame;
use crate::message::ChannelName;
use crate::sync::lock;

/// The boot of the kernel under which an image is made or read. Ages are told by a clock that begins with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Boot {
    /// The id of the boot, if it is known.
    pub id: Option<[u8; 16]>,
    /// Where the image is ends with the boot, so that it belongs to this one even if an id is unknown.
    pub ends_with_it: bool,
}

/// What an image has taken.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct HandedOver {
    /// The channels in the image.
    pub channels: usize,
    /// Their messages.
    pub messages: usize,
    /// Channels that found no room within the limit of all histories.
    pub left_out: usize,
}

/// What was taken from an image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TakenOver {
    /// The channels whose history goes on.
    pub channels: usize,
    /// The messages that are still kept.
    pub messages: usize,
    /// The time since the image was made.
    pub since: Duration,
}

/// Why an image cannot be used. `Display` completes the sentence of a log line.
#[derive(Debug)]
pub enum ImageError {
    /// It cannot be read.
    System(io::Error),
    /// It has more bytes than `[history] bytes` allows.
    TooLarge {
        /// Its bytes.
        bytes: u64,
        /// The limit.
        max: u64,
    },
    /// It does not begin as an image does.
    NotAnImage,
    /// Its format has another version than that of this program.
    Version(u32),
    /// It was made before this boot, or that cannot be known.
    OtherBoot,
    /// Its end is missing, or its checksum is wrong.
    Damaged,
    /// Its checksum is right, but it has something that no history has.
    Impossible(&'static str),
}

impl fmt::Display for ImageError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ImageError::System(error) => write!(f, "its image cannot be read: {error}"),
            ImageError::TooLarge { bytes, max } => {
                write!(f, "its image has {bytes} bytes, and [history] bytes allows {max}")
            }
            ImageError::NotAnImage => f.write_str("the file is no image of a history"),
            ImageError::Version(version) => write!(
                f,
                "its image has version {version} of the format, and this philote reads version {}",
                format::VERSION
            ),
            ImageError::OtherBoot => {
                f.write_str("its image was not made since this machine was started, as far as is known")
            }
            ImageError::Damaged => f.write_str("its image is truncated, or its checksum is wrong"),
            ImageError::Impossible(what) => write!(f, "its image has {what}"),
        }
    }
}

impl std::error::Error for ImageError {}

impl From<io::Error> for ImageError {
    fn from(error: io::Error) -> ImageError {
        ImageError::System(error)
    }
}

/// One channel's history in an image. Its messages have consecutive numbers from `dropped + 1` on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct ImagedChannel {
    pub(super) name: ChannelName,
    pub(super) epoch: u64,
    /// The number up to which messages were dropped.
    pub(super) dropped: u64,
    /// How long ago its last reader left.
    pub(super) left: Duration,
    pub(super) entries: Vec<ImagedEntry>,
}

/// Messages of one channel that were published together, with their ids.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct ImagedEntry {
    /// How long ago they were published.
    pub(super) age: Duration,
    pub(super) frame: Frame,
}

/// Returns the time since the machine was started. It is the clock of an `Instant`, and processes can compare it.
fn since_boot() -> Duration {
    let now = clock_gettime(ClockId::Monotonic);
    Duration::new(now.tv_sec.try_into().unwrap_or_default(), now.tv_nsec.try_into().unwrap_or_default())
}

impl Hub {
    /// Returns whether any channel has a history.
    pub fn has_histories(&self) -> bool {
        self.keeping.is_on()
    }

    /// Refuses all later messages to channels with a history, and writes the histories as an image. They are gone then.
    ///
    /// # Errors
    /// The image cannot be written. The histories are gone all the same.
    pub fn hand_over(&self, out: impl Write, boot: &Boot) -> io::Result<HandedOver> {
        self.keeping.seal();
        let (now, made) = (Instant::now(), since_boot());
        let mut writer = Writer::begin(out, boot, made, self.keeping.max_bytes())?;
        let mut handed = HandedOver::default();
        for shard in self.channels.shards() {
            let channels: Vec<Arc<Channel>> = lock(shard).values().cloned().collect();
            for channel in channels {
                let mut readers = lock(&channel.readers);
                let Some(mut history) = readers.history.take() else { continue };
                if !readers.connections.is_empty() {
                    history.left(now);
                }
                drop(readers);
                let Some(imaged) = history.imaged(&channel.name, now) else { continue };
                if writer.add(&imaged)? {
                    handed.channels += 1;
                    handed.messages += imaged.messages();
                } else {
                    handed.left_out += 1;
                }
            }
        }
        writer.end()?;
        Ok(handed)
    }

    /// Goes on with the histories of an image: all of them, or none. No channel may have a history yet.
    ///
    /// # Errors
    /// The image cannot be used. Every history then begins with another epoch, as without an image.
    pub fn take_over(&self, image: impl Read + Seek, boot: &Boot) -> Result<TakenOver, ImageError> {
        let made_by = since_boot();
        let reader = Reader::open(image, boot, made_by, self.keeping.max_bytes())?;
        let since = reader.since();
        let channels = reader.channels()?;
        let mut taken = TakenOver { channels: 0, messages: 0, since };
        let now = Instant::now();
        for imaged in channels {
            if let Some(messages) = self.restore(imaged, since, now) {
                taken.channels += 1;
                taken.messages += messages;
            }
        }
        while self.relieve_history(now, usize::MAX) {}
        Ok(taken)
    }

    /// Gives a channel the history of an image. Returns the number of its messages, or `None` if it keeps none any more.
    fn restore(&self, imaged: ImagedChannel, since: Duration, now: Instant) -> Option<usize> {
        let mut shard = lock(self.channels.shard(imaged.name.as_str()));
        let retention = self.keeping.retention(imaged.name.as_str());
        if !retention.is_on() {
            return None;
        }
        let channel = self.channel_in(&mut shard, imaged.name.as_str());
        let mut readers = lock(&channel.readers);
        drop(shard);
        if readers.history.is_some() {
            return None;
        }
        let mut history = Box::new(History::from_image(&self.keeping, retention, imaged, since, now));
        history.file(&self.ages, &channel, readers.connections.is_empty(), now);
        let messages = history.messages();
        readers.history = Some(history);
        Some(messages)
    }
}

impl ImagedChannel {
    fn messages(&self) -> usize {
        self.entries.iter().map(|entry| entry.frame.messages()).sum()
    }
}
