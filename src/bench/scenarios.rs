//! The loads: which connections they open, which of these publish how fast, and which figures result.

use std::sync::Arc;
use std::thread::sleep;
use std::time::Duration;

use super::error::BenchError;
use super::floor;
use super::load::{self, Group, Outcome, Pace};
use super::local::Process;
use super::options::{Options, Scenario};
use super::progress::Progress;
use super::report::{Latency, Row, per};
use super::swarm::Swarm;
use super::wire::{Dialect, Seat, SharedSeat};
use super::{Rights, Target};

/// Bytes of data of the large messages to idle connections.
const LARGE: usize = 16 * 1024;
/// Time for the server to free what it needed only to open connections or to deliver messages.
pub(super) const SETTLE: Duration = Duration::from_millis(1500);
/// Default sizes.
const READERS: usize = 1000;
const ROOMS: usize = 200;
const IDLE: usize = 10_000;
const STREAM_IN_FLIGHT: usize = 256;
/// Messages a second.
const RATE: u64 = 50;

/// Runs the chosen scenarios one after the other.
pub(super) struct Runner<'a, D, T> {
    pub(super) options: &'a Options,
    pub(super) target: &'a Target<D>,
    pub(super) server: Option<Process>,
    pub(super) tokens: T,
    /// The most connections that may be opened at once.
    pub(super) most: usize,
    pub(super) progress: Progress,
    pub(super) notes: Vec<String>,
}

impl<D: Dialect + Copy, E: From<BenchError>, T: FnMut(&Rights<'_>) -> Result<String, E>> Runner<'_, D, T> {
    pub(super) fn run(&mut self, scenario: Scenario) -> Result<Vec<Row>, E> {
        let in_flight = self.options.in_flight.map(|number| number as usize);
        match scenario {
            Scenario::Fanout => {
                let counts = in_flight.map_or_else(|| vec![1, 16], |number| vec![number]);
                counts.into_iter().map(|in_flight| self.fanout(in_flight)).collect()
            }
            Scenario::Rooms => Ok(vec![self.rooms(in_flight.unwrap_or(1))?]),
            Scenario::Paced => Ok(vec![self.paced()?]),
            Scenario::Stream => Ok(vec![self.stream(in_flight.unwrap_or(STREAM_IN_FLIGHT))?]),
            Scenario::Idle => Ok(vec![self.idle()?]),
            Scenario::Churn => Ok(vec![self.churn()?]),
        }
    }

    fn fanout(&mut self, in_flight: usize) -> Result<Row, E> {
        let readers = self.fit("fanout", self.options.connections, READERS, 1, 1)?;
        let name = format!("fanout {in_flight}");
        let (mut row, frame) = self.broadcast(&name, readers, Pace::InFlight(in_flight))?;
        if self.server.is_some() {
            self.progress.begin(&format!("{name}, floor"), self.options.duration);
            let floor = floor::measure(readers, frame, in_flight, self.options.duration, self.server)?;
            row.floor_time_per_delivery = Some(floor);
        }
        Ok(row)
    }

    fn paced(&mut self) -> Result<Row, E> {
        let readers = self.fit("paced", self.options.connections, READERS, 1, 1)?;
        Ok(self.broadcast("paced", readers, Pace::PerSecond(self.options.rate.unwrap_or(RATE) as f64))?.0)
    }

    fn stream(&mut self, in_flight: usize) -> Result<Row, E> {
        let one = self.fit("stream", Some(1), 1, 1, 1)?;
        Ok(self.broadcast("stream", one, Pace::InFlight(in_flight))?.0)
    }

    /// One publisher, the first connection, and `readers`. Returns the length of a frame as well.
    fn broadcast(&mut self, name: &str, readers: usize, pace: Pace) -> Result<(Row, usize), E> {
        let subject = self.options.subject.as_deref();
        let publisher =
            self.seat(Rights { channel: "bench", reads: false, writes: true, joins: false, subject })?;
        let reader =
            self.seat(Rights { channel: "bench", reads: true, writes: false, joins: false, subject: None })?;
        let mut seats = vec![publisher];
        seats.resize(readers + 1, reader);
        let group = Group { publishers: vec![0], readers: (1..=readers).collect(), mutual: false };
        let mut swarm = self.open(name, &seats)?;
        let row = self.load(name, &mut swarm, vec![group], pace, self.options.size as usize)?;
        let frame = swarm.frame_length;
        swarm.close()?;
        Ok((row, frame))
    }

    fn rooms(&mut self, in_flight: usize) -> Result<Row, E> {
        let members = self.options.members as usize;
        let rooms = self.fit("rooms", self.options.rooms, ROOMS, members, 0)?;
        let (seats, groups) = self.members(rooms, rooms * members, self.options.subject.as_deref())?;
        let mut swarm = self.open("rooms", &seats)?;
        let pace = Pace::InFlight(in_flight);
        let row = self.load("rooms", &mut swarm, groups, pace, self.options.size as usize)?;
        swarm.close()?;
        Ok(row)
    }

    fn idle(&mut self) -> Result<Row, E> {
        let members = self.options.members as usize;
        let connections = self.fit("idle", self.options.connections, IDLE, 1, 0)?;
        let rooms = connections.div_ceil(members);
        let subject = self.options.subject.as_deref().unwrap_or("bench");
        let (seats, mut groups) = self.members(rooms, connections, Some(subject))?;
        groups.retain(|group| group.readers.len() > 1);

        let before = self.server.and_then(|server| server.time().zip(server.resident()));
        let mut swarm = self.open("idle", &seats)?;
        let opened = self.server.and_then(Process::time);
        sleep(SETTLE);
        let memory = || {
            let now = self.server.and_then(Process::resident)?;
            Some(now.saturating_sub(before?.1) / connections as u64)
        };
        let fresh = memory();
        let name = "idle, 16 KiB messages";
        self.progress.begin(name, self.options.duration);
        let outcome = load::run(
            &mut swarm,
            groups,
            Pace::EachOnce,
            LARGE,
            super::options::LONGEST,
            self.server,
            |_| {},
        )?;
        sleep(SETTLE);
        let row = Row {
            memory_per_connection: fresh,
            memory_per_connection_after: memory(),
            server_time_per_accept: per(
                opened.zip(before).map(|(after, before)| after.saturating_sub(before.0)),
                connections as u64,
            ),
            lost: outcome.lost,
            out_of_order: outcome.out_of_order,
            ..Row::default()
        };
        swarm.close()?;
        Ok(Row { scenario: "idle".into(), connections, ..row })
    }

    /// Divides `connections` among `rooms`, whose members all read and publish.
    fn members(
        &mut self,
        rooms: usize,
        connections: usize,
        subject: Option<&str>,
    ) -> Result<(Vec<SharedSeat>, Vec<Group>), E> {
        let members = self.options.members as usize;
        let (mut seats, mut groups) = (Vec::with_capacity(connections), Vec::with_capacity(rooms));
        for room in 0..rooms {
            // Names of equal length, so that all frames have the same length.
            let channel = format!("bench-{room:06}");
            let seat =
                self.seat(Rights { channel: &channel, reads: true, writes: true, joins: false, subject })?;
            let first = seats.len();
            seats.resize(connections.min(first + members), seat);
            let all: Vec<usize> = (first..seats.len()).collect();
            groups.push(Group { publishers: all.clone(), readers: all, mutual: true });
        }
        Ok((seats, groups))
    }

    pub(super) fn seat(&mut self, rights: Rights<'_>) -> Result<SharedSeat, E> {
        let token = (self.tokens)(&rights)?;
        Ok(Arc::new(Seat { channel: rights.channel.to_owned(), reads: rights.reads, token }))
    }

    pub(super) fn open(&mut self, name: &str, seats: &[SharedSeat]) -> Result<Swarm<D>, E> {
        let mut swarm = Swarm::new(self.target.dialect, self.target.address, self.target.tls.clone())?;
        self.progress.count(&format!("{name}, connecting"), seats.len());
        swarm.open(seats, |open| self.progress.at(open as u64))?;
        Ok(swarm)
    }

    fn load(
        &mut self,
        name: &str,
        swarm: &mut Swarm<D>,
        groups: Vec<Group>,
        pace: Pace,
        size: usize,
    ) -> Result<Row, E> {
        let connections = swarm.open;
        self.progress.begin(name, self.options.duration);
        let tick = |elapsed: Duration| self.progress.at(elapsed.as_millis() as u64);
        let outcome = load::run(swarm, groups, pace, size, self.options.duration, self.server, tick)?;
        Ok(row(name, connections, &outcome))
    }

    /// How many units of `each` connections may be opened beside `more` others: `wanted`, or `usual` if they fit,
    /// or as many as fit.
    pub(super) fn fit(
        &mut self,
        name: &str,
        wanted: Option<u64>,
        usual: usize,
        each: usize,
        more: usize,
    ) -> Result<usize, E> {
        let free = self.most.saturating_sub(more) / each;
        match wanted.map(|wanted| wanted as usize) {
            Some(wanted) if wanted <= free => Ok(wanted),
            None if free >= usual => Ok(usual),
            None if free > 0 => {
                self.notes.push(format!(
                    "{name} has {} connections instead of {}: no more are free",
                    free * each + more,
                    usual * each + more
                ));
                Ok(free)
            }
            wanted => {
                Err(BenchError::Full { wanted: wanted.unwrap_or(usual) * each + more, free: self.most }
                    .into())
            }
        }
    }
}

fn row(name: &str, connections: usize, outcome: &Outcome) -> Row {
    Row {
        scenario: name.to_owned(),
        connections,
        seconds: outcome.seconds,
        messages: outcome.messages,
        deliveries: outcome.deliveries,
        deliveries_per_second: outcome.deliveries as f64 / outcome.seconds,
        lost: outcome.lost,
        out_of_order: outcome.out_of_order,
        latency: Latency::of(&outcome.latency),
        server_time_per_delivery: per(outcome.server_time, outcome.deliveries),
        generator_time_per_delivery: per(Some(outcome.own_time), outcome.deliveries),
        ..Row::default()
    }
}
