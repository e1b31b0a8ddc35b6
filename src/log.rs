//! The log. A separate thread writes tracing's records to the journal, as text or as JSON.
//!
//! The message of a record contains everything that matters, because `journalctl` shows only the message; fields repeat
//! it for programs. The text format therefore shows fields only for records of other crates. A record is always one
//! line.

use std::fmt;
use std::io;
use std::panic::PanicHookInfo;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tracing::dispatcher::{self, Dispatch, WeakDispatch};
use tracing::level_filters::LevelFilter;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::{Registry, reload};

mod closed_record;
mod connections;
mod queue;
mod record;
mod sink;
#[cfg(test)]
pub(crate) mod tests;

pub use closed_record::{ClosedPlace, ClosedRecord};
pub use connections::{ConnectionLog, FULL_LINES, MAX_LOGGED_SUBJECT_BYTES, Opened, WINDOW};
pub use queue::QUEUE_RECORDS;
pub use record::MAX_TEXT_BYTES;

use queue::{Queue, QueueLayer};
use sink::Sink;

/// The target of this crate and its binaries, whose records follow the configured level.
const OWN_TARGET: &str = "philote";

/// The client of NATS. It logs an error at each attempt to connect, and that it gives up, while the cluster tries again and
/// logs each change itself.
const NATS_TARGET: &str = "async_nats";

/// How long a panicking main thread waits for the log to be written, because the process ends with it.
const PANIC_FLUSH: Duration = Duration::from_secs(1);

static PANICS: AtomicU64 = AtomicU64::new(0);

/// The format of the log.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Format {
    /// The journal if standard error is connected to it, otherwise text.
    #[default]
    Auto,
    /// Text on standard error, with colours on a terminal unless `NO_COLOR` is set.
    Text,
    /// One JSON object per line on standard error.
    Json,
    /// The journal's socket, with fields; text if the journal cannot be reached.
    Journald,
}

impl Format {
    /// Replaces `Auto` with a definite format. `JOURNAL_STREAM` must name the file of standard error, because a child
    /// process inherits the variable even if its standard error goes elsewhere.
    fn resolve(self, journal_stream: Option<&str>, stderr: Option<(u64, u64)>) -> Format {
        let stderr = stderr.map(|(device, inode)| format!("{device}:{inode}"));
        match self {
            Format::Auto if stderr.is_some() && journal_stream == stderr.as_deref() => Format::Journald,
            Format::Auto => Format::Text,
            chosen => chosen,
        }
    }
}

/// Why the log could not be started.
#[derive(Debug)]
pub enum LogError {
    /// [`init`] was called before, or tracing has another subscriber.
    AlreadyStarted,
    /// The thread could not be created.
    Thread(io::Error),
}

impl fmt::Display for LogError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            LogError::AlreadyStarted => f.write_str("the log of this process was already started"),
            LogError::Thread(error) => write!(f, "cannot start the thread that writes the log: {error}"),
        }
    }
}

impl std::error::Error for LogError {}

/// A handle to the running log. All clones refer to the same log.
#[derive(Clone)]
pub struct LogHandle {
    queue: Arc<Queue>,
    filter: reload::Handle<Targets, Registry>,
}

impl fmt::Debug for LogHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LogHandle").field("level", &self.level()).finish_non_exhaustive()
    }
}

impl LogHandle {
    /// Changes the level. Records of other crates are limited to warnings and errors, because below that some of them
    /// contain what clients sent. Those of the client of NATS are written only from debug downwards.
    pub fn set_level(&self, level: LevelFilter) {
        // It fails only if the subscriber is gone.
        let _ = self.filter.reload(targets(level));
    }

    /// Returns the current level.
    pub fn level(&self) -> LevelFilter {
        let own = |targets: &Targets| {
            let mut levels = targets.iter();
            levels.find_map(|(target, level)| (target == OWN_TARGET).then_some(level))
        };
        self.filter.with_current(own).ok().flatten().unwrap_or(LevelFilter::OFF)
    }

    /// Returns how many records were dropped since the start, because they came too fast or writing failed.
    pub fn dropped(&self) -> u64 {
        self.queue.dropped()
    }

    /// Waits at most `deadline` until all records are written. Returns false if some are not.
    pub fn flush(&self, deadline: Duration) -> bool {
        self.queue.flush(deadline)
    }
}

/// Returns the number of panics in this process since [`init`].
pub fn panics() -> u64 {
    PANICS.load(Ordering::Relaxed)
}

/// Starts the log of this process, which also logs panics.
///
/// # Errors
/// A log was started before, or the thread could not be created. A missing journald is not an error.
pub fn init(format: Format, level: LevelFilter) -> Result<LogHandle, LogError> {
    let stderr = rustix::fs::fstat(io::stderr()).ok();
    let journal_stream = std::env::var("JOURNAL_STREAM").ok();
    let format = format.resolve(journal_stream.as_deref(), stderr.map(|stat| (stat.st_dev, stat.st_ino)));
    let (dispatch, handle) = start(level, move || Sink::open(format)).map_err(LogError::Thread)?;
    dispatcher::set_global_default(dispatch).map_err(|_| LogError::AlreadyStarted)?;
    let log = handle.clone();
    std::panic::set_hook(Box::new(move |panic| log_panic(panic, &log)));
    Ok(handle)
}

/// Creates a log that writes to the result of `open`, which is called on the writer's thread because it may block.
fn start(
    level: LevelFilter,
    open: impl FnOnce() -> io::Result<Sink> + Send + 'static,
) -> io::Result<(Dispatch, LogHandle)> {
    let queue = Arc::new(Queue::default());
    let (filter, handle) = reload::Layer::new(targets(level));
    let subscriber = tracing_subscriber::registry().with(filter).with(QueueLayer(queue.clone()));
    let dispatch = Dispatch::new(subscriber);
    let (records, own_log) = (queue.clone(), dispatch.downgrade());
    std::thread::Builder::new()
        .name("philote-log".to_owned())
        .spawn(move || write_all(&records, &own_log, open))?;
    Ok((dispatch, LogHandle { queue, filter: handle }))
}

/// Runs the writer's thread. Its own records go through the queue like all others.
fn write_all(queue: &Queue, own_log: &WeakDispatch, open: impl FnOnce() -> io::Result<Sink>) {
    let say = |log: &dyn Fn()| {
        if let Some(own_log) = own_log.upgrade() {
            dispatcher::with_default(&own_log, log);
        }
    };
    let mut sink = open().unwrap_or_else(|error| {
        say(&|| tracing::warn!("cannot connect to the journal ({error}): logging to standard error"));
        Sink::text()
    });
    while let Some(record) = queue.next() {
        if sink.write(&record).is_err() {
            queue.count_dropped();
        } else if let Some((dropped, total)) = queue.take_dropped() {
            let count = connections::grouped(dropped);
            say(&|| tracing::warn!(dropped, total, "the log could not keep up: {count} records dropped"));
        }
    }
}

/// Returns the filter: our own records from `level` upwards, those of other crates at most from warnings upwards, and those of
/// the client of NATS only if `level` is debug or trace.
fn targets(level: LevelFilter) -> Targets {
    let others = level.min(LevelFilter::WARN);
    let nats = if level >= LevelFilter::DEBUG { others } else { LevelFilter::OFF };
    Targets::new().with_target(OWN_TARGET, level).with_target(NATS_TARGET, nats).with_default(others)
}

/// Logs the location of a panic, but not its text, which may contain what a client sent.
fn log_panic(panic: &PanicHookInfo<'_>, log: &LogHandle) {
    PANICS.fetch_add(1, Ordering::Relaxed);
    let thread = std::thread::current();
    let thread = thread.name().unwrap_or("(unnamed)");
    let place = panic.location().map(|place| format!("{}:{}", place.file(), place.line()));
    let place = place.unwrap_or_else(|| "an unknown location".to_owned());
    tracing::error!("internal error in thread {thread} at {place}; please report this line");
    if thread == "main" {
        log.flush(PANIC_FLUSH);
    }
}
