//! What programs print during the tests, kept where tests/run looks for secrets and tokens in all of it.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::Path;
use std::sync::{LazyLock, Mutex};

/// One file a test program, where tests/run asks for it.
static OUTPUT: LazyLock<Option<Mutex<File>>> = LazyLock::new(|| {
    let directory = std::env::var_os("PHILOTE_TEST_OUTPUT")?;
    let file = Path::new(&directory).join(format!("{}.output", std::process::id()));
    Some(Mutex::new(OpenOptions::new().create(true).append(true).open(file).unwrap()))
});

/// Keeps what a program printed, logged or answered. Not for what is asked for a secret or a token.
pub fn keep(text: &str) {
    if let Some(output) = &*OUTPUT {
        writeln!(output.lock().unwrap(), "{text}").unwrap();
    }
}

/// Whether this command line of philotectl is asked for a secret or a token, and may print it.
pub fn may_print_secrets<'a>(mut line: impl Iterator<Item = &'a str>) -> bool {
    line.any(|word| {
        ["token", "secret"].contains(&word) || word.ends_with("/v1/token") || word.ends_with("/v1/secret")
    })
}
