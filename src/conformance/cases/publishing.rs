//! What becomes of the messages that a client publishes.

use std::time::Duration;

use serde_json::{Value, json};
use tokio::time::timeout;

use crate::conformance::Broken;
use crate::conformance::protocol::{Command, Event};
use crate::conformance::scene::Scene;
use crate::conformance::server::Peer;

/// What the application was told about a message.
#[derive(Debug, PartialEq, Eq)]
enum Answer {
    Published(Option<u64>),
    Failed(String),
}

/// How long nothing may be sent after `rate_limited`: somewhat less than a second.
const PAUSE: Duration = Duration::from_millis(800);

impl Scene {
    async fn publish(&mut self, number: u64, channel: &str, data: &str) {
        self.client.send(&Command::Publish { number, channel, data }).await;
    }

    /// Waits until the application is told about the message with this number.
    async fn answer(&mut self, wanted: u64) -> Answer {
        let what = format!("report what became of message {wanted}");
        self.event(&what, |event| match event {
            Event::Published { number, readers } if *number == wanted => Some(Answer::Published(*readers)),
            Event::Failed { number, code } if *number == wanted => Some(Answer::Failed(code.clone())),
            _ => None,
        })
        .await
    }

    /// Waits for a message of the client with this text, and returns its `ack`.
    async fn published(&mut self, peer: &mut Peer, data: &str) -> Result<Value, Broken> {
        self.wait_for(format!("publish {data:?}"));
        let message = peer.receive().await?;
        if message["data"] != data {
            return Err(Broken(format!("it was told to publish {data:?}, and sent {message}")));
        }
        match &message["ack"] {
            ack @ Value::String(text) if text.len() <= 64 => Ok(ack.clone()),
            other => Err(Broken(format!("its message has the ack {other}, not a text of at most 64 bytes"))),
        }
    }
}

fn expect(answer: &Answer, expected: &Answer) -> Result<(), Broken> {
    if answer == expected {
        Ok(())
    } else {
        Err(Broken(format!("it reported {answer:?}, and the server had answered {expected:?}")))
    }
}

pub(super) async fn ack(scene: &mut Scene) -> Result<(), Broken> {
    let mut peer = scene.open().await?;
    let texts = ["first", "second", "third"];
    for (number, text) in (1..).zip(texts) {
        scene.publish(number, "chat", text).await;
    }
    for (number, text) in (1..).zip(texts) {
        let ack = scene.published(&mut peer, text).await?;
        peer.send(&json!({"ack": ack, "readers": 10 + number, "id": format!("E-{number}")})).await;
        let answer = scene.answer(number).await;
        expect(&answer, &Answer::Published(Some(10 + number)))?;
    }
    Ok(())
}

pub(super) async fn forbidden(scene: &mut Scene) -> Result<(), Broken> {
    let mut peer = scene.open().await?;
    scene.publish(1, "secret", "hello").await;
    let ack = scene.published(&mut peer, "hello").await?;
    let sentence = "this token may not write to channel \"secret\"";
    peer.send(&json!({"error": "forbidden", "channel": "secret", "message": sentence, "ack": ack})).await;
    let answer = scene.answer(1).await;
    expect(&answer, &Answer::Failed("forbidden".into()))?;
    scene.stays_silent(&mut peer, "after the error it sent").await
}

pub(super) async fn unanswered(scene: &mut Scene) -> Result<(), Broken> {
    let mut peer = scene.open().await?;
    scene.publish(1, "chat", "perhaps").await;
    scene.published(&mut peer, "perhaps").await?;
    drop(peer);
    let answer = scene.answer(1).await;
    if let Answer::Published(readers) = answer {
        return Err(Broken(format!("it reported {readers:?} readers, and the server had not answered")));
    }
    let (mut peer, _) = scene.enter(json!({})).await?;
    scene.stays_silent(&mut peer, "it published the message again").await
}

pub(super) async fn rate_limited(scene: &mut Scene) -> Result<(), Broken> {
    let mut peer = scene.open().await?;
    scene.publish(1, "chat", "too fast").await;
    let ack = scene.published(&mut peer, "too fast").await?;
    let sentence = "publishing too fast";
    let refusal = json!({
        "error": "rate_limited", "channel": "chat", "message": sentence, "ack": ack, "messages_per_second": 10,
    });
    peer.send(&refusal).await;
    match timeout(PAUSE, peer.receive()).await {
        Err(_) => {}
        Ok(received) => {
            return Err(Broken(format!("it did not wait for {} ms: {}", PAUSE.as_millis(), received?)));
        }
    }
    // It either repeats the message or reports the error.
    let again = tokio::select! {
        again = peer.receive() => again?,
        answer = scene.answer(1) => return expect(&answer, &Answer::Failed("rate_limited".into())),
    };
    peer.send(&json!({"ack": again["ack"], "readers": 1})).await;
    let answer = scene.answer(1).await;
    expect(&answer, &Answer::Published(Some(1)))
}
