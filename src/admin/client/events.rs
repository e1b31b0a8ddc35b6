//! Reads the events that a daemon sends.

use std::path::{Path, PathBuf};

use http_body_util::BodyExt;
use hyper::body::Incoming;

use super::MAX_ANSWER;
use super::error::Error;
use crate::admin::api::Event;

/// A stream of events as they happen.
#[derive(Debug)]
pub struct Events {
    path: PathBuf,
    body: Incoming,
    buffer: Vec<u8>,
}

impl Events {
    /// Reads the events in the body of an answer; `path` is that of the socket.
    pub(super) fn new(path: &Path, body: Incoming) -> Self {
        Self { path: path.to_owned(), body, buffer: Vec::new() }
    }

    /// Returns the next event, or `None` once the daemon has ended the stream.
    ///
    /// # Errors
    /// The connection broke, or the daemon sent something that is not an event.
    pub async fn next(&mut self) -> Result<Option<Event>, Error> {
        loop {
            if let Some(end) = self.buffer.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = self.buffer.drain(..=end).collect();
                let event = serde_json::from_slice(&line);
                return event.map(Some).map_err(|_| Error::NotPhilote { path: self.path.clone() });
            }
            match self.body.frame().await {
                None => return Ok(None),
                Some(Err(_)) => return Err(Error::Gone { path: self.path.clone() }),
                Some(Ok(frame)) => self.buffer.extend_from_slice(frame.data_ref().map_or(&[], |data| data)),
            }
            if self.buffer.len() > MAX_ANSWER {
                return Err(Error::NotPhilote { path: self.path.clone() });
            }
        }
    }
}
