//! Programs that are no clients: each limit ends them, and is told.

use std::path::Path;

use rustix::event::{PollFd, PollFlags, poll};
use rustix::process::{Pid, PidfdFlags, pidfd_open};
use tempfile::tempdir;

use super::*;

const HELLO: &str = r#"echo '{"event":"hello","version":1}'"#;

/// Much longer than any of these programs needs.
const LONG: Duration = Duration::from_secs(60);

/// Tests a shell script with one case, and returns what was found.
async fn found(script: &str, limit: Duration) -> Outcome {
    let program = ["sh", "-c", script].map(OsString::from);
    let tested = test(&program, &["cut".to_owned()], limit).await;
    assert_eq!((tested.passed, tested.failed, tested.cases.len()), (0, 1, 1));
    tested.cases.into_iter().next().unwrap()
}

#[tokio::test]
async fn a_program_that_is_no_client_is_reported_at_once() {
    let version = r#"echo '{"event":"hello","version":2}'; sleep 60"#;
    let token = r#"echo '{"event":"token"}'; sleep 60"#;
    for (script, expected) in [
        ("echo oops >&2; exit 3", "it ended too early, with exit status: 3; it said: oops"),
        ("echo hello", "it printed a line that is no event: expected value at line 1 column 1: hello"),
        (version, "it speaks version 2 of the protocol, not 1"),
        (token, "its first line is not the event hello"),
        (&format!("{HELLO}; yes '{{\"event\":\"error\"}}'"), "it printed more than 10000 lines or 16 MiB"),
        (&format!("{HELLO}; head -c 5000000 /dev/zero; sleep 60"), "it printed a line of more than 4 MiB"),
        (
            &format!("{HELLO}; echo '{{\"event\":\"rain\"}}'; sleep 60"),
            "it printed a line that is no event: unknown",
        ),
        (&format!("{HELLO}; exec >&-; sleep 60"), "it closed its standard output"),
    ] {
        let outcome = found(script, LONG).await;
        let said = outcome.found.unwrap();
        assert!(said.starts_with(expected), "{script}: {said}");
        assert!(outcome.seconds < 30.0, "{script}: {} s", outcome.seconds);
    }
    let missing = test(&["/no/such/client".into()], &["cut".into()], LONG).await;
    let said = missing.cases[0].found.as_deref().unwrap();
    assert!(said.starts_with("cannot start /no/such/client: "), "{said}");
    assert_eq!(missing.cases[0].sentence, None);
}

/// A program's standard error may be longer than a pipe, and only its end is kept.
#[tokio::test]
async fn a_program_that_complains_at_length_is_not_stopped_by_it() {
    let script = format!("{HELLO}; yes complaint | head -c 1000000 >&2; echo the end >&2; exit 1");
    let said = found(&script, LONG).await.found.unwrap();
    assert!(said.ends_with("the end") && said.len() < 2500, "{said}");
}

#[tokio::test(start_paused = true)]
async fn a_program_that_says_nothing_is_not_waited_for() {
    let outcome = found("sleep 60", LONG).await;
    assert_eq!(outcome.found.as_deref(), Some("it printed no line within 20 s of its start"));
}

#[tokio::test]
async fn a_program_that_reads_nothing_is_not_waited_for() {
    let program = ["sh", "-c", &format!("{HELLO}; sleep 60")].map(OsString::from);
    let (client, mut failure) = Client::start(&program).await.unwrap();
    tokio::time::pause();
    // More than a pipe takes.
    let data = "x".repeat(1 << 20);
    client.send(&protocol::Command::Publish { number: 1, channel: "chat", data: &data }).await;
    assert_eq!(failure.reason().await.to_string(), "it did not read a command within 10 s");
}

/// Waits until the process whose number is in this file has ended.
fn ends(file: &Path) {
    let number = std::fs::read_to_string(file).unwrap().trim().parse().unwrap();
    // Without a process of this number it has ended.
    let Ok(process) = pidfd_open(Pid::from_raw(number).unwrap(), PidfdFlags::empty()) else { return };
    let mut waited = [PollFd::new(&process, PollFlags::IN)];
    let ended = poll(&mut waited, Some(&LONG.try_into().unwrap())).unwrap();
    assert_eq!(ended, 1, "what the client has started still runs");
}

#[tokio::test]
async fn a_case_that_takes_too_long_ends_with_the_processes_of_its_client() {
    let directory = tempdir().unwrap();
    let file = directory.path().join("pid");
    let script = format!("sleep 600 & echo $! >{}; {HELLO}; wait", file.display());
    let outcome = found(&script, Duration::from_millis(300)).await;
    assert_eq!(outcome.found.as_deref(), Some("within 0.3 s it did not connect"));
    assert!(outcome.sentence.unwrap().starts_with("Reconnect when a connection ends"));
    ends(&file);
}

#[tokio::test]
async fn what_a_program_has_started_that_ends_by_itself_ends_too() {
    let directory = tempdir().unwrap();
    let file = directory.path().join("pid");
    let quiet = "</dev/null >/dev/null 2>&1";
    let outcome = found(&format!("sleep 600 {quiet} & echo $! >{}; exit 3", file.display()), LONG).await;
    assert!(outcome.found.unwrap().contains("exit status: 3"));
    ends(&file);
}
