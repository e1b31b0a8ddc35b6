//! The output of `--print-config`, `--check` and a reload, and the shipped file.

use proptest::prelude::*;

use super::Scene;
use crate::config::*;

const SHIPPED: &str = include_str!("../../../packaging/philote.toml");

#[test]
fn each_printed_value_has_its_source() {
    let scene = Scene::new()
        .file("max_connections = 5\n[auth]\nissuer = 'a \"b\"'\n")
        .variable("PORT", "1")
        .set("shutdown.drain=90s");
    let printed = scene.short(&print_config(&scene.loaded()));
    for line in [
        "listen = [\"[::]:1\"]  # environment variable PORT",
        "max_connections = 5  # philote.toml:1",
        "# secret = (redacted)  # environment variable SECRET",
        "# secret_file is not set  # default",
        "issuer = 'a \"b\"'  # philote.toml:3",
        "# audience is not set  # default",
        "leeway = \"5s\"  # default",
        "max_message_size = \"64KiB\"  # default",
        "mode = \"0660\"  # default",
        "drain = \"1m 30s\"  # --set on the command line",
    ] {
        assert!(printed.lines().any(|printed| printed == line), "{line} is not in:\n{printed}");
    }
    let made = Scene::without_secret();
    let printed = made.short(&print_config(&made.loaded()));
    assert!(
        printed.contains("# secret is not set  # a secret will be generated in state/secret\n"),
        "{printed}"
    );
}

proptest! {
    #[test]
    fn printed_settings_can_be_read_again(
        connections in 1usize..100_000,
        queue in (64usize << 10)..(1 << 30),
        leeway in 0u64..300_000,
        drain in proptest::option::of(0u64..3_600_000),
        issuer in "[^\r\n]{0,20}",
        ports in proptest::collection::btree_set(any::<u16>(), 1..4),
        mode in 0u32..0o200,
    ) {
        let addresses: Vec<String> = ports.iter().map(|port| format!("127.0.0.1:{port}")).collect();
        let scene = Scene::new()
            .set(&format!("max_connections={connections}"))
            .set(&format!("limits.queue_bytes={queue}"))
            .set(&format!("auth.leeway={leeway}ms"))
            .set(&format!("shutdown.drain={}", drain.map_or("auto".into(), |drain| format!("{drain}ms"))))
            .set(&format!("auth.issuer={issuer}"))
            .set(&format!("admin.mode={:o}", mode | 0o600))
            .set(&format!("listen={}", addresses.join(",")));
        let loaded = scene.loaded();
        let again = Scene::new().file(&print_config(&loaded)).loaded();
        prop_assert_eq!(again.settings, loaded.settings);
    }
}

#[test]
fn the_check_prints_warnings_and_the_source_of_the_secret() {
    let loaded = Scene::new().variable("PHILOTE_X", "1").loaded();
    assert_eq!(
        check(&loaded)[..2],
        ["environment variable PHILOTE_X is not a setting", "the secret is from environment variable SECRET"]
    );
    let loaded = Scene::new().set("websocket.allowed_origins=https://a.org").set("admin.mode=0666").loaded();
    assert_eq!(
        loaded.warnings,
        [
            "websocket.allowed_origins is set, so origins are checked although websocket.check_origin is false",
            "admin.mode lets every user of this machine administer Philote",
        ]
    );
}

#[test]
fn a_reload_lists_applied_changes_and_those_that_need_a_restart() {
    let old = Scene::new().loaded().settings;
    assert_eq!(changes(&old, &old), Changes::default());

    let scene = Scene::new()
        .variable("SECRET", "a\nb")
        .file("max_connections = 9\nlisten = ['127.0.0.1:1']\n[log]\nlevel = 'debug'\nformat = 'json'\n")
        .set("limits.queue_bytes=2MiB")
        .set("auth.issuer=me")
        .set("admin.mode=0600")
        .set("admin.socket=/run/x.sock");
    let new = scene.loaded().settings;
    let changes = changes(&old, &new);
    let text = |changes: &[Change]| changes.iter().map(Change::to_string).collect::<Vec<_>>();
    assert_eq!(
        text(&changes.applied),
        [
            "max_connections: 255 -> 9",
            "auth.secret: 1 secret (redacted) -> 2 secrets (redacted)",
            "auth.issuer: (not set) -> \"me\"",
            "limits.queue_bytes: \"1MiB\" -> \"2MiB\"",
            "log.level: \"info\" -> \"debug\"",
        ]
    );
    assert_eq!(
        text(&changes.needs_restart),
        [
            "listen: [\"[::]:6380\"] -> [\"127.0.0.1:1\"]",
            "admin.socket: (not set) -> \"/run/x.sock\"",
            "admin.mode: \"0660\" -> \"0600\"",
            "log.format: \"auto\" -> \"json\"",
        ]
    );

    let kept = keep_fixed(&old, &new);
    assert_eq!(super::super::changes(&old, &kept).needs_restart, []);
    assert_eq!(super::super::changes(&old, &kept).applied, changes.applied);
    assert_eq!(super::super::changes(&kept, &new).applied, []);
}

#[test]
fn only_another_secret_is_a_change_not_another_source() {
    let old = Scene::new().loaded().settings;
    let scene = Scene::without_secret().file("auth.secret_file = 'secret'");
    scene.write("secret", super::STRONG);
    assert_eq!(changes(&old, &scene.loaded().settings), Changes::default());
    scene.write("secret", &super::STRONG.to_uppercase());
    assert_eq!(
        changes(&old, &scene.loaded().settings).applied[0].to_string(),
        "auth.secret: 1 secret (redacted) -> 1 secret (redacted)"
    );
}

#[test]
fn the_shipped_file_is_valid_and_changes_one_default() {
    let defaults = Scene::new().loaded().settings;
    let loaded = Scene::new().file(SHIPPED).loaded();
    assert_eq!(loaded.warnings, [""; 0]);
    let changes = changes(&defaults, &loaded.settings);
    let applied: Vec<String> = changes.applied.iter().map(Change::to_string).collect();
    assert_eq!(applied, ["max_connections: 255 -> 20000"]);
    assert_eq!(changes.needs_restart, []);
}

#[test]
fn the_shipped_file_shows_every_key_with_its_default() {
    let is_key = |line: &str| {
        line.strip_prefix('#').is_some_and(|rest| rest.starts_with(|c: char| c.is_ascii_lowercase()))
    };
    let shown: Vec<&str> = SHIPPED.lines().map(|line| if is_key(line) { &line[1..] } else { line }).collect();
    let loaded = Scene::new().file(&shown.join("\n")).loaded();
    let defaults = Scene::new().loaded().settings;
    let changes = changes(&defaults, &keep_fixed(&defaults, &loaded.settings));
    let mut applied: Vec<&str> = changes.applied.iter().map(|change| change.key).collect();
    // Its default depends on the machine.
    applied.retain(|key| *key != "limits.total_queue_bytes");
    assert_eq!(applied, ["max_connections"]);

    let mut section = "";
    let mut names = Vec::new();
    for line in shown {
        if let Some(name) = line.strip_prefix('[').and_then(|line| line.strip_suffix(']')) {
            section = name;
        } else if let Some((name, _)) = line.split_once(" = ").filter(|_| !line.starts_with('#')) {
            names.push(if section.is_empty() { name.to_owned() } else { format!("{section}.{name}") });
        }
    }
    names.sort();
    let mut known: Vec<&str> = KEYS.iter().map(Key::path).collect();
    known.sort();
    assert_eq!(names, known);
}
