//! The load of clients that join and leave rooms: what each joining costs, and the memory of each joined channel.

use std::thread::sleep;
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;

use super::Rights;
use super::error::BenchError;
use super::load;
use super::local::{Process, own_time};
use super::report::{Latency, Row, per};
use super::scenarios::{Runner, SETTLE};
use super::swarm::Swarm;
use super::wire::Dialect;

/// Default sizes: clients, rooms, and joins and leaves a second.
const CLIENTS: usize = 2000;
const ROOMS: usize = 500;
const RATE: u64 = 1000;
/// The rooms that each client joins while memory is measured, so that a channel's share is many times a page.
const JOINED: usize = 20;
/// How long to wait for the answers of all clients.
const PATIENCE: Duration = Duration::from_secs(30);

/// The clients, and when each sent the request that was not answered yet.
struct Clients<D> {
    swarm: Swarm<D>,
    asked: Vec<Option<Instant>>,
    waiting: usize,
    latency: Histogram<u64>,
}

impl<D: Dialect> Clients<D> {
    /// Makes a client join or leave these rooms.
    fn ask(&mut self, index: usize, joins: bool, rooms: &[String], due: Instant) -> Result<(), BenchError> {
        self.swarm.ask(index, joins, rooms);
        self.waiting += usize::from(self.asked[index].replace(due).is_none());
        self.swarm.flush(index)
    }

    fn turn(&mut self, wait: Duration) -> Result<(), BenchError> {
        self.swarm.turn(Some(wait), |_, _| {})?;
        for index in std::mem::take(&mut self.swarm.answered) {
            if let Some(due) = self.asked[index].take() {
                self.waiting -= 1;
                self.latency.saturating_record(due.elapsed().as_nanos() as u64);
            }
        }
        self.swarm.check()
    }

    /// Waits for all answers.
    fn settle(&mut self) -> Result<(), BenchError> {
        let began = Instant::now();
        while self.waiting > 0 {
            self.turn(Duration::from_millis(100))?;
            if began.elapsed() > PATIENCE {
                return Err(BenchError::Silent { asked: self.asked.len(), waiting: self.waiting });
            }
        }
        Ok(())
    }

    fn everybody(&mut self, joins: bool, rooms: &[String]) -> Result<(), BenchError> {
        for index in 0..self.asked.len() {
            let some: Vec<String> =
                (0..JOINED).map(|n| rooms[(index * JOINED + n) % rooms.len()].clone()).collect();
            self.ask(index, joins, &some, Instant::now())?;
        }
        self.settle()
    }
}

impl<D: Dialect + Copy, E: From<BenchError>, T: FnMut(&Rights<'_>) -> Result<String, E>> Runner<'_, D, T> {
    pub(super) fn churn(&mut self) -> Result<Row, E> {
        let clients = self.fit("churn", self.options.connections, CLIENTS, 1, 0)?;
        let count = self.options.rooms.map_or(ROOMS, |rooms| rooms as usize);
        let rooms: Vec<String> = (0..count).map(|room| format!("bench-{room:06}")).collect();
        let subject = self.options.subject.as_deref();
        let rights = Rights { channel: "bench-", reads: false, writes: false, joins: true, subject };
        let seat = self.seat(rights)?;
        let swarm = self.open("churn", &vec![seat; clients])?;
        let latency = load::histogram()?;
        let mut clients = Clients { swarm, asked: vec![None; clients], waiting: 0, latency };

        // The first time, because the allocator keeps what is freed.
        sleep(SETTLE);
        let before = self.server.and_then(Process::resident);
        clients.everybody(true, &rooms)?;
        sleep(SETTLE);
        let after = self.server.and_then(Process::resident);
        clients.everybody(false, &rooms)?;
        let channels = (clients.asked.len() * JOINED) as u64;
        let memory = after.zip(before).map(|(after, before)| after.saturating_sub(before) / channels);

        let rate = self.options.rate.unwrap_or(RATE);
        self.progress.begin("churn", self.options.duration);
        clients.latency.reset();
        let (started, time, own) = (Instant::now(), self.server.and_then(Process::time), own_time());
        let mut asked = 0_u64;
        while started.elapsed() < self.options.duration {
            let due = started + Duration::from_secs_f64(asked as f64 / rate as f64);
            let now = Instant::now();
            if due > now {
                clients.turn((due - now).min(Duration::from_millis(10)))?;
                continue;
            }
            let (index, round) = (asked as usize % clients.asked.len(), asked as usize / clients.asked.len());
            // Each client joins a room, and leaves it the next time.
            let room = &rooms[(index + round / 2) % rooms.len()];
            clients.ask(index, round % 2 == 0, std::slice::from_ref(room), due)?;
            asked += 1;
            self.progress.at(started.elapsed().as_millis() as u64);
        }
        clients.settle()?;
        let seconds = started.elapsed().as_secs_f64();
        let time =
            self.server.and_then(Process::time).zip(time).map(|(after, before)| after.saturating_sub(before));
        let row = Row {
            scenario: "churn".into(),
            connections: clients.asked.len(),
            seconds,
            joins: asked,
            latency: Latency::of(&clients.latency),
            server_time_per_join: per(time, asked),
            generator_time_per_delivery: per(Some(own_time().saturating_sub(own)), asked),
            memory_per_joined_channel: memory,
            ..Row::default()
        };
        clients.swarm.close()?;
        Ok(row)
    }
}
