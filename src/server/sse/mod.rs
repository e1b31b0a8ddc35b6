//! Channels without a WebSocket, at the same paths: Server-Sent Events to read, and a POST to publish.
//!
//! A reader of events is a connection like any other. It has a slot, joins its channels in the hub and has an outbox, so
//! limits, lists and guarantees are the same. Only its socket differs: [`socket`] makes events of the frames that the
//! outbox writes.
//!
//! In reading order: [`asked`] tells what a request asks for, [`query`] reads its channels and its [`cursor`], [`mod@open`]
//! admits its client, [`reading`] is its task, and [`event`] the form of events. [`post`] publishes, and [`cors`] lets pages
//! of other origins do both.

mod asked;
mod cors;
mod cursor;
mod event;
mod open;
mod post;
mod query;
mod reading;
mod socket;

use std::net::SocketAddr;
use std::sync::Arc;

use hyper::Request;
use hyper::body::Incoming;
use tokio::time::Instant;

pub(super) use self::asked::Asked;
pub(super) use self::cors::Page;
pub(super) use self::open::{Opened, Opening, begin};
use super::Server;
use super::accept::pending::Waiting;
use super::rejection::Rejected;

/// Serves a request at a path of clients that is not for a WebSocket. Its body must arrive before `deadline`.
pub(super) async fn serve(
    server: &Arc<Server>,
    waiting: &Waiting,
    asked: Asked,
    address: SocketAddr,
    deadline: Instant,
    request: Request<Incoming>,
) -> Result<Opening, Rejected> {
    match asked {
        Asked::Events => open::open(server, address, &request).await,
        Asked::Publish => {
            post::publish(server, waiting, address, deadline, request).await.map(Opening::Answered)
        }
        Asked::Preflight => Ok(Opening::Answered(cors::preflight(request.headers(), &server.live())?)),
    }
}
