//! Which layer overrides which, and the forms of each type of value.

use std::time::Duration;

use super::Scene;
use crate::config::*;

#[test]
fn the_defaults_are_those_of_the_original() {
    let settings = Scene::new().loaded().settings;
    assert_eq!(settings.listen, Listen::default());
    assert_eq!(settings.listen.addresses(), ["[::]:6380".parse().unwrap()]);
    assert_eq!(settings.listen.without_ipv6(), Some("0.0.0.0:6380".parse().unwrap()));
    assert_eq!(settings.max_connections, 255);
    assert_eq!((settings.websocket.read_buffer_size, settings.websocket.write_buffer_size), (1024, 1024));
    assert!(!settings.websocket.check_origin);
    assert_eq!(settings.log.level, LogLevel::Info);
    assert_eq!(settings.auth.leeway, Duration::from_secs(5));
    assert_eq!(settings.limits.queue_bytes, 1 << 20);
    assert!(settings.limits.total_queue_bytes >= settings.limits.queue_bytes);
    assert_eq!(settings.admin.mode, 0o660);
    assert_eq!(settings.shutdown.drain, Drain::Auto);
}

#[test]
fn the_variables_of_the_original_keep_their_names() {
    let scene = Scene::new()
        .variable("PORT", "9424")
        .variable("LOGLEVEL", "WARNING")
        .variable("MAX_CONNECTIONS", "7")
        .variable("READ_BUFFER_SIZE", "2048")
        .variable("WRITE_BUFFER_SIZE", "4096")
        .variable("CHECK_ORIGIN", "True");
    let loaded = scene.loaded();
    let settings = loaded.settings;
    assert_eq!(settings.listen.addresses(), ["[::]:9424".parse().unwrap()]);
    assert_eq!(settings.log.level, LogLevel::Warning);
    assert_eq!(settings.max_connections, 7);
    assert_eq!((settings.websocket.read_buffer_size, settings.websocket.write_buffer_size), (2048, 4096));
    assert!(settings.websocket.check_origin);
    assert_eq!(settings.auth.secrets.signing().unwrap().as_str(), super::STRONG);
    assert_eq!(loaded.warnings, [""; 0]);
}

#[test]
fn each_layer_overrides_the_ones_before_it() {
    let scene = Scene::new();
    assert_eq!(scene.loaded().settings.max_connections, 255);
    let scene = scene.file("max_connections = 1");
    assert_eq!(scene.loaded().settings.max_connections, 1);
    let scene = scene.variable("PHILOTE_MAX_CONNECTIONS", "2");
    assert_eq!(scene.loaded().settings.max_connections, 2);
    let scene = scene.variable("MAX_CONNECTIONS", "3");
    assert_eq!(scene.loaded().settings.max_connections, 3);
    let scene = scene.set("max_connections=4");
    assert_eq!(scene.loaded().settings.max_connections, 4);
    let scene = scene.set("max_connections=5");
    assert_eq!(scene.loaded().settings.max_connections, 5);

    let scene = scene.set("log.level=debug").options(|options| options.log_level = Some("trace".into()));
    assert_eq!(scene.loaded().settings.log.level, LogLevel::Trace);
}

/// The Ed25519 key of the examples in RFC 8410.
const PUBLIC_KEY: &str = "-----BEGIN PUBLIC KEY-----
MCowBQYDK2VwAyEAGb9ECWmEzf6FQbrBZ9w7lshQhqowtrbLDFw4rXAxZuE=
-----END PUBLIC KEY-----
";

/// The same key in a JSON Web Key Set.
pub(super) const JWKS: &str =
    r#"{"keys": [{"kty": "OKP", "crv": "Ed25519", "x": "Gb9ECWmEzf6FQbrBZ9w7lshQhqowtrbLDFw4rXAxZuE"}]}"#;

#[test]
fn every_key_can_be_set_in_the_file_by_variable_and_by_option() {
    // The secret is never shown. Certificate and key must exist and belong together. `cluster` and `history.channels` have
    // tests of their own.
    for key in KEYS
        .iter()
        .filter(|key| key.name() != "secret" && key.section() != "tls" && key.path() != "history.channels")
        .filter(|key| !key.path().starts_with("cluster."))
    {
        let scene = Scene::new();
        let pem = scene.write("pem", PUBLIC_KEY).to_str().unwrap().to_owned();
        let jwks = scene.write("jwks", JWKS).to_str().unwrap().to_owned();
        let value = match key.path() {
            "auth.public_keys" => &pem,
            "auth.jwks_file" => &jwks,
            "listen" | "metrics.listen" => "127.0.0.1:1",
            "limits.trusted_proxies" => "10.0.0.0/8",
            "auth.issuer" | "auth.audience" => "someone",
            "auth.secret_file" => "/secret",
            "auth.allow_empty_secret" | "auth.require_expiry" | "websocket.check_origin" => "true",
            "websocket.show_subject" => "false",
            "websocket.allowed_origins" => "https://example.org",
            "admin.socket" => "/run/x.sock",
            "admin.observe_socket" => "/run/y.sock",
            "admin.mode" | "admin.observe_mode" => "0600",
            "log.level" => "error",
            "log.format" => "json",
            "limits.queue_bytes" | "limits.total_queue_bytes" | "history.bytes" => "3MiB",
            path if path.ends_with("_size") => "2KiB",
            path if path.ends_with("_timeout") || path.ends_with("_interval") => "42s",
            "auth.leeway" | "shutdown.drain" | "history.ttl" | "presence.grace" => "42s",
            _ => "42",
        };
        let toml = match value {
            "true" | "false" | "42" => value.to_owned(),
            _ if ["listen", "websocket.allowed_origins", "auth.public_keys", "limits.trusted_proxies"]
                .contains(&key.path()) =>
            {
                format!("[{value:?}]")
            }
            _ => format!("{value:?}"),
        };
        // The secret in the scene's environment would override a secret file that the file names.
        let scenes = if key.name() == "secret_file" {
            let path = scene.write("s", super::STRONG).to_str().unwrap().to_owned();

            vec![
                (Scene::without_secret().file(&format!("auth.secret_file = {path:?}")), path.clone()),
                (Scene::without_secret().variable(&key.variable(), &path), path.clone()),
                (Scene::without_secret().set(&format!("{}={path}", key.path())), path),
            ]
        } else {
            [
                Scene::new().file(&format!("{} = {toml}", key.path())),
                Scene::new().variable(&key.variable(), value),
                Scene::new().set(&format!("{}={value}", key.path())),
            ]
            .map(|scene| (scene, value.to_owned()))
            .into()
        };
        for (scene, value) in scenes {
            let loaded = scene.loaded();
            let shown = key.show(&loaded.settings).unwrap();
            assert_eq!(shown.trim_matches(['"', '[', ']']), value, "{}", key.path());
            assert_ne!(*loaded.source(key), Source::Default, "{}", key.path());
        }
    }
}

#[test]
fn port_sets_the_port_of_the_only_address() {
    let scene = Scene::new().file("listen = ['127.0.0.1:1']").variable("PORT", "2");
    assert_eq!(scene.loaded().settings.listen.addresses(), ["127.0.0.1:2".parse().unwrap()]);
    assert_eq!(scene.loaded().settings.listen.without_ipv6(), None);
    let scene = scene.options(|options| options.listen = vec!["[::1]:3".into()]);
    assert_eq!(scene.loaded().settings.listen.addresses(), ["[::1]:3".parse().unwrap()]);
    let scene = scene.options(|options| options.port = Some(0));
    assert_eq!(scene.loaded().settings.listen.addresses(), ["[::1]:0".parse().unwrap()]);

    let everywhere = Scene::new().file("listen = ['[::]:6380']");
    assert_eq!(everywhere.loaded().settings, Scene::new().loaded().settings);

    let two = Scene::new().file("listen = ['127.0.0.1:1', '[::1]:1']");
    assert_eq!(two.loaded().settings.listen.addresses().len(), 2);
    assert_eq!(
        two.variable("PORT", "2").refused(),
        "environment variable PORT: listen: listen has several addresses: write the port in each of them instead"
    );
}

#[test]
fn lists_outside_the_file_are_separated_by_commas() {
    let scene = Scene::new()
        .variable(
            "PHILOTE_WEBSOCKET_ALLOWED_ORIGINS",
            "https://A.example.org:443, https://*.example.com:8443,",
        )
        .variable("CHECK_ORIGIN", "yes");
    let origins = ["https://a.example.org", "https://*.example.com:8443"];
    let allowed = scene.loaded().settings.websocket.allowed_origins;
    assert_eq!(allowed.iter().map(AllowedOrigin::to_string).collect::<Vec<_>>(), origins);
    let scene = Scene::new().variable("PHILOTE_LISTEN", "127.0.0.1:1,127.0.0.1:2");
    assert_eq!(scene.loaded().settings.listen.addresses().len(), 2);
}

#[test]
fn flags_outside_the_file_accept_the_values_of_the_original() {
    for (text, flag) in [("1", true), ("t", true), ("TRUE", true), ("Yes", true), ("0", false), ("no", false)]
    {
        assert_eq!(
            Scene::new().variable("CHECK_ORIGIN", text).loaded().settings.websocket.check_origin,
            flag
        );
    }
}

#[test]
fn every_log_level_of_the_original_is_accepted() {
    use LogLevel::*;
    let levels = [
        ("debug", Debug),
        ("info", Info),
        ("warning", Warning),
        ("warn", Warning),
        ("error", Error),
        ("fatal", Error),
        ("panic", Error),
        ("Trace", Trace),
    ];
    for (word, level) in levels {
        assert_eq!(Scene::new().variable("LOGLEVEL", word).loaded().settings.log.level, level);
    }
}

#[test]
fn sizes_and_durations_have_units() {
    for (text, bytes) in [("1048576", 1 << 20), ("2MiB", 2 << 20), ("2 mib", 2 << 20), ("1024KiB", 1 << 20)] {
        let loaded = Scene::new().set(&format!("limits.queue_bytes={text}")).loaded();
        assert_eq!(loaded.settings.limits.queue_bytes, bytes, "{text}");
        let loaded = Scene::new().file(&format!("limits.queue_bytes = {text:?}")).loaded();
        assert_eq!(loaded.settings.limits.queue_bytes, bytes, "{text}");
    }
    let loaded = Scene::new().file("limits.queue_bytes = 0x10_0000").loaded();
    assert_eq!(loaded.settings.limits.queue_bytes, 1 << 20);
    for (text, milliseconds) in [("0s", 0), ("1500ms", 1500), ("2m", 120_000), ("1m 30s", 90_000)] {
        let loaded = Scene::new().set(&format!("auth.leeway={text}")).loaded();
        assert_eq!(loaded.settings.auth.leeway, Duration::from_millis(milliseconds));
    }
    let drain = Scene::new().set("shutdown.drain=30s").loaded().settings.shutdown.drain;
    assert_eq!(drain, Drain::Fixed(Duration::from_secs(30)));
}

#[test]
fn empty_text_on_the_command_line_removes_the_value_of_the_file() {
    let scene = Scene::new().file("[auth]\nissuer = 'me'\n[admin]\nsocket = '/run/x.sock'\n");
    assert_eq!(scene.loaded().settings.auth.issuer.as_deref(), Some("me"));
    let scene = scene.set("auth.issuer=").set("admin.socket=");
    assert_eq!(scene.loaded().settings.auth.issuer, None);
    assert_eq!(scene.loaded().settings.admin.socket, AdminSocket::Default);
}

#[test]
fn an_empty_variable_counts_as_not_set() {
    let file =
        "max_connections = 7\n[auth]\nissuer = 'me'\n[websocket]\nallowed_origins = ['https://a.test']\n";
    let without = Scene::new().file(file).loaded();
    let mut scene = Scene::new().file(file);
    for key in KEYS {
        scene = scene.variable(&key.variable(), "");
        if let Some(short) = key.short_variable().filter(|short| *short != "SECRET") {
            scene = scene.variable(short, "");
        }
    }
    for other in ["PHILOTE_CONFIG", "PHILOTE_NO_SETTING", "CREDENTIALS_DIRECTORY"] {
        scene = scene.variable(other, "");
    }
    let loaded = scene.loaded();
    assert_eq!((&loaded.settings, &loaded.warnings), (&without.settings, &without.warnings));
    for key in KEYS {
        assert!(
            !matches!(loaded.source(key), Source::Environment(name) if name != "SECRET"),
            "{}",
            key.path()
        );
    }
    // The exception is an empty secret, which is an error.
    let scene = Scene::without_secret().variable("SECRET", "");
    assert!(scene.refused().contains("the secret is empty"));
    let long_name = Scene::without_secret().variable("PHILOTE_AUTH_SECRET", "");
    assert!(matches!(long_name.loaded().settings.auth.secrets.source(), SecretSource::Missing(_)));
}

#[test]
fn relative_paths_start_at_the_directory_of_their_layer() {
    let scene = Scene::without_secret().file("auth.secret_file = 'keys/secret'\nadmin.socket = 'admin.sock'");
    scene.write("keys/secret", super::STRONG);
    let settings = scene.loaded().settings;
    assert_eq!(*settings.auth.secrets.source(), SecretSource::File(scene.path("keys/secret")));
    assert_eq!(settings.admin.socket, AdminSocket::At(scene.path("admin.sock")));
    for none in [Scene::new().set("admin.socket=none"), Scene::new().file("admin.socket = 'none'")] {
        assert_eq!(none.loaded().settings.admin.socket, AdminSocket::None);
    }
    let none = Scene::new().variable("PHILOTE_ADMIN_SOCKET", "none").loaded();
    assert_eq!(none.settings.admin.socket, AdminSocket::None);
    assert!(print_config(&none).contains("socket = \"none\""));
    let settings = Scene::new().set("admin.socket=admin.sock").loaded().settings;
    assert_eq!(settings.admin.socket, AdminSocket::At(std::env::current_dir().unwrap().join("admin.sock")));
}

#[test]
fn the_system_file_may_be_missing_but_a_named_one_must_exist() {
    let scene = Scene::new();
    let mut environment = scene.environment();
    environment.system_file = Some(scene.path("system.toml"));
    let loaded = load(&Overrides::default(), &environment).unwrap();
    assert_eq!(loaded.file, None);
    scene.write("system.toml", "max_connections = 9");
    let loaded = load(&Overrides::default(), &environment).unwrap();
    assert_eq!((loaded.settings.max_connections, loaded.file), (9, environment.system_file.clone()));

    let named = scene.write("named.toml", "max_connections = 10");
    let scene = scene.variable("PHILOTE_CONFIG", named.to_str().unwrap());
    assert_eq!(scene.loaded().settings.max_connections, 10);
    let missing = scene.path("missing.toml");
    let scene = scene.options(|options| options.config = Some(missing));
    assert_eq!(scene.refused(), "cannot read missing.toml: No such file or directory (os error 2)");
}

#[test]
fn a_large_queue_raises_the_default_of_total_queue_bytes() {
    let limits = Scene::new().set("limits.queue_bytes=1GiB").loaded().settings.limits;
    assert!(limits.total_queue_bytes >= limits.queue_bytes);
}

#[test]
fn the_state_directory_is_that_of_systemd_else_that_of_xdg() {
    let environment = Environment::new([("HOME", "/home/x")]);
    assert_eq!(environment.state_directory(), Some("/home/x/.local/state/philote".into()));
    let environment = Environment::new([("STATE_DIRECTORY", "/var/lib/philote:/x"), ("HOME", "/home/x")]);
    assert_eq!(environment.state_directory(), Some("/var/lib/philote".into()));
    let environment = Environment::new([("XDG_STATE_HOME", "relative"), ("HOME", "/home/x")]);
    assert_eq!(environment.state_directory(), Some("/home/x/.local/state/philote".into()));
}

#[test]
fn the_command_line_is_read() {
    use clap::Parser;
    let arguments = ["philote", "--check", "--port", "1", "--listen", "a", "--listen", "b", "--set", "x=1"];
    let line = CommandLine::parse_from(arguments);
    assert!(line.check && !line.print_config);
    assert_eq!(line.overrides.listen, ["a", "b"]);
    assert_eq!((line.overrides.port, line.overrides.set), (Some(1), vec!["x=1".to_owned()]));
    assert!(CommandLine::try_parse_from(["philote", "--check", "--print-config"]).is_err());
    let help = CommandLine::try_parse_from(["philote", "--help"]).unwrap_err().to_string();
    assert!(help.contains("78  invalid setting"), "{help}");
}
