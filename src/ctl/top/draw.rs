//! Draws the screen, which needs 80 by 24 characters.

use ratatui::Frame;
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::style::{Color, Modifier, Style};
use ratatui::text::Text;
use ratatui::text::{Line, Span};
use ratatui::widgets::{Block, Clear, Paragraph, Row as TableRow, Sparkline, Table, TableState};

use super::super::print::{bytes, count, many};
use super::keys::HELP;
use super::lists::{Column, KINDS, Kind};
use super::view::{Mode, Pane, Plot, View};
use crate::admin::api::{DisconnectRequest, Status};
use crate::escape::escape;
use crate::terminal::Style as Print;
use crate::timestamp::span;

const TERMINAL: Print = Print { terminal: true, colour: false };

/// The height of the plots, with their titles.
const PLOTS: u16 = 4;

const BOLD: Style = Style::new().add_modifier(Modifier::BOLD);
const FAINT: Style = Style::new().add_modifier(Modifier::DIM);
const REVERSED: Style = Style::new().add_modifier(Modifier::REVERSED);

pub(super) fn screen(frame: &mut Frame<'_>, view: &mut View) {
    let [head, plots, channels, connections, closed, foot] = Layout::vertical([
        Constraint::Length(1),
        Constraint::Length(PLOTS),
        share(view, Kind::Channels),
        share(view, Kind::Connections),
        share(view, Kind::Closed),
        Constraint::Length(1),
    ])
    .areas(frame.area());
    frame.render_widget(header(view), head);
    draw_plots(frame, view, plots);
    for (kind, area) in KINDS.into_iter().zip([channels, connections, closed]) {
        draw_list(frame, view, kind, area);
    }
    frame.render_widget(footer(view), foot);
    if view.mode == Mode::Help {
        draw_help(frame);
    }
}

/// The height of a list. The list with the focus gets the most; the others keep some rows.
fn share(view: &View, kind: Kind) -> Constraint {
    Constraint::Fill(if view.focus == kind as usize { 2 } else { 1 })
}

fn accent(view: &View, colour: Color) -> Style {
    if view.colour { Style::new().fg(colour) } else { Style::new() }
}

fn header(view: &View) -> Line<'static> {
    let Some(status) = &view.status else { return Line::from("querying the daemon ...") };
    let Status { version, state, uptime_seconds, queued_bytes, memory_bytes, .. } = status;
    let up = span(std::time::Duration::from_secs(*uptime_seconds));
    let mut spans = vec![
        Span::styled(format!("philote {}", escape(version)), BOLD),
        Span::from(format!(
            "  {state}, up {up}  memory {}  queued {}",
            bytes(TERMINAL, *memory_bytes),
            bytes(TERMINAL, *queued_bytes)
        )),
    ];
    if status.connections >= status.max_connections {
        spans.push(Span::styled("  FULL", accent(view, Color::Red).add_modifier(Modifier::BOLD)));
    }
    if view.paused {
        spans.push(Span::styled("  LISTS PAUSED", accent(view, Color::Yellow).add_modifier(Modifier::BOLD)));
    }
    Line::from(spans)
}

fn draw_plots(frame: &mut Frame<'_>, view: &View, area: Rect) {
    let Some(status) = &view.status else { return };
    let areas: [Rect; 3] =
        Layout::horizontal([Constraint::Fill(1), Constraint::Fill(1), Constraint::Fill(1)])
            .spacing(2)
            .areas(area);
    let connections = format!(
        "connections {} of {}",
        count(TERMINAL, status.connections),
        count(TERMINAL, status.max_connections)
    );
    let messages = format!("messages in {:.1}/s", status.messages_in_per_second);
    let deliveries = format!("deliveries {:.1}/s", status.deliveries_per_second);
    let plots: [(String, &Plot, Color); 3] = [
        (connections, &view.connections, Color::Cyan),
        (messages, &view.messages, Color::Green),
        (deliveries, &view.deliveries, Color::Blue),
    ];
    for ((title, plot, colour), area) in plots.into_iter().zip(areas) {
        let columns = plot.columns(usize::from(area.width), view.remembered());
        let block = Block::new().title(Span::styled(title, BOLD));
        frame.render_widget(
            Sparkline::default().block(block).data(&columns).style(accent(view, colour)),
            area,
        );
    }
}

fn draw_list(frame: &mut Frame<'_>, view: &View, kind: Kind, area: Rect) {
    let pane: &Pane = &view.panes[kind as usize];
    let focus = view.focus == kind as usize;
    let order = kind.sorts().get(pane.sort).cloned().unwrap_or_default();
    let mut title = format!("{}, {order} first: {}", kind.title(), count(TERMINAL, pane.matched));
    if !pane.filter.is_empty() {
        title += &format!(" for {}", escape(&pane.filter));
    }
    let title_style = if focus { BOLD.add_modifier(Modifier::UNDERLINED) } else { BOLD };
    let widths = kind.columns().iter().map(|Column(_, width, _)| match width {
        0 => Constraint::Fill(1),
        width => Constraint::Length(*width),
    });
    let cell = |text: String, Column(_, _, figure): &Column| {
        let text = Text::from(text);
        if *figure { text.right_aligned() } else { text }
    };
    let head = kind.columns().iter().map(|column| cell(column.0.to_owned(), column));
    let rows = pane.rows.iter().map(|row| {
        TableRow::new(row.cells.iter().zip(kind.columns()).map(|(text, column)| cell(text.clone(), column)))
    });
    let table = Table::new(rows, widths)
        .header(TableRow::new(head).style(FAINT))
        .block(Block::new().title(Span::styled(title, title_style)))
        .row_highlight_style(REVERSED);
    let chosen = (focus && !pane.rows.is_empty()).then_some(pane.at);
    frame.render_stateful_widget(table, area, &mut TableState::new().with_selected(chosen));
}

fn footer(view: &View) -> Line<'static> {
    match (&view.mode, &view.note) {
        (Mode::Filter(text), note) => {
            let help = note.clone().unwrap_or_else(|| KINDS[view.focus].filter_help().to_owned());
            Line::from(vec![
                Span::styled(format!("filter: {}_", escape(text)), BOLD),
                Span::styled(format!("  ({help})"), FAINT),
            ])
        }
        (Mode::Question(request, matched), _) => Line::styled(
            format!(
                "Disconnect {}?  y yes, r yes and ask to reconnect, else no{}",
                many(*matched, "connection"),
                whose(request)
            ),
            accent(view, Color::Red).add_modifier(Modifier::BOLD),
        ),
        (_, Some(note)) => Line::styled(escape(note).into_owned(), BOLD),
        _ => Line::styled("q leave  Tab next list  s order  / filter  p pause  d disconnect  ? help", FAINT),
    }
}

fn whose(request: &DisconnectRequest) -> String {
    match &request.channel {
        Some(channel) => format!(" (channel {})", escape(channel)),
        None => request.ids.iter().map(|id| format!(" ({:.8})", id.to_string())).collect(),
    }
}

fn draw_help(frame: &mut Frame<'_>) {
    let line = |(keys, does): &(&str, &str)| Line::from(format!(" {keys:15} {does}"));
    let lines: Vec<Line<'_>> = HELP.iter().map(line).collect();
    let area = frame.area().centered(Constraint::Length(78), Constraint::Length(lines.len() as u16 + 2));
    frame.render_widget(Clear, area);
    frame.render_widget(
        Paragraph::new(lines).block(Block::bordered().title(" Keys; any key closes this ")),
        area,
    );
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use ratatui::Terminal;
    use ratatui::backend::TestBackend;

    use super::super::lists::Row;
    use super::*;

    fn shown(view: &mut View, width: u16, height: u16) -> String {
        let mut terminal = Terminal::new(TestBackend::new(width, height)).unwrap();
        terminal.draw(|frame| screen(frame, view)).unwrap();
        let buffer = terminal.backend().buffer().clone();
        let line = |y| (0..width).map(|x| buffer[(x, y)].symbol()).collect::<String>().trim_end().to_owned();
        (0..height).map(line).collect::<Vec<_>>().join("\n")
    }

    fn view() -> View {
        let mut view = View::new(false, Duration::from_secs(1));
        let row = |number: usize| Row {
            key: number.to_string(),
            cells: ["5f0c6b0e", "alice", "192.0.2.7:51234", "5m03s", "1023.9 KiB", "1,234", "1,234,567"]
                .map(String::from)
                .to_vec(),
        };
        view.panes[Kind::Connections as usize].rows = (0..50).map(row).collect();
        view.panes[Kind::Connections as usize].matched = 12_345;
        view
    }

    #[test]
    fn the_screen_fits_80_by_24() {
        let shown = shown(&mut view(), 80, 24);
        for part in [
            "Channels, rate first: 0",
            "Connections, queued first: 12,345",
            "ID       SUBJECT",
            "5f0c6b0e alice",
            "192.0.2.7:51234",
            "1,234,567",
            "Closed and refused, newest first: 0",
            "AGO SUBJECT",
            "q leave  Tab next list  s order  / filter  p pause  d disconnect  ? help",
        ] {
            assert!(shown.contains(part), "{part} in\n{shown}");
        }
    }

    #[test]
    fn every_mode_is_drawn_at_any_size() {
        let modes: [fn() -> Mode; 4] = [
            || Mode::Browse,
            || Mode::Help,
            || Mode::Filter("\u{1b}[2J".into()),
            || Mode::Question(DisconnectRequest { channel: Some("c\u{1b}".into()), ..Default::default() }, 7),
        ];
        for (width, height) in [(1, 1), (3, 40), (80, 5), (300, 100), (80, 24)] {
            for mode in modes {
                let mut view = view();
                view.mode = mode();
                assert!(!shown(&mut view, width, height).contains('\u{1b}'));
            }
        }
        let mut view = view();
        view.mode = modes[3]();
        assert!(shown(&mut view, 100, 24).contains(
            "Disconnect 7 connections?  y yes, r yes and ask to reconnect, else no (channel c\\u{1b})"
        ));
    }
}
