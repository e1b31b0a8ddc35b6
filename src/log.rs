//! The log: tracing's records, written by a thread of its own to the journal, as text or as JSON.
//!
//! The message of a record says in words all that matters, because it is what `journalctl` shows; fields repeat it for
//! machines. Text therefore shows the fields of other crates' records only. Whatever a record says, it comes out on one line.

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

mod connections;
mod queue;
mod record;
mod sink;
#[cfg(test)]
pub(crate) mod tests;

pub use connections::{Closed, ConnectionLog, FULL_LINES, MAX_SUBJECT_BYTES, Opened, Refused, WINDOW};
pub use queue::QUEUE_RECORDS;
pub use record::MAX_TEXT_BYTES;

use queue::{Queue, QueueLayer};
use sink::Sink;

/// The crates whose records are wanted at the level asked for: this one and its binaries.
const OWN_TARGET: &str = "philote";

/// How much may be lost of what a panicking main thread has just logged, because the process ends with it.
const LAST_WORDS: Duration = Duration::from_secs(1);

static PANICS: AtomicU64 = AtomicU64::new(0);

/// How records are written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Format {
    /// To the journal where it takes this process's standard error, else as text.
    #[default]
    Auto,
    /// Lines for people, on standard error; coloured on a terminal unless `NO_COLOR` is set.
    Text,
    /// One JSON object a line, on standard error.
    Json,
    /// To the journal's own socket, with fields; as text where that does not answer.
    Journald,
}

impl Format {
    /// What `Auto` means here. `JOURNAL_STREAM` alone says nothing, because children inherit it when their standard
    /// error goes elsewhere: it must name the file that standard error is.
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
    /// [`init`] was called before, or something else has set up tracing.
    AlreadyStarted,
    /// The system gave no thread.
    Thread(io::Error),
}

impl fmt::Display for LogError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            LogError::AlreadyStarted => f.write_str("the log has been started already in this process"),
            LogError::Thread(error) => write!(f, "cannot start the thread that writes the log: {error}"),
        }
    }
}

impl std::error::Error for LogError {}

/// The running log. All clones are one.
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
    /// What is logged from now on. Records of other crates come out from warnings upwards at most: below that, some log
    /// what clients sent.
    pub fn set_level(&self, level: LevelFilter) {
        // Fails only when the subscriber is gone, and then there is no level.
        let _ = self.filter.reload(targets(level));
    }

    /// What is logged now.
    pub fn level(&self) -> LevelFilter {
        let own = |targets: &Targets| {
            let mut levels = targets.iter();
            levels.find_map(|(target, level)| (target == OWN_TARGET).then_some(level))
        };
        self.filter.with_current(own).ok().flatten().unwrap_or(LevelFilter::OFF)
    }

    /// How many records were dropped since the start, because they came faster than they could be written or standard
    /// error failed.
    pub fn dropped(&self) -> u64 {
        self.queue.dropped()
    }

    /// Waits until all that was logged is written, for `deadline` at most; false when it is not.
    pub fn flush(&self, deadline: Duration) -> bool {
        self.queue.flush(deadline)
    }
}

/// How many panics this process has had since [`init`].
pub fn panics() -> u64 {
    PANICS.load(Ordering::Relaxed)
}

/// Starts the log of this process, and has panics logged from now on.
///
/// # Errors
/// Fails when a log was started before, or the system gives no thread. That journald is absent is no error.
pub fn init(format: Format, level: LevelFilter) -> Result<LogHandle, LogError> {
    let stderr = rustix::fs::fstat(io::stderr()).ok();
    let journal_stream = std::env::var("JOURNAL_STREAM").ok();
    let format = format.resolve(journal_stream.as_deref(), stderr.map(|stat| (stat.st_dev, stat.st_ino)));
    let (dispatch, handle) = start(level, move || Sink::open(format)).map_err(LogError::Thread)?;
    dispatcher::set_global_default(dispatch).map_err(|_| LogError::AlreadyStarted)?;
    let last_words = handle.clone();
    std::panic::set_hook(Box::new(move |panic| log_panic(panic, &last_words)));
    Ok(handle)
}

/// Makes a log that writes to what `open` gives. That is called on the writer's thread, where it may block.
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

/// The writer's thread. What it has to say itself goes into the queue as all else does.
fn write_all(queue: &Queue, own_log: &WeakDispatch, open: impl FnOnce() -> io::Result<Sink>) {
    let say = |log: &dyn Fn()| {
        if let Some(own_log) = own_log.upgrade() {
            dispatcher::with_default(&own_log, log);
        }
    };
    let mut sink = open().unwrap_or_else(|error| {
        say(&|| tracing::warn!("the journal cannot be reached ({error}): logging to standard error"));
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

/// Own records from `level` upwards, those of other crates from warnings upwards at most.
fn targets(level: LevelFilter) -> Targets {
    Targets::new().with_target(OWN_TARGET, level).with_default(level.min(LevelFilter::WARN))
}

/// Says where, and not what: a panic's text may hold what a client sent.
fn log_panic(panic: &PanicHookInfo<'_>, log: &LogHandle) {
    PANICS.fetch_add(1, Ordering::Relaxed);
    let thread = std::thread::current();
    let thread = thread.name().unwrap_or("without a name");
    let place = panic.location().map(|place| format!("{}:{}", place.file(), place.line()));
    let place = place.unwrap_or_else(|| "an unknown place".to_owned());
    tracing::error!("internal error in thread {thread} at {place}; please report this line");
    if thread == "main" {
        log.flush(LAST_WORDS);
    }
}
