//! The output of the log, and its behaviour when the output blocks or fails.

use std::collections::HashMap;
use std::io::{self, Write};
use std::os::unix::net::UnixDatagram;
use std::process::Command;
use std::sync::{Mutex, mpsc};

use tracing::{debug, error, info, trace, warn};

use uuid::Uuid;

use super::*;
use crate::testing;

/// More time than any machine needs to write the records of a test.
const PATIENCE: Duration = Duration::from_secs(60);

/// The output so far.
#[derive(Clone, Default)]
pub(super) struct Output(Arc<Mutex<Vec<u8>>>);

impl Write for Output {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Output {
    fn lines(&self) -> Vec<String> {
        String::from_utf8(self.0.lock().unwrap().clone()).unwrap().lines().map(str::to_owned).collect()
    }
}

/// Returns the lines that `log` writes at this level.
fn written(
    level: LevelFilter,
    sink: impl FnOnce(Box<dyn Write + Send>) -> Sink + Send + 'static,
    log: impl FnOnce(&LogHandle),
) -> Vec<String> {
    let output = Output::default();
    let out = Box::new(output.clone());
    let (dispatch, handle) = start(level, || Ok(sink(out))).unwrap();
    dispatcher::with_default(&dispatch, || log(&handle));
    assert!(handle.flush(PATIENCE));
    output.lines()
}

fn text(out: Box<dyn Write + Send>) -> Sink {
    Sink::Text { out, colour: false }
}

/// A request that was rejected with 401 and "no".
pub(crate) fn rejection(reason: &'static str, address: &str) -> ClosedRecord {
    ClosedRecord {
        at: std::time::SystemTime::UNIX_EPOCH,
        connection: None,
        address: address.parse().unwrap(),
        subject: None,
        verified: true,
        reason,
        code: 401,
        sentence: "no".into(),
        duration: Duration::ZERO,
        messages_in: 0,
        messages_out: 0,
        bytes_in: 0,
        bytes_out: 0,
        greatest_queue: 0,
        places: Box::default(),
    }
}

/// Returns the records that `log` writes at this level, as JSON.
pub(crate) fn records(level: LevelFilter, log: impl FnOnce()) -> Vec<serde_json::Value> {
    let lines = written(level, |out| Sink::Json { out }, |_| log());
    lines.iter().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[test]
fn a_record_is_one_line_of_text_whatever_a_client_sent() {
    let lines = written(LevelFilter::INFO, text, |_| {
        info!(subject = "ann", "opened for {}", "ann\n2026-01-01T00:00:00Z ERROR forged");
        warn!(target: "hyper::proto", error = "a \"b\" c", count = 3, "elsewhere");
    });
    let texts: Vec<&str> = lines.iter().map(|line| line.split_once(' ').unwrap().1).collect();
    assert_eq!(
        texts,
        [
            r"INFO  opened for ann\n2026-01-01T00:00:00Z ERROR forged",
            r#"WARN  elsewhere error="a \"b\" c" count=3"#,
        ]
    );
    let time = lines[0].split(' ').next().unwrap();
    assert!(humantime::parse_rfc3339(time).is_ok() && time.ends_with('Z'), "{time}");
}

#[test]
fn text_has_colours_only_if_asked() {
    let coloured = |out| Sink::Text { out, colour: true };
    let lines = written(LevelFilter::INFO, coloured, |_| info!("hello"));
    assert!(lines[0].ends_with("\x1b[32mINFO \x1b[0m hello"), "{lines:?}");
}

#[test]
fn json_has_flat_fields_with_their_types() {
    let records = records(LevelFilter::INFO, || {
        error!(
            flag = true,
            number = -3,
            share = 0.5,
            name = "a\"\n",
            none = None::<u64>,
            level = "forged",
            "it \"is\""
        );
    });
    let record = records[0].as_object().unwrap();
    let (time, rest): (Vec<_>, Vec<_>) = record.iter().partition(|(name, _)| *name == "time");
    assert!(humantime::parse_rfc3339(time[0].1.as_str().unwrap()).is_ok());
    let rest: serde_json::Map<_, _> =
        rest.into_iter().map(|(name, value)| (name.clone(), value.clone())).collect();
    let expected = serde_json::json!({
        "level": "error", "message": "it \"is\"",
        "flag": true, "number": -3, "share": 0.5, "name": "a\"\\n", "field_level": "forged",
    });
    assert_eq!(serde_json::Value::Object(rest), expected);
}

#[test]
fn the_level_changes_while_running_and_other_crates_stay_quiet() {
    let lines = written(LevelFilter::INFO, text, |handle| {
        let log = |round: u32| {
            trace!("own trace {round}");
            debug!("own debug {round}");
            info!("own info {round}");
            error!("own error {round}");
            trace!(target: "tungstenite::protocol", "payload {round}");
            info!(target: "hyper", "foreign info {round}");
            warn!(target: "hyper", "foreign warning {round}");
            error!(target: "async_nats::connector", "nats error {round}");
            debug!(target: "async_nats", "nats debug {round}");
        };
        for (round, level) in [(1, None), (2, Some(LevelFilter::TRACE)), (3, Some(LevelFilter::ERROR))] {
            if let Some(level) = level {
                handle.set_level(level);
                assert_eq!(handle.level(), level);
            }
            log(round);
        }
    });
    let texts: Vec<&str> = lines.iter().map(|line| line.split_once(' ').unwrap().1[6..].trim()).collect();
    assert_eq!(
        texts,
        [
            "own info 1",
            "own error 1",
            "foreign warning 1",
            "own trace 2",
            "own debug 2",
            "own info 2",
            "own error 2",
            "foreign warning 2",
            "nats error 2",
            "own error 3",
        ]
    );
}

/// A writer that blocks until it is released, and reports the first write.
struct Stuck {
    asked: Option<mpsc::Sender<()>>,
    allowed: mpsc::Receiver<()>,
    output: Output,
}

impl Write for Stuck {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if let Some(asked) = self.asked.take() {
            asked.send(()).unwrap();
            self.allowed.recv().unwrap();
        }
        self.output.write(bytes)
    }
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[test]
fn fault_65_a_blocked_log_blocks_no_caller_and_counts_dropped_records() {
    const TOO_MANY: usize = 1234;
    let output = Output::default();
    let (asked, was_asked) = mpsc::channel();
    let (allow, allowed) = mpsc::channel();
    let out = Box::new(Stuck { asked: Some(asked), allowed, output: output.clone() });
    let (dispatch, handle) = start(LevelFilter::INFO, || Ok(text(out))).unwrap();
    dispatcher::with_default(&dispatch, || {
        info!("in the writer's hands");
        was_asked.recv().unwrap();
        for number in 0..QUEUE_RECORDS + TOO_MANY {
            info!("record {number}");
        }
    });
    assert_eq!(handle.dropped(), TOO_MANY as u64);
    assert!(!handle.flush(Duration::from_millis(1)), "nothing has been written yet");

    allow.send(()).unwrap();
    assert!(handle.flush(PATIENCE));
    let lines = output.lines();
    assert_eq!(lines.len(), 1 + QUEUE_RECORDS + 1);
    assert!(lines[QUEUE_RECORDS].ends_with(&format!("record {}", QUEUE_RECORDS - 1)));
    assert!(lines[QUEUE_RECORDS + 1].ends_with("WARN  the log could not keep up: 1,234 records dropped"));
    assert_eq!(handle.dropped(), TOO_MANY as u64, "the line about them was not dropped itself");
}

/// A writer that fails until it is repaired.
struct Broken {
    fails: Arc<std::sync::atomic::AtomicBool>,
    output: Output,
}

impl Write for Broken {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self.fails.load(Ordering::SeqCst) {
            true => Err(io::ErrorKind::BrokenPipe.into()),
            false => self.output.write(bytes),
        }
    }
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[test]
fn records_lost_by_a_failing_standard_error_are_counted_and_logged_later() {
    let output = Output::default();
    let fails = Arc::new(std::sync::atomic::AtomicBool::new(true));
    let out = Box::new(Broken { fails: fails.clone(), output: output.clone() });
    let (dispatch, handle) = start(LevelFilter::INFO, || Ok(text(out))).unwrap();
    dispatcher::with_default(&dispatch, || {
        info!("one");
        info!("two");
        assert!(handle.flush(PATIENCE));
        assert_eq!(handle.dropped(), 2);
        fails.store(false, Ordering::SeqCst);
        info!("three");
    });
    assert!(handle.flush(PATIENCE));
    let lines = output.lines();
    assert_eq!(lines.len(), 2);
    assert!(lines[0].ends_with("three") && lines[1].ends_with("2 records dropped"), "{lines:?}");
}

#[test]
fn fault_65_auto_is_the_journal_only_if_standard_error_is_connected_to_it() {
    let resolve = |format: Format, stream| format.resolve(stream, Some((9, 1234)));
    assert_eq!(resolve(Format::Auto, Some("9:1234")), Format::Journald);
    for elsewhere in [None, Some(""), Some("9:123"), Some("8:1234"), Some("9:1234 ")] {
        assert_eq!(resolve(Format::Auto, elsewhere), Format::Text, "{elsewhere:?}");
    }
    assert_eq!(Format::Auto.resolve(None, None), Format::Text);
    assert_eq!(resolve(Format::Json, Some("9:1234")), Format::Json);
}

#[test]
fn a_panic_is_logged_with_its_location_and_without_its_text() {
    let output = testing::child("log::tests::child_that_panics").output().unwrap();
    assert!(output.status.success());
    let errors = String::from_utf8(output.stderr).unwrap();
    let line = errors.lines().find(|line| line.contains("internal error")).expect(&errors);
    assert!(line.contains("ERROR internal error in thread worker at src/log/tests.rs:"), "{line}");
    assert!(!errors.contains("what a client sent"), "{errors}");
    assert!(errors.contains("DEBUG a detail"), "{errors}");
}

#[test]
fn child_that_panics() {
    if !testing::is_child() {
        return;
    }
    let handle = init(Format::Text, LevelFilter::INFO).unwrap();
    assert!(matches!(init(Format::Text, LevelFilter::INFO), Err(LogError::AlreadyStarted)));
    let worker = std::thread::Builder::new().name("worker".to_owned());
    worker.spawn(|| panic!("{}", "what a client sent")).unwrap().join().unwrap_err();
    assert_eq!(panics(), 1);
    handle.set_level(LevelFilter::DEBUG);
    debug!("a detail");
    assert!(handle.flush(PATIENCE));
}

// tracing-journald has a fixed path for journald's socket, so these tests run in a process with another root directory.

const ROOT: &str = "PHILOTE_TEST_ROOT";

/// Runs a test in a child process that may change its root directory to an empty one.
fn run_in_own_root(test: &str) {
    let root = tempfile::tempdir().unwrap();
    let child = testing::child(test);
    let mut command = Command::new("unshare");
    command.args(["--user", "--map-root-user"]).arg(child.get_program()).args(child.get_args());
    command.envs(child.get_envs().filter_map(|(name, value)| Some((name, value?)))).env(ROOT, root.path());
    let output = command.output().unwrap();
    let says = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let (out, errors) = (says(&output.stdout), says(&output.stderr));
    assert!(output.status.success() && out.contains("1 passed"), "{out}{errors}");
}

/// The socket that journald would read.
fn fake_journald() -> UnixDatagram {
    std::os::unix::fs::chroot(std::env::var_os(ROOT).unwrap()).unwrap();
    std::fs::create_dir_all("/run/systemd/journal").unwrap();
    UnixDatagram::bind("/run/systemd/journal/socket").unwrap()
}

/// Returns the fields of the next record, as in systemd's "Native Journal Protocol".
fn journal_record(socket: &UnixDatagram) -> HashMap<String, String> {
    let mut datagram = [0; 64 * 1024];
    let mut rest = match socket.recv(&mut datagram).unwrap() {
        // tracing-journald checks whether the socket is read.
        0 => return journal_record(socket),
        length => &datagram[..length],
    };
    let mut fields = HashMap::new();
    while let Some(end) = rest.iter().position(|&byte| byte == b'\n') {
        let (line, after) = (str::from_utf8(&rest[..end]).unwrap(), &rest[end + 1..]);
        let (name, value) = line.split_once('=').unwrap_or_else(|| {
            let length = u64::from_le_bytes(after[..8].try_into().unwrap()) as usize;
            rest = &after[8 + length + 1..];
            (line, str::from_utf8(&after[8..8 + length]).unwrap())
        });
        if line.contains('=') {
            rest = after;
        }
        assert_eq!(fields.insert(name.to_owned(), value.to_owned()), None, "{name} twice");
    }
    fields
}

#[test]
#[ignore = "needs user namespaces: tests/run includes it"]
fn the_journal_has_priorities_and_prefixed_fields() {
    run_in_own_root("log::tests::child_with_a_journal");
}

#[test]
fn child_with_a_journal() {
    if !testing::is_child() {
        return;
    }
    let socket = fake_journald();
    let (dispatch, _handle) = start(LevelFilter::TRACE, || Sink::open(Format::Journald)).unwrap();
    let log = ConnectionLog::default();
    dispatcher::with_default(&dispatch, || {
        let record = ClosedRecord {
            connection: Some(Uuid::nil()),
            subject: Some("ann\nPRIORITY=0".into()),
            code: 4413,
            sentence: "its queue is full".into(),
            duration: Duration::from_millis(1500),
            messages_in: 1,
            messages_out: 2,
            bytes_in: 3,
            bytes_out: 4,
            greatest_queue: 7,
            ..rejection("too slow", "[::1]:5")
        };
        log.closed(&record, std::time::Instant::now());
        error!("an error");
        warn!("a warning");
        debug!("a detail");
        trace!(flag = true, "more detail");
    });
    let record = journal_record(&socket);
    for (name, value) in [
        ("PRIORITY", "6"),
        ("SYSLOG_IDENTIFIER", "philote"),
        ("SYSLOG_FACILITY", "3"),
        ("PHILOTE_EVENT", "closed"),
        ("PHILOTE_CONNECTION", "00000000-0000-0000-0000-000000000000"),
        ("PHILOTE_SUBJECT", "ann\\nPRIORITY=0"),
        ("PHILOTE_ADDRESS", "[::1]:5"),
        ("PHILOTE_REASON", "too slow"),
        ("PHILOTE_CODE", "4413"),
        ("PHILOTE_DURATION", "1.5"),
        ("PHILOTE_BYTES_OUT", "4"),
    ] {
        assert_eq!(record.get(name).map(String::as_str), Some(value), "{name} in {record:?}");
    }
    assert!(
        record["MESSAGE"]
            .starts_with("closed 00000000-0000-0000-0000-000000000000 of \"ann\\nPRIORITY=0\" from [::1]:5: its queue is full (4413")
    );
    assert!(!record.contains_key("PHILOTE_STATUS"), "a field without a value is not sent");
    for (priority, message) in
        [("3", "an error"), ("4", "a warning"), ("7", "a detail"), ("7", "more detail")]
    {
        let record = journal_record(&socket);
        assert_eq!((&*record["PRIORITY"], &*record["MESSAGE"]), (priority, message));
    }
}

#[test]
#[ignore = "needs user namespaces: tests/run includes it"]
fn fault_65_a_stopped_journald_blocks_no_caller_and_dropped_records_are_counted() {
    run_in_own_root("log::tests::child_with_a_stopped_journal");
}

#[test]
fn child_with_a_stopped_journal() {
    if !testing::is_child() {
        return;
    }
    let socket = fake_journald();
    let (dispatch, handle) = start(LevelFilter::INFO, || Sink::open(Format::Journald)).unwrap();
    let enough = 100
        + std::fs::read_to_string("/proc/sys/net/unix/max_dgram_qlen")
            .map_or(1000, |length| length.trim().parse().unwrap());
    dispatcher::with_default(&dispatch, || {
        // This returns only if no caller waits for journald.
        for number in 0..QUEUE_RECORDS + enough {
            info!(number, "record");
        }
    });
    let dropped = handle.dropped();
    assert!(dropped > 0);
    assert!(!handle.flush(Duration::from_millis(1)), "the writer is not stuck");

    let last =
        (0..).map(|_| journal_record(&socket)).find(|record| record.contains_key("PHILOTE_DROPPED")).unwrap();
    assert_eq!((&*last["PHILOTE_DROPPED"], &*last["PRIORITY"]), (&*dropped.to_string(), "4"));
    assert!(handle.flush(PATIENCE));
}
