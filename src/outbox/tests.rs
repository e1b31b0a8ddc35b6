//! Tests of the outbox: order, limits, the promise, and what a failing socket leaves.

use std::io::{self, IoSlice};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::task::{Wake, Waker};

use proptest::prelude::*;

use super::testing::{PanickingSink, TestSink};
use super::write::FRAMES_PER_WRITE;
use super::*;

const MESSAGES: usize = 20;
const BYTES: usize = 2_000;
const ALWAYS: usize = usize::MAX / 2;

fn budget() -> Arc<Budget> {
    Arc::new(Budget::new(MESSAGES, BYTES, 1_000_000, 1024))
}

fn open(budget: &Arc<Budget>, room: usize) -> (Outbox, TestSink) {
    let (outbox, sink) = (Outbox::new(budget.clone()), TestSink::with_room(room));
    outbox.attach(Box::new(sink.clone()));
    (outbox, sink)
}

fn frame(tag: u8, length: usize) -> Frame {
    Frame::finished(&vec![tag; length], 1)
}

/// A publisher, which keeps the promise that the outbox gives it.
#[derive(Default)]
struct Publisher {
    promised: bool,
    first: Option<Frame>,
}

impl Publisher {
    fn push(&mut self, outbox: &Outbox, frame: Frame) -> Pushed {
        let pushed = outbox.push(&frame);
        if pushed == Pushed::First {
            self.first = Some(frame);
        }
        self.promised |= pushed.is_promised();
        pushed
    }

    fn flush(&mut self, outbox: &Outbox) {
        match self.first.take() {
            Some(first) => outbox.write(&first),
            None if self.promised => outbox.flush(),
            None => {}
        }
        self.promised = false;
    }

    fn hand_over(&mut self, outbox: &Outbox) {
        match self.first.take() {
            Some(first) => outbox.put_off(&first),
            None if self.promised => outbox.hand_over(),
            None => {}
        }
        self.promised = false;
    }
}

/// The connection's task: notes that it was woken.
#[derive(Default)]
struct Task(AtomicBool);

impl Wake for Task {
    fn wake(self: Arc<Self>) {
        self.0.store(true, Relaxed);
    }
}

fn poll(outbox: &Outbox, task: &Arc<Task>) -> Standing {
    let waker = Waker::from(task.clone());
    outbox.poll(&mut Context::from_waker(&waker))
}

#[test]
fn one_write_takes_all_queued_frames() {
    let mut publisher = Publisher::default();
    let budget = budget();
    let (outbox, sink) = open(&budget, ALWAYS);
    assert_eq!(publisher.push(&outbox, frame(1, 10)), Pushed::First);
    for _ in 0..15 {
        assert_eq!(publisher.push(&outbox, frame(2, 10)), Pushed::Queued, "the promise is given once");
    }
    publisher.flush(&outbox);
    assert_eq!((sink.writes(), sink.written_len()), (1, 160));
    assert_eq!(publisher.push(&outbox, frame(3, 10)), Pushed::First, "and again once it was kept");
}

#[test]
fn frames_queued_before_there_is_a_socket_are_written_by_the_task() {
    let mut publisher = Publisher::default();
    let outbox = Outbox::new(budget());
    for _ in 0..MESSAGES * 3 {
        assert_eq!(
            publisher.push(&outbox, frame(1, 5)),
            Pushed::Queued,
            "nobody is judged before a write was attempted"
        );
    }
    let (task, sink) = (Arc::default(), TestSink::with_room(ALWAYS));
    outbox.attach(Box::new(sink.clone()));
    let standing = poll(&outbox, &task);
    assert_eq!(standing, Standing { closing: None, drained: true, broken: false });
    assert_eq!(sink.written_len(), MESSAGES * 3 * 5);
}

#[test]
fn an_outbox_that_is_idle_knows_its_task() {
    for waits in [false, true] {
        let (outbox, sink, task) =
            (Outbox::new(budget()), TestSink::with_room(ALWAYS), Arc::new(Task::default()));
        outbox.connect(Box::new(sink.clone()));
        let pushed = waits.then(|| Publisher::default().push(&outbox, frame(1, 10)));
        assert_ne!(pushed, Some(Pushed::First));
        assert!(!outbox.is_idle(), "it has not been polled, so it can wake nobody");
        assert_eq!(sink.written_len(), 0);
        assert!(poll(&outbox, &task).drained);
        assert!(outbox.is_idle());
        assert_eq!(sink.written_len(), if waits { 10 } else { 0 });
        task.0.store(false, Relaxed);
        assert!(outbox.close(CloseReason::InternalError));
        assert!(task.0.load(Relaxed), "the task is woken");
    }
}

#[test]
fn an_outbox_that_closes_before_its_task_polls_it_is_never_idle() {
    let ends: [fn(&Outbox) -> bool; 2] = [|outbox| outbox.close(CloseReason::InternalError), Outbox::cut];
    for end in ends {
        let (outbox, sink, task) =
            (Outbox::new(budget()), TestSink::with_room(ALWAYS), Arc::new(Task::default()));
        outbox.connect(Box::new(sink.clone()));
        assert!(end(&outbox));
        let standing = poll(&outbox, &task);
        assert!(standing.closing.is_some() && !outbox.is_idle(), "{standing:?}");
        assert!(standing.drained || standing.broken, "{standing:?}");
        assert_eq!(outbox.push(&frame(1, 10)), Pushed::Closing);
    }
}

#[test]
fn a_refusal_hands_the_promise_to_the_task() {
    let mut publisher = Publisher::default();
    let budget = budget();
    let (outbox, sink) = open(&budget, 15);
    let task = Arc::new(Task::default());
    poll(&outbox, &task);
    for tag in 1..=3 {
        let _ = publisher.push(&outbox, frame(tag, 10));
    }
    publisher.flush(&outbox);
    assert!(task.0.load(Relaxed), "the task is woken");
    assert_eq!(budget.refused_bytes(), 15);
    assert_eq!(publisher.push(&outbox, frame(4, 10)), Pushed::Queued, "the task has the promise");
    assert!(!poll(&outbox, &task).drained);
    sink.grant(ALWAYS);
    assert!(poll(&outbox, &task).drained);
    assert_eq!(sink.written(), [[1; 10], [2; 10], [3; 10], [4; 10]].concat());
    assert_eq!(budget.refused_bytes(), 0);
}

#[test]
fn a_queue_over_its_limit_is_judged_by_one_more_write() {
    let mut publisher = Publisher::default();
    let budget = budget();
    let (outbox, sink) = open(&budget, 5);
    let _ = publisher.push(&outbox, frame(1, 10));
    publisher.flush(&outbox);
    for _ in 1..MESSAGES {
        assert_eq!(publisher.push(&outbox, frame(2, 10)), Pushed::Queued);
    }
    // The socket has room again, and its task has not noticed yet.
    sink.grant(ALWAYS);
    assert_eq!(
        publisher.push(&outbox, frame(3, 10)),
        Pushed::Promised,
        "over the limit: the socket is asked"
    );
    publisher.flush(&outbox);
    assert_eq!(outbox.closing(), None, "it took all");
    assert_eq!(sink.written_len(), 10 * (MESSAGES + 1));
}

#[test]
fn a_slow_reader_loses_the_frames_that_were_not_begun() {
    let mut publisher = Publisher::default();
    for (room, kept) in [(5, 10), (10, 10), (0, 0)] {
        let budget = budget();
        let (outbox, sink) = open(&budget, room);
        let _ = publisher.push(&outbox, frame(1, 10));
        publisher.flush(&outbox);
        for _ in 0..MESSAGES {
            let _ = publisher.push(&outbox, frame(2, 10));
            publisher.flush(&outbox);
        }
        let _ = publisher.push(&outbox, frame(2, 10));
        publisher.flush(&outbox);
        assert_eq!(outbox.closing(), Some(CloseReason::SlowConsumer));
        assert_eq!(publisher.push(&outbox, frame(9, 10)), Pushed::Closing);
        let close = Frame::close(&CloseReason::SlowConsumer);
        assert_eq!(budget.refused_bytes(), kept - room + close.len(), "memory is given back at once");
        sink.grant(ALWAYS);
        assert!(poll(&outbox, &Arc::default()).drained);
        let expected = [vec![1; kept], close.to_vec()].concat();
        assert_eq!(sink.written(), expected, "the frame in flight is finished, then the Close");
    }
}

#[test]
fn every_other_close_queues_behind_the_messages_and_the_first_reason_wins() {
    let mut publisher = Publisher::default();
    let budget = budget();
    let (outbox, sink) = open(&budget, 5);
    let _ = publisher.push(&outbox, frame(1, 10));
    publisher.flush(&outbox);
    let _ = publisher.push(&outbox, frame(2, 10));
    assert!(outbox.close(CloseReason::TokenExpired));
    assert!(!outbox.close(CloseReason::SlowConsumer));
    sink.grant(ALWAYS);
    let standing = poll(&outbox, &Arc::default());
    assert_eq!((standing.closing, standing.drained), (Some(CloseReason::TokenExpired), true));
    let close = Frame::close(&CloseReason::TokenExpired);
    assert_eq!(sink.written(), [&[1; 10], &[2; 10], &close[..]].concat());
}

#[test]
fn a_broken_socket_empties_its_queue() {
    let mut publisher = Publisher::default();
    let budget = budget();
    let (outbox, sink) = open(&budget, 5);
    let _ = publisher.push(&outbox, frame(1, 10));
    publisher.flush(&outbox);
    sink.break_down();
    let standing = poll(&outbox, &Arc::default());
    assert!(standing.broken);
    assert_eq!(standing.closing, Some(CloseReason::ClientGone));
    assert_eq!((budget.refused_bytes(), outbox.stats().queued_bytes), (0, 0));
}

#[test]
fn a_long_queue_does_not_occupy_its_writer() {
    let mut publisher = Publisher::default();
    let outbox = Outbox::new(budget());
    let count = FRAMES_PER_WRITE * WRITES_PER_FLUSH + 1;
    for _ in 0..count {
        let _ = publisher.push(&outbox, frame(1, 1));
    }
    let (task, sink) = (Arc::new(Task::default()), TestSink::with_room(ALWAYS));
    outbox.attach(Box::new(sink.clone()));
    assert!(!poll(&outbox, &task).drained);
    assert_eq!((sink.writes(), sink.written_len()), (WRITES_PER_FLUSH, count - 1));
    assert!(task.0.load(Relaxed), "the task comes back for the rest");
    assert!(poll(&outbox, &task).drained);
}

#[test]
fn a_panicking_socket_costs_only_its_own_connection() {
    let mut publisher = Publisher::default();
    let outbox = Outbox::new(budget());
    outbox.attach(Box::new(PanickingSink));
    let _ = publisher.push(&outbox, frame(1, 10));
    let flush = std::panic::AssertUnwindSafe(|| publisher.flush(&outbox));
    assert!(std::panic::catch_unwind(flush).is_err());
    assert!(poll(&outbox, &Arc::default()).broken);
    assert_eq!(publisher.push(&outbox, frame(2, 10)), Pushed::Closing);
}

#[test]
fn memory_of_a_burst_is_freed() {
    let mut publisher = Publisher::default();
    let budget = Arc::new(Budget::new(100_000, 100_000, 1_000_000, 1024));
    let (outbox, _sink) = open(&budget, ALWAYS);
    for _ in 0..5_000 {
        let _ = publisher.push(&outbox, frame(1, 1));
    }
    while !poll(&outbox, &Arc::default()).drained {
        publisher.flush(&outbox);
    }
    assert!(lock(&outbox.queue).kept_bytes() <= 1024);
    outbox.trim();
    assert_eq!(lock(&outbox.queue).kept_bytes(), 0);
}

/// What may happen to an outbox, in any order.
#[derive(Clone, Debug)]
enum Op {
    Push(usize),
    Flush,
    HandOver,
    TaskPolls,
    Grant(usize),
    Close(CloseReason),
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        8 => (1_usize..200).prop_map(Op::Push),
        4 => Just(Op::Flush),
        1 => Just(Op::HandOver),
        4 => Just(Op::TaskPolls),
        4 => (1_usize..600).prop_map(Op::Grant),
        1 => prop_oneof![Just(CloseReason::Stopping), Just(CloseReason::QueueMemory)].prop_map(Op::Close),
    ]
}

proptest! {
    /// Against the plainest model there is: a list of the frames that were accepted.
    #[test]
    fn behaves_like_a_list(ops in proptest::collection::vec(op(), 1..200), held in any::<bool>()) {
        let budget = budget();
        let (outbox, sink) = (Outbox::new(budget.clone()), TestSink::default());
        let task = Arc::new(Task::default());
        if !held {
            outbox.attach(Box::new(sink.clone()));
        }
        let (mut accepted, mut publisher, mut tag) = (Vec::new(), Publisher::default(), 0_u8);
        for op in ops {
            match op {
                Op::Push(length) => {
                    tag = tag.wrapping_add(1);
                    let before = publisher.promised;
                    match publisher.push(&outbox, frame(tag, length)) {
                        Pushed::Closing => prop_assert!(outbox.closing().is_some()),
                        pushed => {
                            prop_assert_eq!(outbox.closing(), None);
                            accepted.push(frame(tag, length));
                            prop_assert!(!(before && pushed.is_promised()), "two promises at once");
                        }
                    }
                }
                Op::Flush => publisher.flush(&outbox),
                Op::HandOver => publisher.hand_over(&outbox),
                Op::TaskPolls => { poll(&outbox, &task); }
                Op::Grant(bytes) => sink.grant(bytes),
                Op::Close(reason) => { outbox.close(reason); }
            }
            if outbox.closing() == Some(CloseReason::SlowConsumer) {
                prop_assert!(sink.refusals() > 0, "judged before a write was refused");
            }
            prop_assert!(outbox.stats().queued_bytes >= budget.refused_bytes());
        }
        outbox.attach(Box::new(sink.clone()));
        sink.grant(ALWAYS);
        publisher.flush(&outbox);
        while !poll(&outbox, &task).drained {}
        prop_assert_eq!(budget.refused_bytes(), 0);
        prop_assert_eq!(outbox.stats().queued_bytes, 0);

        let mut all: Vec<u8> = accepted.iter().flat_map(|frame| frame.to_vec()).collect();
        let written = sink.written();
        match outbox.closing() {
            None => prop_assert_eq!(written, all),
            Some(reason) => {
                let close = Frame::close(&reason);
                let (body, end) = written.split_at(written.len() - close.len());
                prop_assert_eq!(end, &close[..]);
                if reason.drops_queue() {
                    prop_assert!(all.starts_with(body), "a gap before the Close");
                    let mut whole = 0;
                    let ends: Vec<usize> = accepted.iter().map(|f| { whole += f.len(); whole }).collect();
                    prop_assert!(body.is_empty() || ends.contains(&body.len()), "half a frame");
                } else {
                    all.extend_from_slice(&close);
                    prop_assert_eq!(written, all);
                }
            }
        }
    }
}

/// Two channels, each with two publishers on threads of their own, and the connection's task on another. Each frame is the
/// channel's number and the frame's place in the channel.
#[test]
fn threads_lose_no_frame_and_keep_each_channel_in_order() {
    const FRAMES: u32 = 300;
    for round in 0..100 {
        let closes =
            (round % 4 == 0).then_some([CloseReason::TokenExpired, CloseReason::QueueMemory][round / 4 % 2]);
        let budget = Arc::new(Budget::new(1 << 20, 1 << 20, 1 << 30, 1024));
        let (outbox, sink) = open(&budget, 64);
        let channels = [Mutex::new(0_u32), Mutex::new(0_u32)];
        let (task, running) = (Arc::new(Task::default()), std::sync::atomic::AtomicUsize::new(4));
        std::thread::scope(|scope| {
            for thread in 0..4 {
                let (outbox, running, channel) = (&outbox, &running, &channels[thread % 2]);
                scope.spawn(move || {
                    for _ in 0..FRAMES / 2 {
                        let mut publisher = Publisher::default();
                        let mut place = lock(channel);
                        let bytes = [&[thread as u8 % 2], &place.to_be_bytes()[..]].concat();
                        let pushed = publisher.push(outbox, Frame::finished(&bytes, 1));
                        *place += u32::from(pushed != Pushed::Closing);
                        drop(place);
                        if thread < 2 { publisher.flush(outbox) } else { publisher.hand_over(outbox) }
                    }
                    running.fetch_sub(1, Relaxed);
                });
            }
            let mut turns = 0;
            while running.load(Relaxed) > 0 {
                poll(&outbox, &task);
                // Now and then the socket has less room than a frame needs.
                sink.grant([3, 5, 200][turns % 3]);
                turns += 1;
                if let Some(reason) = closes.filter(|_| turns == 40) {
                    outbox.close(reason);
                }
            }
        });
        let closing = outbox.closing();
        sink.grant(ALWAYS);
        while !poll(&outbox, &task).drained {}
        let mut written = sink.written();
        if let Some(reason) = closing {
            assert!(written.ends_with(&Frame::close(&reason)), "the Close is the last");
            written.truncate(written.len() - Frame::close(&reason).len());
        }
        let mut next = [0_u32; 2];
        let (frames, rest) = written.as_chunks::<5>();
        assert!(rest.is_empty(), "half a frame");
        for [channel, place @ ..] in frames {
            let next = &mut next[usize::from(*channel)];
            assert_eq!(u32::from_be_bytes(*place), *next, "a gap, or another order");
            *next += 1;
        }
        if closing.is_none_or(|reason| !reason.drops_queue()) {
            assert_eq!(next, channels.map(|places| places.into_inner().unwrap()), "all that was accepted");
        }
        assert_eq!(outbox.stats().queued_messages, 0);
        assert_eq!((outbox.stats().queued_bytes, budget.refused_bytes()), (0, 0));
    }
}

/// Panics at whatever it is asked for.
struct Panics;

impl Sink for Panics {
    fn try_write(&self, _: &[IoSlice<'_>]) -> io::Result<usize> {
        panic!("on purpose")
    }

    fn poll_writable(&self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        panic!("it is asked again")
    }

    fn shutdown(&self) {}
}

#[test]
fn a_sink_that_panicked_is_not_asked_again() {
    let mut publisher = Publisher::default();
    let outbox = Outbox::new(budget());
    outbox.attach(Box::new(Panics));
    assert_eq!(publisher.push(&outbox, frame(b'a', 10)), Pushed::First);
    assert!(std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| publisher.flush(&outbox))).is_err());
    assert!(outbox.poll(&mut Context::from_waker(Waker::noop())).broken);
}
