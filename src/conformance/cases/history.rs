//! What a client asks for when it returns, and what it tells its application.

use serde_json::json;

use crate::conformance::Broken;
use crate::conformance::protocol::Command;
use crate::conformance::scene::{Scene, expect_since};

/// How many messages [`order`] delivers.
const MANY: usize = 500;

pub(super) async fn resume(scene: &mut Scene) -> Result<(), Broken> {
    let mut peer = scene.open().await?;
    peer.say("E-1", "one").await;
    peer.say("E-3", "two").await;
    scene.told(&["one", "two"]).await?;
    drop(peer);
    let (mut peer, auth) = scene.auth().await?;
    expect_since(&auth, "chat", "E-3")?;
    peer.access(json!({"ids": {"chat": "E-3"}, "recovered": {"chat": true}})).await;
    peer.say("E-4", "missed").await;
    peer.say("E-5", "new").await;
    scene.recovered(true).await?;
    scene.told(&["missed", "new"]).await
}

pub(super) async fn resume_empty(scene: &mut Scene) -> Result<(), Broken> {
    let peer = scene.open().await?;
    drop(peer);
    let (mut peer, auth) = scene.auth().await?;
    expect_since(&auth, "chat", "E-0")?;
    peer.access(json!({"ids": {"chat": "E-0"}, "recovered": {"chat": true}})).await;
    peer.say("E-1", "missed").await;
    scene.recovered(true).await?;
    scene.told(&["missed"]).await
}

pub(super) async fn gap(scene: &mut Scene) -> Result<(), Broken> {
    let mut peer = scene.open().await?;
    peer.say("E-1", "one").await;
    scene.told(&["one"]).await?;
    drop(peer);
    scene.enter(json!({"ids": {"chat": "E-90"}, "recovered": {"chat": false}})).await?;
    scene.recovered(false).await
}

pub(super) async fn epoch(scene: &mut Scene) -> Result<(), Broken> {
    let mut peer = scene.open().await?;
    peer.say("E-41", "one").await;
    scene.told(&["one"]).await?;
    drop(peer);
    let (mut peer, _) = scene.enter(json!({"ids": {"chat": "F-0"}, "recovered": {"chat": false}})).await?;
    scene.recovered(false).await?;
    // The number is smaller than that of the last message, and the message is new all the same.
    peer.say("F-1", "of another epoch").await;
    scene.told(&["of another epoch"]).await?;
    drop(peer);
    let (mut peer, auth) = scene.auth().await?;
    expect_since(&auth, "chat", "F-1")?;
    peer.access(json!({"ids": {"chat": "F-1"}, "recovered": {"chat": true}})).await;
    scene.recovered(true).await
}

pub(super) async fn double(scene: &mut Scene) -> Result<(), Broken> {
    let mut peer = scene.open().await?;
    for (id, data) in [("E-1", "one"), ("E-2", "two"), ("E-1", "one"), ("E-2", "two"), ("E-3", "three")] {
        peer.say(id, data).await;
    }
    scene.told(&["one", "two", "three"]).await
}

pub(super) async fn order(scene: &mut Scene) -> Result<(), Broken> {
    let mut peer = scene.open().await?;
    let texts: Vec<String> = (1..=MANY).map(|number| format!("message {number}")).collect();
    for (at, text) in texts.iter().enumerate() {
        peer.say(&format!("E-{}", at + 1), text).await;
    }
    scene.told(&texts.iter().map(String::as_str).collect::<Vec<_>>()).await
}

pub(super) async fn rejoin(scene: &mut Scene) -> Result<(), Broken> {
    let mut peer = scene.open().await?;
    for channel in ["room:left", "room:kept"] {
        scene.client.send(&Command::Join { channel }).await;
        scene.wait_for(format!("join {channel}"));
        let request = peer.receive().await?;
        if request["join"] != json!([channel]) {
            return Err(Broken(format!("it was told to join {channel}, and sent {request}")));
        }
        peer.send(&json!({"joined": {channel: {"id": "E-0"}}})).await;
    }
    peer.deliver("room:kept", "E-7", "in the room").await;
    scene.told(&["in the room"]).await?;
    scene.client.send(&Command::Leave { channel: "room:left" }).await;
    scene.wait_for("leave room:left");
    let request = peer.receive().await?;
    if request["leave"] != json!(["room:left"]) {
        return Err(Broken(format!("it was told to leave room:left, and sent {request}")));
    }
    peer.send(&json!({"left": ["room:left"]})).await;
    // What follows is handled after it.
    peer.say("E-1", "left").await;
    scene.told(&["left"]).await?;
    drop(peer);

    let (mut peer, _) = scene.enter(json!({"ids": {"chat": "E-1"}, "recovered": {"chat": true}})).await?;
    scene.wait_for("join room:kept again");
    let request = peer.receive().await?;
    if request["join"] != json!(["room:kept"]) || request["since"]["room:kept"] != "E-7" {
        return Err(Broken(format!(
            "after the reconnection it sent {request}, not a join of room:kept with since E-7"
        )));
    }
    peer.send(&json!({"joined": {"room:kept": {"id": "E-7", "recovered": true}}})).await;
    peer.deliver("room:kept", "E-8", "missed in the room").await;
    scene.told(&["missed in the room"]).await
}
