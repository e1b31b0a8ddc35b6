//! Frames that are unusual, unknown or wrong.

use serde_json::json;

use crate::conformance::Broken;
use crate::conformance::protocol::Timers;
use crate::conformance::scene::Scene;

/// The length of the message of [`large`], in bytes: larger than a server accepts by default, and less than it may be set to.
const LARGE: usize = 300_000;

/// What texts contain: a line end, quotes, an escape, NUL, the line separator of JavaScript, Arabic, an emoji of several code
/// points, and a byte order mark.
const CHARACTERS: &str = "\n\"'\\u0041\\\0\u{2028}\u{627}\u{644}👩‍🚀\u{feff}é";

/// Texts that are no object of JSON.
const MALFORMED: [&str; 5] = ["{\"channel\": \"chat\", ", "[1, 2]", "null", "7", "hello"];

/// A text frame with a reserved bit.
const RESERVED_BIT: [u8; 3] = [0b1100_0001, 1, b'x'];

pub(super) async fn ping(scene: &mut Scene) -> Result<(), Broken> {
    let mut peer = scene.open().await?;
    scene.wait_for("answer a ping");
    peer.ping(b"conformance").await?;
    peer.ping(b"").await
}

pub(super) async fn unknown(scene: &mut Scene) -> Result<(), Broken> {
    let more = json!({"colour": "green", "limits": {"joins": 3}, "version": [2]});
    let mut peer = scene.open_with(Timers::QUICK, more).await?;
    peer.send(&json!({"weather": {"chat": "rain"}, "id": "E-9"})).await;
    peer.send(&json!({})).await;
    peer.send(&json!({
        "issuer": "7b1c2d3e-0000-4000-8000-000000000000", "channel": "chat", "data": "known",
        "subject": "alice", "id": "E-1", "mood": ["sunny", null], "expires_at": 7,
    }))
    .await;
    scene.told(&["known"]).await?;
    scene.stays_silent(&mut peer, "it answered with").await
}

pub(super) async fn large(scene: &mut Scene) -> Result<(), Broken> {
    let mut peer = scene.open().await?;
    let text = CHARACTERS.repeat(LARGE / CHARACTERS.len());
    peer.say("E-1", CHARACTERS).await;
    peer.say("E-2", "").await;
    peer.say("E-3", &text).await;
    peer.say("E-4", "end").await;
    let told = scene.told_until("end").await;
    let expected = [CHARACTERS, "", &text, "end"];
    for (at, (told, expected)) in told.iter().zip(expected).enumerate() {
        if told != expected {
            let (got, sent) = (told.len(), expected.len());
            return Err(Broken(format!(
                "message {} of {sent} bytes arrived changed, with {got} bytes",
                at + 1
            )));
        }
    }
    if told.len() == expected.len() {
        Ok(())
    } else {
        Err(Broken(format!("it reported {} messages of {}", told.len(), expected.len())))
    }
}

pub(super) async fn malformed(scene: &mut Scene) -> Result<(), Broken> {
    let mut peer = scene.open().await?;
    for (at, frame) in MALFORMED.iter().enumerate() {
        peer.send_text((*frame).to_owned()).await;
        let (id, text) = (format!("E-{}", at + 1), format!("after malformed frame {}", at + 1));
        peer.say(&id, &text).await;
        let expected = [text.as_str()];
        let survived = tokio::select! {
            told = scene.told(&expected) => { told?; true }
            // It may reconnect.
            _ended = peer.receive() => false,
        };
        if !survived {
            drop(peer);
            peer = scene.enter(json!({"ids": {"chat": id}, "recovered": {"chat": false}})).await?.0;
        }
    }
    peer.say("E-90", "the end").await;
    scene.told_until("the end").await;
    Ok(())
}

pub(super) async fn broken_frame(scene: &mut Scene) -> Result<(), Broken> {
    let mut peer = scene.open().await?;
    peer.send_raw(&RESERVED_BIT).await;
    scene.wait_for("end the connection");
    // Its Close, or the end.
    while peer.receive().await.is_ok() {}
    drop(peer);
    let (mut peer, _) = scene.enter(json!({})).await?;
    peer.say("E-1", "on a sound connection").await;
    scene.told(&["on a sound connection"]).await
}
