//! `[[history.channels]]`: read from each layer, printed, checked and reloaded.

use std::time::Duration;

use super::Scene;
use crate::config::*;

const FILE: &str = "[history]\nmessages = 10\n[[history.channels]]\nprefix = 'ai:'\nmessages = 500\nttl = '10m'\n\
                    [[history.channels]]\nprefix = 'log \"'\nmessages = 0\n";
const INLINE: &str =
    "[{ prefix = \"ai:\", messages = 500, ttl = \"10m\" }, { prefix = 'log \"', messages = 0 }]";

#[test]
fn they_are_the_same_from_each_layer_and_are_printed_so_that_they_can_be_read() {
    let scenes = [
        (Scene::new().file(FILE), "philote.toml:3"),
        (Scene::new().file(&format!("history.channels = {INLINE}")), "philote.toml:1"),
        (
            Scene::new().variable("PHILOTE_HISTORY_CHANNELS", INLINE),
            "environment variable PHILOTE_HISTORY_CHANNELS",
        ),
        (Scene::new().set(&format!("history.channels={INLINE}")), "--set on the command line"),
    ];
    for (scene, source) in scenes {
        let loaded = scene.loaded();
        let [ai, log] = &loaded.settings.history.channels[..] else { panic!("{source}") };
        assert_eq!(
            (&*ai.prefix, ai.messages, ai.ttl, &*log.prefix, log.messages, log.ttl),
            ("ai:", 500, Some(Duration::from_secs(600)), "log \"", 0, None)
        );
        let printed = scene.short(&print_config(&loaded));
        let line = printed.lines().find(|line| line.starts_with("channels = ")).unwrap();
        assert_eq!(line, format!("channels = {INLINE}  # {source}"));
    }
    // A later layer replaces the list, also by an empty one.
    let scene = Scene::new().file(FILE).variable("PHILOTE_HISTORY_CHANNELS", "[]");
    assert_eq!(scene.loaded().settings.history.channels, []);
}

#[test]
fn what_is_wrong_with_one_is_said() {
    let table = "must be a list of tables such as [{ prefix = \"ai:\", messages = 500, ttl = \"10m\" }], not";
    let many: Vec<String> = (0..65).map(|n| format!("{{prefix='{n}',messages=1}}")).collect();
    let long = format!("[{{prefix='{}',messages=1}}]", "x".repeat(4097));
    for (value, problem) in [
        ("5", format!("{table} a number without quotes or unit")),
        ("['ai:']", format!("{table} text in quotes")),
        ("{prefix='ai:',messages=1}", format!("{table} a table")),
        ("[{prefix='ai:',messages=1,bytes=1}]", format!("{table} \"bytes\"")),
        ("[{prefix='ai:'}]", format!("{table} \"one without prefix or messages\"")),
        ("[{messages=1}]", format!("{table} \"one without prefix or messages\"")),
        (
            "[{prefix='',messages=1}]",
            "must be the beginning of a name, not \"\\\"\\\": messages and ttl of [history] are for all others\"".into(),
        ),
        (&long, "must be from 1 to 4096 bytes long, not 4097".into()),
        ("[{prefix=1,messages=1}]", "must be the beginning of a name in quotes, not a number without quotes or unit".into()),
        ("[{prefix='a',messages=100001}]", "must be from 0 to 100000, not 100001".into()),
        ("[{prefix='a',messages=1,ttl='8d'}]", "must be from 1s to 7days, not 8d".into()),
        ("[{prefix='a',messages=1},{prefix='a',messages=2}]", "the prefix \"a\" appears twice".into()),
        (&format!("[{}]", many.join(",")), "must be from 0 to 64 prefixes, not 65".into()),
    ] {
        let refused = Scene::new().file(&format!("history.channels = {value}")).refused();
        assert_eq!(refused, format!("philote.toml:1: history.channels: {problem}"), "{value}");
    }
    Scene::new().file(&format!("history.channels = [{}]", many[1..].join(","))).loaded();
    let refused = Scene::new().variable("PHILOTE_HISTORY_CHANNELS", "ai:=5").refused();
    assert_eq!(
        refused,
        format!("environment variable PHILOTE_HISTORY_CHANNELS: history.channels: {table} \"ai:=5\"")
    );
}

#[test]
fn more_messages_than_half_of_a_queue_are_warned_of() {
    let scene = Scene::new().file("history.channels = [{prefix='a',messages=3000}]");
    let lines = check(&scene.loaded()).join("\n");
    assert!(
        lines.contains("messages in history.channels is more than half of limits.queue_messages"),
        "{lines}"
    );
}

#[test]
fn a_reload_applies_them_unless_a_cluster_would_get_its_first_history_or_lose_its_last() {
    let settings = |file: &str| Scene::new().file(file).loaded().settings;
    let (off, on, other) =
        (settings(""), settings("history.channels = [{prefix='a',messages=1}]"), settings(FILE));
    for (old, new) in [(&off, &on), (&on, &other), (&other, &off)] {
        let changed = changes(old, new);
        assert!(changed.applied.iter().any(|change| change.key == "history.channels"), "{changed:?}");
        assert_eq!((changed.needs_restart, &keep_fixed(old, new)), (vec![], new));
    }
    let cluster = |settings: &Settings| {
        let servers = Scene::new().set("cluster.servers=nats://127.0.0.1:4222").loaded().settings.cluster;
        Settings { cluster: servers, ..settings.clone() }
    };
    let [off, on, other] = [off, on, other].map(|settings| cluster(&settings));
    for (old, new) in [(&off, &on), (&on, &off), (&off, &other)] {
        let changed = changes(old, new);
        assert!(changed.needs_restart.iter().any(|change| change.key == "history.channels"), "{changed:?}");
        assert_eq!(&keep_fixed(old, new).history, &old.history);
    }
    assert_eq!(changes(&on, &other).needs_restart, []);
}

#[test]
fn the_longest_ttl_counts_only_what_is_kept() {
    let ttl = |file: &str| Scene::new().file(file).loaded().settings.history.longest_ttl().as_secs();
    assert_eq!(ttl(FILE), 600);
    assert_eq!(
        ttl("history.channels = [{prefix='a',messages=1,ttl='9s'}]"),
        9,
        "no other channel keeps anything"
    );
    assert_eq!(ttl("history.channels = [{prefix='a',messages=0,ttl='1h'}]"), 300);
    assert_eq!(ttl("history.messages = 1\nhistory.channels = [{prefix='a',messages=1,ttl='9s'}]"), 300);
}
