//! `philotectl top`: a live screen of the daemon on this machine.
//!
//! [`picture`] asks the daemon on a thread of its own, [`keys`] says what a key does, [`view`] is what the person has
//! chosen, [`lists`] turns answers into rows, and [`draw`] puts it all on the screen.

mod draw;
mod keys;
mod lists;
mod picture;
mod view;

use std::io::{self, IsTerminal};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::Duration;

use clap::Args;
use ratatui::DefaultTerminal;
use ratatui::crossterm::event::{self, KeyEventKind};
use rustix::process::{Signal, getpid, kill_process};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};

use self::keys::Action;
use self::picture::{Asked, Told, Watcher};
use self::view::View;
use super::{Complaint, Exit, Report};
use crate::admin::client::Client;
use crate::terminal::Style;

/// How long the screen may wait before it looks for news; a key is never kept waiting.
const GLANCE: Duration = Duration::from_millis(50);

#[derive(Args, Debug)]
pub(super) struct TopArgs {
    /// How often to ask the daemon for new figures
    #[arg(long, value_name = "SECONDS", value_parser = super::lists::seconds, default_value = "1")]
    interval: Duration,
}

/// Runs `philotectl top` until it is left. `style` is that of standard output.
pub(super) fn run(client: &Client, args: &TopArgs, json: bool, style: Style) -> Result<Report, Complaint> {
    let no_screen = |message: &str| Complaint {
        message: message.into(),
        hint: Some("for programs: philotectl status --json --watch 1".into()),
        exit: Exit::Usage,
    };
    if json {
        return Err(no_screen("top is a screen for people and speaks no JSON"));
    }
    if !style.terminal || !io::stdin().is_terminal() {
        return Err(no_screen("top needs a terminal, for what it shows and for its keys"));
    }
    // What can be said plainly is said before the screen is taken.
    let watcher = Watcher::start(client.clone(), args.interval)?;
    let told_to_end = told_to_end().map_err(|error| failed(&error))?;

    let mut screen = ratatui::try_init().map_err(|error| failed(&error))?;
    let outcome = watch(&mut screen, &watcher, &told_to_end, View::new(style.colour, args.interval));
    // Dropped first: it shows the cursor again.
    drop(screen);
    ratatui::restore();
    outcome.map(|()| Report::new(""))
}

/// Set by the signals that end a program which has the terminal, so that it is given back.
fn told_to_end() -> io::Result<Arc<AtomicBool>> {
    let ended = Arc::new(AtomicBool::new(false));
    for signal in [SIGHUP, SIGINT, SIGTERM] {
        signal_hook::flag::register(signal, ended.clone())?;
    }
    Ok(ended)
}

fn failed(error: &io::Error) -> Complaint {
    Complaint { message: format!("cannot use this terminal: {error}"), hint: None, exit: Exit::Failed }
}

fn watch(
    screen: &mut DefaultTerminal,
    watcher: &Watcher,
    told_to_end: &AtomicBool,
    mut view: View,
) -> Result<(), Complaint> {
    watcher.ask(Asked::Look(view.wanted()));
    let mut changed = true;
    while !told_to_end.load(Relaxed) {
        if changed {
            screen.draw(|frame| draw::screen(frame, &mut view)).map_err(|error| failed(&error))?;
        }
        changed = false;
        while let Some(told) = watcher.told() {
            changed = true;
            match told {
                Told::Seen(picture) => view.see(*picture),
                Told::WouldDisconnect(request, count) => view.question(request, count),
                Told::Note(sentence) => view.note = Some(sentence),
                Told::Over(complaint) => return Err(complaint),
            }
        }
        if !event::poll(GLANCE).map_err(|error| failed(&error))? {
            continue;
        }
        changed = true;
        let event::Event::Key(key) = event::read().map_err(|error| failed(&error))? else { continue };
        if key.kind == KeyEventKind::Release {
            continue;
        }
        match keys::press(&mut view, key) {
            Action::Stay => {}
            Action::Look => watcher.ask(Asked::Look(view.wanted())),
            Action::Disconnect(request) => watcher.ask(Asked::Disconnect(request)),
            Action::Suspend => {
                ratatui::restore();
                // Whoever continues us wants the screen back.
                let _ = kill_process(getpid(), Signal::TSTP);
                *screen = ratatui::try_init().map_err(|error| failed(&error))?;
            }
            Action::DrawAgain => screen.clear().map_err(|error| failed(&error))?,
            Action::Leave => break,
        }
    }
    Ok(())
}
