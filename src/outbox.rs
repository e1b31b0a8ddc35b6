//! One connection's bounded outbound queue.
//!
//! The caller that pushes a frame to an idle outbox receives the *promise*: it must write the frame ([`Outbox::write`]),
//! and what others queue meanwhile. Only the holder of the promise writes, so bytes leave in order without a lock across the
//! system call. When the socket refuses bytes, the promise passes to the connection's own task, which waits until the socket
//! takes bytes again.
//!
//! `Outbox::stopped`, which is called after each write, is the only place that judges a reader slow: its socket has just
//! refused bytes while the queue exceeds its limits. A queue that exceeds them without a refusal is written first.
//!
//! `phase` says who writes next, `queue` holds the frames and their counts, `write` the system call, `socket` the sockets,
//! `opening` and `closing` how it begins and ends, and `budget` the limits that all outboxes share. `unwritten` tells administrators what the socket has
//! not got.

mod budget;
mod closing;
mod opening;
mod phase;
mod queue;
mod socket;
mod unwritten;
mod write;

use std::io;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock};
use std::task::{Context, Poll};

use tokio::io::ReadBuf;

pub use self::budget::Budget;
use self::phase::{AtomicPhase, Phase};
use self::queue::Queue;
pub use self::socket::{Sink, Socket};
#[cfg(test)]
pub(crate) use self::unwritten::MAX_INFLATED;
pub use self::unwritten::{First, MAX_CHANNELS, Unwritten};
use self::write::{write, write_one};
use crate::close::CloseReason;
use crate::deflate::Window;
use crate::frame::Frame;
use crate::sync::{add, lock};

/// Seconds since the daemon started, by the monotonic clock.
pub type Seconds = u32;

/// System calls for one outbox in one flush. The connection's task writes the rest, so that other readers get their turn.
const WRITES_PER_FLUSH: usize = 16;

/// What became of a pushed frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum Pushed {
    /// The frame is queued, and somebody else holds the promise.
    Queued,
    /// The outbox was idle, so the frame is not queued. The caller holds the promise: it must call [`Outbox::write`] or
    /// [`Outbox::put_off`] with the frame.
    First,
    /// The frame is queued. The caller holds the promise: it must call [`Outbox::flush`] or [`Outbox::hand_over`].
    Promised,
    /// The connection is closing, so the frame was dropped.
    Closing,
}

impl Pushed {
    /// Returns whether the caller holds the promise.
    pub fn is_promised(self) -> bool {
        matches!(self, Pushed::First | Pushed::Promised)
    }
}

/// One connection's outbound queue. The module's documentation describes it.
///
/// The fields keep their order: a delivery to an idle outbox touches those before `queue` and no other, and with the
/// counts before them these fill one and a quarter lines of the cache.
#[repr(C)]
pub struct Outbox {
    socket: OnceLock<Socket>,
    /// Bytes written so far. Only the holder of the promise changes it, so a store suffices.
    written: AtomicU64,
    /// Messages of frames that were never queued, in addition to the queue's `total`, counted by the holder of the promise in
    /// the same way.
    unqueued: AtomicU32,
    /// The length of the frame that the holder of [`Pushed::First`] writes or is about to write, in bytes.
    alone: AtomicU32,
    /// The most messages that were queued at once.
    greatest: AtomicU32,
    phase: AtomicPhase,
    /// The window of the compressed messages that its reader takes, if any.
    pub(crate) window: Option<Window>,
    queue: Mutex<Queue>,
    budget: Arc<Budget>,
}

/// Counters of one outbox.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct OutboxStats {
    /// Messages, replies, pings and pongs that were queued, but not the Close.
    pub messages: u64,
    /// Bytes written.
    pub bytes: u64,
    /// The most messages that were queued at once.
    pub greatest_queue: usize,
    /// Messages that are queued now.
    pub queued_messages: usize,
    /// Bytes that are queued now.
    pub queued_bytes: usize,
}

/// Bytes that passed through an outbox since it was made.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Progress {
    /// Bytes written to the socket.
    pub(crate) written: u64,
    /// Bytes queued, whether written or not.
    pub(crate) queued: u64,
}

/// The condition of an outbox, for the task that owns its socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Standing {
    /// Why the connection closes, if it does.
    pub closing: Option<CloseReason>,
    /// Nothing is queued, and nobody writes.
    pub drained: bool,
    /// The socket failed, so nothing more can be written.
    pub broken: bool,
}

impl Standing {
    /// The condition of an outbox that is idle.
    pub(crate) const IDLE: Standing = Standing { closing: None, drained: true, broken: false };
}

impl Outbox {
    /// Makes an outbox that holds all frames back until it has its socket and is polled, or until [`Outbox::attach`].
    pub fn new(budget: Arc<Budget>) -> Outbox {
        Outbox {
            socket: OnceLock::new(),
            written: AtomicU64::new(0),
            unqueued: AtomicU32::new(0),
            alone: AtomicU32::new(0),
            greatest: AtomicU32::new(0),
            phase: AtomicPhase::new(Phase::Held),
            window: None,
            queue: Mutex::new(Queue::default()),
            budget,
        }
    }

    /// Reads from its socket what has arrived, or nothing at the end of the stream. Only the connection's own task calls it.
    #[inline]
    pub(crate) fn poll_read(
        &self,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.socket.get().map_or(Poll::Pending, |socket| socket.poll_read(context, buffer))
    }

    /// Queues a frame, or leaves it to the caller to write it.
    #[inline]
    pub fn push(&self, frame: &Frame) -> Pushed {
        // An exchange takes as long if it fails, so the phase is looked at first.
        if self.phase.is(Phase::Idle) && self.phase.change(Phase::Idle, Phase::Alone) {
            self.alone.store(frame.len() as u32, Relaxed);
            return Pushed::First;
        }
        self.push_behind(frame)
    }

    /// Queues a frame behind others. It is out of line, so that [`Outbox::push`] is not.
    #[inline(never)]
    fn push_behind(&self, frame: &Frame) -> Pushed {
        self.push_all(std::iter::once(frame.clone()))
    }

    /// Queues several frames at once, as [`Outbox::push`] does for one.
    pub fn push_all(&self, frames: impl Iterator<Item = Frame>) -> Pushed {
        let mut queue = lock(&self.queue);
        if queue.closing.is_some() {
            frames.for_each(|frame| queue.note_refused(&frame));
            return Pushed::Closing;
        }
        let enqueue = |frame: Frame| {
            queue.total += frame.messages() as u64;
            queue.enqueue(frame)
        };
        let Some(messages) = frames.map(enqueue).last() else { return Pushed::Queued };
        self.queued(messages);
        self.promise(&mut queue)
    }

    /// Notes that this many messages were queued or written at once.
    #[inline]
    fn queued(&self, messages: u32) {
        if messages > self.greatest.load(Relaxed) {
            self.greatest.fetch_max(messages, Relaxed);
        }
    }

    /// Decides who writes the frames that were just queued. With this and [`Queue::enqueue`] as calls, a frame behind others
    /// would take a tenth longer.
    #[inline(always)]
    fn promise(&self, queue: &mut Queue) -> Pushed {
        match self.phase.leave(Phase::Promised, Phase::Followed) {
            Phase::Idle => Pushed::Promised,
            Phase::Alone | Phase::Followed | Phase::Promised => Pushed::Queued,
            // Over the limits: try the socket once more before judging its reader.
            Phase::Waiting if queue.over_limit(&self.budget) => {
                self.enter(Phase::Promised, queue);
                Pushed::Promised
            }
            phase @ (Phase::Waiting | Phase::Held | Phase::Done) => {
                queue.recount(phase, &self.budget);
                Pushed::Queued
            }
        }
    }

    /// Enters a phase from one that only the caller may change. It holds the lock.
    fn enter(&self, phase: Phase, queue: &mut Queue) {
        queue.recount(phase, &self.budget);
        self.phase.set(phase);
    }

    /// Keeps the promise of [`Pushed::First`]: writes the frame, and then what was queued meanwhile.
    #[inline]
    pub fn write(&self, first: &Frame) {
        let Some(socket) = self.socket.get() else { return self.put_off(first) };
        let queue = {
            let _guard = OnUnwind(self);
            // What has followed already is written together with the frame.
            let followed = self.phase.is(Phase::Followed);
            let written = if followed { Ok((0, false)) } else { write_one(socket, first) };
            if !matches!(written, Ok((taken, _)) if taken == first.len()) {
                self.write_rest(first, written)
            } else {
                self.wrote_unqueued(first);
                if self.phase.change(Phase::Alone, Phase::Idle) {
                    return;
                }
                let mut queue = lock(&self.queue);
                queue.dropping = false;
                self.enter(Phase::Promised, &mut queue);
                Some(queue)
            }
        };
        if let Some(queue) = queue {
            self.write_queue(socket, queue);
        }
    }

    /// Counts a frame that was written and never queued.
    #[inline]
    fn wrote_unqueued(&self, frame: &Frame) {
        add(&self.written, frame.len());
        let (before, messages) = (self.unqueued.load(Relaxed), frame.messages() as u32);
        let sum = before.checked_add(messages).unwrap_or_else(|| {
            lock(&self.queue).total += u64::from(before);
            messages
        });
        self.unqueued.store(sum, Relaxed);
        self.queued(messages);
    }

    /// Queues the frame that could not be written, or not whole. Returns the queue if the caller must write it.
    #[cold]
    fn write_rest(&self, first: &Frame, written: io::Result<(usize, bool)>) -> Option<MutexGuard<'_, Queue>> {
        let mut queue = lock(&self.queue);
        let taken = written.as_ref().map_or(0, |(taken, _)| *taken);
        add(&self.written, taken);
        queue.put_first(first, taken);
        self.queued(queue.messages());
        self.enter(Phase::Promised, &mut queue);
        self.stopped(queue, written)
    }

    /// Passes the promise of [`Pushed::First`] to the connection's own task, with the frame.
    pub fn put_off(&self, first: &Frame) {
        let mut queue = lock(&self.queue);
        queue.put_first(first, 0);
        self.wait_for_socket(queue);
    }

    /// Keeps the promise: writes until nothing is left or the socket refuses bytes.
    pub fn flush(&self) {
        if let Some(socket) = self.socket.get() {
            self.write_queue(socket, lock(&self.queue));
        }
    }

    /// Writes as [`Outbox::flush`] does, with the lock that the caller holds already.
    fn write_queue<'a>(&'a self, socket: &Socket, queue: MutexGuard<'a, Queue>) {
        // If the socket panics, it is unknown how many bytes were written, so the stream cannot continue.
        let _guard = OnUnwind(self);
        // Declared after the guard, which locks the queue, so that it is dropped before.
        let mut queue = queue;
        for _ in 0..WRITES_PER_FLUSH {
            if queue.is_empty() {
                return self.settle(queue);
            }
            let (mut frames, mut offset) = queue.take_frames();
            drop(queue);

            let written = write(socket, &frames, offset);
            let taken = written.as_ref().map_or(0, |(taken, _)| *taken);
            let finished = queue::advance(&mut frames, &mut offset, taken);

            queue = lock(&self.queue);
            add(&self.written, taken);
            queue.put_back(frames, offset, taken, finished);
            match self.stopped(queue, written) {
                Some(left) => queue = left,
                None => return,
            }
        }
        if queue.is_empty() { self.settle(queue) } else { self.wait_for_socket(queue) }
    }

    /// Handles a failed write, and a refusal by the socket, after which it judges the reader. Returns the queue if the writer
    /// can go on.
    fn stopped<'a>(
        &'a self,
        mut queue: MutexGuard<'a, Queue>,
        written: io::Result<(usize, bool)>,
    ) -> Option<MutexGuard<'a, Queue>> {
        match written {
            Ok((_, false)) => return Some(queue),
            Ok((_, true)) => {
                if queue.closing.is_none() && queue.over_limit(&self.budget) {
                    let close = Frame::close(&CloseReason::SlowConsumer);
                    queue.close(CloseReason::SlowConsumer, close, false);
                }
                self.wait_for_socket(queue);
            }
            Err(error) => self.break_off(queue, CloseReason::of_error(&error)),
        }
        None
    }

    /// Ends the promise, because nothing is left to write.
    fn settle(&self, mut queue: MutexGuard<'_, Queue>) {
        queue.shrink(&self.budget);
        if queue.closing.is_none() {
            return self.enter(Phase::Idle, &mut queue);
        }
        self.enter(Phase::Done, &mut queue);
        // The task waits for the last byte before it shuts the socket.
        if let Some(task) = &queue.task {
            task.wake_by_ref();
        }
    }

    /// Passes the promise to the connection's own task.
    pub fn hand_over(&self) {
        let queue = lock(&self.queue);
        if self.phase.is(Phase::Promised) {
            self.wait_for_socket(queue);
        }
    }

    /// Writes if the socket has room again. Only the connection's own task calls it.
    ///
    /// The task is woken when it receives the promise and when the connection closes.
    pub fn poll(&self, context: &mut Context<'_>) -> Standing {
        let mut queue = lock(&self.queue);
        if !queue.task.as_ref().is_some_and(|task| task.will_wake(context.waker())) {
            queue.task = Some(context.waker().clone());
        }
        self.open(&mut queue);
        if self.phase.is(Phase::Waiting)
            && !queue.broken
            && let Some(socket) = self.socket.get()
        {
            drop(queue);
            let writable = socket.poll_writable(context);
            queue = lock(&self.queue);
            match writable {
                // A publisher may have taken the promise in the meantime, to try the socket once more.
                Poll::Ready(Ok(())) if self.phase.is(Phase::Waiting) => {
                    self.enter(Phase::Promised, &mut queue);
                    drop(queue);
                    self.flush();
                    queue = lock(&self.queue);
                }
                Poll::Ready(Err(error)) => {
                    self.break_off(queue, CloseReason::of_error(&error));
                    queue = lock(&self.queue);
                }
                _ => {}
            }
        }
        Standing {
            closing: queue.closing,
            drained: matches!(self.phase.get(), Phase::Idle | Phase::Done) && queue.is_empty(),
            broken: queue.broken,
        }
    }

    /// Returns whether nothing is queued and it is not closing.
    pub(crate) fn is_idle(&self) -> bool {
        self.phase.is(Phase::Idle)
    }

    /// Takes the promise from the connection's own task, to try the socket before it signals that it has room.
    /// Returns whether the caller now holds the promise and must call [`Outbox::flush`].
    pub fn ask_socket(&self) -> bool {
        let mut queue = lock(&self.queue);
        let waits = self.phase.is(Phase::Waiting) && !queue.broken && !queue.is_empty();
        if waits {
            self.enter(Phase::Promised, &mut queue);
        }
        waits
    }

    /// Returns how many bytes were written and queued so far.
    pub(crate) fn progress(&self) -> Progress {
        let queue = lock(&self.queue);
        let alone = match self.phase.get() {
            Phase::Alone | Phase::Followed => self.alone.load(Relaxed),
            _ => 0,
        };
        let written = self.written.load(Relaxed);
        Progress { written, queued: written + u64::from(alone) + queue.bytes() as u64 }
    }

    /// Returns the counters.
    pub fn stats(&self) -> OutboxStats {
        let queue = lock(&self.queue);
        OutboxStats {
            messages: queue.total + u64::from(self.unqueued.load(Relaxed)),
            bytes: self.written.load(Relaxed),
            greatest_queue: self.greatest.load(Relaxed) as usize,
            queued_messages: queue.messages() as usize,
            queued_bytes: queue.bytes(),
        }
    }

    /// Returns what was not written so far. Returns `None` while somebody writes, who will know soon.
    pub fn unwritten(&self) -> Option<Unwritten> {
        let queue = lock(&self.queue);
        match self.phase.get() {
            Phase::Alone | Phase::Followed => None,
            _ => queue.unwritten(),
        }
    }

    /// Returns the bytes that wait because the socket refuses them.
    pub fn refused_bytes(&self) -> usize {
        lock(&self.queue).counted()
    }

    /// Frees the memory of an empty queue.
    pub fn trim(&self) {
        lock(&self.queue).trim();
    }

    /// Passes the promise to the connection's task and wakes it.
    fn wait_for_socket(&self, mut queue: MutexGuard<'_, Queue>) {
        self.enter(Phase::Waiting, &mut queue);
        unlock_and_wake(queue);
    }
}

/// Wakes the connection's task without holding the lock that the task takes first.
fn unlock_and_wake(queue: MutexGuard<'_, Queue>) {
    let task = queue.task.clone();
    drop(queue);
    if let Some(task) = task {
        task.wake();
    }
}

impl Drop for Outbox {
    fn drop(&mut self) {
        self.budget.recount(lock(&self.queue).counted(), 0);
    }
}

/// Ends the outbox if its writer panics.
struct OnUnwind<'a>(&'a Outbox);

impl Drop for OnUnwind<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let mut queue = lock(&self.0.queue);
            queue.note_unknown();
            self.0.break_off(queue, CloseReason::ClientGone);
        }
    }
}

#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;
