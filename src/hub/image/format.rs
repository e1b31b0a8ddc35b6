//! The bytes of an image. All numbers are little endian.
//!
//! | part | bytes |
//! | --- | --- |
//! | `philote history\n` | 16 |
//! | version of the format | 4 |
//! | id of the boot, or zeros | 16 |
//! | time at which it was made, in nanoseconds since the boot | 8 |
//! | for each channel: 1, length of its name (2), name, epoch (8), number up to which messages were dropped (8), nanoseconds since its last reader left (8), number of entries (4), and for each entry: nanoseconds since it was published (8), length (4), frames | |
//! | 0 | 1 |
//! | SHA-256 of everything before | 32 |

use std::collections::HashSet;
use std::io::{self, BufReader, BufWriter, Read, Seek, SeekFrom, Take, Write};
use std::time::Duration;

use aws_lc_rs::digest::{Context, SHA256, SHA256_OUTPUT_LEN};

use super::{Boot, ImageError, ImagedChannel, ImagedEntry};
use crate::frame::Frame;
use crate::message::ChannelName;

/// The version of the format. A change of the format, or of what a frame contains, changes it.
pub(super) const VERSION: u32 = 1;

const MAGIC: &[u8; 16] = b"philote history\n";
const HEADER_BYTES: usize = MAGIC.len() + 4 + 16 + 8;
/// The bytes after the last channel.
const END_BYTES: usize = 1 + SHA256_OUTPUT_LEN;
/// The bytes of a channel without its name and entries, and of an entry without its frames. A history counts more for both,
/// so that an image of all histories has no more bytes than they are counted for.
const CHANNEL_BYTES: usize = 1 + 2 + 8 + 8 + 8 + 4;
const ENTRY_BYTES: usize = 8 + 4;

const CHANNEL: u8 = 1;
const END: u8 = 0;

/// The bytes that are read and written at once.
const BUFFER_BYTES: usize = 64 * 1024;

/// The longest name in an image, in bytes: the most that `[limits] channel_name_bytes` may be.
const MAX_NAME_BYTES: usize = 4096;

/// No history reaches this number: a message every nanosecond for 292 years.
const MAX_NUMBER: u64 = i64::MAX as u64;

/// Writes an image.
pub(super) struct Writer<W: Write> {
    out: BufWriter<Hashed<W>>,
    /// The bytes that channels may still take.
    left: usize,
}

/// Passes bytes on, and computes their checksum.
struct Hashed<W> {
    out: W,
    sum: Context,
}

impl<W: Write> Write for Hashed<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.out.write(bytes)?;
        self.sum.update(&bytes[..written]);
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}

impl<W: Write> Writer<W> {
    /// Begins an image of at most `max` bytes.
    pub(super) fn begin(out: W, boot: &Boot, made: Duration, max: usize) -> io::Result<Writer<W>> {
        let mut out = BufWriter::with_capacity(BUFFER_BYTES, Hashed { out, sum: Context::new(&SHA256) });
        out.write_all(MAGIC)?;
        out.write_all(&VERSION.to_le_bytes())?;
        out.write_all(&boot.id.unwrap_or_default())?;
        out.write_all(&nanoseconds(made).to_le_bytes())?;
        Ok(Writer { out, left: max.saturating_sub(HEADER_BYTES + END_BYTES) })
    }

    /// Adds a channel. Returns false if there is no room for it.
    pub(super) fn add(&mut self, channel: &ImagedChannel) -> io::Result<bool> {
        let name = channel.name.as_str();
        let entries = channel.entries.iter().map(|entry| ENTRY_BYTES + entry.frame.len());
        let bytes = CHANNEL_BYTES + name.len() + entries.sum::<usize>();
        let (Ok(length), Ok(count)) = (u16::try_from(name.len()), u32::try_from(channel.entries.len()))
        else {
            return Ok(false);
        };
        if bytes > self.left {
            return Ok(false);
        }
        self.left -= bytes;
        self.out.write_all(&[CHANNEL])?;
        self.out.write_all(&length.to_le_bytes())?;
        self.out.write_all(name.as_bytes())?;
        for number in [channel.epoch, channel.dropped, nanoseconds(channel.left)] {
            self.out.write_all(&number.to_le_bytes())?;
        }
        self.out.write_all(&count.to_le_bytes())?;
        for ImagedEntry { age, frame } in &channel.entries {
            self.out.write_all(&nanoseconds(*age).to_le_bytes())?;
            self.out.write_all(&(frame.len() as u32).to_le_bytes())?;
            self.out.write_all(frame)?;
        }
        Ok(true)
    }

    /// Ends the image.
    pub(super) fn end(mut self) -> io::Result<()> {
        self.out.write_all(&[END])?;
        let Hashed { mut out, sum } = self.out.into_inner().map_err(io::IntoInnerError::into_error)?;
        out.write_all(sum.finish().as_ref())?;
        out.flush()
    }
}

/// Reads an image whose checksum is right.
pub(super) struct Reader<R: Read> {
    from: Take<BufReader<R>>,
    since: Duration,
}

impl<R: Read + Seek> Reader<R> {
    /// Checks all that is known without the channels. `now` is the time since the boot.
    pub(super) fn open(mut from: R, boot: &Boot, now: Duration, max: usize) -> Result<Reader<R>, ImageError> {
        let bytes = from.seek(SeekFrom::End(0))?;
        let max = max as u64;
        if bytes > max {
            return Err(ImageError::TooLarge { bytes, max });
        }
        from.rewind()?;
        let mut header = [0; HEADER_BYTES];
        let body = bytes.checked_sub((HEADER_BYTES + END_BYTES) as u64);
        if body.is_some() {
            from.read_exact(&mut header)?;
        }
        let (magic, rest) = header.split_at(MAGIC.len());
        let (version, rest) = rest.split_at(4);
        let (made_in, made) = rest.split_at(16);
        let Some(body) = body else { return Err(ImageError::Damaged) };
        if magic != MAGIC {
            return Err(ImageError::NotAnImage);
        }
        let version = u32::from_le_bytes(version.try_into().unwrap_or_default());
        if version != VERSION {
            return Err(ImageError::Version(version));
        }
        // Before the checksum, because it is the reason that tells more.
        let made = Duration::from_nanos(u64::from_le_bytes(made.try_into().unwrap_or_default()));
        let since = now.checked_sub(made).filter(|_| is_of(made_in, boot)).ok_or(ImageError::OtherBoot)?;
        from.rewind()?;
        let mut from = BufReader::with_capacity(BUFFER_BYTES, from);
        if !has_right_sum(&mut from, bytes)? {
            return Err(ImageError::Damaged);
        }
        from.seek(SeekFrom::Start(HEADER_BYTES as u64))?;
        Ok(Reader { from: from.take(body + 1), since })
    }

    /// Returns the time since it was made.
    pub(super) fn since(&self) -> Duration {
        self.since
    }

    /// Reads all channels.
    pub(super) fn channels(mut self) -> Result<Vec<ImagedChannel>, ImageError> {
        let mut channels: Vec<ImagedChannel> = Vec::new();
        let mut names = HashSet::new();
        loop {
            match self.array()? {
                [END] if self.from.limit() == 0 => return Ok(channels),
                [CHANNEL] => {}
                _ => return Err(ImageError::Impossible("no channel where one begins")),
            }
            let channel = self.channel()?;
            if !names.insert(channel.name.clone()) {
                return Err(ImageError::Impossible("a channel twice"));
            }
            channels.push(channel);
        }
    }

    fn channel(&mut self) -> Result<ImagedChannel, ImageError> {
        let length = u16::from_le_bytes(self.array()?);
        let name = String::from_utf8(self.bytes(length.into())?).ok();
        let name = name.and_then(|name| ChannelName::new(&name, MAX_NAME_BYTES).ok());
        let name = name.ok_or(ImageError::Impossible("a name that no channel can have"))?;
        let [epoch, dropped, left] = [self.number()?, self.number()?, self.number()?];
        let count = u32::from_le_bytes(self.array()?);
        // Memory is taken for what was read, and not for a number.
        let (mut entries, mut last) = (Vec::new(), dropped);
        for _ in 0..count {
            let age = Duration::from_nanos(self.number()?);
            let length = u32::from_le_bytes(self.array()?);
            let frame = Frame::checked(&self.bytes(length as usize)?);
            let frame = frame.ok_or(ImageError::Impossible("a message that is no frame"))?;
            last = last.saturating_add(frame.messages() as u64);
            entries.push(ImagedEntry { age, frame });
        }
        if epoch == 0 || last > MAX_NUMBER {
            return Err(ImageError::Impossible("an id that no message can have"));
        }
        Ok(ImagedChannel { name, epoch, dropped, left: Duration::from_nanos(left), entries })
    }

    fn number(&mut self) -> Result<u64, ImageError> {
        self.array().map(u64::from_le_bytes)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], ImageError> {
        let mut array = [0; N];
        self.fill(&mut array)?;
        Ok(array)
    }

    fn bytes(&mut self, length: usize) -> Result<Vec<u8>, ImageError> {
        if length as u64 > self.from.limit() {
            return Err(TOO_SHORT);
        }
        let mut bytes = vec![0; length];
        self.fill(&mut bytes)?;
        Ok(bytes)
    }

    fn fill(&mut self, bytes: &mut [u8]) -> Result<(), ImageError> {
        if bytes.len() as u64 > self.from.limit() {
            return Err(TOO_SHORT);
        }
        Ok(self.from.read_exact(bytes)?)
    }
}

const TOO_SHORT: ImageError = ImageError::Impossible("an end within a channel");

/// Returns whether an image with this id of a boot was made in this one.
fn is_of(made_in: &[u8], boot: &Boot) -> bool {
    match boot.id {
        Some(id) if made_in != [0; 16] => made_in == id,
        _ => boot.ends_with_it,
    }
}

/// Returns whether the last bytes are the checksum of those before.
fn has_right_sum(from: &mut impl Read, bytes: u64) -> io::Result<bool> {
    let mut sum = Context::new(&SHA256);
    let mut left = bytes - SHA256_OUTPUT_LEN as u64;
    let mut buffer = vec![0; BUFFER_BYTES];
    while left > 0 {
        let at_once = left.min(BUFFER_BYTES as u64) as usize;
        from.read_exact(&mut buffer[..at_once])?;
        sum.update(&buffer[..at_once]);
        left -= at_once as u64;
    }
    let mut expected = [0; SHA256_OUTPUT_LEN];
    from.read_exact(&mut expected)?;
    Ok(sum.finish().as_ref() == expected)
}

fn nanoseconds(time: Duration) -> u64 {
    time.as_nanos().try_into().unwrap_or(u64::MAX)
}
