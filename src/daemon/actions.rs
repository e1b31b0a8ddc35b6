//! Disconnecting, banning and publishing for administrators: the operations of [`ops`](crate::server::ops) in the
//! documents of the admin API.

use std::borrow::Cow;
use std::sync::Arc;

use tokio::runtime::Handle;

use crate::admin::api::{
    Code, Failure, PublishRequest, Published, PublishedMessage, RefusedSubject, RefusedSubjects, Timestamp,
};
use crate::message::{ApiMessage, ChannelName, Publish, ReaderCount};
use crate::orders::DisconnectOrder;
use crate::server::ops::disconnect::DisconnectError;
use crate::server::ops::publish::PublishError;
use crate::server::ops::{bans, disconnect, publish};
use crate::server::{BanError, Server};

/// The operations that change something.
pub(super) struct Actions {
    server: Arc<Server>,
    /// The runtime of the connections, which is not that of the admin thread.
    runtime: Handle,
}

impl Actions {
    /// Acts on `server`, whose tasks run on `runtime`.
    pub(super) fn new(server: Arc<Server>, runtime: Handle) -> Actions {
        Actions { server, runtime }
    }

    /// Carries out an order on this node.
    pub(super) fn disconnect(
        &self,
        order: &DisconnectOrder,
        dry_run: bool,
    ) -> Result<disconnect::Disconnected, Failure> {
        if dry_run {
            return Ok(disconnect::dry_run(&self.server, order)?);
        }
        // A task closes many connections over time.
        let _entered = self.runtime.enter();
        Ok(disconnect::disconnect(&self.server, order)?)
    }

    pub(super) fn banned(&self) -> RefusedSubjects {
        let subject = |(subject, until): (Box<str>, u64)| RefusedSubject {
            subject: subject.into(),
            until: Timestamp::from_unix(until),
        };
        RefusedSubjects { refused: bans::list(&self.server).into_iter().map(subject).collect(), nodes: None }
    }

    /// Lifts a ban on this node, and returns whether there was one.
    pub(super) fn lift(&self, subject: &str) -> Result<bool, Failure> {
        Ok(bans::lift(&self.server, subject)?)
    }

    pub(super) fn publish(&self, request: &PublishRequest) -> Result<Published, Failure> {
        let channel_name_bytes = self.server.live().settings.limits.channel_name_bytes;
        let mut texts = Vec::with_capacity(request.messages.len());
        for (at, message) in request.messages.iter().enumerate() {
            let invalid = |error: String| Failure::new(Code::Refused, format!("message {at}: {error}"));
            ChannelName::check(&message.channel, channel_name_bytes)
                .map_err(|error| invalid(error.to_string()))?;
            let text = message.data.as_ref().map(serde_json::to_string).transpose();
            texts.push(text.map_err(|error| invalid(error.to_string()))?);
        }
        let message = |(channel, data)| ApiMessage {
            publish: Publish { channel: Cow::Borrowed(channel), data, ack: None },
            excluded: Vec::new(),
            key: None,
        };
        let channels = || request.messages.iter().map(|message| message.channel.as_str());
        let messages: Vec<_> = channels().zip(texts.iter().map(Option::as_deref)).map(message).collect();
        let published = self.runtime.block_on(publish::publish(&self.server, &messages, None))?;
        if let Some(sentence) = publish::unpublished(&self.server, &published) {
            let hint = match self.server.cluster {
                Some(_) => "see the link to NATS: philotectl status",
                None => "publish again when it serves: philotectl wait-ready",
            };
            return Err(Failure::new(Code::Conflict, sentence).hint(hint));
        }
        let published = channels().zip(published).map(|(channel, published)| {
            let (readers, readers_here) = match published.readers {
                ReaderCount::All(readers) => (Some(readers as u64), None),
                ReaderCount::Here(here) => (None, Some(here as u64)),
            };
            let id = published.id.map(|id| id.to_string());
            PublishedMessage { channel: channel.to_owned(), readers, readers_here, id }
        });
        Ok(Published { published: published.collect() })
    }
}

impl From<PublishError> for Failure {
    fn from(error: PublishError) -> Failure {
        Failure::new(Code::Refused, error.to_string())
    }
}

impl From<DisconnectError> for Failure {
    fn from(error: DisconnectError) -> Failure {
        let sentence = error.to_string();
        match error {
            DisconnectError::Invalid(_) => Failure::new(Code::BadRequest, sentence),
            DisconnectError::Ambiguous { .. } => {
                Failure::new(Code::Refused, sentence).hint("give a longer prefix")
            }
            DisconnectError::TooManyInProgress(_) => Failure::new(Code::Conflict, sentence)
                .hint("nothing was done: try again when they are finished"),
            DisconnectError::Ban(error) => error.into(),
        }
    }
}

impl From<BanError> for Failure {
    fn from(error: BanError) -> Failure {
        let sentence = error.to_string();
        match error {
            BanError::TooMany => {
                Failure::new(Code::Conflict, sentence).hint("lift some: philotectl refused --remove SUBJECT")
            }
            BanError::NotRemembered(_) => Failure::new(Code::Internal, sentence).hint("nothing was changed"),
        }
    }
}
