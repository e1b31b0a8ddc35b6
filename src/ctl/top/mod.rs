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
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::thread;
use std::time::Duration;

use clap::Args;
use ratatui::DefaultTerminal;
use ratatui::crossterm::event::{self, KeyEventKind};
use rustix::process::{Signal, getpid, kill_process};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;
use signal_hook::low_level::emulate_default_handler;

use self::keys::Action;
use self::picture::{Asked, Told, Watcher};
use self::view::View;
use super::{Complaint, Exit, Report};
use crate::admin::client::Client;
use crate::terminal::Style;

/// How long the screen may wait before it looks for news; a key is never kept waiting.
const GLANCE: Duration = Duration::from_millis(50);

/// How long it may take the screen to end when told to.
const LAST_GLANCE: Duration = Duration::from_secs(1);

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
    let told_to_end = Arc::new(AtomicBool::new(false));
    // Dropped when the screen has been left.
    let (_here, gone) = mpsc::channel();
    end_at_signals(told_to_end.clone(), gone).map_err(|error| failed(&error))?;

    let mut screen = ratatui::try_init().map_err(|error| failed(&error))?;
    let outcome = watch(&mut screen, &watcher, &told_to_end, View::new(style.colour, args.interval));
    // Dropped first: it shows the cursor again.
    drop(screen);
    ratatui::restore();
    outcome.map(|()| Report::new(""))
}

/// Tells the screen to end at a signal, and ends the program where the screen does not.
///
/// A thread of its own, because whoever waits for a key of a terminal that is gone waits for ever: crossterm reads its
/// end of file again and again. It stops when `gone` has no sender any more.
fn end_at_signals(told_to_end: Arc<AtomicBool>, gone: Receiver<()>) -> io::Result<()> {
    let mut signals = Signals::new([SIGHUP, SIGINT, SIGTERM])?;
    let wait = move || {
        for signal in signals.forever() {
            told_to_end.store(true, Relaxed);
            if gone.recv_timeout(LAST_GLANCE) == Err(RecvTimeoutError::Disconnected) {
                return;
            }
            ratatui::restore();
            // Ends the program. An error leaves the next signal to try.
            let _ = emulate_default_handler(signal);
        }
    };
    thread::Builder::new().name("top-signals".into()).spawn(wait).map(drop)
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
