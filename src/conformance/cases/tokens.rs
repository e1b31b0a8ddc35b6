//! The first token, and those that follow it.

use std::time::{Duration, SystemTime};

use serde_json::{Value, json};
use tokio::time::{Instant, timeout_at};

use crate::conformance::Broken;
use crate::conformance::client::token;
use crate::conformance::protocol::Timers;
use crate::conformance::scene::Scene;
use crate::timestamp::rfc3339;

/// How long a token lasts whose renewal is awaited. Clients may renew it after nine tenths of this time, and the rest must be
/// enough for a busy machine.
const LIFE: Duration = Duration::from_secs(16);

/// The same for a token whose end is not awaited.
const SHORT_LIFE: Duration = Duration::from_secs(3);

fn expires_in(life: Duration) -> Value {
    json!({"expires_at": rfc3339(SystemTime::now() + life).to_string()})
}

pub(super) async fn first(scene: &mut Scene) -> Result<(), Broken> {
    scene.connect(Timers::QUICK).await;
    let (mut peer, auth) = scene.auth().await?;
    if peer.target.contains(&token(1)) || peer.target.contains("auth=") {
        return Err(Broken("its token is in the URL".into()));
    }
    if auth.token != token(1) {
        return Err(Broken("it sent another token than it was given".into()));
    }
    peer.access(json!({})).await;
    scene.opened().await;
    Ok(())
}

pub(super) async fn expired(scene: &mut Scene) -> Result<(), Broken> {
    let peer = scene.open().await?;
    peer.close(4401, "the token has expired; get a new one").await;
    scene.ended().await;
    let (mut peer, auth) = scene.auth().await?;
    check_newest(scene, &auth.token)?;
    peer.access(json!({})).await;
    scene.opened().await;
    Ok(())
}

/// Fails unless a token is not the first one, and the newest.
fn check_newest(scene: &Scene, shown: &str) -> Result<(), Broken> {
    let newest = scene.client.newest_token();
    if newest == 1 {
        return Err(Broken("it asked for no other token, and sent the old one again".into()));
    }
    if shown == token(newest) { Ok(()) } else { Err(Broken("it did not send the newest token".into())) }
}

pub(super) async fn renewal(scene: &mut Scene) -> Result<(), Broken> {
    let mut peer = scene.open_with(Timers::QUICK, expires_in(LIFE)).await?;
    scene.wait_for("send another token on the open connection");
    let expiry = Instant::now() + LIFE;
    let Ok(auth) = timeout_at(expiry, peer.auth()).await else {
        return Err(Broken("its token has expired, and it sent no other one before".into()));
    };
    check_newest(scene, &auth?.token)?;
    peer.access(json!({})).await;
    peer.say("E-1", "with the second token").await;
    scene.told(&["with the second token"]).await?;
    scene.stays_silent(&mut peer, "it goes on with a token that lasts, but sent").await
}

pub(super) async fn renewal_refused(scene: &mut Scene) -> Result<(), Broken> {
    let mut peer = scene.open_with(Timers::QUICK, expires_in(SHORT_LIFE)).await?;
    scene.wait_for("send another token on the open connection");
    let refused = peer.auth().await?;
    let sentence = "the token's signature is invalid";
    peer.send(&json!({"error": "unauthorized", "message": sentence})).await;
    peer.say("E-1", "with the first token").await;
    scene.told(&["with the first token"]).await?;
    scene.wait_for("send a third token on the open connection");
    let later = peer.auth().await?;
    if later.token == refused.token {
        return Err(Broken("it sent the refused token again".into()));
    }
    peer.access(json!({})).await;
    peer.say("E-2", "with the third token").await;
    scene.told(&["with the third token"]).await
}
