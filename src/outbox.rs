//! One connection's bounded outbound queue.
//!
//! Whoever pushes the first frame into an idle outbox gets a *promise*: the duty to call [`Outbox::flush`]. Only its
//! holder writes, so bytes leave in order without a lock across the system call. A socket that refuses bytes hands
//! the promise to the connection's own task, which waits until the socket takes bytes again.
//!
//! A reader is judged slow in one place only: when its socket has just refused bytes while more than the limits allow
//! is queued. A queue that grows past them without such a refusal gets its attempt first.

mod budget;

use std::collections::VecDeque;
use std::io::{self, IoSlice};
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock};
use std::task::{Context, Poll, Waker};

pub use self::budget::Budget;
use crate::close::CloseReason;
use crate::frame::Frame;
use crate::sync::lock;

/// Seconds since the daemon started, by the monotonic clock.
pub type Seconds = u32;

/// The most frames that one system call takes.
const FRAMES_PER_WRITE: usize = 64;

/// System calls for one outbox before its writer turns to others; the rest is its own task's work.
const WRITES_PER_FLUSH: usize = 16;

/// Where an outbox's bytes go: a socket, or a test's stand-in.
pub trait Sink: Send + Sync {
    /// Writes what the peer takes at once.
    ///
    /// # Errors
    /// `WouldBlock` where it takes nothing now; anything else means that it is gone.
    fn try_write(&self, slices: &[IoSlice<'_>]) -> io::Result<usize>;

    /// Waits for room after a refusal. Only the connection's own task calls it.
    fn poll_writable(&self, context: &mut Context<'_>) -> Poll<io::Result<()>>;

    /// Ends the sending direction, so that the peer sees the end behind the last byte.
    fn shutdown(&self);
}

/// What became of a pushed frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum Pushed {
    /// It waits, and someone has promised to write it.
    Queued,
    /// It waits, and the caller must now call [`Outbox::flush`] or [`Outbox::hand_over`].
    Promised,
    /// The connection is closing; the frame is not delivered.
    Closing,
}

/// Who will write next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// No sink yet: the 101 has not been sent.
    Held,
    /// Nothing waits and nobody has promised anything.
    Idle,
    /// Someone holds the promise and is about to write, or is writing.
    Promised,
    /// The connection's own task has the promise: it waits for the socket.
    Waiting,
}

/// One connection's outbound queue. See the module's documentation.
pub struct Outbox {
    state: Mutex<State>,
    sink: OnceLock<Box<dyn Sink>>,
    budget: Arc<Budget>,
}

struct State {
    /// What waits, except what the holder of the promise is writing at this moment.
    queue: VecDeque<Frame>,
    /// How much of the first frame has been written.
    offset: u32,
    /// All that waits, with what is being written: messages, and bytes.
    messages: u32,
    bytes: usize,
    /// The most messages that ever waited.
    greatest: u32,
    /// The part of `bytes` that stands in the budget.
    counted: usize,
    phase: Phase,
    closing: Option<CloseReason>,
    /// The frames whose writing has not begun are to be dropped, by whoever is writing.
    dropping: bool,
    /// The sink failed: nothing can be written any more.
    broken: bool,
    /// The connection's task.
    task: Option<Waker>,
    totals: Totals,
}

/// The part of [`OutboxStats`] that is kept; small, because every connection has one.
#[derive(Default)]
struct Totals {
    messages: u64,
    bytes: u64,
}

/// What an outbox has done.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct OutboxStats {
    /// What was accepted: messages, answers, pings and pongs, but not the Close.
    pub messages: u64,
    /// Bytes written.
    pub bytes: u64,
    /// The most messages that ever waited.
    pub greatest_queue: usize,
    /// Frames that wait now.
    pub queued_messages: usize,
    /// Bytes that wait now.
    pub queued_bytes: usize,
}

/// How far an outbox has come, in bytes since its beginning.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Progress {
    /// What was written.
    pub(crate) written: u64,
    /// What was queued, written or not.
    pub(crate) queued: u64,
}

/// Where an outbox stands, for the task that owns its socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Standing {
    /// Why the connection closes, if it does.
    pub closing: Option<CloseReason>,
    /// Everything is written.
    pub drained: bool,
    /// Nothing can be written any more.
    pub broken: bool,
}

impl Outbox {
    /// An outbox that holds everything back until [`Outbox::attach`].
    pub fn new(budget: Arc<Budget>) -> Outbox {
        let state = State {
            queue: VecDeque::new(),
            offset: 0,
            messages: 0,
            bytes: 0,
            greatest: 0,
            counted: 0,
            phase: Phase::Held,
            closing: None,
            dropping: false,
            broken: false,
            task: None,
            totals: Totals::default(),
        };
        Outbox { state: Mutex::new(state), sink: OnceLock::new(), budget }
    }

    /// Gives it its socket. What was held back is for the connection's task to write.
    pub fn attach(&self, sink: Box<dyn Sink>) {
        if self.sink.set(sink).is_ok() {
            let mut state = lock(&self.state);
            state.phase = if state.queue.is_empty() { Phase::Idle } else { Phase::Waiting };
            state.recount(&self.budget);
        }
    }

    /// Queues a frame behind what waits.
    pub fn push(&self, frame: Frame) -> Pushed {
        let mut state = lock(&self.state);
        if state.closing.is_some() {
            return Pushed::Closing;
        }
        state.totals.messages += frame.messages() as u64;
        state.enqueue(frame);
        self.promise(state)
    }

    /// Like [`Outbox::push`], for all frames as one.
    pub fn push_all(&self, frames: impl Iterator<Item = Frame>) -> Pushed {
        let mut state = lock(&self.state);
        if state.closing.is_some() {
            return Pushed::Closing;
        }
        let before = state.messages;
        frames.for_each(|frame| state.enqueue(frame));
        state.totals.messages += u64::from(state.messages - before);
        if state.queue.is_empty() { Pushed::Queued } else { self.promise(state) }
    }

    /// Says who writes what was just queued.
    fn promise(&self, mut state: MutexGuard<'_, State>) -> Pushed {
        match state.phase {
            Phase::Promised => Pushed::Queued,
            Phase::Idle => {
                state.phase = Phase::Promised;
                Pushed::Promised
            }
            // Over the limits: the socket is asked once more before its reader is judged.
            Phase::Waiting if state.over_limit(&self.budget) => {
                state.phase = Phase::Promised;
                state.recount(&self.budget);
                Pushed::Promised
            }
            Phase::Waiting | Phase::Held => {
                state.recount(&self.budget);
                Pushed::Queued
            }
        }
    }

    /// Keeps the promise: writes until nothing is left or the socket refuses.
    pub fn flush(&self) {
        let Some(sink) = self.sink.get() else { return };
        // If the sink panics, nobody knows what of the stream was written: it can't go on.
        let _guard = OnUnwind(self);
        let mut state = lock(&self.state);
        for _ in 0..WRITES_PER_FLUSH {
            if state.queue.is_empty() {
                return state.settle(&self.budget);
            }
            let mut queue = std::mem::take(&mut state.queue);
            let mut offset = state.offset as usize;
            drop(state);

            let written = write(sink.as_ref(), &queue, offset);
            let (taken, refused) = match &written {
                Ok((taken, refused)) => (*taken, *refused),
                Err(_) => (0, true),
            };
            let finished = advance(&mut queue, &mut offset, taken);

            state = lock(&self.state);
            state.put_back(queue, offset, taken, finished);
            if let Err(error) = written {
                return self.break_off(state, CloseReason::of_error(&error));
            }
            if refused {
                if state.closing.is_none() && state.over_limit(&self.budget) {
                    state.close(CloseReason::SlowConsumer, Frame::close(&CloseReason::SlowConsumer));
                }
                return self.wait_for_socket(state);
            }
        }
        if state.queue.is_empty() { state.settle(&self.budget) } else { self.wait_for_socket(state) }
    }

    /// Passes the promise to the connection's own task.
    pub fn hand_over(&self) {
        let state = lock(&self.state);
        if state.phase == Phase::Promised {
            self.wait_for_socket(state);
        }
    }

    /// Decides that the connection ends; the first reason decided wins. Its task writes what waits, then the Close.
    ///
    /// Returns false if it was closing already.
    pub fn close(&self, reason: CloseReason) -> bool {
        self.close_with(reason, None)
    }

    /// Like [`Outbox::close`], with a Close frame that answers the client's own.
    pub(crate) fn close_with(&self, reason: CloseReason, answer: Option<Frame>) -> bool {
        let mut state = lock(&self.state);
        if state.closing.is_some() {
            return false;
        }
        state.close(reason, answer.unwrap_or_else(|| Frame::close(&reason)));
        if state.phase == Phase::Idle {
            state.phase = Phase::Waiting;
        }
        state.recount(&self.budget);
        let task = state.task.clone();
        drop(state);
        if let Some(task) = task {
            task.wake();
        }
        true
    }

    /// For the connection's own task: writes if the socket has room again, and tells how things stand.
    ///
    /// The task is woken when the promise comes to it and when the connection is to close.
    pub fn poll(&self, context: &mut Context<'_>) -> Standing {
        let mut state = lock(&self.state);
        if !state.task.as_ref().is_some_and(|task| task.will_wake(context.waker())) {
            state.task = Some(context.waker().clone());
        }
        if state.phase == Phase::Waiting
            && !state.broken
            && let Some(sink) = self.sink.get()
        {
            drop(state);
            let writable = sink.poll_writable(context);
            state = lock(&self.state);
            match writable {
                // Still waiting: a publisher may have taken the promise in between, to ask the socket once more.
                Poll::Ready(Ok(())) if state.phase == Phase::Waiting => {
                    state.phase = Phase::Promised;
                    state.recount(&self.budget);
                    drop(state);
                    self.flush();
                    state = lock(&self.state);
                }
                Poll::Ready(Err(error)) => {
                    self.break_off(state, CloseReason::of_error(&error));
                    state = lock(&self.state);
                }
                _ => {}
            }
        }
        Standing {
            closing: state.closing,
            drained: state.phase == Phase::Idle && state.queue.is_empty(),
            broken: state.broken,
        }
    }

    /// Takes the promise from the connection's own task, to ask the socket without waiting for a sign that it has room.
    /// Returns whether the caller must now call [`Outbox::flush`].
    pub fn ask_socket(&self) -> bool {
        let mut state = lock(&self.state);
        let waits = state.phase == Phase::Waiting && !state.broken && !state.queue.is_empty();
        if waits {
            state.phase = Phase::Promised;
            state.recount(&self.budget);
        }
        waits
    }

    /// How much was written and how much was queued so far.
    pub(crate) fn progress(&self) -> Progress {
        let state = lock(&self.state);
        let written = state.totals.bytes;
        Progress { written, queued: written + state.bytes as u64 }
    }

    /// Why the connection is closing, if it is.
    pub fn closing(&self) -> Option<CloseReason> {
        lock(&self.state).closing
    }

    /// Ends the sending direction of the socket.
    pub fn shutdown(&self) {
        if let Some(sink) = self.sink.get() {
            sink.shutdown();
        }
    }

    /// What it has done so far, and what waits.
    pub fn stats(&self) -> OutboxStats {
        let state = lock(&self.state);
        let totals = &state.totals;
        OutboxStats {
            messages: totals.messages,
            bytes: totals.bytes,
            greatest_queue: state.greatest as usize,
            queued_messages: state.messages as usize,
            queued_bytes: state.bytes,
        }
    }

    /// The bytes that its socket refuses at the moment.
    pub fn refused_bytes(&self) -> usize {
        lock(&self.state).counted
    }

    /// Gives back the room of an empty queue.
    pub fn trim(&self) {
        let mut state = lock(&self.state);
        if state.messages == 0 {
            state.queue = VecDeque::new();
        }
    }

    /// Makes the connection's task the holder of the promise and wakes it.
    fn wait_for_socket(&self, mut state: MutexGuard<'_, State>) {
        state.phase = Phase::Waiting;
        state.recount(&self.budget);
        let task = state.task.clone();
        drop(state);
        if let Some(task) = task {
            task.wake();
        }
    }

    /// The sink is gone: forgets what waits and lets the task end the connection.
    fn break_off(&self, mut state: MutexGuard<'_, State>, reason: CloseReason) {
        state.broken = true;
        state.closing.get_or_insert(reason);
        state.queue.clear();
        (state.messages, state.bytes, state.offset) = (0, 0, 0);
        self.wait_for_socket(state);
    }
}

impl Drop for Outbox {
    fn drop(&mut self) {
        self.budget.recount(lock(&self.state).counted, 0);
    }
}

/// Breaks the outbox off if its writer panics.
struct OnUnwind<'a>(&'a Outbox);

impl Drop for OnUnwind<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.break_off(lock(&self.0.state), CloseReason::ClientGone);
        }
    }
}

impl State {
    fn enqueue(&mut self, frame: Frame) {
        self.messages += frame.messages() as u32;
        self.bytes += frame.len();
        self.greatest = self.greatest.max(self.messages);
        self.queue.push_back(frame);
    }

    fn over_limit(&self, budget: &Budget) -> bool {
        self.messages as usize > budget.queue_messages.load(Relaxed)
            || self.bytes > budget.queue_bytes.load(Relaxed)
    }

    fn close(&mut self, reason: CloseReason, close: Frame) {
        self.closing = Some(reason);
        if reason.drops_queue() {
            // What is being written at this moment is not in the queue: its writer drops the rest of it.
            self.dropping = self.messages as usize > self.queue.iter().map(Frame::messages).sum();
            self.drop_from(usize::from(self.offset > 0 && !self.dropping));
        }
        self.enqueue(close);
    }

    /// Drops the queue's frames from the given one on.
    fn drop_from(&mut self, first: usize) {
        for frame in self.queue.drain(first.min(self.queue.len())..) {
            self.messages -= frame.messages() as u32;
            self.bytes -= frame.len();
        }
    }

    /// Takes back what the writer had taken, less what it wrote.
    fn put_back(&mut self, queue: VecDeque<Frame>, offset: usize, taken: usize, finished: usize) {
        let mut since = std::mem::replace(&mut self.queue, queue);
        self.offset = offset as u32;
        self.messages -= finished as u32;
        self.bytes -= taken;
        self.totals.bytes += taken as u64;
        if std::mem::take(&mut self.dropping) {
            self.drop_from(usize::from(offset > 0));
        }
        if !since.is_empty() {
            self.queue.append(&mut since);
        }
    }

    /// Nothing is left: the promise is kept.
    fn settle(&mut self, budget: &Budget) {
        self.phase = Phase::Idle;
        let kept = budget.kept_bytes.load(Relaxed) / size_of::<Frame>();
        if self.queue.capacity() > kept {
            self.queue.shrink_to(kept);
        }
        // A task that waits for the last byte before it shuts the socket.
        if self.closing.is_some()
            && let Some(task) = &self.task
        {
            task.wake_by_ref();
        }
    }

    fn recount(&mut self, budget: &Budget) {
        let counts = matches!(self.phase, Phase::Waiting | Phase::Held);
        let now = if counts { self.bytes } else { 0 };
        budget.recount(self.counted, now);
        self.counted = now;
    }
}

/// One system call: the bytes taken, and whether the sink refused some of those offered.
#[inline]
fn write(sink: &dyn Sink, queue: &VecDeque<Frame>, offset: usize) -> io::Result<(usize, bool)> {
    let (written, offered) = match queue.front() {
        // Nearly always one frame waits: no list of many has to be laid out for it.
        Some(frame) if queue.len() == 1 => {
            let bytes = &frame[offset..];
            (sink.try_write(&[IoSlice::new(bytes)]), bytes.len())
        }
        _ => write_several(sink, queue, offset),
    };
    match written {
        Ok(0) => Err(io::ErrorKind::WriteZero.into()),
        Ok(taken) => Ok((taken, taken < offered)),
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok((0, true)),
        Err(error) => Err(error),
    }
}

/// What the sink says to as many frames as one call takes, and how many bytes were offered.
#[inline(never)]
fn write_several(sink: &dyn Sink, queue: &VecDeque<Frame>, offset: usize) -> (io::Result<usize>, usize) {
    let mut slices = [IoSlice::new(&[]); FRAMES_PER_WRITE];
    let mut offered = 0;
    let mut count = 0;
    for (slice, frame) in slices.iter_mut().zip(queue) {
        let bytes = if count == 0 { &frame[offset..] } else { &frame[..] };
        *slice = IoSlice::new(bytes);
        offered += bytes.len();
        count += 1;
    }
    (sink.try_write(&slices[..count]), offered)
}

/// Removes the frames that `taken` more bytes finish, and returns how many messages they were.
fn advance(queue: &mut VecDeque<Frame>, offset: &mut usize, taken: usize) -> usize {
    *offset += taken;
    let mut finished = 0;
    while let Some(frame) = queue.front()
        && *offset >= frame.len()
    {
        *offset -= frame.len();
        finished += frame.messages();
        queue.pop_front();
    }
    finished
}

#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;
