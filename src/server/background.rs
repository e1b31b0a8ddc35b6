//! Work behind requests, with a bound for each kind: walks over all connections or channels and writes to the disk,
//! which would hold up publishers; batches of messages; and closes that are spread over time.
//!
//! Work that was begun is finished even if its client disconnects. Work that gets no place in time is not begun.

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, timeout_at};

use super::rejection::Rejection;

/// Walks and writes at once. More wait for their turn, at most as long as a request may take.
const MAX_WORKS: usize = 4;

/// Batches that are published at once, each from a body of at most 1 MiB. A batch takes milliseconds, so that few
/// requests ever wait.
const MAX_BATCHES: usize = 64;

/// Orders to close many connections that are carried out at once. Each holds the ids of its connections, 16 bytes
/// each, for a second per thousand.
pub(crate) const MAX_SPREADS: usize = 4;

/// The places for background work.
pub(crate) struct Background {
    works: Arc<Semaphore>,
    batches: Arc<Semaphore>,
    spreads: Arc<Semaphore>,
}

impl Default for Background {
    fn default() -> Background {
        let places = |count| Arc::new(Semaphore::new(count));
        Background { works: places(MAX_WORKS), batches: places(MAX_BATCHES), spreads: places(MAX_SPREADS) }
    }
}

impl Background {
    /// Takes a place for spread closes, to be held to their end; `None` if all are taken.
    pub(crate) fn spread(&self) -> Option<OwnedSemaphorePermit> {
        self.spreads.clone().try_acquire_owned().ok()
    }

    /// Does the work on a blocking thread, where it holds up nobody else.
    pub(crate) async fn run<S: Send + Sync + 'static, T: Send + 'static>(
        &self,
        state: &Arc<S>,
        deadline: Instant,
        work: impl FnOnce(&Arc<S>) -> T + Send + 'static,
    ) -> Result<T, Rejection> {
        let place = place(&self.works, MAX_WORKS, deadline).await?;
        let state = state.clone();
        let done = tokio::task::spawn_blocking(move || {
            // Held to the end of the work, even if the client disconnects.
            let _place = place;
            work(&state)
        });
        done.await.map_err(|_| Rejection::Internal)
    }

    /// Publishes a batch on a task that does not end with its connection.
    pub(crate) async fn publish<T: Send + 'static>(
        &self,
        deadline: Instant,
        batch: impl Future<Output = T> + Send + 'static,
    ) -> Result<T, Rejection> {
        let place = place(&self.batches, MAX_BATCHES, deadline).await?;
        let done = tokio::spawn(async move {
            let _place = place;
            batch.await
        });
        done.await.map_err(|_| Rejection::Internal)
    }

    /// Waits until no batch is being published.
    pub(crate) async fn batches_done(&self) {
        let all = u32::try_from(MAX_BATCHES).unwrap_or(u32::MAX);
        let _ = self.batches.acquire_many(all).await;
    }
}

/// Takes a place among `max` if one comes free in time.
async fn place(
    places: &Arc<Semaphore>,
    max: usize,
    deadline: Instant,
) -> Result<OwnedSemaphorePermit, Rejection> {
    match timeout_at(deadline, places.clone().acquire_owned()).await {
        Ok(place) => place.map_err(|_| Rejection::Internal),
        Err(_) => Err(Rejection::Busy(max)),
    }
}

#[cfg(test)]
mod tests {
    use std::future::{Future, poll_fn};
    use std::sync::mpsc::channel;
    use std::task::Poll;

    use super::*;

    fn far() -> Instant {
        Instant::now() + std::time::Duration::from_secs(3600)
    }

    #[tokio::test]
    async fn no_more_work_is_begun_than_there_are_places() {
        let background = Arc::new(Background::default());
        let (begun, mut begins) = tokio::sync::mpsc::unbounded_channel();
        let mut ends = Vec::new();
        for _ in 0..MAX_WORKS {
            let (end, ended) = channel::<()>();
            let (background, begun) = (background.clone(), begun.clone());
            let work = move |_: &Arc<()>| {
                begun.send(()).unwrap();
                ended.recv()
            };
            tokio::spawn(async move { background.run(&Arc::new(()), far(), work).await });
            ends.push(end);
            begins.recv().await.unwrap();
        }
        let nothing = Arc::new(());
        let mut one_more = Box::pin(background.run(&nothing, far(), |_| ()));
        assert!(poll_fn(|context| Poll::Ready(one_more.as_mut().poll(context).is_pending())).await);
        ends.pop();
        one_more.await.unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn no_more_batches_are_published_than_there_are_places_and_each_is_finished() {
        let background = Arc::new(Background::default());
        let (end, ended) = tokio::sync::watch::channel(false);
        let (finished, mut finishes) = tokio::sync::mpsc::unbounded_channel();
        for _ in 0..MAX_BATCHES {
            let (mut ended, finished) = (ended.clone(), finished.clone());
            let batch = async move {
                ended.wait_for(|ended| *ended).await.unwrap();
                finished.send(()).unwrap();
            };
            let mut request = Box::pin(background.publish(far(), batch));
            assert!(poll_fn(|context| Poll::Ready(request.as_mut().poll(context).is_pending())).await);
            // Its client is gone here.
        }
        let begun = Arc::new(std::sync::atomic::AtomicBool::new(false));
        let begins = begun.clone();
        let one_more = async move { begins.store(true, std::sync::atomic::Ordering::Relaxed) };
        let soon = Instant::now() + std::time::Duration::from_secs(10);
        assert_eq!(background.publish(soon, one_more).await, Err(Rejection::Busy(MAX_BATCHES)));
        assert!(!begun.load(std::sync::atomic::Ordering::Relaxed), "nothing of it was done");
        end.send(true).unwrap();
        background.batches_done().await;
        for _ in 0..MAX_BATCHES {
            finishes.try_recv().unwrap();
        }
    }
}
