//! Following the log: every message is delivered once, in its order, or the node notices that it cannot know.
//!
//! After every doubt the log is read again from the last message that was delivered, which must be there unchanged. If it
//! is, nothing is missing. If it has aged out, messages may be missing, and the readers are closed. If another one is in its
//! place, or the log ends before it, the log was written again, and gets another epoch.
//!
//! The log drops messages only at its beginning, and its numbers have no holes. Where they have one, messages aged out before
//! this node had them, or somebody took them out, and it is as if the log began behind the hole.

use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

use async_nats::jetstream::consumer::{AckPolicy, DeliverPolicy, push};
use async_nats::jetstream::stream::Stream;
use async_nats::{Client, Message, StatusCode, Subscriber};
use futures_util::{FutureExt, StreamExt};

use super::Log;
use super::delivered::Run;
use super::epoch::{self, Record, Written};
use super::place::{Place, Stamp, print};
use crate::cluster::link::{Reason, SILENCE};
use crate::hub::FlushList;
use crate::sync::lock;

/// How often JetStream says something if there is no message.
const HEARTBEAT: Duration = Duration::from_secs(1);

/// The most messages that are delivered before their readers' sockets are written.
const BURST: usize = 1_024;

/// How long a node that starts waits for others that know the epoch.
const OTHERS: Duration = Duration::from_millis(1_500);

/// What following the log asks of its node.
pub(in crate::cluster) trait Follower {
    /// Returns the epochs that other nodes follow.
    fn epochs(&self) -> Vec<u64>;

    /// Waits until another node announces itself.
    fn heard(&self) -> impl Future<Output = ()> + Send;

    /// All messages up to now were delivered here, and those after are delivered as they come. If `missed`, readers that
    /// came meanwhile have missed some.
    fn caught_up(&self, missed: bool);

    /// Messages may be missing: the readers get no more of them, and are closed. Called after the histories have begun again,
    /// because a client that came just before has a position of the old ones.
    fn gap(&self, why: &str);
}

/// A consumer of the log, and what it must show first.
struct Consumer {
    messages: Subscriber,
    /// The messages that were in the log when it was made.
    pending: u64,
    /// The place that the first message must have.
    expected: Option<Place>,
}

/// What a new consumer tells.
enum Begun {
    Following(Consumer),
    /// The log begins behind the last place, after this number.
    AgedOut(u64),
    /// The log ends before the last place, or has another message there.
    Rewritten,
}

impl Log {
    /// Follows the log until the link is in doubt. Returns why.
    pub(in crate::cluster) async fn follow(&self, client: Client, follower: &impl Follower) -> Reason {
        match self.try_follow(&client, follower).await {
            Ok(never) => match never {},
            Err(reason) => reason,
        }
    }

    async fn try_follow(
        &self,
        client: &Client,
        follower: &impl Follower,
    ) -> Result<std::convert::Infallible, Reason> {
        let mut stream = self.stream(client).await?;
        // A place without a message cannot be compared.
        let place = lock(&self.place).clone().filter(|place| place.caught_up || place.print != 0);
        let mut consumer = match &place {
            None => {
                let record = self.agree(client, &stream, follower).await?;
                self.enter(client, &mut stream, &record).await?
            }
            Some(place) => match self.resume(client, &stream, place).await? {
                Begun::Following(consumer) => consumer,
                Begun::AgedOut(before) => {
                    self.counters.gaps.fetch_add(1, Relaxed);
                    self.skip(client, &stream, before, follower).await?
                }
                Begun::Rewritten => self.enter_again(client, &mut stream, place.epoch, follower).await?,
            },
        };
        loop {
            consumer = match self.read(client, consumer, follower).await? {
                Ended::Rewritten(epoch) => self.enter_again(client, &mut stream, epoch, follower).await?,
                Ended::AtHole(before) => self.skip(client, &stream, before, follower).await?,
            };
        }
    }

    /// Goes on behind this number, because messages up to it are gone.
    async fn skip(
        &self,
        client: &Client,
        stream: &Stream,
        before: u64,
        follower: &impl Follower,
    ) -> Result<Consumer, Reason> {
        let (consumer, before) = self.consumer(client, stream, before + 1, None).await?;
        let place = lock(&self.place).clone();
        if let Some(place) = place {
            self.begin(Place { number: before, print: 0, caught_up: false, ..place });
        }
        follower.gap("messages of the log were gone before this node had them");
        Ok(consumer)
    }

    /// The log has other contents than this node has seen under this epoch: begins again under another one.
    async fn enter_again(
        &self,
        client: &Client,
        stream: &mut Stream,
        before: u64,
        follower: &impl Follower,
    ) -> Result<Consumer, Reason> {
        self.counters.gaps.fetch_add(1, Relaxed);
        let record = self.rewritten(client, stream, before).await?;
        let consumer = self.enter(client, stream, &record).await?;
        follower.gap("the log has other contents than before");
        Ok(consumer)
    }

    /// Gives the log, which was written again under this epoch, another one, unless another node has.
    async fn rewritten(&self, client: &Client, stream: &Stream, before: u64) -> Result<Record, Reason> {
        loop {
            let record = epoch::read(stream, &self.subjects.epoch()).await?;
            // Only a node that has noticed the same can have replaced the epoch that was in force until now.
            if let Some(record) = &record
                && record.replaces == Some(before)
            {
                return Ok(record.clone());
            }
            let expected = record.map_or(0, |record| record.number);
            let epoch = epoch::random();
            let written = epoch::write(client, &self.subjects.epoch(), expected, epoch, Some(before)).await?;
            if let Written::At(number) = written {
                tracing::warn!("cluster: the log has a new epoch, because its contents have changed");
                return Ok(Record { number, epoch, replaces: Some(before) });
            }
        }
    }

    /// Finds the epoch of the log, with the other nodes. If there is no other node, the log gets a new one: nobody knows what
    /// became of it.
    async fn agree(
        &self,
        client: &Client,
        stream: &Stream,
        follower: &impl Follower,
    ) -> Result<Record, Reason> {
        let deadline = tokio::time::Instant::now() + OTHERS;
        let first = epoch::read(stream, &self.subjects.epoch()).await?;
        loop {
            let heard = follower.heard();
            let record = epoch::read(stream, &self.subjects.epoch()).await?;
            let epochs = follower.epochs();
            if let Some(record) = record.clone()
                && (epochs.contains(&record.epoch)
                    // A node that starts as well was faster.
                    || first.as_ref().is_none_or(|first| first.epoch != record.epoch))
            {
                return Ok(record);
            }
            if tokio::time::timeout_at(deadline, heard).await.is_ok() {
                continue;
            }
            if !follower.epochs().is_empty() {
                return Err("the nodes do not agree on the epoch of the log yet".to_owned());
            }
            let (expected, replaces) = record.map_or((0, None), |record| (record.number, Some(record.epoch)));
            let epoch = epoch::random();
            match epoch::write(client, &self.subjects.epoch(), expected, epoch, replaces).await? {
                Written::At(number) => {
                    tracing::info!("cluster: the log has a new epoch, because no other node follows it");
                    return Ok(Record { number, epoch, replaces });
                }
                Written::Lost => {}
            }
        }
    }

    /// Begins at the beginning of the log, under an epoch that is in force.
    async fn enter(&self, client: &Client, stream: &mut Stream, record: &Record) -> Result<Consumer, Reason> {
        let info = stream.info().await.map_err(|error| format!("the log cannot be read: {error}"))?;
        let first = info.state.first_sequence.max(1);
        let (consumer, delivered) = self.consumer(client, stream, first, None).await?;
        self.begin(Place {
            number: delivered.max(first - 1),
            print: 0,
            caught_up: false,
            epoch: record.epoch,
            replaces: record.replaces,
            record: record.number,
            recorded: Instant::now(),
        });
        Ok(consumer)
    }

    /// Goes on at the last message that was delivered.
    async fn resume(&self, client: &Client, stream: &Stream, place: &Place) -> Result<Begun, Reason> {
        if place.print == 0 {
            // Nothing of the log was delivered yet under this epoch.
            return Ok(Begun::AgedOut(place.number));
        }
        let (consumer, delivered) = self.consumer(client, stream, place.number, Some(place.clone())).await?;
        Ok(match delivered.cmp(&(place.number - 1)) {
            std::cmp::Ordering::Equal => Begun::Following(consumer),
            std::cmp::Ordering::Less => Begun::Rewritten,
            std::cmp::Ordering::Greater => Begun::AgedOut(delivered),
        })
    }

    /// Makes a consumer of all messages from `first` on. Returns the number before its first message, too: JetStream says
    /// nothing else if the log begins later or ends before.
    async fn consumer(
        &self,
        client: &Client,
        stream: &Stream,
        first: u64,
        expected: Option<Place>,
    ) -> Result<(Consumer, u64), Reason> {
        let inbox = client.new_inbox();
        let messages = client.subscribe(inbox.clone()).await;
        let messages = messages.map_err(|error| format!("NATS takes no subscription: {error}"))?;
        let config = push::Config {
            deliver_subject: inbox,
            deliver_policy: DeliverPolicy::ByStartSequence { start_sequence: first },
            ack_policy: AckPolicy::None,
            max_deliver: 1,
            flow_control: true,
            idle_heartbeat: HEARTBEAT,
            memory_storage: true,
            num_replicas: 1,
            ..push::Config::default()
        };
        let made = stream.create_consumer(config).await;
        let made = made.map_err(|error| format!("the log cannot be followed: {error}"))?;
        let info = made.cached_info();
        let consumer = Consumer { messages, pending: info.num_pending, expected };
        Ok((consumer, info.delivered.stream_sequence))
    }

    /// Begins at a place with empty histories.
    fn begin(&self, place: Place) {
        self.hub.begin_log(place.epoch, place.number);
        self.tell(|| self.appends.begin_again(place.number));
        self.applied.send_replace(place.number);
        *lock(&self.place) = Some(place);
    }

    /// Notes that all messages up to now were delivered.
    fn caught_up(&self, missed: bool, follower: &impl Follower) {
        // No client is told the place of its message before those that have missed earlier ones are detached.
        let _telling = lock(&self.telling);
        if let Some(place) = &mut *lock(&self.place) {
            place.caught_up = true;
        }
        if missed {
            // Connections of the process before this one may have read them.
            self.hub.forget_readers();
        }
        follower.caught_up(missed);
    }

    /// Delivers what a consumer brings.
    async fn read(
        &self,
        client: &Client,
        consumer: Consumer,
        follower: &impl Follower,
    ) -> Result<Ended, Reason> {
        let Consumer { mut messages, pending, mut expected } = consumer;
        // A node that goes on where it was delivers what its readers have missed. One that begins has none.
        let mut live = expected.as_ref().map_or(pending == 0, |place| place.caught_up);
        let missed = !live;
        if pending == 0 {
            self.caught_up(missed, follower);
        }
        let mut reader = Reader { log: self, delivery: 0, answers: Vec::new() };
        let mut before = lock(&self.place).as_ref().map_or(0, |place| place.number);
        loop {
            let mut next = match tokio::time::timeout(SILENCE, messages.next()).await {
                Ok(Some(message)) => Some(message),
                Ok(None) => return Err("the subscription to the log has ended".to_owned()),
                Err(_) => return Err(format!("the log says nothing for {} s", SILENCE.as_secs())),
            };
            // Nothing waits before the place is noted: what was delivered would be delivered again.
            let (mut run, mut flush_list, mut count) = (Run::default(), FlushList::new(), 0);
            let (mut last, mut failed) = (None, None);
            let (mut holes, mut ended) = (0, None);
            while let Some(message) = next.take() {
                let stamp = match reader.take(&message) {
                    Ok(stamp) => stamp,
                    Err(reason) => {
                        failed = Some(reason);
                        break;
                    }
                };
                if let Some(stamp) = stamp {
                    let print = print(&message, stamp);
                    let expected = expected.take();
                    if let Some(place) = &expected
                        && (place.number, place.print) != (stamp.number, print)
                    {
                        return Ok(Ended::Rewritten(place.epoch));
                    }
                    if expected.is_none() {
                        if stamp.number > before + 1 {
                            self.note_hole(before, stamp.number);
                            if live {
                                ended = Some(Ended::AtHole(stamp.number - 1));
                                break;
                            }
                            holes += 1;
                            if holes == 1 {
                                run.deliver(self, live, &mut flush_list);
                                self.forget(stamp.number - 1);
                            }
                        }
                        self.apply(&message, stamp, live, &mut run, &mut flush_list);
                    }
                    before = stamp.number;
                    last = Some((stamp.number, print));
                    if reader.delivery == pending {
                        run.deliver(self, live, &mut flush_list);
                        if holes > 1 {
                            self.forget(stamp.number);
                            holes = 0;
                        }
                        live = true;
                        self.caught_up(missed, follower);
                    }
                }
                count += 1;
                if count < BURST {
                    next = tokio::task::unconstrained(messages.next()).now_or_never().flatten();
                }
            }
            run.deliver(self, live, &mut flush_list);
            if let Some((number, print)) = last {
                if holes > 1 {
                    // All histories are looked at for it, so not for each hole.
                    self.forget(number);
                }
                self.hub.reach(number);
                if let Some(place) = &mut *lock(&self.place) {
                    (place.number, place.print) = (number, print);
                }
                self.applied.send_replace(number);
                self.tell(|| self.appends.delivered(number));
            }
            if let Some(mut writing) = self.flusher.flush(&mut flush_list) {
                std::future::poll_fn(|context| writing.poll(context, &self.flusher)).await;
            }
            if let Some(reason) = failed {
                return Err(reason);
            }
            if let Some(ended) = ended {
                return Ok(ended);
            }
            for subject in reader.answers.drain(..) {
                let published = client.publish(subject, bytes::Bytes::new()).await;
                published.map_err(|error| format!("NATS takes no message: {error}"))?;
            }
            if count == BURST {
                // More messages are there, so nothing else would wait, and this could not be ended with its link.
                tokio::task::yield_now().await;
            }
        }
    }

    /// Notes that the log has no message between these numbers.
    fn note_hole(&self, before: u64, after: u64) {
        self.counters.gaps.fetch_add(1, Relaxed);
        if self.lines.takes(Instant::now()) {
            let (first, last) = (before + 1, after - 1);
            tracing::warn!(
                "cluster: messages {first} to {last} of the log were gone before this node had them"
            );
        }
    }

    /// Begins the histories again behind this number.
    fn forget(&self, number: u64) {
        let epoch = lock(&self.place).as_ref().map(|place| place.epoch);
        if let Some(epoch) = epoch {
            self.hub.begin_log(epoch, number);
        }
    }

    /// Applies a message of the log: one of a channel, or a record of the epoch.
    fn apply(&self, message: &Message, stamp: Stamp, live: bool, run: &mut Run, flush_list: &mut FlushList) {
        if message.subject.as_str() != self.subjects.epoch() {
            return run.add(self, message, stamp, live, flush_list);
        }
        let Some(record) = epoch::parse(&message.payload, stamp.number) else {
            self.counters.dropped.fetch_add(1, Relaxed);
            return;
        };
        let mut place = lock(&self.place);
        let Some(place) = &mut *place else { return };
        if record.number < place.record {
            return;
        }
        (place.record, place.recorded) = (record.number, Instant::now());
        if record.epoch != place.epoch {
            (place.epoch, place.replaces) = (record.epoch, record.replaces);
            run.deliver(self, live, flush_list);
            self.hub.begin_log(record.epoch, record.number);
            if self.lines.takes(Instant::now()) {
                tracing::info!("cluster: another node has given the log a new epoch");
            }
        }
    }
}

/// How reading ended without a doubt about the link.
#[derive(PartialEq, Eq)]
enum Ended {
    /// The log was written again after this epoch.
    Rewritten(u64),
    /// The log has lost messages up to this number, which readers here wait for.
    AtHole(u64),
}

/// The state of reading from one consumer.
struct Reader<'a> {
    log: &'a Log,
    /// The messages that the consumer has delivered.
    delivery: u64,
    /// Subjects to which JetStream wants an empty message, to go on.
    answers: Vec<String>,
}

impl Reader<'_> {
    /// Takes a message of the consumer; `None` if it is one of JetStream itself, or of a stranger.
    fn take(&mut self, message: &Message) -> Result<Option<Stamp>, Reason> {
        if message.status == Some(StatusCode::IDLE_HEARTBEAT) {
            self.heartbeat(message)?;
            return Ok(None);
        }
        let Some(stamp) = Stamp::of(message).filter(|stamp| stamp.delivery > self.delivery) else {
            self.log.counters.dropped.fetch_add(1, Relaxed);
            return Ok(None);
        };
        self.expect(stamp.delivery - 1)?;
        self.delivery = stamp.delivery;
        Ok(Some(stamp))
    }

    /// Reads a heartbeat, which tells how many messages should have arrived, or a request of the flow control.
    fn heartbeat(&mut self, message: &Message) -> Result<(), Reason> {
        let header = |name: &str| {
            message.headers.as_ref().and_then(|headers| headers.get(name)).map(|value| value.as_str())
        };
        let stalled = header("Nats-Consumer-Stalled").map(str::to_owned);
        self.answers.extend(stalled.or_else(|| message.reply.as_ref().map(|reply| reply.to_string())));
        let delivered = header("Nats-Last-Consumer").and_then(|delivered| delivered.parse().ok());
        delivered.map_or(Ok(()), |delivered| self.expect(delivered))
    }

    /// Checks that so many messages have arrived.
    fn expect(&self, delivered: u64) -> Result<(), Reason> {
        match delivered.saturating_sub(self.delivery) {
            0 => Ok(()),
            lost => Err(format!("{lost} messages of the log were lost on the way")),
        }
    }
}
