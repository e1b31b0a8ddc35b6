//! Problems and their messages, and that no message shows the secret.

use proptest::prelude::*;

use super::Scene;
use crate::config::*;

/// Returns the error messages for a file.
fn refused(file: &str) -> String {
    Scene::new().file(file).refused()
}

/// The messages of value types, by the names that the cases below use for them.
const TYPES: [(&str, &str); 5] = [
    ("{SIZE}", "must be a size such as \"64KiB\", \"1MiB\" or 1024, not"),
    ("{PERIOD}", "must be a duration such as \"10s\", \"500ms\" or \"5m\", not"),
    (
        "{ORIGIN}",
        "must be an origin such as \"https://app.example.org\" or \"https://*.example.org\", without a path, not",
    ),
    (
        "{ADDRESS}",
        "must be an IP address with a port such as \"0.0.0.0:6380\" or \"[::]:6380\", or \"unix:/path\", not",
    ),
    ("{MODE}", "must be permission bits in quotes, \"0600\" to \"0777\", with 6 or 7 for the owner, not"),
];

fn expand(sentence: &str) -> String {
    TYPES.iter().fold(sentence.to_owned(), |sentence, (name, text)| sentence.replace(name, text))
}

#[test]
fn a_misspelled_key_is_reported_with_its_line_and_the_nearest_key() {
    assert_eq!(
        refused("max_connections = 1\n\n[limits]\n# a comment\nqueue_bites = 1\n"),
        "philote.toml:5: limits.queue_bites: unknown key; did you mean queue_bytes?"
    );
    assert_eq!(
        refused("max_conections = 1"),
        "philote.toml:1: max_conections: unknown key; did you mean max_connections?"
    );
    assert_eq!(
        refused("[limit]\nqueue_bytes = 1"),
        "philote.toml:1: limit: unknown section; did you mean limits?"
    );
    assert_eq!(refused("xyz = 1"), "philote.toml:1: xyz: unknown key");
    assert_eq!(
        refused("port = 6380"),
        "philote.toml:1: port: unknown key; did you mean listen = [\"[::]:6380\"]?"
    );
    assert_eq!(
        refused("loglevel = \"debug\""),
        "philote.toml:1: loglevel: unknown key; did you mean log.level?"
    );
    assert_eq!(
        refused("queue_bytes = 1"),
        "philote.toml:1: queue_bytes: unknown key; did you mean limits.queue_bytes?"
    );
    assert_eq!(
        refused("[log]\nmax_connections = 1"),
        "philote.toml:2: log.max_connections: unknown key; did you mean max_connections at the top of the file, \
         above the first [section]?"
    );
    assert_eq!(
        Scene::new().set("limits.queue_bites=1").refused(),
        "--set on the command line: limits.queue_bites: unknown key; did you mean queue_bytes?"
    );
    assert_eq!(
        refused("\"a\\u001b[31m\" = 1"),
        "philote.toml:1: a\\u{1b}[31m: unknown key",
        "control characters must not reach the terminal"
    );
}

#[test]
fn all_problems_are_reported_at_once_in_the_order_of_lines() {
    let file =
        "listen = 1\n[websocket]\nping_interval = 3\n[limits]\nqueue_messages = 0\n[auth]\nleeway = '1h'\n";
    let scene = Scene::new().file(file).variable("PORT", "x");
    assert_eq!(
        scene.refused().lines().collect::<Vec<_>>(),
        [
            "philote.toml:1: listen: must be a list of addresses such as [\"0.0.0.0:6380\"] or [\"[::]:6380\"], not a \
             number without quotes or unit",
            "philote.toml:3: websocket.ping_interval: must be a duration such as \"10s\", \"500ms\" or \"5m\", not a \
             number without quotes or unit",
            "philote.toml:5: limits.queue_messages: must be from 1 to 10000000, not 0",
            "philote.toml:7: auth.leeway: must be from 0s to 5m, not 1h",
            "environment variable PORT: listen: must be a whole number, not \"x\"",
        ]
    );
    assert_eq!(scene.load().unwrap_err().exit_code(), 78);
}

#[test]
fn a_wrong_type_is_reported_with_the_right_one() {
    let cases = [
        ("max_connections = '1'", "max_connections: must be a whole number, not text in quotes"),
        ("max_connections = 1.5", "max_connections: must be a whole number, not a fraction"),
        ("max_connections = true", "max_connections: must be a whole number, not true or false"),
        ("limits.queue_bytes = []", "limits.queue_bytes: {SIZE} a list"),
        ("limits = 1", "limits: this is a section: write its keys below a line [section]"),
        (
            "websocket.check_origin = 'true'",
            "websocket.check_origin: must be true or false, not text in quotes",
        ),
        (
            "websocket.check_origin = 1",
            "websocket.check_origin: must be true or false, not a number without quotes or unit",
        ),
        ("[log.level]\nx = 1", "log.level: must be a word in quotes, not a table"),
        ("admin.mode = 660", "admin.mode: {MODE} a number without quotes or unit"),
        (
            "auth.secret = 12345678",
            "auth.secret: must be text in quotes, not a number without quotes or unit",
        ),
        (
            "auth.issuer = 2026-01-01",
            "auth.issuer: must be text in quotes, not a date or time without quotes",
        ),
    ];
    for (file, sentence) in cases {
        let line = refused(file);
        assert_eq!(line.split_once(": ").unwrap().1, expand(sentence));
    }
}

#[test]
fn an_invalid_or_out_of_range_value_is_reported() {
    let cases = [
        ("max_connections = 0", "must be from 1 to 10000000, not 0"),
        ("max_connections = -1", "must be from 1 to 10000000, not -1"),
        ("max_connections = 99999999999999999999", "must be from 1 to 10000000, not 99999999999999999999"),
        ("limits.queue_bytes = 1", "must be from 4KiB to 1GiB, not 1"),
        ("limits.queue_bytes = '1MB'", "{SIZE} \"1MB\""),
        (
            "limits.queue_bytes = '99999999999999999999999999999999999999TiB'",
            "{SIZE} \"99999999999999999999999999999999999999TiB\"",
        ),
        ("limits.queue_bytes = '-1KiB'", "must be from 4KiB to 1GiB, not -1024"),
        ("websocket.ping_interval = '10'", "{PERIOD} \"10\""),
        ("websocket.ping_interval = '10ms'", "must be from 1s to 1h, not 10ms"),
        (
            "log.level = 'loud'",
            "must be one of trace, debug, info, warning, warn, error, fatal, panic, not \"loud\"",
        ),
        ("log.format = 'xml'", "must be one of auto, json, not \"xml\""),
        ("shutdown.drain = 'never'", "{PERIOD} \"never\""),
        ("admin.mode = '0440'", "{MODE} \"0440\""),
        ("listen = []", "must be from 1 to 64 addresses, not 0"),
        ("listen = ['localhost:80']", "{ADDRESS} \"localhost:80\""),
        ("listen = ['127.0.0.1:80', '127.0.0.1:80']", "127.0.0.1:80 appears twice"),
        ("websocket.allowed_origins = ['https://a.org/']", "{ORIGIN} \"https://a.org/\""),
        ("websocket.allowed_origins = ['a.org']", "{ORIGIN} \"a.org\""),
        (
            "websocket.allowed_origins = ['wss://a.org']",
            "must be the origin of a page, which begins with http:// or https://, not \"wss://a.org\"",
        ),
        (
            "websocket.allowed_origins = ['file://']",
            "must be \"null\", which is the origin of a page that was opened from a file, not \"file://\"",
        ),
        (
            "websocket.allowed_origins = ['*']",
            "must be an origin (pages of every origin may connect while check_origin is false and this list is empty), not \"*\"",
        ),
        ("websocket.allowed_origins = ['https://a.*.org']", "{ORIGIN} \"https://a.*.org\""),
        (
            "websocket.max_message_size = '2MiB'",
            "1MiB is less than websocket.max_message_size, 2MiB: a single message would close its readers",
        ),
        (
            "limits.total_queue_bytes = '1MiB'\nlimits.queue_bytes = '2MiB'",
            "1MiB is less than limits.queue_bytes, 2MiB: no connection could use its own limit",
        ),
    ];
    for (file, sentence) in cases {
        let line = refused(file);
        assert_eq!(line.splitn(3, ": ").nth(2).unwrap(), expand(sentence));
        assert!(line.starts_with("philote.toml:1: "), "{line}");
    }
    assert_eq!(
        refused("[admin]\nsocket = '/run/x'\nobserve_socket = '/run/x'"),
        "philote.toml:3: admin.observe_socket: is the path of the admin socket too: choose another"
    );
    let long = format!("admin.socket = '/{}'", "x".repeat(107));
    assert_eq!(refused(&long), "philote.toml:1: admin.socket: must be from 1 to 107 bytes long, not 108");
}

#[test]
fn an_unknown_variable_is_a_warning() {
    let scene = Scene::new()
        .variable("PHILOTE_LIMITS_QUEUE_BITES", "1")
        .variable("PHILOTE_PORT", "tcp://10.0.0.1:6380")
        .variable("PHILOTE_METRICS_SERVICE_HOST", "10.0.0.1")
        .variable("PHILOTE_CONFIG", "")
        .variable("UNRELATED", "1")
        .options(|options| options.config = Some("/dev/null".into()));
    assert_eq!(
        scene.loaded().warnings,
        [
            "environment variable PHILOTE_LIMITS_QUEUE_BITES is not a setting; did you mean PHILOTE_LIMITS_QUEUE_BYTES?",
            "environment variable PHILOTE_METRICS_SERVICE_HOST is not a setting; did you mean PHILOTE_METRICS_LISTEN?",
            "environment variable PHILOTE_PORT is not a setting; did you mean PORT?",
        ]
    );
}

#[test]
fn a_file_or_variable_that_is_no_text_of_a_sensible_size_is_reported() {
    use std::os::unix::ffi::OsStringExt;
    let scene = Scene::new().file("");
    std::fs::write(scene.path("philote.toml"), b"# one\n# \xff\n").unwrap();
    assert_eq!(scene.refused(), "philote.toml:2: not UTF-8 text");
    std::fs::write(scene.path("philote.toml"), vec![b'#'; (1 << 20) + 1]).unwrap();
    assert_eq!(
        scene.refused(),
        "philote.toml:1: larger than 1048576 bytes, too large for a configuration file"
    );

    let sections = |number| (0..number).map(|number| format!("[s{number}]\nkey = 1\n")).collect::<String>();
    std::fs::write(scene.path("philote.toml"), sections(501)).unwrap();
    assert_eq!(
        scene.refused(),
        "philote.toml:1: more than 1000 keys and sections, too many for a configuration file"
    );
    std::fs::write(scene.path("philote.toml"), sections(500)).unwrap();
    assert_eq!(scene.refused().lines().count(), 500);

    let value = std::ffi::OsString::from_vec(vec![0xff]);
    let error = load(&Overrides::default(), &Environment::new([("SECRET", value)])).unwrap_err();
    assert_eq!(error.to_string(), "environment variable SECRET: auth.secret: not UTF-8 text");
}

#[test]
fn invalid_toml_is_reported_with_line_and_column() {
    let line = refused("[auth]\nsecret = \"hunter2hunter2\n");
    assert!(line.starts_with("philote.toml:2: column "), "{line}");
    assert!(
        refused("max_connections = 1\nmax_connections = 2")
            .contains("philote.toml:2: column 1: duplicate key")
    );
    assert_eq!(
        Scene::new().set("max_connections").refused(),
        "--set on the command line: needs a key and a value, such as --set limits.queue_bytes=2MiB"
    );
}

/// Files with a syntax error at the secret `S`.
const BROKEN: &[&str] = &[
    "[auth]\nsecret = \"S\n",
    "[auth]\nsecret = S\n",
    "[auth]\nsecret = S\"\n",
    "[auth]\nsecret S\n",
    "[auth]\nsecret: \"S\"\n",
    "[auth]\nsecret == \"S\"\n",
    "[auth]\nsecret = \"S\" \"S\"\n",
    "[auth]\nsecret = \"\\qS\"\n",
    "[auth]\nsecret = \"S\\r\"\n",
    "[auth]\nsecret = \"S\\n\\nS\"\n",
    "[auth]\nsecret = \"S\\u0000",
    "[auth]\nsecret = \"\"\"S\n",
    "[auth]\nsecret = [\"S\"]\n",
    "[auth]\nsecret = {\"S\" = 1}\n",
    "[auth]\nsecret.\"S\" = 1\n",
    "[auth.secret]\n\"S\" = 1\n",
    "[[auth]]\nsecret = \"S\"\n",
    "[auth]\nsecret = \"S\"\nsecret = \"S\"\n",
    "[auth]\nsecert = \"S\"\n",
    "[auth]\nsecret = 1_S\n",
    "[auth]\nsecret = 2026-01-01S\n",
    "[auth]\nS\n",
    "[auth]\nS = \"x\"\n",
    "[auth]\n\"S\" = 1\n",
    "secret = \"S\"\n",
    "secret\n= \"S\"\n",
    "[auth\nsecret = \"S\"\n",
    "[auth]\nsecret = \"S\"\nleeway = 'x'\n",
    "auth = \"S\"\n",
];

proptest! {
    #[test]
    fn no_error_shows_the_secret(secret in "[A-Za-z0-9+/_-]{12,44}={0,2}", broken in proptest::sample::select(BROKEN)) {
        let error = Scene::without_secret().file(&broken.replace('S', &secret)).load().unwrap_err();
        let text = format!("{error} {error:?} {error:#?}");
        prop_assert!(!text.contains(&secret), "{broken}: {text}");
        // Nor a part of it.
        prop_assert!(!text.contains(&secret[..10]), "{broken}: {text}");
    }

    #[test]
    fn no_error_of_variables_and_options_shows_the_secret(secret in "[A-Za-z0-9+/_-]{12,44}={0,2}") {
        let scenes = [
            Scene::without_secret().variable("SECRET", &format!("{secret}\r\n")),
            Scene::without_secret().variable("SECRET", &secret).variable("PHILOTE_AUTH_SECERT", &secret).set("x=1"),
            Scene::without_secret().set(&format!("auth.secert={secret}")),
            Scene::without_secret().set(&format!("auth.secret={secret}\n\n{secret}")),
            Scene::without_secret().set(secret.trim_end_matches('=')),
            Scene::without_secret().set(&format!("auth.{secret}")),
        ];
        for scene in scenes {
            let error = scene.load().unwrap_err();
            let text = format!("{error} {error:?} {:?} {:?}", scene.overrides, scene.environment());
            prop_assert!(!text.contains(&secret[..10]), "{text}");
        }
    }

    #[test]
    fn no_output_of_valid_settings_shows_the_secret(secret in "[A-Za-z0-9+/_-]{12,44}") {
        let scenes = [
            Scene::without_secret().variable("SECRET", &secret),
            Scene::without_secret().set(&format!("auth.secret={secret}")),
            Scene::without_secret().file(&format!("auth.secret = \"{secret}\\n{secret}x \"")),
        ];
        for scene in scenes {
            let loaded = scene.loaded();
            let printed = (print_config(&loaded), check(&loaded), changes(&Scene::new().loaded().settings, &loaded.settings));
            let text = format!("{loaded:?} {printed:?} {}", loaded.settings.auth.secrets.signing().unwrap());
            prop_assert!(!text.contains(&secret[..10]), "{text}");
        }
    }
}
