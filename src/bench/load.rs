//! Publishes the messages of a load, and counts which have arrived, how long they took and which are missing.

use std::cmp::Ordering;
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;

use super::error::BenchError;
use super::local::{Process, own_time};
use super::swarm::Swarm;
use super::wire::{Dialect, Mark};

/// How long to wait for messages that have not arrived.
const STRAGGLERS: Duration = Duration::from_secs(5);
/// The warm-up takes a run's duration divided by this. It is not measured, because caches fill and queues grow in it.
const WARM_UP: u32 = 10;
/// Significant digits of a latency.
const DIGITS: u8 = 3;

/// When the next message is published.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Pace {
    /// Whenever one of this many messages in flight has reached all its readers.
    InFlight(usize),
    /// As with one message in flight, until each publisher of a group has published once.
    EachOnce,
    /// This many a second, whether or not earlier messages have arrived. Latencies count from when a message was due.
    PerSecond(f64),
}

/// Connections that read one channel; its publishers take turns.
#[derive(Clone, Debug)]
pub(super) struct Group {
    /// Indices of the connections that publish.
    pub(super) publishers: Vec<usize>,
    /// Indices of the connections that read.
    pub(super) readers: Vec<usize>,
    /// Whether the publishers are among the readers. A publisher does not receive its own messages.
    pub(super) mutual: bool,
}

impl Group {
    /// How many readers receive each message.
    fn audience(&self) -> usize {
        self.readers.len() - usize::from(self.mutual)
    }
}

/// The result of a run.
#[derive(Debug)]
pub(super) struct Outcome {
    pub(super) seconds: f64,
    /// Messages and deliveries while it was measured.
    pub(super) messages: u64,
    pub(super) deliveries: u64,
    /// Deliveries that did not arrive or arrived out of order, over the whole run.
    pub(super) lost: u64,
    pub(super) out_of_order: u64,
    /// In nanoseconds.
    pub(super) latency: Histogram<u64>,
    /// CPU time of the server's threads, if it is on this machine.
    pub(super) server_time: Option<Duration>,
    /// CPU time of the generator.
    pub(super) own_time: Duration,
}

/// A run in progress.
struct Load<'a, D> {
    swarm: &'a mut Swarm<D>,
    groups: Vec<Progress>,
    /// For each connection, its group and the numbers that it expects next, one for each publisher.
    places: Vec<Place>,
    started: Instant,
    data: Vec<u8>,
    /// Connections with queued bytes.
    touched: Vec<usize>,
    tally: Tally,
}

struct Progress {
    group: Group,
    next: u32,
    /// Deliveries of each message in flight.
    arrived: Vec<u32>,
}

#[derive(Clone, Default)]
struct Place {
    group: u32,
    expected: Box<[u32]>,
}

struct Tally {
    messages: u64,
    due: u64,
    deliveries: u64,
    out_of_order: u64,
    latency: Histogram<u64>,
    /// Groups in which a message has reached all its readers.
    complete: Vec<u32>,
}

/// Loads the server and measures it for `duration`, after a warm-up.
pub(super) fn run<D: Dialect>(
    swarm: &mut Swarm<D>,
    groups: Vec<Group>,
    pace: Pace,
    size: usize,
    duration: Duration,
    server: Option<Process>,
    mut tick: impl FnMut(Duration),
) -> Result<Outcome, BenchError> {
    let mut load = Load::new(swarm, groups, pace, size)?;
    let warm = duration / WARM_UP;
    load.begin(pace)?;
    load.go_on(pace, warm, &mut |_| {})?;

    let before = (Instant::now(), server.and_then(Process::time), own_time());
    load.tally.latency.reset();
    let counted = (load.tally.messages, load.tally.deliveries);
    load.go_on(pace, warm + duration, &mut tick)?;
    let time =
        server.and_then(Process::time).zip(before.1).map(|(after, before)| after.saturating_sub(before));
    let seconds = before.0.elapsed().as_secs_f64();
    let own = own_time().saturating_sub(before.2);
    let measured = (load.tally.messages - counted.0, load.tally.deliveries - counted.1);
    let latency = load.tally.latency.clone();

    load.wait_for_stragglers()?;
    Ok(Outcome {
        seconds,
        messages: measured.0,
        deliveries: measured.1,
        lost: load.tally.due.saturating_sub(load.tally.deliveries),
        out_of_order: load.tally.out_of_order,
        latency,
        server_time: time,
        own_time: own,
    })
}

impl<'a, D: Dialect> Load<'a, D> {
    fn new(swarm: &'a mut Swarm<D>, groups: Vec<Group>, pace: Pace, size: usize) -> Result<Self, BenchError> {
        let in_flight = match pace {
            Pace::InFlight(in_flight) => in_flight,
            Pace::EachOnce => 1,
            Pace::PerSecond(_) => 0,
        };
        let mut places = Vec::new();
        for (number, group) in groups.iter().enumerate() {
            for &reader in &group.readers {
                if places.len() <= reader {
                    places.resize(reader + 1, Place::default());
                }
                let expected = (0..group.publishers.len() as u32).collect();
                places[reader] = Place { group: number as u32, expected };
            }
        }
        let progress = |group| Progress { group, next: 0, arrived: vec![0; in_flight] };
        Ok(Self {
            swarm,
            groups: groups.into_iter().map(progress).collect(),
            places,
            started: Instant::now(),
            data: vec![b'x'; size.max(Mark::LENGTH)],
            touched: Vec::new(),
            tally: Tally {
                messages: 0,
                due: 0,
                deliveries: 0,
                out_of_order: 0,
                latency: histogram()?,
                complete: Vec::new(),
            },
        })
    }

    fn now(&self) -> u64 {
        self.started.elapsed().as_nanos() as u64
    }

    /// Queues a group's next message.
    fn publish(&mut self, group: usize, due: u64) {
        let Progress { group, next, arrived } = &mut self.groups[group];
        let number = *next;
        *next = next.wrapping_add(1);
        let publisher = group.publishers[number as usize % group.publishers.len()];
        let in_flight = arrived.len();
        if in_flight > 0 {
            arrived[number as usize % in_flight] = 0;
        }
        Mark { number, due }.write(&mut self.data);
        self.swarm.publish(publisher, &self.data);
        self.tally.messages += 1;
        self.tally.due += group.audience() as u64;
        if self.touched.last() != Some(&publisher) {
            self.touched.push(publisher);
        }
    }

    /// Sends the queued bytes, with one system call for each publisher.
    fn flush(&mut self) -> Result<(), BenchError> {
        for publisher in self.touched.drain(..) {
            self.swarm.flush(publisher)?;
        }
        Ok(())
    }

    fn begin(&mut self, pace: Pace) -> Result<(), BenchError> {
        if let Pace::PerSecond(_) = pace {
            return Ok(());
        }
        for group in 0..self.groups.len() {
            for _ in 0..self.groups[group].arrived.len() {
                self.publish(group, self.now());
            }
        }
        self.flush()
    }

    /// Runs the load until `until` after the start.
    fn go_on(
        &mut self,
        pace: Pace,
        until: Duration,
        tick: &mut dyn FnMut(Duration),
    ) -> Result<(), BenchError> {
        let mut arrival = Instant::now();
        loop {
            let elapsed = self.started.elapsed();
            if elapsed >= until {
                return Ok(());
            }
            tick(elapsed);
            let wait = match pace {
                Pace::InFlight(_) => Duration::from_millis(100).min(until - elapsed),
                Pace::EachOnce if self.tally.deliveries == self.tally.due => return Ok(()),
                Pace::EachOnce => Duration::from_millis(100),
                Pace::PerSecond(rate) => self.publish_due(rate, until)?,
            };
            let before = self.tally.deliveries;
            self.turn(wait)?;
            self.swarm.check()?;
            if self.tally.deliveries > before {
                arrival = Instant::now();
            } else if arrival.elapsed() > STRAGGLERS {
                // Something was lost and nothing moves, so the run ends with the figures it has.
                return Ok(());
            }
            let due = self.now();
            for group in std::mem::take(&mut self.tally.complete) {
                let Progress { group: Group { publishers, .. }, next, .. } = &self.groups[group as usize];
                if pace != Pace::EachOnce || (*next as usize) < publishers.len() {
                    self.publish(group as usize, due);
                }
            }
            self.flush()?;
        }
    }

    /// Publishes all messages that are due, and returns how long to wait for the next.
    ///
    /// epoll rounds its timeout up to milliseconds. The last millisecond is spent polling, so that no message is late.
    fn publish_due(&mut self, rate: f64, until: Duration) -> Result<Duration, BenchError> {
        for group in 0..self.groups.len() {
            loop {
                let due = (f64::from(self.groups[group].next) * 1e9 / rate) as u64;
                let now = self.now();
                if due > now || Duration::from_nanos(due) >= until {
                    break;
                }
                self.publish(group, due);
            }
        }
        self.flush()?;
        let next = self.groups.iter().map(|group| (f64::from(group.next) * 1e9 / rate) as u64).min();
        let left = next.unwrap_or(0).saturating_sub(self.now()) / 1_000_000;
        Ok(Duration::from_millis(left.min(100)))
    }

    fn turn(&mut self, wait: Duration) -> Result<(), BenchError> {
        let Self { swarm, groups, places, started, tally, .. } = self;
        // Everything that one connection has to read gets the same arrival time, because reading the clock costs time.
        let (mut of, mut now) = (usize::MAX, 0);
        swarm.turn(Some(wait), |index, data| {
            if of != index {
                (of, now) = (index, started.elapsed().as_nanos() as u64);
            }
            if let Some(mark) = Mark::read(data) {
                tally.arrived(mark, now, &mut places[index], groups);
            }
        })
    }

    fn wait_for_stragglers(&mut self) -> Result<(), BenchError> {
        let mut last = (self.tally.deliveries, Instant::now());
        while self.tally.deliveries < self.tally.due && last.1.elapsed() < STRAGGLERS {
            self.turn(Duration::from_millis(20))?;
            if self.tally.deliveries > last.0 {
                last = (self.tally.deliveries, Instant::now());
            }
        }
        self.swarm.check()
    }
}

impl Tally {
    fn arrived(&mut self, mark: Mark, now: u64, place: &mut Place, groups: &mut [Progress]) {
        let progress = &mut groups[place.group as usize];
        let publishers = place.expected.len();
        let which = mark.number as usize % publishers.max(1);
        let Some(expected) = place.expected.get_mut(which) else { return };
        // Missing messages are counted at the end; messages out of order or repeated are counted here.
        match mark.number.cmp(expected) {
            Ordering::Less => self.out_of_order += 1,
            Ordering::Equal | Ordering::Greater => *expected = mark.number + publishers as u32,
        }
        self.deliveries += 1;
        self.latency.saturating_record(now.saturating_sub(mark.due));
        let in_flight = progress.arrived.len();
        if in_flight > 0 {
            let arrived = &mut progress.arrived[mark.number as usize % in_flight];
            *arrived += 1;
            if *arrived as usize == progress.group.audience() {
                self.complete.push(place.group);
            }
        }
    }
}

/// A histogram of nanoseconds, up to an hour.
pub(super) fn histogram() -> Result<Histogram<u64>, BenchError> {
    const HOUR: u64 = 3_600_000_000_000;
    Histogram::new_with_max(HOUR, DIGITS)
        .map_err(|error| BenchError::System("count latencies", std::io::Error::other(error)))
}
