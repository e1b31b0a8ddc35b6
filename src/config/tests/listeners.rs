//! Listeners as strings, paths and tables, and their certificate.

use super::Scene;
use crate::config::*;

fn shown(scene: &Scene) -> Vec<String> {
    scene.loaded().settings.listen.listeners().iter().map(Listener::to_string).collect()
}

/// A scene with a certificate, its key, and another key.
fn with_pair() -> Scene {
    let scene = Scene::new();
    let [one, two] = [1, 2].map(|_| rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap());
    scene.write("cert.pem", &one.cert.pem());
    scene.write("key.pem", &one.signing_key.serialize_pem());
    scene.write("other.pem", &two.signing_key.serialize_pem());
    scene
}

const TLS: &str = "[tls]\ncertificate = 'cert.pem'\nkey = 'key.pem'\n";

#[test]
fn listeners_are_strings_paths_and_tables() {
    let file = "listen = ['127.0.0.1:1', 'unix:/run/philote/philote.sock', \
                { address = '[::1]:2', proxy_protocol = true, api = false }]";
    let scene = Scene::new().file(file);
    let expected = ["127.0.0.1:1", "unix:/run/philote/philote.sock", "[::1]:2 (PROXY) (no API)"];
    assert_eq!(shown(&scene), expected);
    let printed = print_config(&scene.loaded());
    assert_eq!(Scene::new().file(&printed).loaded().settings, scene.loaded().settings);
    let scene = Scene::new().variable("PHILOTE_LISTEN", "unix:/run/a.sock,127.0.0.1:1").variable("PORT", "7");
    assert_eq!(shown(&scene), ["unix:/run/a.sock", "127.0.0.1:7"], "the port is that of the one TCP address");
    let unix = Scene::new().file("listen = ['unix:/run/a.sock']").variable("PORT", "7");
    assert!(
        unix.refused().ends_with("listen has no address with a port: add one there"),
        "{}",
        unix.refused()
    );
}

#[test]
fn a_plain_string_means_tls_if_there_is_a_certificate() {
    let list = "listen = ['127.0.0.1:1', 'unix:/run/a.sock', { address = '[::1]:2', tls = false }, \
                { address = '[::1]:3', tls = true }]\n";
    let scene = with_pair().file(&format!("{list}{TLS}"));
    assert_eq!(shown(&scene), ["127.0.0.1:1 (TLS)", "unix:/run/a.sock", "[::1]:2", "[::1]:3 (TLS)"]);
    let mut printed = print_config(&scene.loaded());
    printed = printed.replace("[\"/", "['/");
    assert_eq!(Scene::new().file(&printed).loaded().settings, scene.loaded().settings);
    let passed = |text: &str| {
        let address = Address::Tcp(text.parse().unwrap());
        scene.loaded().settings.listen.for_passed_socket(&address).map(|listener| listener.to_string())
    };
    assert_eq!(passed("[::]:3").as_deref(), Some("[::]:3 (TLS)"), "by its port");
    assert_eq!(passed("[::]:4"), None);
}

#[test]
fn invalid_listeners_are_reported() {
    for (file, said) in [
        ("listen = ['unix:run/x.sock']", "must be \"unix:\" and an absolute path, not \"unix:run/x.sock\""),
        ("listen = [{ tls = true }]", "not \"one without an address\""),
        ("listen = [{ address = '[::]:1', tsl = true }]", "not \"tsl\""),
        ("listen = [{ address = '[::]:1', tls = 'yes' }]", "must be true or false, not text in quotes"),
        ("listen = [{ address = 'unix:/a', tls = true }]", "without TLS on a Unix socket"),
        ("listen = ['[::]:1', { address = '[::]:1' }]", "[::]:1 appears twice"),
        (
            "listen = [{ address = '[::]:1', tls = true }]",
            "a listener has tls = true: set [tls] certificate and key",
        ),
        ("[limits]\ntrusted_proxies = ['10.0.0.0/40']", "an address, a network such as"),
    ] {
        let refused = Scene::new().file(file).refused();
        assert!(refused.contains(said), "{file}: {refused}");
    }
    let long = format!("listen = ['unix:/{}']", "x".repeat(104));
    assert!(Scene::new().file(&long).refused().contains("must be from 1 to 103 bytes long, not 105"));
    let many: Vec<String> =
        (0..1025).map(|number| format!("'10.0.{}.{}'", number / 256, number % 256)).collect();
    let many = format!("[limits]\ntrusted_proxies = [{}]", many.join(","));
    assert!(Scene::new().file(&many).refused().contains("must be from 0 to 1024 networks, not 1025"));
}

#[test]
fn fault_62_a_key_that_does_not_belong_to_the_certificate_is_reported_with_its_line() {
    let refused = |tls: &str| with_pair().file(tls).refused();
    let mismatch = refused("[tls]\ncertificate = 'cert.pem'\nkey = 'other.pem'");
    assert!(
        mismatch.starts_with(
            "philote.toml:3: tls.key: the key in other.pem does not belong to the first certificate"
        ),
        "{mismatch}"
    );
    for (tls, said) in [
        ("[tls]\ncertificate = 'cert.pem'", "philote.toml:2: tls.certificate: tls.key is not set"),
        ("[tls]\nkey = 'key.pem'", "philote.toml:2: tls.key: tls.certificate is not set"),
        (
            "[tls]\ncertificate = 'none.pem'\nkey = 'key.pem'",
            "philote.toml:2: tls.certificate: cannot read none.pem",
        ),
        (
            "[tls]\ncertificate = 'key.pem'\nkey = 'key.pem'",
            "tls.certificate: key.pem has no certificate in PEM",
        ),
        ("[tls]\ncertificate = 'cert.pem'\nkey = 'cert.pem'", "tls.key: cert.pem has no private key in PEM"),
    ] {
        let found = refused(tls);
        assert!(found.contains(said), "{tls}: {found}");
    }
    let scene = with_pair();
    let chain = std::fs::read_to_string(scene.path("cert.pem")).unwrap().repeat(17);
    scene.write("cert.pem", &chain);
    let found = scene.file(TLS).refused();
    assert!(found.contains("has more than 16 certificates"), "{found}");
}

#[test]
fn a_renewed_certificate_applies_at_once_and_turning_tls_on_or_off_needs_a_restart() {
    let scene = with_pair().file(TLS);
    let old = scene.loaded().settings;
    let pair = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    scene.write("cert.pem", &pair.cert.pem());
    scene.write("key.pem", &pair.signing_key.serialize_pem());
    let new = scene.loaded().settings;
    let changed = changes(&old, &new);
    assert_eq!(changed.applied.iter().map(|change| change.key).collect::<Vec<_>>(), ["tls.certificate"]);
    assert_eq!(changed.needs_restart, []);

    let without = Scene::new().loaded().settings;
    let changed = changes(&old, &without);
    assert_eq!(changed.needs_restart.iter().map(|change| change.key).collect::<Vec<_>>(), ["listen"]);
    assert_eq!(keep_fixed(&old, &without).tls, old.tls, "the listeners still speak TLS");
    assert!(!keep_fixed(&without, &old).listen.listeners()[0].tls, "they still do not");
}
