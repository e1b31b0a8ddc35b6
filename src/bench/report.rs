//! The figures of a run, as a table for people and as JSON for programs.

use std::time::Duration;

use hdrhistogram::Histogram;
use serde::{Deserialize, Serialize};

/// The figures of a run of `philotectl bench`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Measured {
    /// The address of the server.
    pub server: String,
    /// Bytes of each message's data.
    pub size: usize,
    /// The figures of each scenario, in the order in which they ran.
    pub scenarios: Vec<Row>,
    /// What differs from a usual run, in sentences.
    pub notes: Vec<String>,
}

/// One scenario's figures; times are seconds, memory is bytes.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Row {
    /// Its name, with the number of messages in flight where that differs.
    pub scenario: String,
    /// Connections.
    pub connections: usize,
    /// How long the measurement took.
    pub seconds: f64,
    /// Messages published in that time.
    pub messages: u64,
    /// Messages that readers received in that time.
    pub deliveries: u64,
    /// Deliveries a second.
    pub deliveries_per_second: f64,
    /// Deliveries that did not arrive, over the whole run.
    pub lost: u64,
    /// Deliveries that arrived after a later one of the same publisher, or twice.
    pub out_of_order: u64,
    /// From when a message was due until a reader had it; `None` if no message was published.
    pub latency: Option<Latency>,
    /// CPU time of the server's threads for each delivery; `None` if the server is not on this machine.
    pub server_time_per_delivery: Option<f64>,
    /// CPU time of a bare loop for the same delivery, measured in the same run.
    pub floor_time_per_delivery: Option<f64>,
    /// The generator's own CPU time for each delivery.
    pub generator_time_per_delivery: Option<f64>,
    /// Memory of the server for each open connection, before any message.
    pub memory_per_connection: Option<u64>,
    /// Memory of the server for each open connection, after large messages in both directions.
    pub memory_per_connection_after: Option<u64>,
    /// CPU time of the server for each connection that it accepted.
    pub server_time_per_accept: Option<f64>,
    /// Joins and leaves.
    #[serde(default)]
    pub joins: u64,
    /// CPU time of the server for each of them.
    #[serde(default)]
    pub server_time_per_join: Option<f64>,
    /// Memory of the server for each channel that a connection has joined, if the channel has other readers.
    #[serde(default)]
    pub memory_per_joined_channel: Option<u64>,
}

/// Percentiles in seconds.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Latency {
    /// Half of all deliveries.
    pub p50: f64,
    /// 99 of 100.
    pub p99: f64,
    /// 999 of 1,000.
    pub p999: f64,
    /// The slowest.
    pub max: f64,
}

impl Latency {
    pub(super) fn of(histogram: &Histogram<u64>) -> Option<Latency> {
        let at = |quantile| histogram.value_at_quantile(quantile) as f64 / 1e9;
        (!histogram.is_empty()).then(|| Latency {
            p50: at(0.5),
            p99: at(0.99),
            p999: at(0.999),
            max: at(1.0),
        })
    }
}

impl Row {
    /// The server's time as a multiple of the floor.
    #[must_use]
    pub fn ratio(&self) -> Option<f64> {
        Some(self.server_time_per_delivery? / self.floor_time_per_delivery?)
    }
}

/// The time for each of `count` units.
pub(super) fn per(time: Option<Duration>, count: u64) -> Option<f64> {
    time.filter(|_| count > 0).map(|time| time.as_secs_f64() / count as f64)
}

impl Measured {
    /// A table of at most 80 columns, and the meaning of its figures.
    #[must_use]
    pub fn table(&self) -> String {
        let is_carried = |row: &&Row| row.memory_per_connection.is_none() && row.joins == 0;
        let carried: Vec<&Row> = self.scenarios.iter().filter(is_carried).collect();
        let idle: Vec<&Row> =
            self.scenarios.iter().filter(|row| row.memory_per_connection.is_some()).collect();
        let mut text = format!("{}, {} bytes of data a message\n", self.server, self.size);
        if !carried.is_empty() {
            let head =
                ["", "deliveries/s", "p50", "p99", "p99.9", "server", "floor", "ratio", "bench", "lost"];
            let mut rows = vec![head.map(str::to_owned)];
            rows.extend(carried.iter().map(|row| {
                let latency = |of: fn(&Latency) -> f64| fixed(row.latency.as_ref().map(of), 1e3);
                [
                    row.scenario.clone(),
                    format!("{:.0}", row.deliveries_per_second),
                    latency(|latency| latency.p50),
                    latency(|latency| latency.p99),
                    latency(|latency| latency.p999),
                    fixed(row.server_time_per_delivery, 1e6),
                    fixed(row.floor_time_per_delivery, 1e6),
                    fixed(row.ratio(), 1.0),
                    fixed(row.generator_time_per_delivery, 1e6),
                    row.lost.to_string(),
                ]
            }));
            text.push_str(&format!("\n{}", columns(&rows)));
            text.push_str("p50, p99, p99.9: milliseconds from when a message was due\n");
            text.push_str(
                "server, floor, bench: CPU microseconds a delivery, of the server, of a bare loop\n",
            );
            text.push_str("that only sends the same frames, and of this program\n");
            let disorder: u64 = carried.iter().map(|row| row.out_of_order).sum();
            text.push_str(&format!("out of order: {disorder}\n"));
        }
        if !idle.is_empty() {
            let head = ["", "connections", "memory each", "after 16 KiB messages", "CPU us an accept"];
            let mut rows = vec![head.map(str::to_owned)];
            let memory = |bytes: Option<u64>| bytes.map_or_else(|| "-".into(), |bytes| bytes.to_string());
            rows.extend(idle.iter().map(|row| {
                [
                    row.scenario.clone(),
                    row.connections.to_string(),
                    memory(row.memory_per_connection),
                    memory(row.memory_per_connection_after),
                    fixed(row.server_time_per_accept, 1e6),
                ]
            }));
            text.push_str(&format!(
                "\n{}memory: resident bytes of the server, without its program\n",
                columns(&rows)
            ));
        }
        let churn: Vec<&Row> = self.scenarios.iter().filter(|row| row.joins > 0).collect();
        if !churn.is_empty() {
            let head = ["", "connections", "joins/s", "p50", "p99", "CPU us each", "memory a channel"];
            let mut rows = vec![head.map(str::to_owned)];
            rows.extend(churn.iter().map(|row| {
                let latency = |of: fn(&Latency) -> f64| fixed(row.latency.as_ref().map(of), 1e3);
                [
                    row.scenario.clone(),
                    row.connections.to_string(),
                    format!("{:.0}", row.joins as f64 / row.seconds),
                    latency(|latency| latency.p50),
                    latency(|latency| latency.p99),
                    fixed(row.server_time_per_join, 1e6),
                    row.memory_per_joined_channel.map_or_else(|| "-".into(), |bytes| bytes.to_string()),
                ]
            }));
            text.push_str(&format!("\n{}joins: joins and leaves\n", columns(&rows)));
        }
        self.notes.iter().for_each(|note| text.push_str(&format!("note: {note}\n")));
        text
    }
}

/// A figure in other units, with at least three digits.
fn fixed(value: Option<f64>, scale: f64) -> String {
    match value.map(|value| value * scale) {
        None => "-".into(),
        Some(value) if value < 10.0 => format!("{value:.2}"),
        Some(value) if value < 100.0 => format!("{value:.1}"),
        Some(value) => format!("{value:.0}"),
    }
}

/// Aligns the first column to the left and the others to the right.
fn columns<const N: usize>(rows: &[[String; N]]) -> String {
    let mut widths = [0; N];
    for row in rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = cell.len().max(*width);
        }
    }
    let mut text = String::new();
    for row in rows {
        let cells = row.iter().zip(widths).enumerate();
        let cells = cells.map(|(at, (cell, width))| match at {
            0 => format!("{cell:width$}"),
            _ => format!("{cell:>width$}"),
        });
        text.push_str(cells.collect::<Vec<_>>().join("  ").trim_end());
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_fits_a_terminal() {
        let row = Row {
            scenario: "fanout 16".into(),
            connections: 1_001,
            deliveries_per_second: 1_234_567.0,
            latency: Some(Latency { p50: 0.0123, p99: 0.1234, p999: 1.234, max: 2.0 }),
            server_time_per_delivery: Some(12.34e-6),
            floor_time_per_delivery: Some(6.17e-6),
            generator_time_per_delivery: Some(1e-6),
            ..Row::default()
        };
        let idle = Row {
            scenario: "idle".into(),
            connections: 19_000,
            memory_per_connection: Some(1_700),
            server_time_per_accept: Some(42e-6),
            ..Row::default()
        };
        let churn = Row {
            scenario: "churn".into(),
            connections: 2_000,
            seconds: 5.0,
            joins: 5_000,
            latency: Some(Latency { p50: 0.0123, p99: 0.1234, p999: 1.234, max: 2.0 }),
            server_time_per_join: Some(7.5e-6),
            memory_per_joined_channel: Some(123),
            ..Row::default()
        };
        let measured = Measured {
            server: "127.0.0.1:6380".into(),
            size: 128,
            scenarios: vec![row, idle, churn],
            notes: vec!["something".into()],
        };
        let table = measured.table();
        assert!(table.lines().all(|line| line.len() <= 80), "{table}");
        let line = "fanout 16       1234567  12.3  123   1234    12.3   6.17   2.00   1.00     0";
        assert!(table.contains(line), "{table}");
        assert!(table.contains("1700"), "{table}");
        let line = "churn         2000     1000  12.3  123         7.50               123";
        assert!(table.contains(line), "{table}");
    }
}
