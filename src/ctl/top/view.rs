//! What the person at the screen has chosen, and what there is to show for it.

use std::collections::VecDeque;
use std::time::Duration;

use super::lists::{self, KINDS, Kind, Row};
use super::picture::{Picture, Wanted};
use crate::admin::api::{DisconnectRequest, Status};

/// How far back the plots go.
const REMEMBERED: Duration = Duration::from_secs(180);

/// What keys are for at the moment.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Mode {
    Browse,
    /// A filter is being typed.
    Filter(String),
    /// To be answered before anybody is disconnected: whom, and how many these are.
    Question(DisconnectRequest, u64),
    Help,
}

/// One of the lists as the person wants it.
#[derive(Debug, Default)]
pub(super) struct Pane {
    /// The place of its order in what [`Kind::sorts`] names.
    pub(super) sort: usize,
    pub(super) filter: String,
    pub(super) rows: Vec<Row>,
    pub(super) matched: u64,
    /// The row that keys act on.
    pub(super) at: usize,
    /// Whose row that is, once it was chosen: it may move.
    chosen: Option<String>,
}

impl Pane {
    fn show(&mut self, rows: Vec<Row>, matched: u64) {
        self.rows = rows;
        self.matched = matched;
        let found = self.chosen.as_ref().and_then(|key| self.rows.iter().position(|row| row.key == *key));
        self.at = found.unwrap_or(self.at).min(self.rows.len().saturating_sub(1));
    }

    /// Chooses another row: so many further down, or up.
    pub(super) fn step(&mut self, rows: isize) {
        self.at = self.at.saturating_add_signed(rows).min(self.rows.len().saturating_sub(1));
        self.chosen = self.rows.get(self.at).map(|row| row.key.clone());
    }

    /// Back to the first row, whichever that is.
    pub(super) fn first(&mut self) {
        self.at = 0;
        self.chosen = None;
    }
}

/// Samples of a figure, one an interval.
#[derive(Debug, Default)]
pub(super) struct Plot {
    samples: VecDeque<f64>,
    /// Samples ever, by which they are gathered into columns that do not flicker.
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

    /// The samples in this many columns, the newest last: each the mean of its share of `most` samples.
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
        // Tenths, so that a rate below one a second is seen.
        columns.iter().skip(skipped).map(|(sum, count)| (sum * 10.0 / f64::from(*count)) as u64).collect()
    }
}

pub(super) struct View {
    pub(super) colour: bool,
    pub(super) status: Option<Status>,
    pub(super) panes: [Pane; 3],
    pub(super) focus: usize,
    /// The lists stand still, the plots go on.
    pub(super) paused: bool,
    pub(super) mode: Mode,
    /// For the last line, until the next key.
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
            panes: KINDS.map(|kind| Pane { sort: kind.usual_sort(), ..Pane::default() }),
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

    /// Samples that a plot has room for.
    pub(super) fn remembered(&self) -> usize {
        ((REMEMBERED.as_secs_f64() / self.interval.as_secs_f64()) as usize).max(2)
    }

    /// The list that keys act on.
    pub(super) fn pane(&mut self) -> (Kind, &mut Pane) {
        (KINDS[self.focus], &mut self.panes[self.focus])
    }

    /// What to ask the daemon for.
    pub(super) fn wanted(&self) -> Wanted {
        let [channels, connections, closed] = &self.panes;
        Wanted {
            channels: lists::channel_query(channels.sort, &channels.filter),
            // A filter was read when it was typed: it can be read again.
            connections: lists::connection_query(connections.sort, &connections.filter).unwrap_or_default(),
            closed: lists::closed_query(closed.sort, &closed.filter).unwrap_or_default(),
        }
    }

    /// Takes what the daemon said.
    pub(super) fn see(&mut self, picture: Picture) {
        let most = self.remembered();
        let Picture { status, channels, connections, closed } = picture;
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

    /// Asks before it is done; where nobody is meant any more it only says so.
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
        assert_eq!(
            plot.columns(4, 8),
            [25, 45, 65, 80],
            "the column that is begun stands beside the whole ones"
        );
        assert_eq!(plot.columns(2, 8), [55, 80]);
        assert!(Plot::default().columns(4, 8).is_empty());
    }

    #[test]
    fn what_was_chosen_stays_chosen_when_it_moves() {
        let rows =
            |keys: &str| keys.chars().map(|key| Row { key: key.into(), cells: vec![] }).collect::<Vec<_>>();
        let mut pane = Pane::default();
        pane.show(rows("abc"), 3);
        pane.show(rows("cab"), 3);
        assert_eq!(pane.at, 0, "nothing was chosen");
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
