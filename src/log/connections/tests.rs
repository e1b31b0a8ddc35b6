//! Lines, summaries, and the memory after a flood.

use uuid::Uuid;

use super::*;
use crate::log::tests;

fn records(log: impl FnOnce()) -> Vec<serde_json::Value> {
    tests::records(tracing::level_filters::LevelFilter::INFO, log)
}

fn opened_by<'a>(subject: Option<&'a str>, address: &str) -> Opened<'a> {
    Opened { connection: Uuid::nil(), subject, address: address.parse().unwrap() }
}

fn reject(reason: &'static str, address: &str, log: &ConnectionLog, now: Instant) {
    log.closed(&tests::rejection(reason, address), now);
}

fn messages(log: impl FnOnce()) -> Vec<String> {
    records(log).iter().map(|record| record["message"].as_str().unwrap().to_owned()).collect()
}

#[test]
fn a_line_has_the_client_the_reason_and_the_traffic() {
    let (log, now) = (ConnectionLog::default(), Instant::now());
    let records = records(|| {
        log.opened(&opened_by(None, "[::1]:5"), now);
        let record = ClosedRecord {
            connection: Some(Uuid::nil()),
            subject: Some("ann".into()),
            code: 4413,
            sentence: "its queue is full".into(),
            duration: Duration::from_millis(303_250),
            messages_in: 12,
            messages_out: 3456,
            bytes_in: 1234,
            bytes_out: 1_234_567,
            greatest_queue: 7,
            ..tests::rejection("too slow", "[::1]:5")
        };
        log.closed(&record, now);
        reject("bad signature", "10.0.0.1:6", &log, now);
        log.finish(now);
    });
    let messages: Vec<&str> = records.iter().map(|record| record["message"].as_str().unwrap()).collect();
    assert_eq!(
        messages,
        [
            "opened 00000000-0000-0000-0000-000000000000 from [::1]:5",
            "closed 00000000-0000-0000-0000-000000000000 of \"ann\" from [::1]:5: its queue is full \
             (4413, open 5 min 3 s, in 12 messages of 1,234 bytes, out 3,456 of 1,234,567)",
            "refused 10.0.0.1:6: no (401)",
        ]
    );
    assert_eq!(records[1]["subject"], "ann");
    assert_eq!(records[1]["duration"], 303.25);
    assert_eq!(records[1]["bytes_out"], 1_234_567);
    assert_eq!(records[2]["status"], 401);
    assert_eq!(records[0].get("reason"), None);
}

#[test]
fn a_subject_cannot_forge_a_line_or_the_address_and_is_cut() {
    let (log, now) = (ConnectionLog::default(), Instant::now());
    let long = format!("x\" from 9.9.9.9:1\n\x1b{}", "y".repeat(1000));
    let records = records(|| {
        log.opened(&opened_by(Some(&long), "[::1]:5"), now);
    });
    let message = records[0]["message"].as_str().unwrap();
    assert!(
        message
            .starts_with(r#"opened 00000000-0000-0000-0000-000000000000 of "x\" from 9.9.9.9:1\n\u{1b}yyy"#),
        "{message}"
    );
    assert!(message.ends_with("y…\" from [::1]:5"), "{message}");
    let subject = records[0]["subject"].as_str().unwrap();
    assert_eq!(subject.len(), MAX_LOGGED_SUBJECT_BYTES + '…'.len_utf8());
}

#[test]
fn many_lines_become_the_first_ones_the_last_and_a_summary() {
    let (log, start) = (ConnectionLog::default(), Instant::now());
    let messages = messages(|| {
        for number in 0..1200 {
            reject("bad signature", &format!("10.0.0.1:{number}"), &log, start);
        }
        for number in 0..43 {
            reject("origin", &format!("10.0.0.2:{number}"), &log, start + Duration::from_secs(3));
        }
        reject("expired", "10.0.0.3:1", &log, start + Duration::from_secs(4));
        log.tick(start + WINDOW - Duration::from_millis(1));
        log.tick(start + WINDOW);
        log.tick(start + WINDOW * 2);
    });
    let full = FULL_LINES as usize;
    assert_eq!(messages.len(), full + full + 1 + 2);
    assert_eq!(messages[0], "refused 10.0.0.1: no (401)");
    assert_eq!(messages[full - 1], "refused 10.0.0.1:19: no (401)");
    assert_eq!(messages[full], "refused 10.0.0.2: no (401)");
    assert_eq!(
        messages[2 * full..],
        [
            "refused 10.0.0.3:1: no (401)",
            "refused 10.0.0.2:42: no (401)",
            "refused 1,244 in 10 s: 1,200 bad signature, 43 origin, 1 expired",
        ]
    );
}

#[test]
fn few_lines_need_no_summary() {
    let (log, start) = (ConnectionLog::default(), Instant::now());
    let messages = messages(|| {
        for second in 0..60 {
            let now = start + Duration::from_secs(second);
            reject("origin", "10.0.0.1:1", &log, now);
            log.opened(&opened_by(None, "[::1]:5"), now);
            log.tick(now);
        }
    });
    assert_eq!(messages.len(), 120);
    assert!(!messages.iter().any(|message| message.contains(" in ")));
}

#[test]
fn a_window_ends_without_a_tick() {
    let (log, start) = (ConnectionLog::default(), Instant::now());
    let messages = messages(|| {
        for number in 0..=FULL_LINES {
            let address = format!("10.0.0.1:{number}");
            log.opened(&opened_by(None, &address), start);
        }
        log.opened(&opened_by(None, "10.0.0.2:1"), start + WINDOW);
        log.finish(start + WINDOW);
    });
    assert_eq!(
        messages[FULL_LINES as usize..],
        [
            "opened 00000000-0000-0000-0000-000000000000 from 10.0.0.1:20",
            "opened 21 in 10 s",
            "opened 00000000-0000-0000-0000-000000000000 from 10.0.0.2:1",
        ]
    );
}

#[test]
fn finish_writes_the_remaining_summaries() {
    let (log, start) = (ConnectionLog::default(), Instant::now());
    let messages = messages(|| {
        for number in 0..10_000 {
            reject("stopping", &format!("10.0.0.1:{number}"), &log, start);
        }
        log.finish(start + Duration::from_millis(2500));
        log.finish(start + Duration::from_millis(2600));
    });
    assert_eq!(
        messages[FULL_LINES as usize..],
        ["refused 10.0.0.1:9999: no (401)", "refused 10,000 in 3 s: 10,000 stopping"]
    );
}

#[test]
fn memory_holds_one_line_of_each_kind_and_one_count_of_each_reason() {
    let (log, start) = (ConnectionLog::default(), Instant::now());
    // If the level is below info, nothing is kept.
    reject("origin", "10.0.0.1:1", &log, start);
    assert!(log.windows.lock().unwrap()[Kind::Rejected as usize].start.is_none());
    records(|| {
        std::thread::scope(|scope| {
            let worker = || {
                for number in 0..10_000 {
                    reject(["origin", "expired"][number % 2], "10.0.0.1:1", &log, start);
                }
            };
            let dispatch = tracing::dispatcher::get_default(Clone::clone);
            for _ in 0..4 {
                let dispatch = dispatch.clone();
                scope.spawn(move || tracing::dispatcher::with_default(&dispatch, worker));
            }
        });
        let windows = log.windows.lock().unwrap();
        let window = &windows[Kind::Rejected as usize];
        let mut counts = window.counts.clone();
        counts.sort_unstable();
        assert_eq!(counts, [("expired", 20_000), ("origin", 20_000)]);
        assert!(window.last.is_some());
    });
}

#[test]
fn numbers_are_grouped_by_thousands() {
    for (number, text) in [(0, "0"), (999, "999"), (1000, "1,000"), (1_234_567, "1,234,567")] {
        assert_eq!(grouped(number), text);
    }
}
