//! Prometheus's text format (version 0.0.4), and the listener that serves it. `daemon/metrics.rs` defines the metrics.

mod server;

use std::fmt::{Display, Write};

pub use self::server::{MAX_CONNECTIONS, MAX_SCRAPES, serve};

/// The content type of the text.
pub const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// The type of a metric.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Only grows while the process runs.
    Counter,
    /// Goes up and down.
    Gauge,
}

/// Metrics as text.
#[derive(Debug, Default)]
pub struct Exposition(String);

impl Exposition {
    /// Adds one metric. Its name is the same in every version.
    pub fn add(&mut self, name: &str, kind: Kind, help: &str, value: impl Display) {
        self.head(name, kind_name(kind), help);
        let _ = writeln!(self.0, "{name} {value}");
    }

    /// Adds a metric with one sample for each value of a label. The values are our own names, which need no escaping.
    pub fn add_each<V: Display>(
        &mut self,
        name: &str,
        kind: Kind,
        help: &str,
        label: &str,
        values: impl IntoIterator<Item = (&'static str, V)>,
    ) {
        self.head(name, kind_name(kind), help);
        for (which, value) in values {
            let _ = writeln!(self.0, "{name}{{{label}=\"{which}\"}} {value}");
        }
    }

    /// Adds a histogram of current sizes: the upper bounds of the buckets, the count in each bucket, where the last
    /// bucket has no bound, and the sum of all sizes.
    pub fn add_sizes(&mut self, name: &str, help: &str, bounds: &[u64], counts: &[u64], sum: u64) {
        self.head(name, "histogram", help);
        let mut total = 0;
        let bounds = bounds.iter().map(u64::to_string).chain(["+Inf".to_owned()]);
        for (bound, count) in bounds.zip(counts) {
            total += count;
            let _ = writeln!(self.0, "{name}_bucket{{le=\"{bound}\"}} {total}");
        }
        let _ = writeln!(self.0, "{name}_sum {sum}\n{name}_count {total}");
    }

    /// Returns the text.
    pub fn into_text(self) -> String {
        self.0
    }

    fn head(&mut self, name: &str, kind: &str, help: &str) {
        let _ = writeln!(self.0, "# HELP {name} {help}\n# TYPE {name} {kind}");
    }
}

fn kind_name(kind: Kind) -> &'static str {
    match kind {
        Kind::Counter => "counter",
        Kind::Gauge => "gauge",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_text_is_in_prometheus_s_format() {
        let mut all = Exposition::default();
        all.add("a_total", Kind::Counter, "As.", 7);
        all.add_each("b", Kind::Gauge, "Bs.", "kind", [("x", 1.5), ("y", 2.0)]);
        all.add_sizes("c", "Cs.", &[0, 4], &[3, 2, 1], 20);
        let text = "# HELP a_total As.\n# TYPE a_total counter\na_total 7\n\
            # HELP b Bs.\n# TYPE b gauge\nb{kind=\"x\"} 1.5\nb{kind=\"y\"} 2\n\
            # HELP c Cs.\n# TYPE c histogram\nc_bucket{le=\"0\"} 3\nc_bucket{le=\"4\"} 5\nc_bucket{le=\"+Inf\"} 6\n\
            c_sum 20\nc_count 6\n";
        assert_eq!(all.into_text(), text);
    }
}
