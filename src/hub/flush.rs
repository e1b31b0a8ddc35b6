//! Writes the outboxes to which a publish has queued. Few are written at once. Many are written in parts by all workers
//! of the runtime, so that other messages pass in between.
//!
//! Each part is written by the task that published or by a helper task, whichever takes it first. There is one helper
//! for each worker, and none if there is only one worker.

use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::pin;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, OnceLock};
use std::task::{Context, Poll, Waker};

use tokio::runtime::Handle;
use tokio::sync::Notify;

use super::FlushList;
use crate::sync::lock;

/// The most outboxes that a task writes before it lets others run: some 1.5 ms of system calls.
const OUTBOXES_PER_PART: usize = 256;

thread_local! {
    /// The state of the last write, reused so that the next message allocates none.
    static SPARE: Cell<Option<Arc<Shared>>> = const { Cell::new(None) };
    /// The memory of the part that is being written.
    static PART: Cell<FlushList> = const { Cell::new(FlushList::new()) };
}

/// The writing of many outboxes. If it is dropped before its end, the helpers or the connections' tasks write the rest.
pub struct Writing(Arc<Shared>);

#[derive(Default)]
struct Shared {
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// The outboxes that no task writes yet.
    flush_list: FlushList,
    /// The number of parts that helpers are writing.
    taken: usize,
    /// Wakes the task that published, while it waits for the helpers.
    publisher: Option<Waker>,
}

impl Writing {
    /// Writes a part, or waits until the helpers have written the last.
    pub fn poll(&mut self, context: &mut Context<'_>, flusher: &Flusher) -> Poll<()> {
        if let Some(part) = self.0.take() {
            part.write(flusher);
        }
        let mut state = lock(&self.0.state);
        if !state.flush_list.is_empty() {
            drop(state);
            yield_to_sockets(context);
            return Poll::Pending;
        }
        if state.taken > 0 {
            state.publisher = Some(context.waker().clone());
            return Poll::Pending;
        }
        state.flush_list.trim();
        drop(state);
        if Arc::strong_count(&self.0) == 1 {
            SPARE.set(Some(self.0.clone()));
        }
        Poll::Ready(())
    }
}

impl Shared {
    /// Takes a part for the caller to write.
    fn take(self: &Arc<Self>) -> Option<Part> {
        let mut state = lock(&self.state);
        if state.flush_list.is_empty() {
            return None;
        }
        let mut flush_list = PART.take();
        state.flush_list.move_to(&mut flush_list, OUTBOXES_PER_PART);
        state.taken += 1;
        Some(Part { flush_list, of: self.clone() })
    }
}

/// Outboxes that one task writes. Dropping it tells the publisher, also after a panic.
struct Part {
    flush_list: FlushList,
    of: Arc<Shared>,
}

impl Part {
    fn write(mut self, flusher: &Flusher) {
        match catch_unwind(AssertUnwindSafe(|| self.flush_list.flush())) {
            // Keep the memory.
            Ok(()) => PART.set(std::mem::take(&mut self.flush_list)),
            // The outbox whose write panicked has ended itself.
            Err(_panic) => _ = flusher.panics.fetch_add(1, Relaxed),
        }
    }
}

impl Drop for Part {
    fn drop(&mut self) {
        // After a panic the connections' tasks get the rest before the publisher is told.
        drop(std::mem::take(&mut self.flush_list));
        let mut state = lock(&self.of.state);
        state.taken -= 1;
        if state.taken == 0
            && let Some(publisher) = state.publisher.take()
        {
            drop(state);
            publisher.wake();
        }
    }
}

/// Writes flush lists with helper tasks: as many as there are workers, or none if a helper could only take turns with the
/// publisher.
pub struct Flusher {
    /// Panics in writes. Each ends one connection.
    panics: Arc<AtomicU64>,
    count: OnceLock<usize>,
    /// Writes that need helpers, at most as many as there are helpers. A busy helper looks here when it is done; a publisher
    /// writes the parts that no helper takes.
    asked: Mutex<Vec<Arc<Shared>>>,
    called: Notify,
}

impl Flusher {
    /// Makes a flusher that counts panics in `panics`.
    pub fn new(panics: Arc<AtomicU64>) -> Flusher {
        Flusher { panics, count: OnceLock::new(), asked: Mutex::default(), called: Notify::new() }
    }

    /// Writes the outboxes of a flush list. Few are written before this returns. For more it returns a [`Writing`], which the
    /// publisher must poll to its end before it reads again, so that it cannot run ahead of its readers' sockets.
    #[inline]
    pub fn flush(self: &Arc<Self>, flush_list: &mut FlushList) -> Option<Writing> {
        if flush_list.len() <= OUTBOXES_PER_PART {
            flush_list.flush();
            return None;
        }
        let parts = flush_list.len().div_ceil(OUTBOXES_PER_PART);
        let shared = SPARE.take().unwrap_or_default();
        std::mem::swap(&mut lock(&shared.state).flush_list, flush_list);
        self.ask(&shared, parts);
        Some(Writing(shared))
    }

    /// Calls helpers for a write of this many parts.
    fn ask(self: &Arc<Self>, shared: &Arc<Shared>, parts: usize) {
        let count = *self.count.get_or_init(|| {
            let workers = Handle::current().metrics().num_workers();
            let count = if workers > 1 { workers } else { 0 };
            for _ in 0..count {
                tokio::spawn(help(self.clone()));
            }
            count
        });
        // Wake at least two, because the runtime keeps the task woken last for the worker that woke it.
        for _ in 0..parts.min(count) {
            let mut asked = lock(&self.asked);
            if asked.len() == count {
                return;
            }
            asked.push(shared.clone());
            drop(asked);
            self.called.notify_one();
        }
    }

    async fn next(&self) -> Arc<Shared> {
        loop {
            let called = self.called.notified();
            if let Some(shared) = lock(&self.asked).pop() {
                return shared;
            }
            called.await;
        }
    }
}

async fn help(flusher: Arc<Flusher>) {
    loop {
        let shared = flusher.next().await;
        while let Some(part) = shared.take() {
            part.write(&flusher);
            tokio::task::yield_now().await;
        }
    }
}

/// Has the task polled again after other tasks ran and the sockets were checked. A task that wakes itself may be polled
/// dozens of times before its worker checks the sockets.
pub fn yield_to_sockets(context: &mut Context<'_>) {
    let again = pin!(tokio::task::yield_now());
    let _pending = again.poll(context);
}

#[cfg(test)]
mod tests {
    use std::io::{self, IoSlice};
    use std::net::SocketAddr;
    use std::sync::atomic::AtomicUsize;
    use std::sync::{Condvar, Mutex};

    use super::*;
    use crate::hub::{Connection, Hub};
    use crate::message::{ChannelName, Delivery};
    use crate::outbox::testing::{PanickingSink, TestSink};
    use crate::outbox::{Budget, Sink, Socket};
    use crate::token::Claims;

    const READERS: usize = 5 * OUTBOXES_PER_PART + 1;

    fn setup() -> (Arc<Hub>, Arc<Flusher>) {
        let hub = Hub::new(Arc::new(Budget::new(4096, 1 << 20, 1 << 30, 1 << 17)));
        (Arc::new(hub), Arc::new(Flusher::new(Arc::default())))
    }

    /// Adds a reader of the one channel.
    fn enter(hub: &Hub, sink: Box<dyn Sink>) -> Arc<Connection> {
        let address = SocketAddr::from(([127, 0, 0, 1], 0));
        let reader = Connection::new(address, Arc::new(Claims::nobody()), hub.budget().clone(), 0);
        let reader = Arc::new(reader);
        reader.outbox.attach(Socket::Other(sink));
        hub.enter(&reader);
        hub.subscribe(&reader, &[ChannelName::internal("c").as_str()]);
        reader
    }

    /// Does the work of a reader's own task, which these tests do not have.
    fn be_its_task(reader: &Arc<Connection>) {
        reader.outbox.poll(&mut Context::from_waker(Waker::noop()));
    }

    async fn publish(hub: &Hub, flusher: &Arc<Flusher>, data: &str) -> usize {
        let channel = ChannelName::internal("c");
        let delivery = Delivery { issuer: "", channel: channel.as_str(), data: Some(data), subject: None };
        let mut flush_list = FlushList::new();
        let readers = hub.publish(&delivery, None, &mut flush_list);
        if let Some(mut writing) = flusher.flush(&mut flush_list) {
            std::future::poll_fn(|context| writing.poll(context, flusher)).await;
        }
        readers
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 4)]
    async fn all_workers_write_and_every_reader_gets_all_in_one_order() {
        const MESSAGES: usize = 200;
        let (hub, flusher) = setup();
        let sinks: Vec<TestSink> = (0..READERS).map(|_| TestSink::with_room(usize::MAX)).collect();
        let readers: Vec<_> = sinks.iter().map(|sink| enter(&hub, Box::new(sink.clone()))).collect();
        let publishers: Vec<_> = (0..4)
            .map(|publisher| {
                let (hub, flusher) = (hub.clone(), flusher.clone());
                tokio::spawn(async move {
                    for number in 0..MESSAGES {
                        let data = format!("\"{publisher} {number}\"");
                        assert_eq!(publish(&hub, &flusher, &data).await, READERS);
                    }
                })
            })
            .collect();
        for publisher in publishers {
            publisher.await.unwrap();
        }
        readers.iter().for_each(be_its_task);
        let first = sinks[0].written();
        assert_eq!(String::from_utf8_lossy(&first).matches("\"data\"").count(), 4 * MESSAGES);
        for sink in &sinks {
            assert!(sink.written() == first, "all readers see the same order");
        }
        assert_eq!(flusher.count.get(), Some(&4));
    }

    /// Blocks every writer until it is opened.
    #[derive(Default)]
    struct Gate {
        open: Mutex<bool>,
        opened: Condvar,
        waiting: AtomicUsize,
    }

    struct Gated(Arc<Gate>);

    impl Sink for Gated {
        fn try_write(&self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
            self.0.waiting.fetch_add(1, Relaxed);
            let _open = self.0.opened.wait_while(self.0.open.lock().unwrap(), |open| !*open).unwrap();
            Ok(slices.iter().map(|slice| slice.len()).sum())
        }

        fn poll_writable(&self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }

        fn shutdown(&self) {}
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn busy_helpers_are_asked_a_bounded_number_of_times() {
        let (hub, flusher) = setup();
        let gate = Arc::new(Gate::default());
        let _readers: Vec<_> = (0..READERS).map(|_| enter(&hub, Box::new(Gated(gate.clone())))).collect();
        let channel = ChannelName::internal("c");
        let delivery = Delivery { issuer: "", channel: channel.as_str(), data: Some("\"1\""), subject: None };
        let mut flush_list = FlushList::new();
        hub.publish(&delivery, None, &mut flush_list);
        let mut writing = flusher.flush(&mut flush_list).unwrap();
        // Both workers are blocked in a write; this thread is not one of them.
        while gate.waiting.load(Relaxed) < 2 {
            std::thread::yield_now();
        }
        for _ in 0..10 {
            flusher.ask(&writing.0, 5);
            assert!(lock(&flusher.asked).len() <= 2);
        }
        assert_eq!(lock(&flusher.asked).len(), 2);
        *gate.open.lock().unwrap() = true;
        gate.opened.notify_all();
        std::future::poll_fn(|context| writing.poll(context, &flusher)).await;
        assert_eq!(gate.waiting.load(Relaxed), READERS, "each is written once");
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_panic_costs_one_reader() {
        let (hub, flusher) = setup();
        let sinks: Vec<TestSink> = (0..READERS).map(|_| TestSink::with_room(usize::MAX)).collect();
        let readers: Vec<_> = sinks.iter().map(|sink| enter(&hub, Box::new(sink.clone()))).collect();
        let broken = enter(&hub, Box::new(PanickingSink));
        publish(&hub, &flusher, "\"1\"").await;
        assert_eq!(flusher.panics.load(Relaxed), 1);
        assert!(broken.outbox.closing().is_some());
        for (sink, reader) in sinks.iter().zip(&readers) {
            be_its_task(reader);
            assert!(sink.written_len() > 0);
        }
    }
}
