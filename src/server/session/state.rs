//! What a connection must remember from one poll of its task to the next.
//!
//! A connection that only reads has nothing to remember, and nor has one between two messages. So a task has a [`State`] of
//! its own only from a poll that has left something in it; to all others, each thread lends one.

use std::cell::Cell;
use std::pin::Pin;

use bytes::Bytes;
use tokio::sync::oneshot;
use tokio::time::Sleep;

use super::frames::FrameReader;
use crate::cluster::BeforeJoin;
use crate::hub::Writing;
use crate::outbox::Seconds;
use crate::server::limits::{Rate, Seat};

thread_local! {
    /// The state of all connections of this thread that have nothing to remember.
    static SPARE: Cell<Option<Box<State>>> = const { Cell::new(None) };
}

/// The state of one connection's task.
#[derive(Default)]
pub(super) struct State {
    pub(super) frames: FrameReader,
    /// Bytes that were read and not handled yet: those after the handshake, or the rest of a large batch. In a box,
    /// because it is seldom needed.
    pub(super) unhandled: Option<Box<Bytes>>,
    /// The writing of what this connection published, if it goes to many outboxes.
    pub(super) flushing: Option<Writing>,
    /// Ends when NATS has taken enough of what is published in a cluster.
    pub(super) handing_over: Option<oneshot::Receiver<()>>,
    /// A message that joins channels, and waits for other nodes of a cluster.
    pub(super) joining: Option<Box<Joining>>,
    /// The deadline of the message in progress, or of the Close.
    pub(super) deadline: Option<Pin<Box<Sleep>>>,
    /// What it has sent recently, if a rate is set.
    pub(super) rate: Option<Box<Rate>>,
    /// The counts per address and per subject, if they are limited.
    pub(super) seat: Seat,
    pub(super) auths: Auths,
    /// The Close has been decided, so everything from the client is discarded.
    pub(super) ending: bool,
    /// The sending direction is closed.
    pub(super) shut: bool,
}

impl State {
    /// Returns whether a new state would do as well.
    fn is_as_new(&self) -> bool {
        let State {
            frames,
            unhandled,
            flushing,
            handing_over,
            joining,
            deadline,
            rate,
            seat,
            auths,
            ending,
            shut,
        } = self;
        !(*ending || *shut)
            && frames.is_between_messages()
            && unhandled.is_none()
            && flushing.is_none()
            && handing_over.is_none()
            && joining.is_none()
            && deadline.is_none()
            && rate.is_none()
            && seat.is_free()
            && auths.are_none()
    }
}

/// The state that a connection keeps while its task rests, if it has one of its own.
#[derive(Default)]
pub(super) struct Kept(Option<Box<State>>);

impl Kept {
    /// Keeps the counts of a connection that was admitted.
    pub(super) fn of(seat: Seat) -> Kept {
        Kept((!seat.is_free()).then(|| Box::new(State { seat, ..State::default() })))
    }

    /// Keeps what differs from a new state.
    pub(super) fn keep(&mut self, state: Box<State>) {
        if state.is_as_new() { SPARE.set(Some(state)) } else { self.0 = Some(state) }
    }

    /// Takes the state to work with, until [`Kept::keep`].
    pub(super) fn take(&mut self) -> Box<State> {
        self.0.take().or_else(|| SPARE.take()).unwrap_or_default()
    }

    /// Takes the counts of a connection that has ended.
    pub(super) fn take_seat(&mut self) -> Seat {
        self.0.as_mut().map(|state| std::mem::take(&mut state.seat)).unwrap_or_default()
    }
}

/// The tokens that were shown in this second, and the channels of which presence was asked.
#[derive(Default)]
pub(crate) struct Auths {
    second: Seconds,
    pub(super) count: u32,
    pub(super) presences: u32,
}

impl Auths {
    /// Returns whether none were counted.
    pub(super) fn are_none(&self) -> bool {
        self.count == 0 && self.presences == 0
    }

    /// Begins to count again if this is another second.
    pub(super) fn at(&mut self, now: Seconds) -> &mut Auths {
        if self.second != now {
            *self = Auths { second: now, ..Auths::default() };
        }
        self
    }
}

/// A message that waits before its channels are joined.
pub(crate) struct Joining {
    pub(crate) message: Box<str>,
    pub(crate) before: BeforeJoin,
}
