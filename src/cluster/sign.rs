//! A sign of NATS: it lives, and what was sent to it before has arrived.
//!
//! NATS itself answers a request that nobody reads. Whoever reads all subjects, as `nats sub '>'` does, gets that request too,
//! and then NATS says nothing. So this node answers itself where it must, on a second connection.

use std::sync::Arc;
use std::time::Duration;

use async_nats::Client;
use async_nats::client::RequestErrorKind;
use bytes::Bytes;
use futures_util::StreamExt;
use tokio::sync::OnceCell;
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout};
use uuid::Uuid;

use super::link::{self, Reason, SILENCE};
use super::subject::Subjects;
use crate::config::ClusterSettings;

/// How long NATS may take for an answer before it is asked in the other way, or once more.
const PATIENCE: Duration = Duration::from_millis(500);

/// Requests that wait for this node's own answer. There are few, unless a stranger sends them.
const OWN_REQUESTS: usize = 64;

/// What asks NATS for signs on one link.
pub(super) struct Sign {
    client: Client,
    subjects: Subjects,
    settings: Arc<ClusterSettings>,
    name: String,
    /// The beginning of the subjects to which this node answers itself. It publishes to no others, whatever a stranger asks.
    inbox: String,
    own: OnceCell<Own>,
}

/// The second connection.
struct Own {
    subject: String,
    /// Ends with the link.
    _answers: JoinSet<()>,
}

impl Sign {
    /// Makes what asks on the link of `client`. With `settings` and as `name` it connects a second time.
    pub(super) fn new(
        client: Client,
        subjects: &Subjects,
        settings: Arc<ClusterSettings>,
        name: &str,
    ) -> Sign {
        let inbox = client.new_inbox();
        Sign {
            client,
            subjects: subjects.clone(),
            settings,
            name: name.to_owned(),
            inbox,
            own: OnceCell::new(),
        }
    }

    /// Waits for a sign, and returns how long it took. What was published on this link before has then reached the server.
    ///
    /// # Errors
    /// NATS gives none for [`SILENCE`], or the link has ended.
    pub(super) async fn wait(&self) -> Result<Duration, Reason> {
        let asked = Instant::now();
        let mut not_connected = None;
        let sign = async {
            if self.own.initialized() {
                return self.by_own_answer().await;
            }
            tokio::select! {
                answered = self.by_no_reader() => answered,
                () = async {
                    tokio::time::sleep(PATIENCE).await;
                    if let Err(reason) = self.by_own_answer().await {
                        // NATS may still answer in the other way.
                        not_connected = Some(reason);
                        std::future::pending().await
                    }
                } => Ok(()),
            }
        };
        match timeout(SILENCE, sign).await {
            Ok(answered) => answered.map(|()| asked.elapsed()),
            Err(_) => {
                Err(not_connected
                    .unwrap_or_else(|| format!("NATS does not answer for {} s", SILENCE.as_secs())))
            }
        }
    }

    /// Asks on a subject that no node reads.
    async fn by_no_reader(&self) -> Result<(), Reason> {
        match self.client.request(self.subjects.nobody(), Bytes::new()).await {
            Ok(_) => Ok(()),
            Err(error) if error.kind() == RequestErrorKind::NoResponders => Ok(()),
            // The time is counted from before.
            Err(error) if error.kind() == RequestErrorKind::TimedOut => std::future::pending().await,
            Err(error) => Err(format!("NATS does not answer: {error}")),
        }
    }

    async fn by_own_answer(&self) -> Result<(), Reason> {
        let own = self.own.get_or_try_init(|| self.connect()).await?;
        self.ask(&self.client, &own.subject).await
    }

    async fn connect(&self) -> Result<Own, Reason> {
        let client = link::open(&self.settings, &self.name, OWN_REQUESTS, |options| options).await?;
        let subject = self.subjects.own(Uuid::new_v4());
        let mut requests = client.subscribe(subject.clone()).await.map_err(refused)?;
        let (own, inbox) = (client.clone(), self.inbox.clone());
        let mut answers = JoinSet::new();
        answers.spawn(async move {
            while let Some(request) = requests.next().await {
                if let Some(reply) = request.reply.filter(|reply| reply.starts_with(&inbox)) {
                    let _ = own.publish(reply, Bytes::new()).await;
                }
            }
        });
        // Then NATS knows the subscription.
        self.ask(&client, &subject).await?;
        tracing::info!(
            "cluster: another client of NATS reads all subjects of the nodes, so this node asks for signs by a second connection"
        );
        Ok(Own { subject, _answers: answers })
    }

    /// Asks on a subject that this node reads. Any answer is a sign, also that nobody reads it.
    async fn ask(&self, client: &Client, subject: &str) -> Result<(), Reason> {
        let inbox = format!("{}.{}", self.inbox, Uuid::new_v4().simple());
        let mut answers = client.subscribe(inbox.clone()).await.map_err(refused)?;
        // Another server than that of the second connection may not know yet that it reads.
        let mut again = tokio::time::interval(PATIENCE);
        loop {
            tokio::select! {
                answer = answers.next() => {
                    return answer.map(|_| ()).ok_or_else(|| "the connection to NATS has ended".to_owned());
                }
                _ = again.tick() => {
                    let asked = client.publish_with_reply(subject.to_owned(), inbox.clone(), Bytes::new()).await;
                    asked.map_err(|error| format!("NATS takes no message: {error}"))?;
                }
            }
        }
    }
}

fn refused(error: async_nats::SubscribeError) -> Reason {
    format!("NATS takes no subscription: {error}")
}
