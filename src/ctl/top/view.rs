//! The state of the screen: what the user has chosen, and the data to show.

use std::collections::VecDeque;
use std::time::Duration;

use super::lists::{self, KINDS, Kind, Row};
use super::poll::{Queries, Snapshot};
use crate::admin::api::{DisconnectRequest, Status};

/// The time that the plots cover.
const REMEMBERED: Duration = Duration::from_secs(180);

/// What the keys do at the moment.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Mode {
    Browse,
    /// The user is typing a filter.
    Filter(String),
    /// The user must confirm a request that closes this many connections.
    Question(DisconnectRequest, u64),
    Help,
}

/// The state of one list.
#[derive(Debug, Default)]
pub(super) struct Pane {
    /// The index of its order in [`Kind::sorts`].
    pub(super) sort: usize,
    pub(super) filter: String,
    pub(super) rows: Vec<Row>,
    pub(super) matched: u64,
    /// The index of the selected row.
    pub(super) at: usize,
    /// The key of the selected row, once the user has selected one; the row may move.
    selected: Option<String>,
}

impl Pane {
    fn show(&mut self, rows: Vec<Row>, matched: u64) {
        self.rows = rows;
        self.matched = matched;
        let found = self.selected.as_ref().and_then(|key| self.rows.iter().position(|row| row.key == *key));
        self.at = found.unwrap_or(self.at).min(self.rows.len().saturating_sub(1));
    }

    /// Moves the selection down by `rows`, or up if negative.
    pub(super) fn step(&mut self, rows: isize) {
        self.at = self.at.saturating_add_signed(rows).min(self.rows.len().saturating_sub(1));
        self.selected = self.rows.get(self.at).map(|row| row.key.clone());
    }

    /// Selects the first row, whichever it is after the next update.
    pub(super) fn first(&mut self) {
        self.at = 0;
        self.selected = None;
    }
}

/// Samples of a value, one per interval.
#[derive(Debug, Default)]
pub(super) struct Plot {
    samples: VecDeque<f64>,
    /// The number of samples so far. It groups samples into columns that do not flicker.
    taken: usize,
}

impl Plot {
    fn take(&mut self, value: f64, most: usize) {
        if self.samples.len() >= most {
            self.samples.pop_front();
        }
        self.samples.push_back(value);
        self.taken += 1;
    }

    /// Returns the samples in at most `width` columns, newest last. Each column is the mean of its share of `most`
    /// samples.
    pub(super) fn columns(&self, width: usize, most: usize) -> Vec<u64> {
        let share = most.div_ceil(width.max(1)).max(1);
        let mut columns: Vec<(f64, u32)> = Vec::new();
        let first = self.taken - self.samples.len();
        let mut last_group = None;
        for (at, value) in self.samples.iter().enumerate() {
            let group = (first + at) / share;
            if last_group != Some(group) {
                last_group = Some(group);
                columns.push((0.0, 0));
            }
            if let Some((sum, count)) = columns.last_mut() {
                *sum += value;
                *count += 1;
            }
        }
        let skipped = columns.len().saturating_sub(width);
        // In tenths, so that rates below one per second are visible.
        columns.iter().skip(skipped).map(|(sum, count)| (sum * 10.0 / f64::from(*count)) as u64).collect()
    }
}

pub(super) struct View {
    pub(super) colour: bool,
    pub(super) status: Option<Status>,
    pub(super) panes: [Pane; 3],
    pub(super) focus: usize,
    /// Whether the lists are paused; the plots continue.
    pub(super) paused: bool,
    pub(super) mode: Mode,
    /// The text of the last line, until the next key.
    pub(super) note: Option<String>,
    pub(super) connections: Plot,
    pub(super) messages: Plot,
    pub(super) deliveries: Plot,
    interval: Duration,
}

impl View {
    pub(super) fn new(colour: bool, interval: Duration) -> View {
        View {
            colour,
            status: None,
            panes: KINDS.map(|kind| Pane { sort: kind.default_sort(), ..Pane::default() }),
            focus: Kind::Connections as usize,
            paused: false,
            mode: Mode::Browse,
            note: None,
            connections: Plot::default(),
            messages: Plot::default(),
            deliveries: Plot::default(),
            interval,
        }
    }

    /// Returns the number of samples in a plot.
    pub(super) fn remembered(&self) -> usize {
        ((REMEMBERED.as_secs_f64() / self.interval.as_secs_f64()) as usize).max(2)
    }

    /// Returns the list that has the focus.
    pub(super) fn pane(&mut self) -> (Kind, &mut Pane) {
        (KINDS[self.focus], &mut self.panes[self.focus])
    }

    /// Returns the queries for the daemon.
    pub(super) fn queries(&self) -> Queries {
        let [channels, connections, closed] = &self.panes;
        Queries {
            channels: lists::channel_query(channels.sort, &channels.filter),
            // A filter was checked when it was typed.
            connections: lists::connection_query(connections.sort, &connections.filter).unwrap_or_default(),
            closed: lists::closed_query(closed.sort, &closed.filter).unwrap_or_default(),
        }
    }

    /// Takes over the daemon's answers.
    pub(super) fn see(&mut self, snapshot: Snapshot) {
        let most = self.remembered();
        let Snapshot { status, channels, connections, closed } = snapshot;
        self.connections.take(status.connections as f64, most);
        self.messages.take(status.messages_in_per_second, most);
        self.deliveries.take(status.deliveries_per_second, most);
        self.status = Some(status);
        if self.paused {
            return;
        }
        let [of_channels, of_connections, of_closed] = &mut self.panes;
        of_channels.show(channels.channels.iter().map(lists::channel_row).collect(), channels.matched);
        of_connections
            .show(connections.connections.iter().map(lists::connection_row).collect(), connections.matched);
        of_closed.show(closed.connections.iter().map(lists::closed_row).collect(), closed.matched);
    }

    /// Asks the user for confirmation, or says that no connection matches any more.
    pub(super) fn question(&mut self, request: DisconnectRequest, count: u64) {
        if count == 0 {
            self.note = Some("no connection matches any more".into());
        } else {
            self.mode = Mode::Question(request, count);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plot_moves_by_whole_columns() {
        let mut plot = Plot::default();
        (0..8).for_each(|value| plot.take(f64::from(value), 8));
        assert_eq!(plot.columns(4, 8), [5, 25, 45, 65]);
        plot.take(8.0, 8);
        assert_eq!(plot.columns(4, 8), [25, 45, 65, 80], "an unfinished column is shown too");
        assert_eq!(plot.columns(2, 8), [55, 80]);
        assert!(Plot::default().columns(4, 8).is_empty());
    }

    #[test]
    fn a_selected_row_stays_selected_when_it_moves() {
        let rows =
            |keys: &str| keys.chars().map(|key| Row { key: key.into(), cells: vec![] }).collect::<Vec<_>>();
        let mut pane = Pane::default();
        pane.show(rows("abc"), 3);
        pane.show(rows("cab"), 3);
        assert_eq!(pane.at, 0, "nothing was selected");
        pane.step(1);
        pane.show(rows("bca"), 3);
        assert_eq!(pane.at, 2);
        pane.show(rows("b"), 1);
        assert_eq!(pane.at, 0);
        pane.step(5);
        pane.show(rows(""), 0);
        pane.step(-1);
        assert_eq!(pane.at, 0);
    }
}
