//! A person opens the server's address in a browser.

use serde_json::json;

use crate::everywhere::{Everywhere, KINDS, first_answer, read_all};
use crate::support::*;

/// What Chromium and Firefox accept when a person opens an address.
const CHROMIUM: &str = "text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,image/webp,image/apng,*/*;q=0.8,\
                        application/signed-exchange;v=b3;q=0.7";
const FIREFOX: &str = "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8";

fn get(path: &str, accept: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nHost: evil\"><script>.example\r\n{accept}Connection: close\r\n\r\n")
}

#[test]
fn a_visit_by_a_browser_gets_a_page_on_every_kind_of_listener() {
    let everywhere = Everywhere::start("");
    for kind in KINDS {
        for accept in [CHROMIUM, FIREFOX, "TEXT/HTML", "application/json;q=0.5, text/html"] {
            for path in ["/", "/room", "/?auth=eyJ", "//"] {
                let mut stream = everywhere.connect(kind);
                std::io::Write::write_all(
                    &mut stream,
                    get(path, &format!("Accept: {accept}\r\n")).as_bytes(),
                )
                .unwrap();
                let bytes = read_all(&mut *stream);
                let (code, _) = first_answer(&bytes);
                let answer = String::from_utf8(bytes).unwrap();
                assert_eq!(code, 426, "{kind}: {answer}");
                assert_eq!(
                    header(&answer, "Content-Type"),
                    Some("text/html; charset=utf-8"),
                    "{kind}: {answer}"
                );
                assert_eq!(header(&answer, "Upgrade"), Some("websocket"), "{kind}: {answer}");
                let (head, page) = answer.split_once("\r\n\r\n").unwrap();
                assert!(page.starts_with("<!doctype html>") && page.contains("philotectl token"), "{page}");
                // Nothing runs, nothing is loaded, and nothing of the request is shown.
                for absent in ["<script", "evil", "eyJ", "src=", "@import", "http://", "https://"] {
                    assert!(!page.contains(absent), "{absent} in {page}");
                }
                assert!(head.contains("default-src 'none'") && head.contains("nosniff"), "{head}");
                // A stranger learns no version from it.
                assert!(!answer.contains(env!("CARGO_PKG_VERSION")), "{answer}");
            }
        }
    }
}

#[test]
fn programs_that_do_not_prefer_html_get_json() {
    let daemon = Daemon::start("");
    for accept in [
        "",
        "Accept: */*\r\n",
        "Accept: application/json\r\n",
        "Accept: application/json, text/plain, */*\r\n",
        "Accept: application/json, text/html\r\n",
        "Accept: text/html;q=0\r\n",
        "Accept: text/html;q=0.5, application/json\r\n",
        "Accept: text/htmlx, text\r\n",
        "Accept: text/html;q=none\r\n",
        "Accept: \u{e9}\r\n",
        "Accept: image/avif,image/webp\r\n",
    ] {
        let answer = daemon.exchange(get("/", accept));
        assert_eq!(
            (status(&answer), body_of(&answer)["error"].clone()),
            (426, json!("upgrade_required")),
            "{accept}"
        );
    }
    // Several lines are one list.
    let lines = "Accept: application/xml\r\nAccept: text/html\r\n";
    assert!(daemon.exchange(get("/", lines)).contains("<!doctype html>"));
    // What is not a visit is answered as before: the API, a failed upgrade, another method.
    let html = format!("Accept: {CHROMIUM}\r\n");
    let upgrade = upgrade("", &html).replace("Version: 13", "Version: 8");
    for (code, request) in [
        (401, get("/api/info", &html)),
        (200, get("/health", &html)),
        (426, upgrade),
        (405, get("/", &html).replace("GET", "POST")),
    ] {
        let answer = daemon.exchange(&request);
        assert_eq!(status(&answer), code, "{answer}");
        assert_eq!(header(&answer, "Content-Type"), Some("application/json"), "{answer}");
    }
}

/// philote-security(7) says where the version is.
#[test]
fn a_stranger_learns_the_version_only_from_the_description_of_the_api() {
    let everywhere = Everywhere::start("");
    let version = env!("CARGO_PKG_VERSION");
    let mut tellers = Vec::new();
    for path in [
        "/",
        "/health",
        "/health/ready",
        "/api",
        "/api/info",
        "/api/openapi.json",
        "/api/none",
        "/<",
        "/metrics",
    ] {
        for kind in KINDS {
            for accept in ["", "Accept: text/html\r\n"] {
                let mut stream = everywhere.connect(kind);
                std::io::Write::write_all(&mut stream, get(path, accept).as_bytes()).unwrap();
                let answer = String::from_utf8(read_all(&mut *stream)).unwrap();
                assert!(answer.starts_with("HTTP/1.1 "), "{kind}, {path}: {answer}");
                if answer.contains(version) {
                    tellers.push(path);
                }
            }
        }
    }
    tellers.dedup();
    assert_eq!(tellers, ["/api/openapi.json"]);
}
