//! What histories hold in memory, and what goes when it is too much or too old.

use super::*;

#[test]
fn fault_57_histories_of_channels_without_readers_stay_within_the_bytes() {
    const BYTES: usize = 100_000;
    let hub = hub();
    hub.keep(100, TTL, BYTES);
    for channel in 0..1000 {
        hub.leave(&come_back(&hub, &[channel.to_string()], &[]).0);
        assert!(hub.history_bytes() <= BYTES);
    }
    let full = channels(&hub);
    assert!((100..200).contains(&full), "{full}");
    sweep(&hub, Instant::now());
    assert!(hub.history_bytes() <= BYTES / 8 * 7, "the oldest go");
    let told = come_back(&hub, &["0".to_owned()], &[("0".into(), Some(MessageId::NONE))]).2;
    assert_eq!(told.recovered(), [false]);
}

/// No sweep runs in between: each join makes as much room as it takes.
#[test]
fn fault_57_many_channels_that_are_entered_and_left_stay_within_the_bytes() {
    const BYTES: usize = 1_000_000;
    const NAMES: usize = 500;
    let hub = hub();
    hub.keep(100, TTL, BYTES);
    let claims = Arc::new(allow(&[], &["*"]));
    let reader = Arc::new(Connection::new(([127, 0, 0, 1], 1).into(), claims, hub.budget().clone(), 0));
    hub.enter(&reader);
    for turn in 0..100 {
        let name = |number| ChannelName::new(&format!("{turn} {number}"), 255).unwrap();
        let names: Vec<ChannelName> = (0..NAMES).map(name).collect();
        hub.enter_channels(&reader, &names, &[], NAMES, |_| {}).unwrap();
        hub.leave_channels(&reader, &names).unwrap();
        assert!(hub.history_bytes() <= BYTES, "{} after {turn} turns", hub.history_bytes());
    }
}

/// Each of these costs as much as it is counted, so that `bytes` is what the process holds. A process of its own holds
/// nothing of other tests.
#[test]
fn fault_81_the_memory_of_many_histories_is_counted_as_measured() {
    let output =
        crate::testing::child("hub::tests::history::memory::child_with_many_histories").output().unwrap();
    println!("{}", String::from_utf8_lossy(&output.stdout));
    assert!(output.status.success());
}

#[test]
fn child_with_many_histories() {
    const CHANNELS: usize = 50_000;
    if !crate::testing::is_child() {
        return;
    }
    let resident = || {
        let pages = std::fs::read_to_string("/proc/self/statm").unwrap();
        pages.split(' ').nth(1).unwrap().parse::<usize>().unwrap() * rustix::param::page_size()
    };
    let hub = keeping(100);
    let before = resident();
    for channel in 0..CHANNELS {
        publish(&hub, &format!("a channel {channel}"), "x", None);
    }
    let (counted, costs) = (hub.history_bytes(), resident().saturating_sub(before));
    println!("bytes a channel: counted {}, resident {}", counted / CHANNELS, costs / CHANNELS);
    assert!(counted * 4 > costs * 3, "{counted} {costs}");
}

/// The sweep looks at what is too old, and not at what is kept.
#[test]
fn fault_81_a_sweep_takes_out_only_what_has_expired() {
    let hub = keeping(100);
    let began = Instant::now();
    for channel in 0..1_000 {
        publish(&hub, &channel.to_string(), "x", None);
    }
    assert!(hub.outdated(Instant::now()).is_empty());
    assert_eq!(hub.outdated(began + TTL + Duration::from_secs(60)).len(), 1_000);
}

#[test]
fn histories_are_cut_when_the_setting_becomes_smaller() {
    let hub = keeping(100);
    for _ in 0..100 {
        publish(&hub, "c", &"x".repeat(40), None);
    }
    let before = hub.history_bytes();
    hub.keep(10, TTL, 1 << 30);
    sweep(&hub, Instant::now());
    assert!(hub.history_bytes() < before / 4, "{before} {}", hub.history_bytes());
    assert!(hub.outdated(Instant::now()).is_empty(), "once");
}

#[test]
fn all_together_stay_within_their_bytes_and_the_oldest_go_first() {
    const BYTES: usize = 200_000;
    let hub = hub();
    hub.keep(1000, TTL, BYTES);
    let text = "x".repeat(40);
    for round in 0..100 {
        for channel in 0..50 {
            publish(&hub, &channel.to_string(), &text, None);
            assert!(hub.history_bytes() <= BYTES);
        }
        if round % 10 == 9 {
            sweep(&hub, Instant::now());
            assert!(hub.history_bytes() <= BYTES / 8 * 7);
        }
    }
    publish(&hub, "new", "room for the newest", None);
    let (_, sink, _) = come_back(&hub, &["new".to_owned()], &[("new".into(), None)]);
    assert_eq!(texts(&sink), ["room for the newest"]);
}
