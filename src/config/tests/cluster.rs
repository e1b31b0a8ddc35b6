//! `[cluster]`: its keys, the files that they name, and what a reload says of them.

use super::{STRONG, Scene};
use crate::config::*;

const ON: &str = "[cluster]\nservers = ['nats://127.0.0.1']\n";

fn refused(keys: &str) -> String {
    Scene::new().file(&format!("{ON}{keys}")).refused()
}

/// A scene with the files that the keys name, each valid.
fn scene(keys: &str) -> Scene {
    let scene = Scene::new().file(&format!("{ON}{keys}"));
    let pair = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    scene.write("cert.pem", &pair.cert.pem());
    scene.write("key.pem", &pair.signing_key.serialize_pem());
    scene.write("secret", &format!("{STRONG}\n"));
    scene.write("password", "pass word\r\n");
    scene.write("creds", "-----BEGIN NATS USER JWT-----\nx\n-----BEGIN USER NKEY SEED-----\ny\n");
    scene
}

#[test]
fn every_key_is_read_and_the_files_too() {
    let cluster = scene(
        "subject_prefix = 'org.philote'\nname = 'node-1'\nuser = 'me'\npassword_file = 'password'\n\
         secret_file = 'secret'\nstorage = 'memory'\nreplicas = 3\nlog_bytes = '1GiB'\npatience = '500ms'\n\
         required = true\n[cluster.tls]\nca = 'cert.pem'\ncertificate = 'cert.pem'\nkey = 'key.pem'\n",
    );
    let loaded = cluster.loaded();
    let settings = loaded.settings.cluster.clone().unwrap();
    assert_eq!(settings.servers, ["nats://127.0.0.1"]);
    assert_eq!((&*settings.subject_prefix, &*settings.name), ("org.philote", "node-1"));
    assert_eq!(settings.user.as_deref(), Some("me"));
    assert_eq!(settings.password_file.unwrap().content.as_str(), "pass word");
    assert_eq!(settings.secret_file.unwrap().content.as_str(), STRONG);
    assert_eq!((settings.storage, settings.replicas), (ClusterStorage::Memory, 3));
    assert_eq!((settings.log_bytes, settings.patience.as_millis(), settings.required), (1 << 30, 500, true));
    assert_eq!(settings.tls.ca, Some(cluster.path("cert.pem")));
    assert_eq!(settings.tls.key, Some(cluster.path("key.pem")));
    assert_eq!(loaded.warnings, [""; 0]);
    // The printed settings give the same again.
    let printed = print_config(&loaded);
    assert!(printed.contains("\n[cluster.tls]\nca = "), "{printed}");
    assert!(!printed.contains(STRONG) && !printed.contains("pass word"), "{printed}");
    assert_eq!(Scene::new().file(&printed).loaded().settings.cluster, loaded.settings.cluster);

    let cluster = scene("credentials_file = 'creds'\n").loaded().settings.cluster.unwrap();
    assert!(cluster.credentials_file.unwrap().content.as_str().starts_with("-----BEGIN NATS USER JWT"));
}

#[test]
fn every_key_can_be_set_in_the_file_by_variable_and_by_option() {
    for key in KEYS.iter().filter(|key| key.path().starts_with("cluster.")) {
        // Those that need each other are below.
        let value = match key.path() {
            "cluster.servers" => "nats://a",
            "cluster.user" | "cluster.password_file" | "cluster.tls.certificate" | "cluster.tls.key" => {
                continue;
            }
            "cluster.credentials_file" => "creds",
            "cluster.secret_file" => "secret",
            "cluster.tls.ca" => "cert.pem",
            "cluster.storage" => "memory",
            "cluster.replicas" => "2",
            "cluster.log_bytes" => "3MiB",
            "cluster.patience" => "42s",
            "cluster.required" => "true",
            _ => "other",
        };
        let toml = match value {
            "true" | "2" => value.to_owned(),
            "nats://a" => format!("[{value:?}]"),
            _ => format!("{value:?}"),
        };
        let files = scene("");
        let absolute = match value {
            "creds" | "secret" | "cert.pem" => files.path(value).display().to_string(),
            _ => value.to_owned(),
        };
        let servers = |scene: Scene| match key.path() {
            "cluster.servers" => scene,
            _ => scene.variable("PHILOTE_CLUSTER_SERVERS", "nats://127.0.0.1"),
        };
        let toml = toml.replace(value, &absolute);
        for scene in [
            servers(Scene::new().file(&format!("{} = {toml}", key.path()))),
            servers(Scene::new().variable(&key.variable(), &absolute)),
            servers(Scene::new().set(&format!("{}={absolute}", key.path()))),
        ] {
            let loaded = scene.loaded();
            let shown = key.show(&loaded.settings).unwrap();
            assert_eq!(shown.trim_matches(['"', '[', ']']), absolute, "{}", key.path());
            assert_ne!(*loaded.source(key), Source::Default, "{}", key.path());
        }
    }
}

#[test]
fn variables_set_the_cluster_too() {
    let scene = Scene::new()
        .variable("PHILOTE_CLUSTER_SERVERS", "nats://a:4222, tls://[::1]:4222/")
        .variable("PHILOTE_CLUSTER_NAME", "x")
        .set("cluster.tls.ca=");
    let cluster = scene.loaded().settings.cluster.unwrap();
    assert_eq!(cluster.servers, ["nats://a:4222", "tls://[::1]:4222"]);
    assert_eq!(cluster.name, "x");
    let by_tls = Scene::new().variable("PHILOTE_CLUSTER_TLS_KEY", "/nothing").loaded();
    assert_eq!(
        by_tls.warnings,
        ["cluster.servers is not set, so this server is alone and does not use cluster.tls.key"]
    );
}

#[test]
fn keys_without_servers_are_warned_of_and_off() {
    for off in ["", "servers = []\n"] {
        let scene = Scene::new().file(&format!("[cluster]\n{off}storage = 'memory'\nuser = 'x'\n"));
        let loaded = scene.loaded();
        assert_eq!(loaded.settings.cluster, None);
        assert_eq!(
            loaded.warnings,
            [
                "cluster.servers is not set, so this server is alone and does not use cluster.user, cluster.storage"
            ]
        );
        let printed = print_config(&loaded);
        assert!(printed.contains("\nstorage = \"file\"  # default\n"), "the value in force: {printed}");
    }
    assert_eq!(Scene::new().file("[cluster]\n").loaded().warnings, [""; 0]);
}

#[test]
fn an_invalid_value_is_reported_and_a_password_in_a_url_never_printed() {
    let cases = [
        (
            "subject_prefix = 'a..b'",
            "cluster.subject_prefix: must be the beginning of a NATS subject: letters, digits, - and _, such as \"philote\" or \"example.philote\", not \"a..b\"",
        ),
        ("subject_prefix = 'a.*'", "not \"a.*\""),
        ("subject_prefix = ''", "must be from 1 to 64 bytes long, not 0"),
        (
            "name = 'a b'",
            "cluster.name: must be a name of letters, digits, -, . and _, such as \"philote-1\", not \"a b\"",
        ),
        ("storage = 'disk'", "cluster.storage: must be one of file, memory, not \"disk\""),
        ("replicas = 6", "cluster.replicas: must be from 1 to 5, not 6"),
        ("log_bytes = 1", "cluster.log_bytes: must be from 1MiB to 64TiB, not 1"),
        ("patience = '1ms'", "cluster.patience: must be from 100ms to 1m, not 1ms"),
        ("replica = 1", "cluster.replica: unknown key; did you mean replicas?"),
        ("tls = 1", "cluster.tls: this is a section: write its keys below a line [section]"),
        ("tls.certficate = ''", "cluster.tls.certficate: unknown key; did you mean certificate?"),
    ];
    for (line, sentence) in cases {
        let found = refused(line);
        assert!(found.starts_with("philote.toml:3: ") && found.ends_with(sentence), "{found}");
    }
    let servers = |value: &str| Scene::new().file(&format!("cluster.servers = {value}")).refused();
    assert!(
        servers("['127.0.0.1:4222']").ends_with("or [\"tls://nats.example.org\"], not \"127.0.0.1:4222\"")
    );
    assert!(servers("['ws://a']").ends_with("not \"ws://a\""));
    assert!(servers("['nats://a', 'nats://a/']").ends_with("nats://a appears twice"));
    for hidden in [
        "['nats://me:hunter2@a']",
        "['nats://hunter2@a', 'x']",
        "['hunter2', 'nats://x@a']",
        "['nats://a:4222?token=hunter2']",
        "['nats://a#hunter2']",
    ] {
        let said = servers(hidden);
        assert!(said.contains("cluster.user") && !said.contains("hunter2"), "{said}");
    }
    let said = Scene::new().variable("PHILOTE_CLUSTER_SERVERS", "nats://me:hunter,2@a").refused();
    assert!(said.contains("cluster.user") && !said.contains("hunter"), "{said}");
}

#[test]
fn a_file_that_cannot_be_used_is_reported_with_key_file_and_line() {
    let with = |key: &str, name: &str, text: &str| {
        let scene = scene(&format!("{key} = '{name}'\n"));
        scene.write(name, text);
        scene.refused()
    };
    let missing = scene("secret_file = 'missing'\n").refused();
    assert!(
        missing.starts_with("philote.toml:3: cluster.secret_file: cannot read missing: No such file"),
        "{missing}"
    );
    assert_eq!(with("secret_file", "secret", " \n"), "philote.toml:3: cluster.secret_file: secret is empty");
    let short = with("secret_file", "secret", "hunter2\n");
    assert!(
        short.contains("cluster.secret_file: secret has less than 32 bytes") && !short.contains("hunter2"),
        "{short}"
    );
    let creds = with("credentials_file", "creds", "hunter2");
    assert!(creds.contains("creds is not a NATS credentials file") && !creds.contains("hunter2"), "{creds}");
    let lines = with("user = 'me'\npassword_file", "password", "a\nb\n");
    assert!(
        lines.starts_with("philote.toml:4: cluster.password_file: password has several lines"),
        "{lines}"
    );
    let ca = with("tls.ca", "cert.pem", "no certificate");
    assert_eq!(ca, "philote.toml:3: cluster.tls.ca: cert.pem has no certificate in PEM");
    let broken = with("tls.ca", "cert.pem", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n");
    assert_eq!(broken, "philote.toml:3: cluster.tls.ca: cert.pem: no certificate in it is valid");
    let other = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let pair = with("tls.certificate = 'cert.pem'\ntls.key", "key.pem", &other.signing_key.serialize_pem());
    assert!(
        pair.starts_with("philote.toml:4: cluster.tls.key: the key in key.pem does not belong to"),
        "{pair}"
    );
    let scene = scene("secret_file = 'secret'\n");
    std::fs::write(scene.path("secret"), b"\xff\xfe").unwrap();
    assert_eq!(scene.refused(), "philote.toml:3: cluster.secret_file: secret is not UTF-8 text");
    assert_eq!(scene.load().unwrap_err().exit_code(), 78);
}

#[test]
fn keys_that_exclude_or_need_each_other_are_checked() {
    let cases = [
        (
            "user = 'me'\n",
            "philote.toml:3: cluster.user: cluster.password_file is not set: set both or neither",
        ),
        (
            "password_file = 'password'\n",
            "philote.toml:3: cluster.password_file: cluster.user is not set: set both or neither",
        ),
        (
            "tls.key = 'key.pem'\n",
            "philote.toml:3: cluster.tls.key: cluster.tls.certificate is not set: set both or neither",
        ),
        (
            "[limits]\nchannel_name_bytes = 1025\n",
            "philote.toml:4: limits.channel_name_bytes: must be at most 1024 in a cluster, because NATS ends the connection \
             of a node that uses a longer subject",
        ),
        (
            "tls.certificate = 'cert.pem'\n",
            "philote.toml:3: cluster.tls.certificate: cluster.tls.key is not set: set both or neither",
        ),
        (
            "credentials_file = 'creds'\nuser = 'me'\npassword_file = 'password'\n",
            "philote.toml:4: cluster.user: set cluster.credentials_file, or cluster.user and cluster.password_file, but not both",
        ),
    ];
    for (keys, sentence) in cases {
        assert_eq!(scene(keys).refused(), sentence);
    }
}

#[test]
fn a_secret_that_others_can_read_is_warned_of_and_a_missing_one_by_the_check() {
    use std::os::unix::fs::PermissionsExt;
    let scene = scene("secret_file = 'secret'\n");
    std::fs::set_permissions(scene.path("secret"), PermissionsExt::from_mode(0o644)).unwrap();
    let loaded = scene.loaded();
    assert_eq!(
        scene.short(&loaded.warnings.join("\n")),
        "other users can read or write secret, which holds the cluster's secret: chmod o-rwx secret"
    );
    let off = "cluster.secret_file is not set, so steering across nodes is off: philotectl and the HTTP API act on one \
               node only";
    assert!(!check(&loaded).iter().any(|line| line == off));
    let without = Scene::new().file(ON).loaded();
    assert!(check(&without).iter().any(|line| line == off), "{:?}", check(&without));
    assert!(!check(&Scene::new().loaded()).iter().any(|line| line == off), "nor without a cluster");
}

#[test]
fn a_change_of_the_cluster_needs_a_restart_and_so_does_history_on_or_off() {
    let text = |changes: &[Change]| changes.iter().map(Change::to_string).collect::<Vec<_>>();
    let alone = Scene::new().loaded().settings;
    let scene = scene("secret_file = 'secret'\n");
    let old = scene.loaded().settings;
    let path = scene.path("secret");
    assert_eq!(
        text(&changes(&alone, &old).needs_restart),
        [
            "cluster.servers: [] -> [\"nats://127.0.0.1\"]".to_owned(),
            format!("cluster.secret_file: (not set) -> \"{}\"", path.display())
        ]
    );
    assert_eq!(keep_fixed(&alone, &old).cluster, None);
    assert_eq!(keep_fixed(&old, &alone).cluster, old.cluster);

    scene.write("secret", &STRONG.to_uppercase());
    let new = scene.loaded().settings;
    let other = format!("cluster.secret_file: \"{0}\" -> \"{0}\" (with another content)", path.display());
    assert_eq!(text(&changes(&old, &new).needs_restart), [other]);
    assert_eq!(keep_fixed(&old, &new).cluster, old.cluster);

    let link = self::scene("user = 'me'\npassword_file = 'password'\ntls.ca = 'cert.pem'\n");
    let before = link.loaded().settings;
    link.write("password", "renewed");
    let renewed = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    link.write("cert.pem", &renewed.cert.pem());
    let after = link.loaded().settings;
    let changed = changes(&before, &after);
    let keys: Vec<&str> = changed.applied.iter().map(|change| change.key).collect();
    assert_eq!((keys, changed.needs_restart), (vec!["cluster.password_file", "cluster.tls.ca"], vec![]));
    assert_eq!(keep_fixed(&before, &after).cluster, after.cluster, "the next link uses them");

    let with_history = |messages: usize| {
        let mut settings = old.clone();
        settings.history.messages = messages;
        settings
    };
    for (before, after) in [(0, 5), (5, 0)] {
        let (before, after) = (with_history(before), with_history(after));
        assert_eq!(changes(&before, &after).applied, []);
        assert_eq!(changes(&before, &after).needs_restart[0].key, "history.messages");
        assert_eq!(keep_fixed(&before, &after).history.messages, before.history.messages);
    }
    assert_eq!(changes(&with_history(5), &with_history(6)).needs_restart, []);
    let mut history = alone.clone();
    history.history.messages = 5;
    assert_eq!(changes(&alone, &history).needs_restart, [], "alone it is applied");
}
