//! Asks the daemon again and again, on a thread of its own: a daemon that is slow to answer holds up no key.

use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread;
use std::time::{Duration, Instant};

use tokio::runtime::{Builder, Runtime};

use super::super::print::many;
use super::super::{Complaint, Exit};
use crate::admin::api::{
    ChannelQuery, Channels, ClosedConnections, ClosedQuery, ConnectionQuery, Connections, DisconnectRequest,
    Status,
};
use crate::admin::client::{Client, Error};

/// What the screen wants to see.
#[derive(Clone, Debug)]
pub(super) struct Wanted {
    pub(super) channels: ChannelQuery,
    pub(super) connections: ConnectionQuery,
    pub(super) closed: ClosedQuery,
}

/// What the daemon said at one moment.
#[derive(Debug)]
pub(super) struct Picture {
    pub(super) status: Status,
    pub(super) channels: Channels,
    pub(super) connections: Connections,
    pub(super) closed: ClosedConnections,
}

/// What the screen asks of the thread.
pub(super) enum Asked {
    /// Show this from now on, and at once.
    Look(Wanted),
    /// With `dry_run` a question comes of it, without it is done.
    Disconnect(DisconnectRequest),
}

/// What the thread tells the screen.
pub(super) enum Told {
    Seen(Box<Picture>),
    WouldDisconnect(DisconnectRequest, u64),
    /// A sentence for the last line.
    Note(String),
    /// The daemon is gone, or lets us in no more.
    Over(Complaint),
}

/// The thread that asks. It ends when this is dropped.
pub(super) struct Watcher {
    asked: Sender<Asked>,
    told: Receiver<Told>,
}

impl Watcher {
    /// Begins to ask, once the daemon has answered for the first time.
    ///
    /// # Errors
    /// What keeps the daemon from being asked at all.
    pub(super) fn start(client: Client, interval: Duration) -> Result<Watcher, Complaint> {
        let cannot = |error: std::io::Error| Complaint {
            message: format!("cannot start: {error}"),
            hint: None,
            exit: Exit::Failed,
        };
        let runtime = Builder::new_current_thread().enable_all().build().map_err(cannot)?;
        runtime.block_on(client.status())?;
        let (asked, questions) = channel();
        let (answers, told) = channel();
        let work = move || Asker { client, runtime, questions, answers }.work(interval);
        thread::Builder::new().name("asks".into()).spawn(work).map_err(cannot)?;
        Ok(Watcher { asked, told })
    }

    /// Asks for something; the answer is told some time.
    pub(super) fn ask(&self, question: Asked) {
        // A thread that has ended has told why.
        let _ = self.asked.send(question);
    }

    /// The next piece of news, if there is one.
    pub(super) fn told(&self) -> Option<Told> {
        self.told.try_recv().ok()
    }
}

struct Asker {
    client: Client,
    runtime: Runtime,
    questions: Receiver<Asked>,
    answers: Sender<Told>,
}

impl Asker {
    fn work(self, interval: Duration) {
        let mut wanted = None;
        let mut next = Instant::now();
        loop {
            match self.questions.recv_timeout(next.saturating_duration_since(Instant::now())) {
                Ok(Asked::Look(other)) => {
                    wanted = Some(other);
                    next = Instant::now();
                    continue;
                }
                Ok(Asked::Disconnect(request)) => {
                    if self.answers.send(self.disconnect(request)).is_err() {
                        return;
                    }
                    next = Instant::now();
                    continue;
                }
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return,
            }
            next = Instant::now() + interval;
            let Some(wanted) = &wanted else { continue };
            let told = match self.runtime.block_on(look(&self.client, wanted)) {
                Ok(picture) => Told::Seen(Box::new(picture)),
                // It may have died in the middle of an answer: the next question tells.
                Err(error @ (Error::TimedOut { .. } | Error::Gone { .. } | Error::Refused(_))) => {
                    Told::Note(error.to_string())
                }
                Err(error) => Told::Over(error.into()),
            };
            let over = matches!(told, Told::Over(_));
            if self.answers.send(told).is_err() || over {
                return;
            }
        }
    }

    fn disconnect(&self, request: DisconnectRequest) -> Told {
        match self.runtime.block_on(self.client.disconnect(&request)) {
            Ok(answer) if request.dry_run => {
                Told::WouldDisconnect(DisconnectRequest { dry_run: false, ..request }, answer.matched)
            }
            Ok(answer) => Told::Note(format!("disconnected: {}", many(answer.matched, "connection"))),
            Err(error) => Told::Note(error.to_string()),
        }
    }
}

async fn look(client: &Client, wanted: &Wanted) -> Result<Picture, Error> {
    Ok(Picture {
        status: client.status().await?,
        channels: client.channels(&wanted.channels).await?,
        connections: client.connections(&wanted.connections).await?,
        closed: client.closed(&wanted.closed).await?,
    })
}
