//! `--dev`: loopback only, a public secret, and no configuration of the system's daemon.

use super::{STRONG, Scene};
use crate::config::*;

fn dev(scene: Scene) -> Scene {
    scene.options(|options| options.dev = true)
}

#[test]
fn it_listens_on_loopback_only_and_needs_no_secret() {
    let loaded = dev(Scene::without_secret()).loaded();
    assert!(loaded.settings.dev && loaded.warnings.is_empty(), "{:?}", loaded.warnings);
    assert_eq!(loaded.settings.listen.addresses(), [([127, 0, 0, 1], DEFAULT_PORT).into()]);
    assert_eq!(loaded.settings.auth.secrets.signing().unwrap().as_str(), DEV_SECRET);
    assert_eq!(*loaded.settings.auth.secrets.source(), SecretSource::Dev);
    let other = Scene::new().loaded();
    assert!(!other.settings.dev);
    assert_eq!((loaded.settings.history.messages, other.settings.history.messages), (100, 0));
}

#[test]
fn a_port_other_loopback_addresses_and_a_secret_can_be_chosen() {
    let loaded = dev(Scene::new().variable("PORT", "9424")).loaded();
    assert_eq!(loaded.settings.listen.addresses(), [([127, 0, 0, 1], 9424).into()]);
    assert_eq!(loaded.settings.auth.secrets.signing().unwrap().as_str(), STRONG);
    let loaded = dev(Scene::new().file("listen = [\"[::1]:1\", \"127.0.0.2:2\"]")).loaded();
    assert_eq!(loaded.settings.listen.addresses().len(), 2);
}

#[test]
fn an_address_that_other_machines_reach_is_refused() {
    for address in ["0.0.0.0:6380", "[::]:6380", "192.0.2.1:6380"] {
        let said = dev(Scene::new().file(&format!("listen = [\"127.0.0.1:1\", \"{address}\"]"))).refused();
        let expected = format!("philote.toml:1: listen: {address} is reachable from other machines");
        assert!(said.starts_with(&expected), "{said}");
    }
    let said = dev(Scene::new().options(|options| options.listen = vec!["[::]:6380".into()])).refused();
    assert!(said.starts_with("--listen on the command line: listen: [::]:6380 is reachable"), "{said}");
}

#[test]
fn the_system_file_is_not_read() {
    let scene = dev(Scene::without_secret());
    let file = scene.write("system.toml", "listen = [\"0.0.0.0:1\"]\n");
    let mut environment = scene.environment();
    environment.system_file = Some(file);
    assert!(load(&scene.overrides, &environment).is_ok());
    let without = Overrides { dev: false, ..scene.overrides.clone() };
    assert_eq!(load(&without, &environment).unwrap().settings.listen.addresses()[0].port(), 1);
}
