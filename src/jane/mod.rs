//! `jane`, the terminal client.
//!
//! It gets a token ([`token_source`]) and connects to the server ([`dial`]). While the connection lives
//! ([`conversation`]), it publishes lines ([`input`]) and prints deliveries ([`mod@print`]). When the connection ends,
//! [`error`] decides whether jane reconnects.

mod args;
mod conversation;
mod dial;
mod error;
mod input;
mod print;
mod token_source;

use std::io::{self, Write};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::StreamExt;
use tokio::time::{sleep, timeout};

use crate::completions;
use crate::escape::escape_json;
use crate::root_certificates::client_config;
use crate::terminal::{self, complain};
use crate::timestamp::span;
use crate::token::{ApiRights, channels_to_join};
use args::Arguments;
use conversation::Console;
use dial::{Dial, Socket};
use error::Error;
use token_source::TokenSource;

/// The longest pause before the first attempt to reconnect. It doubles with each attempt.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
/// The longest pause. After a connection that lived at least this long, pauses start again with [`FIRST_PAUSE`].
const LONGEST_PAUSE: Duration = Duration::from_secs(30);
/// The time limit for sending the last frame and for the server to close the connection.
const GOODBYE: Duration = Duration::from_secs(1);

/// Runs the command line of the process.
#[must_use]
pub fn main() -> ExitCode {
    completions::answer_shell::<Arguments>("jane");
    let arguments = match args::parse(std::env::args_os()) {
        Ok(arguments) => arguments,
        Err(error) => return terminal::usage(&error, "jane"),
    };
    let source = match TokenSource::new(&arguments) {
        Ok(source) => source,
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
            info(&dial, &source).await
        } else {
            converse(&dial, &source, &arguments.channels).await
        }
    });
    match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => failed(&error, error.hint(source.advice()).as_deref()),
    }
}

fn failed(error: &Error, hint: Option<&str>) -> ExitCode {
    complain(&error.to_string(), hint);
    ExitCode::FAILURE
}

/// Prints the information about the server.
async fn info(dial: &Dial, source: &TokenSource) -> Result<(), Error> {
    let info = dial.info(&source.token(&[], ApiRights::ALL).await?).await?;
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

/// Publishes and prints, and reconnects when a connection is lost. If the first connection fails it returns the error,
/// because then the command line is more likely wrong than the network.
async fn converse(dial: &Dial, source: &TokenSource, channels: &[String]) -> Result<(), Error> {
    let mut pause = FIRST_PAUSE;
    let mut socket = open(dial, source, channels).await?;
    let mut console = Console::new()?;
    loop {
        complain(&format!("connected to {}: {}", dial.server, channels.join(", ")), None);
        let start = Instant::now();
        let ended = console.run(&mut socket, channels.first().map_or("", String::as_str)).await;
        let _ = timeout(GOODBYE, goodbye(socket)).await;
        let Err(mut error) = ended else { return console.verdict() };
        if start.elapsed() >= LONGEST_PAUSE {
            pause = FIRST_PAUSE;
        }
        socket = loop {
            if !error.is_temporary(source.renews()) {
                return Err(error);
            }
            // A random part of the pause, so that the clients of a restarted server do not all connect at once.
            let wait = pause * (getrandom::u32().unwrap_or(500) % 1000) / 1000;
            complain(&format!("{error}; reconnecting in {}", span(wait)), None);
            sleep(wait).await;
            pause = (pause * 2).min(LONGEST_PAUSE);
            match open(dial, source, channels).await {
                Ok(socket) => break socket,
                Err(next) => error = next,
            }
        };
    }
}

/// Sends our Close frame or the answer to the server's, and waits for the end of the connection.
async fn goodbye(mut socket: Socket) {
    let _ = socket.close(None).await;
    while let Some(Ok(_)) = socket.next().await {}
}

async fn open(dial: &Dial, source: &TokenSource, channels: &[String]) -> Result<Socket, Error> {
    let token = source.token(channels, ApiRights::NONE).await?;
    let mut socket = dial.websocket(&token).await?;
    let joins = channels_to_join(&token.0, channels);
    if !joins.is_empty() {
        conversation::join(&mut socket, &joins).await?;
    }
    Ok(socket)
}
