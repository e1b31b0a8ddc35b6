//! Checks of the state, the settings and the secret.

use super::{Examined, LATELY};
use crate::admin::api::{Code, Finding, Findings};
use crate::config::{SecretSource, secret_warnings};
use crate::daemon::reload::ReloadRequest;
use crate::installation;

pub(super) fn state(examined: &Examined<'_>, mut findings: Findings) -> Vec<Finding> {
    if !examined.is_serving {
        findings.warn("the daemon is stopping and accepts no clients", installation::start_it("philote"));
    }
    let panics = examined.lately.panics;
    if panics > 0 {
        findings.problem(
            format!("connections ended by a fault of the daemon {LATELY}: {panics}"),
            format!("report it with the lines of its log: {}", installation::its_log("philote")),
        );
    }
    findings.or_ok("serving")
}

/// Reads the settings as a reload would, because a mistake in the file is otherwise found by the next restart.
pub(super) fn settings(examined: &Examined<'_>, mut findings: Findings) -> Vec<Finding> {
    let file = examined.config_file.map(|file| file.display().to_string());
    let ok =
        file.as_ref().map_or_else(|| "no file; all defaults".to_owned(), |file| format!("{file} is in use"));
    // The main loop, which reads the settings, has ended.
    if !examined.is_serving {
        return findings.or_ok(ok);
    }
    match ReloadRequest::ask_with_warnings(examined.reloads, true) {
        Err(failure) if failure.code == Code::NotReady => {}
        Err(failure) => findings.problem(
            format!("the settings on disk are wrong, so the next start fails: {}", failure.message),
            "correct the setting, then run: philotectl reload",
        ),
        Ok((changes, warnings)) => {
            if !changes.applied.is_empty() {
                findings.warn(
                    format!("changed on disk, but not in use: {}", changes.applied.join(", ")),
                    "run: philotectl reload",
                );
            }
            if !changes.needs_restart.is_empty() {
                findings.warn(
                    format!("changed, but only a restart applies it: {}", changes.needs_restart.join(", ")),
                    format!("restart it: {}", installation::restart_it("philote")),
                );
            }
            // These are findings about the secret.
            let elsewhere = secret_warnings(&examined.live.settings.auth.secrets);
            for warning in warnings.into_iter().filter(|warning| !elsewhere.contains(warning)) {
                findings.warn(warning, "see philote.toml(5) for this setting, then run: philotectl reload");
            }
        }
    }
    findings.or_ok(ok)
}

pub(super) fn secret(examined: &Examined<'_>, mut findings: Findings) -> Vec<Finding> {
    let auth = &examined.live.settings.auth;
    let source = auth.secrets.source();
    if *source == SecretSource::Dev {
        findings.warn(
            "the secret is the public one of philote --dev, so anyone can sign tokens",
            "use --dev for development only; without it, philote generates a secret",
        );
        return findings.or_ok("");
    }
    let own = source.generated_file().is_some();
    for warning in secret_warnings(&auth.secrets) {
        let remedy = if let Some((_, chmod)) = warning.split_once(": chmod ") {
            format!("run: chmod {chmod}")
        } else if own {
            "make a new one: sudo philotectl secret rotate, and give it to your backend".to_owned()
        } else {
            "make one with: openssl rand -base64 32; set it here and in your backend".to_owned()
        };
        let empty = auth.secrets.iter().any(|secret| secret.as_bytes().is_empty());
        if empty || warning.contains("other users") {
            findings.problem(warning, remedy);
        } else {
            findings.warn(warning, remedy);
        }
    }
    let count = auth.secrets.iter().count();
    let more = if count > 1 { format!("; {count} secrets verify tokens") } else { String::new() };
    findings.or_ok(format!("{source}{more}"))
}
