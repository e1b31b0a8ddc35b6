//! Publishing to the log: messages that wait to be handed to NATS, and those whose confirmation is awaited.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use async_nats::{Client, HeaderMap, StatusCode};
use bytes::Bytes;
use futures_util::{FutureExt, StreamExt};
use serde::Deserialize;
use tokio::sync::{Notify, oneshot};

use super::refusals::Refusals;
use crate::hub::Connection;
use crate::sync::lock;

/// Bytes that may wait to be handed to NATS. More are refused at once.
const MAX_WAITING_BYTES: usize = 16 * 1024 * 1024;

/// The bytes that a waiting message takes beside its subject and payload.
const MESSAGE_BYTES: usize = 256;

/// The most messages that await a confirmation.
pub(super) const MAX_IN_FLIGHT: usize = 4_096;

/// The bytes of these messages, unless it is one alone. async-nats keeps what the connection does not take yet.
const MAX_IN_FLIGHT_BYTES: usize = 2 * 1024 * 1024;

/// How long a confirmation may take.
const CONFIRMATION: Duration = Duration::from_secs(5);

/// Why a message whose confirmation is overdue was not stored, as far as this node can tell.
const UNCONFIRMED: &str = "NATS has not confirmed a message for 5 s";

/// How often waiting messages are looked at for those that have waited too long.
pub(super) const LOOK: Duration = Duration::from_millis(100);

/// What became of a message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Appended {
    /// The log has stored it under this number.
    Stored {
        /// Its place in the log, if its publisher can go on from there.
        number: Option<u64>,
        /// The log had it already: this is a repetition of a message with the same key.
        repeated: bool,
    },
    /// It was not published.
    Unavailable,
    /// It was handed to NATS, and may have been published or not.
    Unanswered,
}

/// Who is told what became of a message.
pub enum Waiter {
    /// A client, by a reply. With `ack`, which is JSON text, also if it is stored.
    Client {
        /// Its connection.
        connection: Arc<Connection>,
        /// The message's `ack`.
        ack: Option<Box<str>>,
    },
    /// A caller, who waits.
    Caller(oneshot::Sender<Appended>),
}

/// A message for the log.
pub(super) struct Append {
    pub(super) subject: String,
    pub(super) payload: Bytes,
    /// A message with the same id is stored once.
    pub(super) id: Option<Box<str>>,
    pub(super) waiter: Waiter,
}

/// What is known of a message whose outcome is told.
pub(super) struct Told {
    pub(super) subject: String,
    pub(super) waiter: Waiter,
    pub(super) appended: Appended,
}

struct Waiting {
    append: Append,
    since: Instant,
    /// Dropped when the message is handed to NATS or given up.
    ticket: Option<oneshot::Sender<()>>,
}

impl Waiting {
    fn cost(&self) -> usize {
        self.append.subject.len() + self.append.payload.len() + MESSAGE_BYTES
    }
}

struct InFlight {
    subject: String,
    bytes: usize,
    waiter: Waiter,
    since: Instant,
}

#[derive(Default)]
pub(super) struct Appends {
    state: Mutex<State>,
    notify: Notify,
    pub(super) refusals: Refusals,
}

#[derive(Default)]
struct State {
    waiting: VecDeque<Waiting>,
    bytes: usize,
    in_flight: BTreeMap<u64, InFlight>,
    in_flight_bytes: usize,
    /// Messages that the log has stored and this node has not delivered yet, by their place in the log. Their clients are
    /// told of them after all earlier messages, so that they can go on from there.
    stored: BTreeMap<u64, (Told, Instant)>,
    /// The place up to which this node has delivered the log.
    delivered: u64,
    /// The number of the last message that was handed over.
    last: u64,
}

/// The answer of JetStream to a published message.
#[derive(Deserialize)]
struct Confirmation {
    #[serde(default)]
    seq: u64,
    #[serde(default)]
    duplicate: bool,
    #[serde(default)]
    error: Option<Failure>,
}

#[derive(Deserialize)]
struct Failure {
    #[serde(default = "no_reason")]
    description: String,
}

fn no_reason() -> String {
    "NATS gives no reason".to_owned()
}

impl State {
    /// Takes a message out of those in flight.
    fn land(&mut self, number: u64) -> Option<InFlight> {
        let landed = self.in_flight.remove(&number)?;
        self.in_flight_bytes -= landed.bytes;
        Some(landed)
    }
}

impl Appends {
    /// Adds a message. Gives it back if too many wait.
    pub(super) fn push(&self, append: Append, now: Instant) -> Result<(), Append> {
        let waiting = Waiting { append, since: now, ticket: None };
        let mut state = lock(&self.state);
        if state.bytes + waiting.cost() > MAX_WAITING_BYTES {
            return Err(waiting.append);
        }
        state.bytes += waiting.cost();
        state.waiting.push_back(waiting);
        let first = state.waiting.len() == 1;
        drop(state);
        if first {
            self.notify.notify_one();
        }
        Ok(())
    }

    /// Returns a receiver that ends when all messages that wait now were handed to NATS or given up; `None` if none waits.
    pub(super) fn ticket(&self) -> Option<oneshot::Receiver<()>> {
        let mut state = lock(&self.state);
        let last = state.waiting.back_mut()?;
        if last.ticket.is_some() {
            // Another publisher has it. Its messages were added at the same time, so this one need not wait as well.
            return None;
        }
        let (ticket, handed_over) = oneshot::channel();
        last.ticket = Some(ticket);
        Some(handed_over)
    }

    /// Takes the messages that have waited for `patience`, and those whose confirmation is overdue.
    pub(super) fn overdue(&self, patience: Duration, now: Instant) -> Vec<Told> {
        let mut state = lock(&self.state);
        let mut told = Vec::new();
        while let Some(first) = state.waiting.front()
            && now.saturating_duration_since(first.since) >= patience
        {
            let cost = first.cost();
            let Some(waiting) = state.waiting.pop_front() else { break };
            state.bytes -= cost;
            let Append { subject, waiter, .. } = waiting.append;
            told.push(Told { subject, waiter, appended: Appended::Unavailable });
        }
        while let Some((number, first)) = state.in_flight.first_key_value()
            && now.saturating_duration_since(first.since) >= CONFIRMATION
        {
            let number = *number;
            told.extend(state.land(number).map(unanswered));
            // A link that is down has left none in flight.
            self.refusals.refused(UNCONFIRMED, now);
        }
        self.refusals.look(now);
        while let Some(first) = state.stored.first_entry()
            && now.saturating_duration_since(first.get().1) >= CONFIRMATION
        {
            let Told { subject, waiter, .. } = first.remove().0;
            // It is stored, but its client cannot go on from its place.
            told.push(Told { subject, waiter, appended: Appended::Stored { number: None, repeated: false } });
        }
        drop(state);
        if !told.is_empty() {
            // There is room in flight.
            self.notify.notify_one();
        }
        told
    }

    /// Notes that this node has delivered the log up to this place, and takes the messages whose clients can be told.
    pub(super) fn delivered(&self, place: u64) -> Vec<Told> {
        let mut state = lock(&self.state);
        state.delivered = place;
        let later = state.stored.split_off(&(place + 1));
        let now = std::mem::replace(&mut state.stored, later);
        drop(state);
        if !now.is_empty() {
            self.notify.notify_one();
        }
        now.into_values().map(|(told, _)| told).collect()
    }

    /// The log begins again: takes the messages that it had stored, whose places mean nothing now.
    pub(super) fn begin_again(&self, place: u64) -> Vec<Told> {
        let mut state = lock(&self.state);
        state.delivered = place;
        let stored = std::mem::take(&mut state.stored).into_values();
        let told =
            |(Told { subject, waiter, .. }, _)| Told { subject, waiter, appended: Appended::Unanswered };
        stored.map(told).collect()
    }

    /// Takes all messages in flight, because the link has ended.
    pub(super) fn cut(&self) -> Vec<Told> {
        let mut state = lock(&self.state);
        state.in_flight_bytes = 0;
        std::mem::take(&mut state.in_flight).into_values().map(unanswered).collect()
    }

    /// Returns the number of messages that wait, and of those in flight.
    pub(super) fn len(&self) -> (usize, usize) {
        let state = lock(&self.state);
        (state.waiting.len(), state.in_flight.len() + state.stored.len())
    }

    /// Takes the next message to hand over, if there is room in flight, with its number.
    fn next(&self, now: Instant) -> Option<(u64, String, Bytes, Option<Box<str>>)> {
        let mut state = lock(&self.state);
        if state.in_flight.len() + state.stored.len() >= MAX_IN_FLIGHT {
            return None;
        }
        let bytes = state.waiting.front()?.cost();
        if state.in_flight_bytes > 0 && state.in_flight_bytes + bytes > MAX_IN_FLIGHT_BYTES {
            return None;
        }
        let waiting = state.waiting.pop_front()?;
        state.bytes -= bytes;
        state.in_flight_bytes += bytes;
        state.last += 1;
        let number = state.last;
        let Append { subject, payload, id, waiter } = waiting.append;
        let in_flight = InFlight { subject: subject.clone(), bytes, waiter, since: now };
        state.in_flight.insert(number, in_flight);
        Some((number, subject, payload, id))
    }

    /// Notes the answer to the message with this number.
    fn confirmed(&self, number: u64, answer: &async_nats::Message) -> Option<Told> {
        let mut state = lock(&self.state);
        let InFlight { subject, waiter, .. } = state.land(number)?;
        let confirmation: Option<Confirmation> = serde_json::from_slice(&answer.payload).ok();
        let refused = |appended, reason: &str| {
            self.refusals.refused(reason, Instant::now());
            appended
        };
        let appended = match confirmation {
            _ if answer.status == Some(StatusCode::NO_RESPONDERS) => {
                refused(Appended::Unavailable, "no stream takes its subjects")
            }
            Some(Confirmation { error: Some(error), .. }) => {
                refused(Appended::Unavailable, &error.description)
            }
            Some(Confirmation { seq, duplicate, .. }) if seq > 0 => {
                self.refusals.stored();
                Appended::Stored { number: Some(seq), repeated: duplicate }
            }
            _ => refused(Appended::Unanswered, "NATS answers without a number"),
        };
        let told = Told { subject, waiter, appended };
        if let (Waiter::Client { ack: Some(_), .. }, Appended::Stored { number: Some(place), .. }) =
            (&told.waiter, &told.appended)
            && *place > state.delivered
        {
            state.stored.insert(*place, (told, Instant::now()));
            return None;
        }
        Some(told)
    }

    /// Hands messages to NATS until the link ends. `tell` tells what became of those that it takes.
    pub(super) async fn run(&self, client: Client, tell: impl Fn(&mut dyn FnMut() -> Vec<Told>)) -> String {
        let inbox = client.new_inbox();
        let mut answers = match client.subscribe(format!("{inbox}.*")).await {
            Ok(answers) => answers,
            Err(error) => return format!("NATS takes no subscription: {error}"),
        };
        loop {
            // Made before the look, so that no message is missed.
            let notified = self.notify.notified();
            if let Some((number, subject, payload, id)) = self.next(Instant::now()) {
                let reply = format!("{inbox}.{number}");
                let published = match id {
                    None => client.publish_with_reply(subject, reply, payload).await,
                    Some(id) => {
                        let mut headers = HeaderMap::new();
                        headers.insert(async_nats::header::NATS_MESSAGE_ID, &*id);
                        client.publish_with_reply_and_headers(subject, reply, headers, payload).await
                    }
                };
                if let Err(error) = published {
                    return format!("NATS takes no message: {error}");
                }
                // Few answers are there yet, but those that are make room.
                if number.is_multiple_of(64) {
                    tell(&mut || self.take_answers(&mut answers, None));
                }
                continue;
            }
            tokio::select! {
                answer = answers.next() => match answer {
                    Some(answer) => {
                        let mut first = Some(answer);
                        tell(&mut || self.take_answers(&mut answers, first.take()));
                    }
                    None => return "the subscription to confirmations has ended".to_owned(),
                },
                () = notified => {}
            }
        }
    }

    /// Takes the answers that are there; returns what became of their messages.
    fn take_answers(
        &self,
        answers: &mut async_nats::Subscriber,
        mut answer: Option<async_nats::Message>,
    ) -> Vec<Told> {
        let mut told = Vec::new();
        loop {
            let next = match answer.take() {
                Some(answer) => Some(answer),
                None => tokio::task::unconstrained(answers.next()).now_or_never().flatten(),
            };
            let Some(next) = next else { return told };
            let number = next.subject.rsplit('.').next().and_then(|number| number.parse().ok());
            told.extend(number.and_then(|number| self.confirmed(number, &next)));
        }
    }
}

fn unanswered(InFlight { subject, waiter, .. }: InFlight) -> Told {
    Told { subject, waiter, appended: Appended::Unanswered }
}

#[cfg(test)]
mod tests;
