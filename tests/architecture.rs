//! Dependencies between modules point one way, and the map in `lib.rs` names them all.

#![allow(clippy::unwrap_used, reason = "a test that fails should say where")]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

/// Which module may use which. What is not here may use nothing of ours.
const MAY_USE: &[(&str, &[&str])] = &[
    ("access_key", &["message", "moment"]),
    ("admin", &["access_key", "moment", "sync"]),
    ("bench", &["access_key", "trust"]),
    ("config", &["escape", "moment"]),
    ("ctl", &["access_key", "admin", "bench", "completions", "escape", "moment", "terminal", "trust"]),
    (
        "daemon",
        &[
            "access_key",
            "admin",
            "close",
            "completions",
            "config",
            "escape",
            "hub",
            "log",
            "message",
            "metrics",
            "outbox",
            "server",
            "signals",
            "sync",
            "systemd",
            "terminal",
        ],
    ),
    ("frame", &["close"]),
    ("hub", &["access_key", "close", "frame", "message", "outbox", "sync"]),
    ("jane", &["access_key", "admin", "completions", "escape", "moment", "terminal", "trust"]),
    ("log", &["escape", "moment"]),
    ("message", &["frame", "moment"]),
    ("outbox", &["close", "frame", "sync"]),
    (
        "server",
        &["access_key", "close", "config", "frame", "hub", "log", "message", "moment", "outbox", "sync"],
    ),
    ("terminal", &["escape"]),
];

/// Crates of the network and the runtime: not for those who only know values.
const NETWORK: &[&str] = &["tokio", "hyper", "socket2", "tokio_tungstenite"];
const KNOW_NO_NETWORK: &[&str] = &["access_key", "close", "config", "hub", "sync"];

/// Each module's source without its tests.
fn modules() -> BTreeMap<String, String> {
    let mut modules: BTreeMap<String, String> = BTreeMap::new();
    collect(Path::new("src"), &mut |path| {
        let inside = path.strip_prefix("src").unwrap();
        let first = inside.components().next().unwrap().as_os_str().to_string_lossy();
        let module = first.trim_end_matches(".rs");
        let of_tests = path.components().any(|part| part.as_os_str() == "tests")
            || ["tests.rs", "testing.rs"].iter().any(|name| path.ends_with(name));
        if !["bin", "lib"].contains(&module) && !of_tests {
            let text = fs::read_to_string(path).unwrap();
            let code: String = text.split("#[cfg(test)]\nmod tests {").next().unwrap().lines().fold(
                String::new(),
                |mut code, line| {
                    if !line.trim_start().starts_with("//") {
                        code.push_str(line);
                        code.push('\n');
                    }
                    code
                },
            );
            modules.entry(module.to_owned()).or_default().push_str(&code);
        }
    });
    modules
}

fn collect(directory: &Path, visit: &mut dyn FnMut(&Path)) {
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            collect(&path, visit);
        } else {
            visit(&path);
        }
    }
}

/// The modules of ours that a source names.
fn uses(code: &str) -> BTreeSet<String> {
    let mut used = BTreeSet::new();
    for rest in code.split("crate::").skip(1) {
        let rest = rest.strip_prefix('{').unwrap_or(rest);
        let name: String =
            rest.chars().take_while(|letter| letter.is_ascii_lowercase() || *letter == '_').collect();
        used.insert(name);
    }
    used
}

#[test]
fn dependencies_point_one_way() {
    let modules = modules();
    assert!(modules.len() > 12, "the sources were not found");
    let mut wrong = Vec::new();
    for (module, code) in &modules {
        let allowed = MAY_USE.iter().find(|(name, _)| name == module).map_or(&[][..], |(_, allowed)| allowed);
        for used in uses(code) {
            if used != *module && modules.contains_key(&used) && !allowed.contains(&used.as_str()) {
                wrong.push(format!("{module} uses {used}"));
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:?}");
}

#[test]
fn who_knows_values_knows_no_network() {
    let modules = modules();
    for module in KNOW_NO_NETWORK {
        for network in NETWORK {
            assert!(!modules[*module].contains(&format!("{network}::")), "{module} uses {network}");
        }
    }
}

#[test]
fn every_file_opens_with_its_job() {
    collect(Path::new("src"), &mut |path| {
        let text = fs::read_to_string(path).unwrap();
        let of_tests =
            path.ends_with("tests.rs") || path.components().any(|part| part.as_os_str() == "tests");
        // Documentation and pages that a module includes are texts of their own.
        let of_tests = of_tests || path.extension().is_none_or(|extension| extension != "rs");
        assert!(of_tests || text.starts_with("//! "), "{} opens without a word on its job", path.display());
    });
}

#[test]
fn every_dependency_has_its_reason() {
    let manifest = fs::read_to_string("Cargo.toml").unwrap();
    let dependencies = manifest.split("[dependencies]").nth(1).unwrap().split("[profile").next().unwrap();
    let mut explained = false;
    for line in dependencies.lines() {
        let dependency = line.contains(" = ");
        // One sentence may stand for a group that follows it directly.
        assert!(!dependency || explained, "no reason beside {line}");
        explained = line.starts_with('#') || (dependency && explained);
    }
}
