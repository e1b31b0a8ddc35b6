//! Queries the daemon periodically. It does so on its own thread, so that a slow daemon does not delay the keys.

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

/// The queries for the three lists.
#[derive(Clone, Debug)]
pub(super) struct Queries {
    pub(super) channels: ChannelQuery,
    pub(super) connections: ConnectionQuery,
    pub(super) closed: ClosedQuery,
}

/// The daemon's answers to one round of queries.
#[derive(Debug)]
pub(super) struct Snapshot {
    pub(super) status: Status,
    pub(super) channels: Channels,
    pub(super) connections: Connections,
    pub(super) closed: ClosedConnections,
}

/// A request from the screen to the thread.
pub(super) enum Request {
    /// Use these queries from now on, and send them at once.
    Show(Queries),
    /// Disconnect, or with `dry_run` count the connections for the confirmation.
    Disconnect(DisconnectRequest),
}

/// An update from the thread to the screen.
pub(super) enum Update {
    Snapshot(Box<Snapshot>),
    WouldDisconnect(DisconnectRequest, u64),
    /// A sentence for the last line.
    Note(String),
    /// The daemon has stopped, or refuses connections.
    Ended(Complaint),
}

/// A handle to the thread that queries the daemon. The thread ends when the handle is dropped.
pub(super) struct Poller {
    requests: Sender<Request>,
    updates: Receiver<Update>,
}

impl Poller {
    /// Waits for the first answer of the daemon, and starts the thread.
    ///
    /// # Errors
    /// The daemon cannot be reached.
    pub(super) fn start(client: Client, interval: Duration) -> Result<Poller, Complaint> {
        let cannot = |error: std::io::Error| Complaint {
            message: format!("cannot start: {error}"),
            hint: None,
            exit: Exit::Failed,
        };
        let runtime = Builder::new_current_thread().enable_all().build().map_err(cannot)?;
        runtime.block_on(client.status())?;
        let (requests, received_requests) = channel();
        let (sent_updates, updates) = channel();
        let worker = Worker { client, runtime, requests: received_requests, updates: sent_updates };
        let work = move || worker.work(interval);
        thread::Builder::new().name("poll".into()).spawn(work).map_err(cannot)?;
        Ok(Poller { requests, updates })
    }

    /// Sends a request, whose answer arrives as an update.
    pub(super) fn send(&self, request: Request) {
        // If the thread has ended, its last update says why.
        let _ = self.requests.send(request);
    }

    /// Returns the next update, if there is one.
    pub(super) fn next_update(&self) -> Option<Update> {
        self.updates.try_recv().ok()
    }
}

struct Worker {
    client: Client,
    runtime: Runtime,
    requests: Receiver<Request>,
    updates: Sender<Update>,
}

impl Worker {
    fn work(self, interval: Duration) {
        let mut queries = None;
        let mut next = Instant::now();
        loop {
            match self.requests.recv_timeout(next.saturating_duration_since(Instant::now())) {
                Ok(Request::Show(other)) => {
                    queries = Some(other);
                    next = Instant::now();
                    continue;
                }
                Ok(Request::Disconnect(request)) => {
                    if self.updates.send(self.disconnect(request)).is_err() {
                        return;
                    }
                    next = Instant::now();
                    continue;
                }
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return,
            }
            next = Instant::now() + interval;
            let Some(queries) = &queries else { continue };
            let update = match self.runtime.block_on(take_snapshot(&self.client, queries)) {
                Ok(snapshot) => Update::Snapshot(Box::new(snapshot)),
                // The daemon may have stopped during the answer; the next query shows whether it did.
                Err(error @ (Error::TimedOut { .. } | Error::Gone { .. } | Error::Refused(_))) => {
                    Update::Note(error.to_string())
                }
                Err(error) => Update::Ended(error.into()),
            };
            let over = matches!(update, Update::Ended(_));
            if self.updates.send(update).is_err() || over {
                return;
            }
        }
    }

    fn disconnect(&self, request: DisconnectRequest) -> Update {
        match self.runtime.block_on(self.client.disconnect(&request)) {
            Ok(answer) if request.dry_run => {
                Update::WouldDisconnect(DisconnectRequest { dry_run: false, ..request }, answer.matched)
            }
            Ok(answer) => Update::Note(format!("disconnected: {}", many(answer.matched, "connection"))),
            Err(error) => Update::Note(error.to_string()),
        }
    }
}

async fn take_snapshot(client: &Client, queries: &Queries) -> Result<Snapshot, Error> {
    Ok(Snapshot {
        status: client.status().await?,
        channels: client.channels(&queries.channels).await?,
        connections: client.connections(&queries.connections).await?,
        closed: client.closed(&queries.closed).await?,
    })
}
