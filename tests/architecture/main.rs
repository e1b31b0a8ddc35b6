//! Dependencies between modules point one way, and no files import each other.

#![allow(clippy::unwrap_used, reason = "a test that fails should say where")]

mod circles;
mod faults;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use circles::{Circle, circles};

/// The modules that each module may use. A module that is not listed may use none of this crate.
const MAY_USE: &[(&str, &[&str])] = &[
    ("token", &["message", "timestamp", "regular_file"]),
    ("admin", &["http", "installation", "orders", "sync", "timestamp", "token", "unix_socket"]),
    ("bench", &["token", "root_certificates"]),
    ("conformance", &["timestamp"]),
    ("config", &["escape", "timestamp", "regular_file"]),
    (
        "ctl",
        &[
            "token",
            "admin",
            "bench",
            "completions",
            "conformance",
            "escape",
            "installation",
            "timestamp",
            "terminal",
            "root_certificates",
        ],
    ),
    (
        "daemon",
        &[
            "token",
            "cluster",
            "admin",
            "close",
            "completions",
            "config",
            "escape",
            "hub",
            "installation",
            "log",
            "message",
            "metrics",
            "orders",
            "outbox",
            "server",
            "signals",
            "sync",
            "systemd",
            "terminal",
            "timestamp",
        ],
    ),
    ("feed", &["close", "message", "sync", "timestamp"]),
    ("frame", &["close", "deflate"]),
    ("cluster", &["close", "config", "frame", "hub", "message", "orders", "sync"]),
    ("fuzz", &["admin", "cluster", "config", "hub", "message", "outbox", "server", "token"]),
    ("http", &["sync"]),
    ("hub", &["token", "close", "deflate", "feed", "frame", "message", "outbox", "sync"]),
    ("jane", &["token", "admin", "completions", "escape", "timestamp", "terminal", "root_certificates"]),
    ("log", &["escape", "timestamp"]),
    ("message", &["frame", "timestamp"]),
    ("metrics", &["http", "places", "sync"]),
    ("outbox", &["close", "deflate", "frame", "message", "sync"]),
    ("places", &["sync"]),
    (
        "server",
        &[
            "token",
            "cluster",
            "close",
            "config",
            "deflate",
            "feed",
            "frame",
            "http",
            "hub",
            "log",
            "message",
            "orders",
            "timestamp",
            "outbox",
            "places",
            "regular_file",
            "sync",
            "unix_socket",
        ],
    ),
    ("unix_socket", &[]),
    ("terminal", &["escape"]),
    ("root_certificates", &["regular_file"]),
];

/// Crates of the network and the runtime, which modules that only handle values must not use. The hub has tasks that help to
/// write; it uses no socket.
const RUNTIME: &[&str] = &["tokio", "hyper", "socket2", "tokio_tungstenite"];
const NETWORK: &[&str] = &["tokio::net", "hyper", "socket2", "tokio_tungstenite"];
const MUST_NOT_USE: &[(&str, &[&str])] = &[
    ("token", RUNTIME),
    ("close", RUNTIME),
    ("deflate", RUNTIME),
    ("config", RUNTIME),
    ("sync", RUNTIME),
    ("hub", NETWORK),
    ("feed", NETWORK),
];

/// Folders in which files may still import each other. The list only shrinks.
const MAY_HAVE_CIRCLES: &[&str] = &[];

/// Each file below `src` without comments and tests, except the programs, `lib.rs` and files of tests.
fn sources() -> BTreeMap<String, String> {
    let mut sources = BTreeMap::new();
    collect(Path::new("src"), &mut |path| {
        let inside = path.strip_prefix("src").unwrap();
        let of_tests = path.components().any(|part| part.as_os_str() == "tests")
            || ["tests.rs", "testing.rs"].iter().any(|name| path.ends_with(name));
        let program = inside.starts_with("bin") || inside == Path::new("lib.rs");
        if !of_tests && !program && path.extension().is_some_and(|extension| extension == "rs") {
            let text = fs::read_to_string(path).unwrap();
            let code = text.split("#[cfg(test)]\nmod tests {").next().unwrap();
            let lines = code.lines().filter(|line| !line.trim_start().starts_with("//"));
            let code = lines.fold(String::new(), |code, line| code + line + "\n");
            sources.insert(inside.to_str().unwrap().to_owned(), code);
        }
    });
    assert!(sources.len() > 100, "the sources were not found");
    sources
}

/// The source of each module of the library.
fn modules() -> BTreeMap<String, String> {
    let mut modules: BTreeMap<String, String> = BTreeMap::new();
    for (file, code) in sources() {
        let module = file.split('/').next().unwrap().trim_end_matches(".rs");
        modules.entry(module.to_owned()).or_default().push_str(&code);
    }
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

/// The modules of this crate that a source names.
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

/// Describes the circles that are not allowed, and the allowed folders that have none.
fn complaints(circles: &[Circle], may_have_circles: &[&str]) -> Vec<String> {
    let folders: BTreeSet<&str> = circles.iter().map(Circle::folder).collect();
    let forbidden = circles.iter().filter(|circle| !may_have_circles.contains(&circle.folder()));
    let forbidden = forbidden.map(|circle| {
        let imports = circle.imports.iter().map(|(from, to)| format!("\n  {from} imports {to}"));
        format!("a circle of imports:{}", imports.collect::<String>())
    });
    let unneeded = may_have_circles.iter().filter(|folder| !folders.contains(**folder));
    let unneeded = unneeded.map(|folder| format!("{folder} has no circle: take it from MAY_HAVE_CIRCLES"));
    forbidden.chain(unneeded).collect()
}

#[test]
fn no_files_import_each_other() {
    let complaints = complaints(&circles(&sources()), MAY_HAVE_CIRCLES);
    assert!(complaints.is_empty(), "{}", complaints.join("\n"));
}

/// The circles of a few files, as lists of their files.
fn circles_of(files: &[(&str, &str)]) -> Vec<Vec<String>> {
    let sources = files.iter().map(|(file, code)| ((*file).to_owned(), (*code).to_owned())).collect();
    circles(&sources).into_iter().map(|circle| circle.files.into_iter().collect()).collect()
}

#[test]
fn a_circle_is_found_however_it_is_written() {
    let both = vec![vec!["room/a.rs".to_owned(), "room/b.rs".to_owned()]];
    let parent = ("room/mod.rs", "mod a;\nmod b;\npub use self::b::B;\npub use b::glob::*;\n");
    let glob = ("room/b/glob.rs", "pub struct G;\nuse super::super::a::A;\n");
    let b = ("room/b.rs", "use super::a;\npub mod glob;\npub struct B;\n");
    for import in [
        "use super::b::B;",
        "use super::b;",
        "use crate::room::b::{self, B};",
        "use crate::{\n    other::X,\n    room::{b::B as Other, c::C},\n};",
        "use super::B;",
        "pub(super) use super::B;",
        "fn f() -> super::b::B {}",
        "fn f() { let x = crate::room::b::new(1)?; }",
        "fn f() { self::super::b::new() }",
    ] {
        let a = ("room/a.rs", import);
        assert_eq!(circles_of(&[parent, a, b]), both, "{import}");
    }
    let three = vec![["room/a.rs", "room/b/glob.rs"].map(str::to_owned).to_vec()];
    assert_eq!(
        circles_of(&[parent, ("room/a.rs", "use super::G;"), ("room/b.rs", "pub mod glob;"), glob]),
        three
    );
}

#[test]
fn imports_without_a_circle_are_accepted() {
    let parent = ("room/mod.rs", "mod a;\nmod b;\nuse a::A;\npub struct Shared;\nfn f() { b::run() }\n");
    for import in [
        "use super::Shared;",
        "use std::b::B;",
        "use super::c::{B, b};",
        "fn f() { other::b::run() }",
        "fn b() -> Self::b {}",
    ] {
        let a = ("room/a.rs", import);
        assert_eq!(
            circles_of(&[parent, a, ("room/b.rs", "use super::a::A;\nuse super::Shared;")]),
            [[""; 0]; 0],
            "{import}"
        );
    }
}

#[test]
fn a_circle_planted_in_the_sources_is_refused() {
    let mut sources = sources();
    let clean = circles(&sources);
    assert!(sources["bench/scenarios.rs"].contains("use super::report::"), "this test needs another import");
    sources.get_mut("bench/report.rs").unwrap().push_str("use super::scenarios::Runner;\n");
    let planted = circles(&sources);
    let said = complaints(&planted, MAY_HAVE_CIRCLES).join("\n");
    for import in ["bench/report.rs imports bench/scenarios.rs", "bench/scenarios.rs imports bench/report.rs"]
    {
        assert!(said.contains(import), "{said}");
    }
    let needless = [MAY_HAVE_CIRCLES, &["hub"]].concat();
    assert_eq!(complaints(&clean, &needless), ["hub has no circle: take it from MAY_HAVE_CIRCLES"]);
}

#[test]
fn modules_of_values_do_not_use_the_network() {
    let modules = modules();
    for (module, crates) in MUST_NOT_USE {
        for network in *crates {
            assert!(!modules[*module].contains(&format!("{network}::")), "{module} uses {network}");
        }
    }
}

#[test]
fn every_file_begins_with_its_purpose() {
    collect(Path::new("src"), &mut |path| {
        let text = fs::read_to_string(path).unwrap();
        let of_tests =
            path.ends_with("tests.rs") || path.components().any(|part| part.as_os_str() == "tests");
        // Other files, such as pages, are not Rust.
        let of_tests = of_tests || path.extension().is_none_or(|extension| extension != "rs");
        assert!(
            of_tests || text.starts_with("//! "),
            "{} does not begin with a `//!` comment",
            path.display()
        );
    });
}

/// The text format shows only the message, so a cause that is a field must be in the message too.
#[test]
fn a_log_message_contains_its_cause() {
    for (file, code) in sources() {
        for call in code.split("tracing::").skip(1).filter(|call| call.contains("!(")) {
            let call = call.split(");").next().unwrap();
            let field = ["%error", "?error", "error = "].iter().any(|field| call.contains(field));
            assert!(!field || call.contains("{error}"), "{file} logs an error as a field only: {call}");
        }
    }
}

#[test]
fn every_dependency_has_its_reason() {
    let manifest = fs::read_to_string("Cargo.toml").unwrap();
    let dependencies = manifest.split("[dependencies]").nth(1).unwrap().split("[profile").next().unwrap();
    let mut explained = false;
    for line in dependencies.lines() {
        let dependency = line.contains(" = ");
        // One sentence may explain a group of dependencies that follows it directly.
        assert!(!dependency || explained, "no reason for {line}");
        explained = line.starts_with('#') || (dependency && explained);
    }
}
