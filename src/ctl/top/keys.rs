//! The keys and their actions.

use ratatui::crossterm::event::{KeyCode, KeyEvent, KeyModifiers};

use super::lists::KINDS;
use super::view::{Mode, View};
use crate::admin::api::DisconnectRequest;

/// Rows by which PgUp and PgDn move.
const PAGE: isize = 10;

/// The most bytes of a filter, which are more than any name has.
const LONGEST_FILTER: usize = 255;

/// What a key causes, apart from a change of the view.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Action {
    Stay,
    /// Query the daemon again.
    Query,
    /// Send this request to the daemon; `dry_run` only counts the connections.
    Disconnect(DisconnectRequest),
    Suspend,
    /// Another program has written on the screen.
    DrawAgain,
    Leave,
}

/// The help for the keys.
pub(super) const HELP: [(&str, &str); 11] = [
    ("Tab, 1 2 3", "the next list; channels, connections, closed"),
    ("Up, Down, k, j", "select a row; PgUp, PgDn, Home"),
    ("s, S", "the next order, the previous one"),
    ("/", "filter the list: a subject, an address, channel=C ..."),
    ("c", "clear the filter"),
    ("p, Space", "pause the lists, or continue"),
    ("d", "disconnect the connection, or all of the channel; asks first"),
    ("?", "this help"),
    ("Ctrl-L", "draw the screen again"),
    ("Ctrl-Z", "suspend"),
    ("q, Ctrl-C", "leave"),
];

pub(super) fn press(view: &mut View, key: KeyEvent) -> Action {
    view.note = None;
    if key.modifiers.contains(KeyModifiers::CONTROL) {
        return match key.code {
            KeyCode::Char('c') => Action::Leave,
            KeyCode::Char('z') => Action::Suspend,
            KeyCode::Char('l') => Action::DrawAgain,
            _ => Action::Stay,
        };
    }
    match std::mem::replace(&mut view.mode, Mode::Browse) {
        Mode::Browse => browse(view, key.code),
        Mode::Help => Action::Stay,
        Mode::Filter(text) => filter(view, key.code, text),
        Mode::Question(request, _) => match key.code {
            KeyCode::Char('y') => Action::Disconnect(request),
            KeyCode::Char('r') => Action::Disconnect(DisconnectRequest { reconnect: true, ..request }),
            _ => {
                view.note = Some("nothing was disconnected".into());
                Action::Stay
            }
        },
    }
}

fn browse(view: &mut View, key: KeyCode) -> Action {
    let (kind, pane) = view.pane();
    match key {
        KeyCode::Char('q') | KeyCode::Esc => return Action::Leave,
        KeyCode::Up | KeyCode::Char('k') => pane.step(-1),
        KeyCode::Down | KeyCode::Char('j') => pane.step(1),
        KeyCode::PageUp => pane.step(-PAGE),
        KeyCode::PageDown => pane.step(PAGE),
        KeyCode::Home => pane.first(),
        KeyCode::Char(letter @ ('s' | 'S')) => {
            let sorts = kind.sorts().len();
            pane.sort = (pane.sort + if letter == 's' { 1 } else { sorts - 1 }) % sorts;
            pane.first();
            return Action::Query;
        }
        KeyCode::Char('/') => view.mode = Mode::Filter(pane.filter.clone()),
        KeyCode::Char('c') => {
            pane.filter.clear();
            pane.first();
            return Action::Query;
        }
        KeyCode::Char('d') => {
            let Some(row) = pane.rows.get(pane.at) else { return Action::Stay };
            if let Some(request) = kind.disconnect(row) {
                return Action::Disconnect(request);
            }
            view.note = Some("that connection is closed already".into());
        }
        KeyCode::Char('p' | ' ') => {
            view.paused = !view.paused;
            return Action::Query;
        }
        KeyCode::Char('?' | 'h') => view.mode = Mode::Help,
        KeyCode::Tab => view.focus = (view.focus + 1) % KINDS.len(),
        KeyCode::BackTab => view.focus = (view.focus + KINDS.len() - 1) % KINDS.len(),
        KeyCode::Char(digit @ '1'..='3') => view.focus = digit as usize - '1' as usize,
        _ => {}
    }
    Action::Stay
}

/// Handles a key while the user types a filter.
fn filter(view: &mut View, key: KeyCode, mut text: String) -> Action {
    match key {
        KeyCode::Esc => return Action::Stay,
        KeyCode::Enter => {
            let (kind, pane) = view.pane();
            if let Err(sentence) = kind.check_filter(&text) {
                view.note = Some(sentence);
                view.mode = Mode::Filter(text);
                return Action::Stay;
            }
            pane.filter = text.trim().to_owned();
            pane.first();
            return Action::Query;
        }
        KeyCode::Backspace => drop(text.pop()),
        KeyCode::Char(letter) if text.len() < LONGEST_FILTER => text.push(letter),
        _ => {}
    }
    view.mode = Mode::Filter(text);
    Action::Stay
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::lists::{Kind, Row};
    use super::*;

    fn view() -> View {
        let mut view = View::new(false, Duration::from_secs(1));
        view.panes[Kind::Connections as usize].rows =
            ["5f0c", "00aa"].map(|key| Row { key: key.into(), cells: vec![] }).to_vec();
        view
    }

    fn keys(view: &mut View, keys: &str) -> Action {
        let mut last = Action::Stay;
        for letter in keys.chars() {
            let code = if letter == '\n' { KeyCode::Enter } else { KeyCode::Char(letter) };
            last = press(view, KeyEvent::from(code));
        }
        last
    }

    #[test]
    fn disconnecting_needs_a_confirmation() {
        let mut view = view();
        let Action::Disconnect(request) = keys(&mut view, "jd") else { panic!("no question") };
        assert_eq!((request.ids, request.dry_run), (vec!["00aa".parse().unwrap()], true));
        let really = DisconnectRequest { ids: vec!["00aa".parse().unwrap()], ..DisconnectRequest::default() };
        for (key, outcome) in [
            ("n", Action::Stay),
            ("q", Action::Stay),
            ("\n", Action::Stay),
            ("y", Action::Disconnect(really.clone())),
            ("r", Action::Disconnect(DisconnectRequest { reconnect: true, ..really.clone() })),
        ] {
            view.question(really.clone(), 1);
            assert_eq!(keys(&mut view, key), outcome, "{key:?}");
            assert_eq!(view.mode, Mode::Browse);
        }
        view.question(really, 0);
        assert_eq!(view.mode, Mode::Browse, "there is nothing to confirm");
    }

    #[test]
    fn a_filter_can_be_typed_corrected_and_cleared() {
        let mut view = view();
        assert_eq!(keys(&mut view, "/reason=x\n"), Action::Stay);
        assert_eq!(view.note.as_deref(), Some("connections are not filtered by reason"));
        assert_eq!(view.mode, Mode::Filter("reason=x".into()), "the user can correct it");
        press(&mut view, KeyEvent::from(KeyCode::Esc));
        assert_eq!(keys(&mut view, "/quiet\n"), Action::Query, "letters are no commands there");
        assert_eq!(view.queries().connections.subject.as_deref(), Some("quiet"));
        assert_eq!(keys(&mut view, "c"), Action::Query);
        assert_eq!(view.queries().connections.subject, None);
    }

    #[test]
    fn the_orders_of_each_list_are_a_cycle() {
        let mut view = view();
        for digit in ["1", "2", "3"] {
            keys(&mut view, digit);
            let (kind, before) = (view.pane().0, view.pane().1.sort);
            let round = "s".repeat(kind.sorts().len());
            assert_eq!(keys(&mut view, &round), Action::Query);
            assert_eq!(view.pane().1.sort, before);
            keys(&mut view, "sS");
            assert_eq!(view.pane().1.sort, before);
        }
    }
}
