//! Records the output of programs during the tests, so that tests/run can search all of it for secrets and tokens.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::Path;
use std::sync::{LazyLock, Mutex};

/// One file for each test program, in the directory that tests/run names.
static OUTPUT: LazyLock<Option<Mutex<File>>> = LazyLock::new(|| {
    let directory = std::env::var_os("PHILOTE_TEST_OUTPUT")?;
    let file = Path::new(&directory).join(format!("{}.output", std::process::id()));
    Some(Mutex::new(OpenOptions::new().create(true).append(true).open(file).unwrap()))
});

/// Records what a program printed, logged or answered, except requested secrets and tokens.
pub fn keep(text: &str) {
    if let Some(output) = &*OUTPUT {
        writeln!(output.lock().unwrap(), "{text}").unwrap();
    }
}

/// Whether this command line of philotectl requests a secret or a token, so that its output may contain one.
pub fn may_print_secrets<'a>(mut line: impl Iterator<Item = &'a str>) -> bool {
    line.any(|word| {
        ["token", "secret"].contains(&word) || word.ends_with("/v1/token") || word.ends_with("/v1/secret")
    })
}
