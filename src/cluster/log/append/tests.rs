//! Messages that wait, are in flight, and are told.

use super::*;
use crate::outbox::Budget;
use crate::token::Claims;

fn append(bytes: usize) -> Append {
    let (sender, _) = oneshot::channel();
    let waiter = Waiter::Caller(sender);
    Append { subject: String::new(), payload: Bytes::from(vec![0; bytes]), id: None, waiter }
}

fn answer(text: &str) -> async_nats::Message {
    async_nats::Message {
        subject: "".into(),
        reply: None,
        payload: text.to_owned().into(),
        headers: None,
        status: None,
        description: None,
        length: 0,
    }
}

fn outcomes(told: &[Told]) -> Vec<Appended> {
    told.iter().map(|told| told.appended.clone()).collect()
}

const PATIENCE: Duration = Duration::from_secs(2);

#[test]
fn no_more_bytes_wait_than_the_limit() {
    let (appends, now) = (Appends::default(), Instant::now());
    let taken = (0..1_000).filter(|_| appends.push(append(64 * 1024), now).is_ok()).count();
    assert_eq!(taken, MAX_WAITING_BYTES / (64 * 1024 + MESSAGE_BYTES));
}

#[test]
fn no_more_messages_are_in_flight_than_the_limit() {
    let (appends, now) = (Appends::default(), Instant::now());
    for _ in 0..=MAX_IN_FLIGHT {
        assert!(appends.push(append(1), now).is_ok());
    }
    let handed_over = std::iter::from_fn(|| appends.next(now)).count();
    assert_eq!((handed_over, appends.len()), (MAX_IN_FLIGHT, (1, MAX_IN_FLIGHT)));
}

#[test]
fn a_client_is_told_of_its_message_after_all_earlier_ones() {
    let (appends, now) = (Appends::default(), Instant::now());
    let budget = Arc::new(Budget::new(8, 1 << 20, 1 << 20, 1024));
    let address = ([127, 0, 0, 1], 1).into();
    let connection = Arc::new(Connection::new(address, Arc::new(Claims::nobody()), budget, 0));
    let waiter = Waiter::Client { connection, ack: Some("\"1\"".into()) };
    assert!(appends.push(Append { waiter, ..append(1) }, now).is_ok());
    let (number, ..) = appends.next(now).unwrap();
    assert!(appends.confirmed(number, &answer(r#"{"stream":"philote","seq":7}"#)).is_none());
    assert_eq!(appends.delivered(6).len(), 0);
    let told = appends.delivered(7);
    assert_eq!(outcomes(&told), [Appended::Stored { number: Some(7), repeated: false }]);
}

#[test]
fn few_long_messages_are_in_flight_and_a_longer_one_alone() {
    let (appends, now) = (Appends::default(), Instant::now());
    for bytes in [800 << 10, 800 << 10, 800 << 10, 3 << 20] {
        assert!(appends.push(append(bytes), now).is_ok());
    }
    let first = appends.next(now).unwrap().0;
    assert!(appends.next(now).is_some() && appends.next(now).is_none());
    assert!(appends.confirmed(first, &answer(r#"{"seq":1}"#)).is_some());
    assert!(appends.next(now).is_some() && appends.next(now).is_none());
    assert_eq!(appends.cut().len(), 2);
    assert!(appends.next(now).is_some(), "the longest one");
    assert!(appends.push(append(1), now).is_ok() && appends.next(now).is_none());
    assert_eq!(appends.overdue(PATIENCE, now + CONFIRMATION).len(), 2);
    assert!(appends.push(append(1), now).is_ok() && appends.next(now).is_some());
}

#[test]
fn answers_that_store_nothing_are_told_as_what_they_are() {
    for (text, appended) in [
        (r#"{"error":{"code":503}}"#, Appended::Unavailable),
        (r#"{"seq":3,"duplicate":true}"#, Appended::Stored { number: Some(3), repeated: true }),
        ("", Appended::Unanswered),
        ("{}", Appended::Unanswered),
    ] {
        let (appends, now) = (Appends::default(), Instant::now());
        assert!(appends.push(append(1), now).is_ok());
        let (number, ..) = appends.next(now).unwrap();
        assert_eq!(appends.confirmed(number, &answer(text)).unwrap().appended, appended, "{text}");
        assert!(appends.confirmed(number, &answer(text)).is_none(), "a second answer");
    }
}

#[test]
fn what_waits_too_long_is_unavailable_and_what_was_handed_over_is_unanswered() {
    let (appends, now) = (Appends::default(), Instant::now());
    for _ in 0..3 {
        assert!(appends.push(append(1), now).is_ok());
    }
    appends.next(now).unwrap();
    assert_eq!(appends.overdue(PATIENCE, now).len(), 0);
    let told = appends.overdue(PATIENCE, now + PATIENCE);
    assert_eq!(outcomes(&told), [Appended::Unavailable, Appended::Unavailable]);
    let told = appends.overdue(PATIENCE, now + CONFIRMATION);
    assert_eq!(outcomes(&told), [Appended::Unanswered]);
    assert!(appends.push(append(1), now).is_ok());
    appends.next(now).unwrap();
    assert_eq!(outcomes(&appends.cut()), [Appended::Unanswered]);
    assert_eq!(appends.len(), (0, 0));
}

#[test]
fn a_publisher_waits_until_its_messages_are_handed_over_or_given_up() {
    let (appends, now) = (Appends::default(), Instant::now());
    assert!(appends.ticket().is_none(), "nothing waits");
    assert!(appends.push(append(1), now).is_ok());
    let mut ticket = appends.ticket().unwrap();
    assert!(ticket.try_recv().is_err_and(|error| error == oneshot::error::TryRecvError::Empty));
    appends.next(now).unwrap();
    assert!(ticket.try_recv().is_err_and(|error| error == oneshot::error::TryRecvError::Closed));
    assert!(appends.push(append(1), now).is_ok());
    let mut ticket = appends.ticket().unwrap();
    drop(appends.overdue(PATIENCE, now + PATIENCE));
    assert!(ticket.try_recv().is_err_and(|error| error == oneshot::error::TryRecvError::Closed));
}
