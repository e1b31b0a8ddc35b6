//! Tests of which connection must go, on a paused clock.

use super::*;

const GRACE: Duration = Duration::from_secs(3);
const SECOND: Duration = Duration::from_secs(1);

fn places(places: usize, share: usize) -> Places<u8> {
    Places::new(Rules { places, share, grace: GRACE })
}

/// A connection and its notification.
async fn enter(places: &Places<u8>, key: u8) -> Option<(Place<u8>, Arc<Notify>)> {
    let told = Arc::new(Notify::new());
    Some((places.enter(Some(key), &told).await?, told))
}

async fn told(connection: &(Place<u8>, Arc<Notify>)) -> bool {
    tokio::time::timeout(Duration::ZERO, connection.1.notified()).await.is_ok()
}

#[tokio::test(start_paused = true)]
async fn the_longest_silent_goes_and_not_the_oldest() {
    let places = places(3, 3);
    let oldest = enter(&places, 1).await.unwrap();
    let silent = enter(&places, 2).await.unwrap();
    let mut answered = enter(&places, 3).await.unwrap();
    assert!(answered.0.begin());
    tokio::time::advance(2 * SECOND).await;
    oldest.0.heard();
    let began = Instant::now();
    let _next = enter(&places, 4).await.unwrap();
    assert_eq!(began.elapsed().as_secs(), 1, "when the silent one has been so for its time");
    assert!(told(&silent).await && !told(&oldest).await && !told(&answered).await);
    let _next = enter(&places, 4).await.unwrap();
    assert_eq!(began.elapsed().as_secs(), 3);
    assert!(told(&oldest).await && !told(&answered).await);
    // It was told to go, so it cannot begin a request.
    let mut oldest = oldest;
    assert!(!oldest.0.begin());
}

#[tokio::test(start_paused = true)]
async fn an_idle_connection_goes_at_once() {
    let places = places(2, 2);
    let waiting = enter(&places, 1).await.unwrap();
    let mut idle = enter(&places, 1).await.unwrap();
    assert!(idle.0.begin());
    // Its answer is ready, and then written.
    idle.0.go_on();
    idle.0.set_idle();
    let began = Instant::now();
    let _next = enter(&places, 2).await.unwrap();
    assert_eq!(began.elapsed(), Duration::ZERO);
    assert!(told(&idle).await && !told(&waiting).await);
}

#[tokio::test(start_paused = true)]
async fn a_connection_that_becomes_idle_makes_room() {
    let places = places(1, 1);
    let mut busy = enter(&places, 1).await.unwrap();
    assert!(busy.0.begin());
    let waits = enter(&places, 2);
    tokio::pin!(waits);
    assert!(tokio::time::timeout(100 * GRACE, &mut waits).await.is_err(), "it is being answered");
    busy.0.set_idle();
    let began = Instant::now();
    assert!(waits.await.is_some());
    assert_eq!(began.elapsed(), Duration::ZERO);
}

#[tokio::test(start_paused = true)]
async fn an_address_has_its_share_and_the_others_the_rest() {
    let places = places(4, 3);
    let mut own = Vec::new();
    for _ in 0..3 {
        own.push(enter(&places, 1).await.unwrap());
    }
    assert!(enter(&places, 1).await.is_none(), "at once");
    let other = enter(&places, 2).await.unwrap();
    tokio::time::advance(GRACE).await;
    own[0].0.heard();
    let next = enter(&places, 1).await.unwrap();
    assert!(
        told(&own[1]).await && !told(&own[0]).await && !told(&other).await,
        "its own longest silent goes"
    );
    assert_eq!(places.taken(), 5, "one of them has not left yet");
    drop((own, other, next));
    places.none_taken().await;
    let _again = enter(&places, 1).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_connection_counts_as_whom_a_proxy_names() {
    let places = places(4, 1);
    let told = Arc::new(Notify::new());
    let mut first = places.enter(None, &told).await.unwrap();
    let mut second = places.enter(None, &told).await.unwrap();
    assert!(first.belong(1));
    assert!(!second.belong(1));
    assert!(second.belong(2));
    assert!(second.belong(2), "it has its place in that share already");
    drop(first);
    assert!(enter(&places, 1).await.is_some());
}

#[tokio::test(start_paused = true)]
async fn waiting_for_the_share_of_an_address_blocks_no_other_address() {
    let places = Arc::new(places(2, 1));
    let told = Arc::new(Notify::new());
    let mut busy = places.take(Some(1), &told).await;
    assert!(busy.begin());
    let waits = places.take(Some(1), &told);
    tokio::pin!(waits);
    assert!(tokio::time::timeout(GRACE, &mut waits).await.is_err());
    let began = Instant::now();
    let _other = places.take(Some(2), &told).await;
    assert_eq!(began.elapsed(), Duration::ZERO);
    drop(busy);
    waits.await;
    assert_eq!(began.elapsed(), Duration::ZERO);
}

#[tokio::test(start_paused = true)]
async fn addresses_without_connections_are_forgotten() {
    let places: Places<u32> = Places::new(Rules { places: 8, share: 4, grace: GRACE });
    let told = Arc::new(Notify::new());
    for key in 0..10_000 {
        places.enter(Some(key), &told).await.unwrap();
    }
    assert!(lock(&places.0.shares).capacity() < 64, "{}", lock(&places.0.shares).capacity());
    assert!(lock(&places.0.silent).is_empty());
}

#[tokio::test(start_paused = true)]
async fn taking_a_free_place_overtakes_nobody() {
    let places = places(2, 1);
    let told = Arc::new(Notify::new());
    let first = places.try_free(Some(1), &told).unwrap();
    assert!(places.try_free(Some(1), &told).is_none(), "its address has its share");
    let _second = places.try_free(Some(2), &told).unwrap();
    let waits = places.take(Some(3), &told);
    tokio::pin!(waits);
    tokio::select! {
        biased;
        _ = &mut waits => panic!("all are taken, and none has been silent for its time"),
        () = std::future::ready(()) => {}
    }
    drop(first);
    assert!(places.try_free(Some(4), &told).is_none(), "the place is for the one that waits");
    waits.await;
}
