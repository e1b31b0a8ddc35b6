//! `philotectl conformance`: its list, its table, its document and its exit statuses. tests/peers tests it with clients.

use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use crate::process::{Ended, philotectl, run};

/// How long a step may take before the test fails.
const PATIENCE: Duration = Duration::from_secs(30);

/// Runs it with a shell script as the client. No daemon is there.
fn conformance(options: &str, script: &str) -> Ended {
    let mut command = philotectl(Path::new("/no/such.sock"), &format!("conformance {options} --"));
    command.args(["/bin/sh", "-c", script]);
    run(command, b"")
}

#[test]
fn the_list_has_each_case_with_its_fault_and_its_sentence() {
    let list = run(philotectl(Path::new("/no/such.sock"), "conformance --list"), b"");
    assert_eq!((list.code, list.err.as_str()), (0, ""));
    let json = run(philotectl(Path::new("/no/such.sock"), "conformance --list --json"), b"").json();
    let cases = json.as_array().unwrap();
    assert_eq!(list.out.lines().count(), cases.len());
    let row = |case: &Value| ["name", "fault", "sentence"].map(|key| case[key].as_str().unwrap()).join("\t");
    assert!(list.out.lines().zip(cases).all(|(line, case)| line == row(case)), "{}", list.out);
}

#[test]
fn a_client_that_fails_is_shown_with_what_was_found() {
    let ended = conformance("--case gap --case cut", "echo 'no config' >&2; exit 9");
    assert_eq!((ended.code, ended.err.as_str()), (1, ""));
    let found = "  found: it ended too early, with exit status: 9; it said: no config\n";
    assert_eq!(ended.out.matches(found).count(), 2, "{}", ended.out);
    assert!(ended.out.starts_with("cut\tFAILED\t"), "the order is that of the list: {}", ended.out);
    assert!(ended.out.ends_with("\n0 of 2 cases passed\n"), "{}", ended.out);

    let json = conformance("--json --case gap", "echo '\u{1b}[31mred'").json();
    assert_eq!((&json["passed"], &json["failed"]), (&0.into(), &1.into()));
    let found = json["cases"][0]["found"].as_str().unwrap();
    assert!(found.contains("a line that is no event") && found.ends_with("\u{1b}[31mred"), "{found}");
    let text = conformance("--case gap", "echo '\u{1b}[31mred'").out;
    assert!(text.ends_with("\\u{1b}[31mred\n\n0 of 1 case passed\n"), "{text}");

    let silent = "echo '{\"event\":\"hello\",\"version\":1}'; sleep 60";
    let ended = conformance("--timeout 200ms --case gap", silent);
    assert!(ended.out.contains("\n  found: within 0.2 s it did not connect\n"), "{}", ended.out);
    assert!(
        ended.out.contains("\n  philote-v1(7): Tell the application whether recovered is true"),
        "{}",
        ended.out
    );
}

/// Whether a process is there and not a zombie.
fn runs(pid: &str) -> bool {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    status.lines().any(|line| line.starts_with("State:") && !line.contains('Z'))
}

/// They are in process groups of their own, so that the terminal does not interrupt them.
#[test]
fn the_clients_end_with_a_test_that_is_interrupted() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("pid");
    let hello = "echo '{\"event\":\"hello\",\"version\":1}'";
    let script = format!("sleep 600 & echo $! >{0}.new; mv {0}.new {0}; {hello}; wait", file.display());
    let mut command = philotectl(Path::new("/no/such.sock"), "conformance --case cut --");
    command.args(["/bin/sh", "-c", &script]).stdout(Stdio::null()).stderr(Stdio::null());
    let mut philotectl = command.spawn().unwrap();
    let deadline = Instant::now() + PATIENCE;
    let pid = loop {
        assert!(Instant::now() < deadline, "the client has not started");
        match std::fs::read_to_string(&file) {
            Ok(pid) => break pid.trim().to_owned(),
            Err(_) => std::thread::yield_now(),
        }
    };
    kill_process(Pid::from_child(&philotectl), Signal::INT).unwrap();
    assert_eq!(philotectl.wait().unwrap().code(), Some(1));
    while runs(&pid) {
        assert!(Instant::now() < deadline, "the client still runs");
        std::thread::yield_now();
    }
}

#[test]
fn a_wrong_command_line_is_refused() {
    for (line, says) in [
        ("conformance", "--"),
        ("conformance --case nothing -- true", "nothing"),
        ("conformance --list --case gap", "--list"),
        ("conformance true", "true"),
    ] {
        let ended = run(philotectl(Path::new("/no/such.sock"), line), b"");
        assert_eq!((ended.code, ended.out.as_str()), (2, ""), "{line}");
        assert!(ended.err.contains(says), "{line}: {}", ended.err);
    }
}
