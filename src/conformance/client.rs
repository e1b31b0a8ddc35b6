//! The client that is tested, as a process: its lines of JSON in both directions, within limits.

use std::ffi::OsString;
use std::fmt;
use std::io;
use std::process::{ExitStatus, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process_group};
use tokio::io::{AsyncBufReadExt, AsyncRead, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::process::{Child, ChildStdin};
use tokio::sync::{mpsc, oneshot};
use tokio::time::{sleep, timeout};

use super::protocol::{Command, Event, VERSION};

/// The longest line of a client, in bytes: more than twice what the largest message needs with every character escaped.
const MAX_LINE: usize = 4 << 20;

/// The most lines of a client in one case. No case needs more than a few hundred.
const MAX_LINES: usize = 10_000;

/// The most bytes of a client's lines in one case. The unread ones are in memory.
const MAX_BYTES: usize = 16 << 20;

/// The end of a client's standard error that is kept to be shown, in bytes.
const ERRORS_KEPT: usize = 2048;

/// The most commands that wait for a client. It may ask for tokens faster than it reads them.
const COMMANDS: usize = 16;

/// How long a client has for its first line. An interpreter on a busy machine needs seconds.
const START: Duration = Duration::from_secs(20);

/// How long a client has to read a command.
const COMMAND: Duration = Duration::from_secs(10);

/// How long a process has to exit after it has closed its standard output.
const EXIT: Duration = Duration::from_secs(1);

/// Why a client cannot be tested, whatever its server does.
#[derive(Debug)]
pub(super) enum ClientError {
    /// The program could not be started.
    Start(OsString, io::Error),
    /// No first line came in time.
    Silent,
    /// It speaks another version of the protocol.
    Version(u32),
    /// Its first line was another event.
    NoHello,
    /// A line is not an event.
    Garbage(String, serde_json::Error),
    /// A line is too long.
    LongLine,
    /// It has printed too much.
    Flood,
    /// It does not read its standard input.
    Deaf,
    /// It has exited, or closed its standard output.
    Ended { status: Option<ExitStatus>, errors: String },
}

impl ClientError {
    /// Returns whether the program ended, which a fault of its server may have caused.
    pub(super) fn is_end(&self) -> bool {
        matches!(self, Self::Ended { .. })
    }
}

impl fmt::Display for ClientError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Start(program, error) => write!(f, "cannot start {}: {error}", program.display()),
            Self::Silent => write!(f, "it printed no line within {} s of its start", START.as_secs()),
            Self::Version(version) => write!(f, "it speaks version {version} of the protocol, not {VERSION}"),
            Self::NoHello => f.write_str("its first line is not the event hello"),
            Self::Garbage(line, error) => write!(f, "it printed a line that is no event: {error}: {line}"),
            Self::LongLine => write!(f, "it printed a line of more than {} MiB", MAX_LINE >> 20),
            Self::Flood => write!(f, "it printed more than {MAX_LINES} lines or {} MiB", MAX_BYTES >> 20),
            Self::Deaf => write!(f, "it did not read a command within {} s", COMMAND.as_secs()),
            Self::Ended { status: Some(status), errors } => {
                write!(f, "it ended too early, with {status}{}", quoted(errors))
            }
            Self::Ended { status: None, errors } => {
                write!(f, "it closed its standard output{}", quoted(errors))
            }
        }
    }
}

fn quoted(errors: &str) -> String {
    if errors.is_empty() { String::new() } else { format!("; it said: {errors}") }
}

/// A client that runs. It ends with this value, and so do the processes that it has started.
pub(super) struct Client {
    child: Child,
    /// Its process group, so that what it has started ends with it: it may be a script.
    group: Option<Pid>,
    commands: mpsc::Sender<String>,
    events: mpsc::UnboundedReceiver<Event>,
    /// The number of the token that it was given last.
    newest_token: Arc<AtomicU64>,
    /// It was told to end.
    quits: Arc<AtomicBool>,
}

/// The failure of a client, if there is one.
pub(super) struct Failure(oneshot::Receiver<ClientError>);

impl Failure {
    /// Waits until the client has failed, which may be for ever.
    pub(super) async fn reason(&mut self) -> ClientError {
        match (&mut self.0).await {
            Ok(error) => error,
            Err(_) => std::future::pending().await,
        }
    }
}

/// Returns the token with this number. A client need not understand tokens.
pub(super) fn token(number: u64) -> String {
    format!("conformance-token-{number}")
}

impl Client {
    /// Starts a client and waits for its first line.
    pub(super) async fn start(program: &[OsString]) -> Result<(Client, Failure), ClientError> {
        let [name, arguments @ ..] = program else {
            return Err(ClientError::Start(OsString::new(), io::ErrorKind::NotFound.into()));
        };
        let mut command = tokio::process::Command::new(name);
        command.args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command
            .process_group(0)
            .kill_on_drop(true)
            .spawn()
            .map_err(|error| ClientError::Start(name.clone(), error))?;
        let group = child.id().and_then(|id| Pid::from_raw(id.cast_signed()));
        let pipes = (child.stdin.take(), child.stdout.take(), child.stderr.take());
        let (Some(stdin), Some(stdout), Some(stderr)) = pipes else {
            return Err(ClientError::Start(name.clone(), io::ErrorKind::BrokenPipe.into()));
        };
        let (commands, lines) = mpsc::channel(COMMANDS);
        let (told, events) = mpsc::unbounded_channel();
        let (fail, failure) = oneshot::channel();
        let (newest_token, quits) = (Arc::new(AtomicU64::new(1)), Arc::new(AtomicBool::new(false)));
        let errors = tokio::spawn(last_words(stderr));
        let reading = read(BufReader::new(stdout), told, commands.clone(), newest_token.clone());
        let ends = quits.clone();
        tokio::spawn(async move {
            let result = tokio::select! {
                result = reading => result,
                error = write(stdin, lines) => Err(error),
            };
            if result.is_ok() && ends.load(Relaxed) {
                return;
            }
            let errors = timeout(EXIT, errors).await.ok().and_then(Result::ok).unwrap_or_default();
            let _ = fail.send(result.err().unwrap_or(ClientError::Ended { status: None, errors }));
        });
        let (mut client, mut failure) =
            (Client { child, group, commands, events, newest_token, quits }, Failure(failure));
        let first = tokio::select! {
            first = client.event() => first,
            error = failure.reason() => return Err(client.explain(error).await),
            () = sleep(START) => return Err(ClientError::Silent),
        };
        match first {
            Event::Hello { version: VERSION } => Ok((client, failure)),
            Event::Hello { version } => Err(ClientError::Version(version)),
            _ => Err(ClientError::NoHello),
        }
    }

    /// Sends a command. If the client does not read it, that is its [`Failure`].
    pub(super) async fn send(&self, command: &Command<'_>) {
        if let Ok(line) = serde_json::to_string(command) {
            let _ = self.commands.send(line).await;
        }
    }

    /// Returns the next event. If the client has failed, there is none.
    pub(super) async fn event(&mut self) -> Event {
        match self.events.recv().await {
            Some(event) => event,
            None => std::future::pending().await,
        }
    }

    /// Tells it to end.
    pub(super) async fn quit(&self) {
        self.quits.store(true, Relaxed);
        self.send(&Command::Quit).await;
    }

    /// Waits until it has exited, and returns how.
    pub(super) async fn exited(&mut self) -> Option<ExitStatus> {
        let status = self.child.wait().await.ok();
        self.end_group();
        status
    }

    /// Ends what is left of the group. Once, because later another group may have its number.
    fn end_group(&mut self) {
        if let Some(group) = self.group.take() {
            // Usually all have ended.
            let _ = kill_process_group(group, Signal::KILL);
        }
    }

    /// Returns the reason why it failed, with its exit status.
    pub(super) async fn explain(&mut self, error: ClientError) -> ClientError {
        match error {
            ClientError::Ended { errors, .. } => {
                let status = timeout(EXIT, self.exited()).await.ok().flatten();
                ClientError::Ended { status, errors }
            }
            other => other,
        }
    }

    /// Returns the number of the token that it was given last.
    pub(super) fn newest_token(&self) -> u64 {
        self.newest_token.load(Relaxed)
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        self.end_group();
    }
}

/// Reads the events until the end, and answers those that ask for a token.
async fn read(
    mut stdout: impl tokio::io::AsyncBufRead + Unpin,
    told: mpsc::UnboundedSender<Event>,
    commands: mpsc::Sender<String>,
    newest_token: Arc<AtomicU64>,
) -> Result<(), ClientError> {
    let (mut lines, mut bytes) = (0, 0);
    let mut line = Vec::new();
    loop {
        line.clear();
        let limit = MAX_LINE as u64 + 1;
        // An error is the end: the process has gone.
        let read = (&mut stdout).take(limit).read_until(b'\n', &mut line).await.unwrap_or(0);
        if read == 0 {
            return Ok(());
        }
        if line.len() > MAX_LINE {
            return Err(ClientError::LongLine);
        }
        (lines, bytes) = (lines + 1, bytes + read);
        if lines > MAX_LINES || bytes > MAX_BYTES {
            return Err(ClientError::Flood);
        }
        let event: Event = serde_json::from_slice(&line).map_err(|error| {
            let shown: String = String::from_utf8_lossy(&line).trim_end().chars().take(100).collect();
            ClientError::Garbage(shown, error)
        })?;
        if event == Event::Token {
            let number = newest_token.fetch_add(1, Relaxed) + 1;
            let answer = Command::Token { token: &token(number) };
            let answer = serde_json::to_string(&answer).unwrap_or_default();
            // The writer reports a client that reads nothing.
            let _ = commands.send(answer).await;
        }
        // Nobody listens any more when the case is over.
        let _ = told.send(event);
    }
}

/// Writes commands until the client does not take them. Returns why; a client that has exited is reported by its reader.
async fn write(mut stdin: ChildStdin, mut lines: mpsc::Receiver<String>) -> ClientError {
    while let Some(line) = lines.recv().await {
        match timeout(COMMAND, stdin.write_all(format!("{line}\n").as_bytes())).await {
            Ok(Ok(())) => {}
            Ok(Err(_)) => break,
            Err(_) => return ClientError::Deaf,
        }
    }
    std::future::pending().await
}

/// Returns the end of a stream.
async fn last_words(mut stream: impl AsyncRead + Unpin) -> String {
    let mut kept = Vec::new();
    let mut buffer = [0; ERRORS_KEPT];
    while let Ok(count @ 1..) = stream.read(&mut buffer).await {
        kept.extend_from_slice(&buffer[..count]);
        kept.drain(..kept.len().saturating_sub(ERRORS_KEPT));
    }
    String::from_utf8_lossy(&kept).trim().to_owned()
}
