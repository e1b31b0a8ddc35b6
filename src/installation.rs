//! How the programs were installed, so that advice names commands that work on this machine.

use std::path::{Path, PathBuf};

/// Where the units of systemd are, those of packages and those of administrators.
const UNITS: [&str; 4] = [
    "/etc/systemd/system",
    "/usr/local/lib/systemd/system",
    "/usr/lib/systemd/system",
    "/lib/systemd/system",
];

/// Returns how to start the daemon of this unit, such as `philote`.
#[must_use]
pub fn start_it(unit: &str) -> String {
    if has_unit(unit) {
        return format!("start it: sudo systemctl start {unit}");
    }
    let start = if build_directory().is_some() { "cargo run --release" } else { "philote" };
    format!("start it: {start}; if it runs with another socket: --socket PATH")
}

/// Returns how to restart the daemon.
#[must_use]
pub fn restart_it(unit: &str) -> String {
    if has_unit(unit) {
        format!("sudo systemctl restart {unit}")
    } else {
        "stop it and start it again".to_owned()
    }
}

/// Returns where the daemon's log is.
#[must_use]
pub fn its_log(unit: &str) -> String {
    if has_unit(unit) {
        format!("journalctl -u {unit}")
    } else {
        "what it prints where it was started".to_owned()
    }
}

/// Returns the command that runs one of the programs: its name, or in a build directory its path, or cargo if it is not
/// built yet.
#[must_use]
pub fn command(program: &str) -> String {
    let Some(directory) = build_directory() else { return program.to_owned() };
    let path = directory.join(program);
    if path.exists() {
        let here = std::env::current_dir().unwrap_or_default();
        return path.strip_prefix(here).unwrap_or(&path).display().to_string();
    }
    let release = if directory.ends_with("release") { " --release" } else { "" };
    format!("cargo run{release} --bin {program} --")
}

/// Whether systemd has this unit. Only systemd starts instances.
fn has_unit(unit: &str) -> bool {
    let file = format!("{unit}.service");
    unit.contains('@') || UNITS.iter().any(|directory| Path::new(directory).join(&file).exists())
}

/// Returns the directory of this program if cargo has built it there.
fn build_directory() -> Option<PathBuf> {
    let program = std::env::current_exe().ok()?;
    // Cargo puts this file beside what it builds.
    let built = program.ancestors().skip(1).any(|parent| parent.join(".cargo-lock").exists());
    built.then(|| program.parent().map(Path::to_owned)).flatten()
}
