//! `philotectl top`: a live view of the daemon on this machine.
//!
//! [`poll`] queries the daemon on its own thread, [`keys`] handles keys, [`view`] is the state of the screen, [`lists`]
//! turns answers into rows, and [`draw`] draws the screen.

mod draw;
mod keys;
mod lists;
mod poll;
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
use ratatui::crossterm::terminal;
use rustix::process::{Signal, getpid, kill_process};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;
use signal_hook::low_level::emulate_default_handler;

use self::keys::Action;
use self::poll::{Poller, Request, Update};
use self::view::View;
use super::{Complaint, Exit, Report};
use crate::admin::client::Client;
use crate::terminal::Style;

/// How often the screen looks for updates. A key is handled at once.
const GLANCE: Duration = Duration::from_millis(50);

/// How long the screen may take to end after a signal.
const LAST_GLANCE: Duration = Duration::from_secs(1);

/// The most cells of a terminal, which take about 50 bytes each, twice.
const MAX_CELLS: u32 = 1 << 20;

#[derive(Args, Debug)]
pub(super) struct TopArgs {
    /// How often to query the daemon
    #[arg(long, value_name = "SECONDS", value_parser = super::lists::seconds, default_value = "1")]
    interval: Duration,
}

/// Runs `philotectl top` until the user leaves it. `style` is that of standard output.
pub(super) fn run(client: &Client, args: &TopArgs, json: bool, style: Style) -> Result<Report, Complaint> {
    let no_screen = |message: &str| Complaint {
        message: message.into(),
        hint: Some("for programs: philotectl status --json --watch 1".into()),
        exit: Exit::Usage,
    };
    if json {
        return Err(no_screen("top is interactive and has no JSON output"));
    }
    if !style.terminal || !io::stdin().is_terminal() {
        return Err(no_screen("top needs a terminal for its output and its keys"));
    }
    // Errors are printed before the screen is taken over.
    let poller = Poller::start(client.clone(), args.interval)?;
    let stop = Arc::new(AtomicBool::new(false));
    // Dropped after the screen has been restored.
    let (_here, gone) = mpsc::channel();
    end_at_signals(stop.clone(), gone).map_err(|error| failed(&error))?;

    let mut screen = take()?;
    let outcome = watch(&mut screen, &poller, &stop, View::new(style.colour, args.interval));
    match screen.show_cursor() {
        Ok(()) => drop(screen),
        // The terminal is gone. It would panic because it cannot say so.
        Err(_) => std::mem::forget(screen),
    }
    give_back();
    outcome.map(|()| Report::new(""))
}

/// Takes over the terminal.
fn take() -> Result<DefaultTerminal, Complaint> {
    check_size()?;
    ratatui::try_init().map_err(|error| failed(&error))
}

/// Gives the terminal back, unless it is gone.
fn give_back() {
    let _ = ratatui::try_restore();
}

/// A terminal may claim to have any size, and each of its cells takes memory.
fn check_size() -> Result<(), Complaint> {
    let (columns, rows) = terminal::size().map_err(|error| failed(&error))?;
    if u32::from(columns) * u32::from(rows) <= MAX_CELLS {
        return Ok(());
    }
    Err(failed(&io::Error::other(format!("it claims to have {columns} columns and {rows} rows"))))
}

/// Sets `stop` at a signal, and ends the program if the screen does not end.
///
/// This needs a thread, because waiting for a key of a closed terminal never ends: crossterm reads the end of file
/// again and again. The thread ends when the sender of `gone` is dropped.
fn end_at_signals(stop: Arc<AtomicBool>, gone: Receiver<()>) -> io::Result<()> {
    let mut signals = Signals::new([SIGHUP, SIGINT, SIGTERM])?;
    let wait = move || {
        for signal in signals.forever() {
            stop.store(true, Relaxed);
            if gone.recv_timeout(LAST_GLANCE) == Err(RecvTimeoutError::Disconnected) {
                return;
            }
            give_back();
            // Ends the program. If it fails, the next signal tries again.
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
    poller: &Poller,
    stop: &AtomicBool,
    mut view: View,
) -> Result<(), Complaint> {
    poller.send(Request::Show(view.queries()));
    let mut changed = true;
    while !stop.load(Relaxed) {
        if changed {
            check_size()?;
            screen.draw(|frame| draw::screen(frame, &mut view)).map_err(|error| failed(&error))?;
        }
        changed = false;
        while let Some(update) = poller.next_update() {
            changed = true;
            match update {
                Update::Snapshot(snapshot) => view.see(*snapshot),
                Update::WouldDisconnect(request, count) => view.question(request, count),
                Update::Note(sentence) => view.note = Some(sentence),
                Update::Ended(complaint) => return Err(complaint),
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
            Action::Query => poller.send(Request::Show(view.queries())),
            Action::Disconnect(request) => poller.send(Request::Disconnect(request)),
            Action::Suspend => {
                give_back();
                // After SIGCONT the screen is set up again.
                let _ = kill_process(getpid(), Signal::TSTP);
                *screen = take()?;
            }
            Action::DrawAgain => screen.clear().map_err(|error| failed(&error))?,
            Action::Leave => break,
        }
    }
    Ok(())
}
