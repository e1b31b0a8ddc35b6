//! The link to NATS: one connection, and what ends it.
//!
//! A link is never mended. async-nats would reconnect by itself, send again what it holds, and tell of it by events that it
//! may drop. A link that is in doubt is ended instead, and everything begins again on a new one, so that there is only one way
//! back from every fault.

use std::time::Duration;

use async_nats::{Client, ConnectOptions, Event};
use tokio::sync::watch;
use tokio::time::timeout;

use super::subject::Subjects;
use crate::config::ClusterSettings;

/// How long NATS may say nothing before the link counts as down. It is asked each second.
pub(super) const SILENCE: Duration = Duration::from_secs(2);

/// How long a connection to one server may take.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);

/// Where async-nats connects again by itself: nowhere, because no program can listen on this port. So it gives up at once.
const NOWHERE: &str = "nats://127.0.0.1:0";

/// Messages that wait in the subscription of one channel. More than that, and the node is too slow for them.
pub(super) const CHANNEL_MESSAGES: usize = 16_384;

/// Messages that wait in the subscription of the log. NATS sends at most 32 MiB that the node has not asked for by its flow
/// control, and the shortest messages take more than 128 bytes.
pub(super) const LOG_MESSAGES: usize = 32 * 1024 * 1024 / 128;

/// Commands that wait for the task of the connection.
const COMMANDS: usize = 1_024;

/// Why a link has ended, in words for the log.
pub(super) type Reason = String;

/// A connection to NATS.
pub(super) struct Link {
    pub(super) client: Client,
    ended: watch::Receiver<Option<Reason>>,
}

impl Link {
    /// Connects to the first server that answers. At most `subscription_messages` wait in each subscription.
    ///
    /// # Errors
    /// In words for the log, without credentials.
    pub(super) async fn connect(
        settings: &ClusterSettings,
        name: &str,
        subscription_messages: usize,
    ) -> Result<Link, Reason> {
        let (end, ended) = watch::channel(None);
        let client = open(settings, name, subscription_messages, |options| {
            // Readers on this node get its messages without NATS. The log sends them itself.
            options.no_echo().event_callback(move |event| {
                let reason = match event {
                    Event::Disconnected | Event::Closed => {
                        Some("the connection to NATS has ended".to_owned())
                    }
                    Event::SlowConsumer(_) => Some("this node was too slow for its messages".to_owned()),
                    Event::ServerError(error) => Some(format!("NATS reports: {error}")),
                    Event::Connected | Event::Draining | Event::LameDuckMode | Event::ClientError(_) => None,
                };
                if let Some(reason) = reason {
                    end.send_if_modified(|ended| ended.is_none() && ended.replace(reason).is_none());
                }
                std::future::ready(())
            })
        });
        let client = client.await?;
        Ok(Link { client, ended })
    }

    /// Waits until the link has ended by itself.
    pub(super) async fn ended(&self) -> Reason {
        let mut ended = self.ended.clone();
        let reason = match ended.wait_for(Option::is_some).await {
            Ok(reason) => reason.clone(),
            Err(_) => None,
        };
        reason.unwrap_or_else(|| "the connection to NATS is closed".to_owned())
    }
}

/// Connects to the first server that answers, with further options.
///
/// # Errors
/// In words for the log, without credentials.
pub(super) async fn open(
    settings: &ClusterSettings,
    name: &str,
    subscription_messages: usize,
    further: impl FnOnce(ConnectOptions) -> ConnectOptions,
) -> Result<Client, Reason> {
    let mut options = ConnectOptions::new()
        .name(format!("philote {name}"))
        .connection_timeout(CONNECT_TIMEOUT)
        .request_timeout(Some(SILENCE))
        .subscription_capacity(subscription_messages)
        .client_capacity(COMMANDS)
        .custom_inbox_prefix(Subjects::new(&settings.subject_prefix).inboxes())
        .ignore_discovered_servers()
        // Subjects are made by this crate from checked settings and encoded names.
        .skip_subject_validation(true)
        .max_reconnects(settings.servers.len())
        .reconnect_delay_callback(|_| Duration::ZERO);
    options = further(options);
    if let Some(file) = &settings.credentials_file {
        options = options
            .credentials(file.content.as_str())
            .map_err(|_| format!("{} is not a file of NATS credentials", file.path.display()))?;
    }
    if let (Some(user), Some(file)) = (&settings.user, &settings.password_file) {
        options = options.user_and_password(user.clone(), file.content.as_str().to_owned());
    }
    if settings.tls.is_set() {
        options = options.require_tls(true);
    }
    if let Some(ca) = &settings.tls.ca {
        options = options.add_root_certificates(ca.clone());
    }
    if let (Some(certificate), Some(key)) = (&settings.tls.certificate, &settings.tls.key) {
        options = options.add_client_certificate(certificate.clone(), key.clone());
    }
    let whole = CONNECT_TIMEOUT * u32::try_from(settings.servers.len()).unwrap_or(1);
    let client = match timeout(whole, options.connect(&settings.servers)).await {
        Ok(Ok(client)) => client,
        Ok(Err(error)) => return Err(error.to_string()),
        Err(_) => return Err("no server answers in time".to_owned()),
    };
    // Its task would hold the socket of a link that has ended as long as it tries.
    client.set_server_pool(NOWHERE).await.map_err(|error| error.to_string())?;
    Ok(client)
}
