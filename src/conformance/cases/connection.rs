//! When to reconnect, how long to wait, and when to stop.

use std::cell::{Cell, RefCell};
use std::collections::BTreeSet;
use std::time::Duration;

use serde_json::json;
use tokio::time::{Instant, timeout_at};

use crate::conformance::Broken;
use crate::conformance::protocol::{State, Timers};
use crate::conformance::scene::Scene;
use crate::conformance::server::Attempt;

/// How long attempts fail.
const REFUSED: Duration = Duration::from_secs(3);

/// The range of waits meanwhile: between 25 and 800 ms, if the wait is doubled each time, at 400 ms on average.
const FIRST_WAIT: Duration = Duration::from_millis(50);
const LONGEST_WAIT: Duration = Duration::from_millis(800);

/// The most attempts in that time. With the waits above there are about eleven; with the first wait each time, sixty.
const MOST_ATTEMPTS: usize = 30;

/// The wait after 1012 in [`restart`], the number of waits, and the least difference between the shortest and the longest but
/// one, because a busy machine may delay one of them. Of 200,000 clients that choose at random one has less.
const RESTART_WAIT: Duration = Duration::from_secs(2);
const RESTARTS: usize = 8;
const LEAST_SPREAD: Duration = Duration::from_millis(150);

/// The silence after which the client should notice that the server is dead.
const SILENCE: Duration = Duration::from_millis(1500);

/// The limit of an attempt, for clients that can be told.
const ATTEMPT: Duration = Duration::from_secs(2);

pub(super) async fn cut(scene: &mut Scene) -> Result<(), Broken> {
    let peer = scene.open().await?;
    drop(peer);
    scene.ended().await;
    let (mut peer, _) = scene.enter(json!({})).await?;
    peer.say("E-1", "after the cut").await;
    scene.told(&["after the cut"]).await
}

pub(super) async fn unavailable(scene: &mut Scene) -> Result<(), Broken> {
    refused(scene, Attempt::unavailable).await
}

pub(super) async fn full(scene: &mut Scene) -> Result<(), Broken> {
    refused(scene, async |attempt| {
        if let Ok(mut peer) = attempt.upgrade().await
            && peer.auth().await.is_ok()
        {
            peer.close(1013, "the server is full").await;
        }
    })
    .await
}

pub(super) async fn rejected(scene: &mut Scene) -> Result<(), Broken> {
    let (tokens, was_repeated) = (RefCell::new(BTreeSet::new()), Cell::new(false));
    refused(scene, async |attempt| {
        let Ok(mut peer) = attempt.upgrade().await else { return };
        let Ok(auth) = peer.auth().await else { return };
        was_repeated.set(was_repeated.get() || !tokens.borrow_mut().insert(auth.token));
        peer.close(4401, "the token's signature is invalid").await;
    })
    .await?;
    if was_repeated.get() {
        return Err(Broken("it sent a refused token again".into()));
    }
    Ok(())
}

/// Refuses attempts for some time, counts them, and accepts the next one.
async fn refused(scene: &mut Scene, refuse: impl AsyncFn(Attempt)) -> Result<(), Broken> {
    scene.connect(Timers::QUICK.backoff(FIRST_WAIT, LONGEST_WAIT)).await;
    let first = scene.attempt().await;
    let began = Instant::now();
    refuse(first).await;
    let mut attempts = 1;
    while let Ok(attempt) = timeout_at(began + REFUSED, scene.attempt()).await {
        attempts += 1;
        if attempts > MOST_ATTEMPTS {
            let within = began.elapsed().as_secs_f64();
            return Err(Broken(format!(
                "it made {attempts} attempts within {within:.1} s of the first refusal"
            )));
        }
        refuse(attempt).await;
    }
    scene.enter(json!({})).await?;
    Ok(())
}

pub(super) async fn restart(scene: &mut Scene) -> Result<(), Broken> {
    let timers = Timers::QUICK.backoff(RESTART_WAIT, RESTART_WAIT);
    let mut peer = scene.open_with(timers, json!({})).await?;
    let mut waits = Vec::new();
    while waits.len() < RESTARTS {
        let closed = Instant::now();
        peer.close(1012, "the server asks for a new connection; reconnect").await;
        let attempt = scene.attempt().await;
        waits.push(attempt.at.saturating_duration_since(closed));
        peer = attempt.upgrade().await?;
        scene.wait_for("send its token");
        peer.auth().await?;
        peer.access(json!({})).await;
        scene.opened().await;
    }
    waits.sort();
    let spread = waits[RESTARTS - 2] - waits[0];
    if spread < LEAST_SPREAD {
        let waits: Vec<_> = waits.iter().map(|wait| format!("{} ms", wait.as_millis())).collect();
        return Err(Broken(format!("its waits are nearly the same: {}", waits.join(", "))));
    }
    Ok(())
}

pub(super) async fn mute(scene: &mut Scene) -> Result<(), Broken> {
    scene.connect(Timers::QUICK.attempt(ATTEMPT)).await;
    let stuck = scene.attempt().await;
    scene.enter(json!({})).await?;
    drop(stuck);
    Ok(())
}

pub(super) async fn mute_token(scene: &mut Scene) -> Result<(), Broken> {
    scene.connect(Timers::QUICK.attempt(ATTEMPT)).await;
    let (stuck, _) = scene.auth().await?;
    scene.enter(json!({})).await?;
    drop(stuck);
    Ok(())
}

pub(super) async fn silence(scene: &mut Scene) -> Result<(), Broken> {
    let mut dead = scene.open_with(Timers::QUICK.silence(SILENCE), json!({})).await?;
    dead.say("E-1", "the last sign of life").await;
    scene.told(&["the last sign of life"]).await?;
    let (mut peer, _) = scene.enter(json!({"ids": {"chat": "E-1"}, "recovered": {"chat": true}})).await?;
    peer.say("E-2", "alive").await;
    scene.told(&["alive"]).await?;
    drop(dead);
    Ok(())
}

pub(super) async fn stay_away(scene: &mut Scene) -> Result<(), Broken> {
    let peer = scene.open().await?;
    peer.close(4403, "disconnected by an administrator").await;
    let (state, code, _) = scene.ended().await;
    if (state, code) != (State::Closed, Some(4403)) {
        let said = code.map_or_else(|| "no code".to_owned(), |code| format!("the code {code}"));
        return Err(Broken(format!("it reported the state {state:?} with {said}, not closed with 4403")));
    }
    scene.stays_away().await
}

pub(super) async fn too_slow(scene: &mut Scene) -> Result<(), Broken> {
    let sentence = "too slow: more was waiting for this connection than queue limits allow";
    let mut peer = scene.open().await?;
    peer.say("E-1", "one").await;
    scene.told(&["one"]).await?;
    peer.close(4413, sentence).await;
    let (state, code, reason) = scene.ended().await;
    if (state, code, reason.as_deref()) != (State::Waiting, Some(4413), Some(sentence)) {
        return Err(Broken(format!(
            "it reported the state {state:?}, the code {code:?} and the sentence {reason:?}"
        )));
    }
    let (mut peer, _) = scene.enter(json!({"ids": {"chat": "E-1"}, "recovered": {"chat": true}})).await?;
    peer.say("E-2", "two").await;
    scene.told(&["two"]).await
}

pub(super) async fn quit(scene: &mut Scene) -> Result<(), Broken> {
    let peer = scene.open().await?;
    scene.client.quit().await;
    scene.wait_for("send a Close");
    let code = peer.closed().await?;
    if code != 1000 {
        return Err(Broken(format!("it sent a Close with {code}")));
    }
    scene.wait_for("exit");
    match scene.client.exited().await {
        Some(status) if status.success() => Ok(()),
        status => Err(Broken(format!("it exited with {status:?}"))),
    }
}
