//! `jane`: a client for people at a terminal.
//!
//! It says who it is ([`access`]), reaches the server ([`dial`]), and then publishes what is typed ([`input`]) and
//! shows what arrives ([`mod@print`]) while the connection lives ([`talk`]); when that ends, [`error`] knows whether to
//! come back.

mod access;
mod args;
mod dial;
mod error;
mod input;
mod print;
mod talk;

use std::io::{self, Write};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::StreamExt;
use tokio::time::{sleep, timeout};

use crate::access_key::ApiRights;
use crate::completions;
use crate::escape::escape_json;
use crate::moment::span;
use crate::terminal::{self, complain};
use crate::trust::client_config;
use access::Access;
use args::Arguments;
use dial::{Dial, Socket};
use error::Error;
use talk::Console;

/// The wait before the first attempt to come back, at most; it doubles with each.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
/// No wait is longer; and after a connection that lived for so long we start again with [`FIRST_PAUSE`].
const LONGEST_PAUSE: Duration = Duration::from_secs(30);
/// For the last frame to leave and the server to end the connection.
const GOODBYE: Duration = Duration::from_secs(1);

/// Runs the command line that the process was given.
#[must_use]
pub fn main() -> ExitCode {
    completions::answer_shell::<Arguments>("jane");
    let arguments = match args::parse(std::env::args_os()) {
        Ok(arguments) => arguments,
        Err(error) => return terminal::usage(&error, "jane"),
    };
    let access = match Access::new(&arguments) {
        Ok(access) => access,
        Err(error) => return failed(&error, None),
    };
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return failed(&Error::Runtime(error), None),
    };
    let trusted = arguments.secure.then(|| client_config(arguments.ca.as_deref())).transpose();
    let tls = match trusted {
        Ok(config) => config.map(Arc::new),
        Err(error) => return failed(&Error::Trust(error), None),
    };
    let dial = Dial { server: arguments.server, tls };
    let ended = runtime.block_on(async {
        if arguments.info {
            info(&dial, &access).await
        } else {
            converse(&dial, &access, &arguments.channels).await
        }
    });
    match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => failed(&error, error.hint(access.advice())),
    }
}

fn failed(error: &Error, hint: Option<&str>) -> ExitCode {
    complain(&error.to_string(), hint);
    ExitCode::FAILURE
}

/// Prints what the server says about itself.
async fn info(dial: &Dial, access: &Access) -> Result<(), Error> {
    let info = dial.info(&access.token(&[], ApiRights::ALL).await?).await?;
    let text = serde_json::to_string_pretty(&info).unwrap_or_default();
    let mut stdout = io::stdout().lock();
    for line in text.lines() {
        match writeln!(stdout, "{}", escape_json(line)) {
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => return Ok(()),
            written => written.map_err(Error::Output)?,
        }
    }
    Ok(())
}

/// Publishes and shows, over one connection after the other. Not getting the first is final: then it is rather the
/// command line that is wrong than the network.
async fn converse(dial: &Dial, access: &Access, channels: &[String]) -> Result<(), Error> {
    let mut pause = FIRST_PAUSE;
    let mut socket = open(dial, access, channels).await?;
    let mut console = Console::new()?;
    loop {
        complain(&format!("connected to {}: {}", dial.server, channels.join(", ")), None);
        let start = Instant::now();
        let ended = console.talk(&mut socket, channels.first().map_or("", String::as_str)).await;
        let _ = timeout(GOODBYE, goodbye(socket)).await;
        let Err(mut error) = ended else { return console.verdict() };
        if start.elapsed() >= LONGEST_PAUSE {
            pause = FIRST_PAUSE;
        }
        socket = loop {
            if !error.passes(access.renews()) {
                return Err(error);
            }
            // Anywhere within the pause, so that the clients of a server that restarts do not all come at once.
            let wait = pause * (getrandom::u32().unwrap_or(500) % 1000) / 1000;
            complain(&format!("{error}; trying again in {}", span(wait)), None);
            sleep(wait).await;
            pause = (pause * 2).min(LONGEST_PAUSE);
            match open(dial, access, channels).await {
                Ok(socket) => break socket,
                Err(next) => error = next,
            }
        };
    }
}

/// Sends what there is to send, be it our close frame or the answer to the server's, and waits for the end.
async fn goodbye(mut socket: Socket) {
    let _ = socket.close(None).await;
    while let Some(Ok(_)) = socket.next().await {}
}

async fn open(dial: &Dial, access: &Access, channels: &[String]) -> Result<Socket, Error> {
    dial.websocket(&access.token(channels, ApiRights::NONE).await?).await
}
