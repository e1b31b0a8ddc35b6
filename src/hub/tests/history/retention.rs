//! What a channel keeps by the beginning of its name, also when that changes.

use super::*;

fn keeps(messages: usize, ttl: Duration) -> Retention {
    Retention::new(messages, ttl)
}

/// How many messages of a channel are kept.
fn kept(hub: &Hub, channel: &str) -> usize {
    let (reader, sink, _) = come_back(hub, &[channel.to_owned()], &[(channel.into(), None)]);
    hub.leave(&reader);
    texts(&sink).len()
}

#[test]
fn the_beginning_of_its_name_decides_what_a_channel_keeps() {
    let hub = hub();
    let prefixes = [("ai:", keeps(5, TTL / 2)), ("ai:no", keeps(0, TTL)), ("no", keeps(0, TTL))];
    hub.keep_by_name(Retentions::new(keeps(2, TTL), prefixes), 1 << 30);
    let (_reader, _) = enter(&hub, &["no:read".to_owned()], ALWAYS);
    for number in 0..9 {
        for channel in ["chat", "ai:1", "ai:no:1", "no:1", "no:read"] {
            publish(&hub, channel, &number.to_string(), None);
        }
    }
    assert_eq!(channels(&hub), 3, "without a history and readers a channel does not exist");
    let all = || ["chat", "ai:1", "ai:no:1", "no:1", "no:read"].map(|channel| kept(&hub, channel));
    assert_eq!(all(), [2, 5, 0, 0, 0]);
    let name = |name| ChannelName::new(name, 255).unwrap();
    assert!(hub.position(&name("no:1")).is_none() && hub.position(&name("ai:1")).is_some());

    // Each for its own time.
    sweep(&hub, Instant::now() + TTL / 2 + Duration::from_secs(1));
    assert_eq!(all(), [2, 0, 0, 0, 0]);
    sweep(&hub, Instant::now() + TTL + Duration::from_secs(1));
    assert_eq!(channels(&hub), 1, "only the one with a reader");
    assert_eq!(hub.history_bytes(), 0);
}

#[test]
fn with_prefixes_alone_no_other_channel_has_a_history() {
    let hub = hub();
    hub.keep_by_name(Retentions::new(keeps(0, TTL), [("ai:", keeps(5, TTL))]), 1 << 30);
    publish(&hub, "chat", "1", None);
    publish(&hub, "ai:1", "1", None);
    assert_eq!((channels(&hub), kept(&hub, "chat"), kept(&hub, "ai:1")), (1, 0, 1));
}

#[test]
fn other_retentions_apply_to_channels_that_exist() {
    let hub = hub();
    let set = |ai: usize, ttl| {
        hub.keep_by_name(Retentions::new(keeps(9, TTL), [("ai:", keeps(ai, ttl))]), 1 << 30);
    };
    set(9, TTL);
    let chat = ["ai:1".to_owned()];
    let (_reader, _, told) = come_back(&hub, &chat, &[]);
    let publish_all = || {
        for number in 0..9 {
            publish(&hub, "ai:1", &number.to_string(), None);
        }
    };
    publish_all();
    set(4, TTL);
    assert_eq!(kept(&hub, "ai:1"), 4, "also before the sweep");
    set(9, TTL / 4);
    sweep(&hub, Instant::now() + TTL / 2);
    assert_eq!(kept(&hub, "ai:1"), 0, "it was filed under its earlier time to live");
    publish_all();
    set(0, TTL);
    sweep(&hub, Instant::now());
    assert_eq!(kept(&hub, "ai:1"), 0);
    publish(&hub, "ai:1", "unkept", None);
    set(9, TTL);
    let (_, _, again) = come_back(&hub, &chat, &[("ai:1".into(), told.id_of("ai:1"))]);
    assert_eq!(again.recovered(), [false]);
    assert_ne!(again.id_of("ai:1").unwrap().epoch, told.id_of("ai:1").unwrap().epoch);
    publish_all();
    assert_eq!(kept(&hub, "ai:1"), 9);
}

/// The log goes on meanwhile, with the same epoch.
#[test]
fn a_channel_of_the_log_that_had_no_history_for_a_while_is_not_resumed() {
    let hub = hub();
    let set = |ai: usize| {
        hub.keep_by_name(Retentions::new(keeps(9, TTL), [("ai:", keeps(ai, TTL))]), 1 << 30);
    };
    set(9);
    hub.begin_log(7, 30);
    let chat = ["ai:1".to_owned()];
    let deliver = |first: u64| {
        let issuer = "i";
        let delivery = Delivery { issuer, channel: "ai:1", data: Some("\"x\""), subject: None };
        let (frame, mut flush_list) = (delivery.encode(), FlushList::new());
        let channel = &ChannelName::new("ai:1", 255).unwrap();
        let (at, excluded, live) = (Instant::now(), &[][..], true);
        hub.deliver_logged(&Logged { channel, frame: &frame, first, at, excluded, live }, &mut flush_list);
        flush_list.flush();
    };
    for stays in [false, true] {
        set(9);
        let (reader, _, told) = come_back(&hub, &chat, &[]);
        if !stays {
            hub.leave(&reader);
        }
        let next = hub.log_position().unwrap().number + 1;
        deliver(next);
        set(0);
        assert_eq!(hub.log_id("ai:1", next), None);
        deliver(next + 1);
        set(9);
        let (_, sink, again) = come_back(&hub, &chat, &[("ai:1".into(), told.id_of("ai:1"))]);
        assert_eq!((again.recovered(), sink.written_len()), (vec![false], 0), "{stays}");
        deliver(next + 2);
        let (_, sink, again) = come_back(&hub, &chat, &[("ai:1".into(), again.id_of("ai:1"))]);
        assert_eq!((again.recovered(), with_ids(&sink).len()), (vec![true], 1), "{stays}");
        hub.leave(&reader);
    }
}
