//! Reloads the settings: all changes or none, one reload at a time, with a report of the result.

use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::SystemTime;

use tokio::sync::{mpsc, oneshot};

use super::drain::drain_time;
use crate::admin::api::{Code, Failure, ReloadReport, Reloaded, Timestamp};
use crate::config::{
    self, Changes, Environment, Loaded, Overrides, SecretError, SecretSource, Settings, Source,
};
use crate::log::LogHandle;
use crate::server::{self, Event, Server};
use crate::sync::lock;
use crate::systemd::Notifier;

/// A reload, a dry run of one, or a change of the secret with the reload after it, whose caller waits for the result.
pub(super) struct ReloadRequest {
    what: What,
    answer: oneshot::Sender<Result<(Reloaded, Warnings), Failure>>,
}

enum What {
    Reload,
    DryRun,
    Secret(SecretChange),
}

/// Changes the generated file of the secrets.
pub(super) type SecretChange = Box<dyn FnOnce(&SecretSource) -> Result<PathBuf, SecretError> + Send>;

/// A sentence for each setting of the new configuration that is accepted but doubtful.
type Warnings = Vec<String>;

impl ReloadRequest {
    /// Asks the main loop of the daemon for a reload or a dry run, and blocks until it is done.
    ///
    /// # Errors
    /// The settings are invalid, or the daemon is stopping.
    pub(super) fn ask(requests: &mpsc::Sender<ReloadRequest>, dry_run: bool) -> Result<Reloaded, Failure> {
        ReloadRequest::ask_with_warnings(requests, dry_run).map(|(reloaded, _)| reloaded)
    }

    /// Asks the main loop for a change of the secret, and blocks until the secret is in force. One change or reload is done at
    /// a time, so that none takes half of another.
    ///
    /// # Errors
    /// The secret cannot be changed, the settings are invalid, or the daemon is stopping.
    pub(super) fn change_secret(
        requests: &mpsc::Sender<ReloadRequest>,
        change: SecretChange,
    ) -> Result<Reloaded, Failure> {
        ReloadRequest::send(requests, What::Secret(change)).map(|(reloaded, _)| reloaded)
    }

    /// The same, with the warnings about the settings.
    pub(super) fn ask_with_warnings(
        requests: &mpsc::Sender<ReloadRequest>,
        dry_run: bool,
    ) -> Result<(Reloaded, Warnings), Failure> {
        ReloadRequest::send(requests, if dry_run { What::DryRun } else { What::Reload })
    }

    fn send(requests: &mpsc::Sender<ReloadRequest>, what: What) -> Result<(Reloaded, Warnings), Failure> {
        let (answer, done) = oneshot::channel();
        let ending = |_| Failure::new(Code::NotReady, "the daemon is stopping");
        requests.blocking_send(ReloadRequest { what, answer }).map_err(|_| ending(()))?;
        done.blocking_recv().map_err(|_| ending(()))?
    }

    /// Reloads and sends the result to the caller, if it still waits.
    pub(super) fn serve(self, reloader: &mut Reloader) {
        let reloaded = match self.what {
            What::DryRun => return drop(self.answer.send(reloader.preview())),
            What::Reload => reloader.reload(),
            What::Secret(change) => reloader.change_secret(change),
        };
        let result = reloaded.map(|reloaded| (reloaded, reloader.loaded.warnings.clone()));
        let _ = self.answer.send(result);
    }
}

/// The report of the last reload, shared with the admin socket.
pub(super) type LastReload = Arc<Mutex<Option<ReloadReport>>>;

/// Where `max_connections` is set, shared with the admin socket.
pub(super) type MaxConnectionsSource = Arc<Mutex<Source>>;

/// Reloads the settings of a running daemon.
pub(super) struct Reloader {
    overrides: Overrides,
    environment: Environment,
    loaded: Loaded,
    server: Arc<Server>,
    log: LogHandle,
    notifier: Arc<Notifier>,
    report: LastReload,
    max_connections_source: MaxConnectionsSource,
}

impl Reloader {
    pub(super) fn new(
        overrides: Overrides,
        environment: Environment,
        loaded: Loaded,
        server: Arc<Server>,
        log: LogHandle,
        notifier: Arc<Notifier>,
    ) -> Reloader {
        let max_connections_source = Arc::new(Mutex::new(loaded.max_connections_source().clone()));
        let report = LastReload::default();
        Reloader { overrides, environment, loaded, server, log, notifier, report, max_connections_source }
    }

    pub(super) fn report(&self) -> LastReload {
        self.report.clone()
    }

    pub(super) fn max_connections_source(&self) -> MaxConnectionsSource {
        self.max_connections_source.clone()
    }

    /// Returns the path of the configuration file, if there is one.
    pub(super) fn config_file(&self) -> Option<std::path::PathBuf> {
        self.loaded.file.clone()
    }

    pub(super) fn environment(&self) -> &Environment {
        &self.environment
    }

    /// Returns the source of the secret.
    pub(super) fn secret_source(&self) -> &SecretSource {
        self.loaded.settings.auth.secrets.source()
    }

    /// Loads the settings again and applies them. Changes nothing if they are invalid.
    pub(super) fn reload(&mut self) -> Result<Reloaded, Failure> {
        self.notifier.reloading();
        let result = self.load().map(|loaded| self.apply(loaded));
        self.notifier.ready();
        let counters = &self.server.counters;
        let counted = if result.is_ok() { &counters.reloads } else { &counters.reloads_refused };
        counted.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let report = match &result {
            Ok(reloaded) => ReloadReport {
                at: reloaded.at,
                ok: true,
                applied: reloaded.applied.clone(),
                needs_restart: reloaded.needs_restart.clone(),
                error: None,
            },
            Err(sentence) => {
                tracing::error!("the reload changed nothing: {sentence}");
                ReloadReport {
                    at: Timestamp::now(),
                    ok: false,
                    applied: Vec::new(),
                    needs_restart: Vec::new(),
                    error: Some(sentence.clone()),
                }
            }
        };
        self.server.events.tell(|| {
            Event::Reloaded(Arc::new(server::Reloaded {
                at: report.at.0,
                applied: report.applied.clone(),
                needs_restart: report.needs_restart.clone(),
                error: report.error.clone(),
            }))
        });
        *lock(&self.report) = Some(report);
        result.map_err(|sentence| {
            Failure::new(Code::Refused, sentence)
                .hint("nothing changed: correct the setting and reload again")
        })
    }

    /// Changes the generated file of the secrets, then reloads. Puts the old file back if that fails, because otherwise a later
    /// reload would change the secret.
    fn change_secret(&mut self, change: SecretChange) -> Result<Reloaded, Failure> {
        let source = self.secret_source().clone();
        let before = source.generated_text();
        change(&source).map_err(|error| match source.generated_file() {
            Some(_) => Failure::new(Code::Refused, error.to_string()),
            None => Failure::new(Code::Conflict, error.to_string())
                .hint("change it at its source, then run: philotectl reload"),
        })?;
        self.reload().map_err(|failure| {
            if before.is_some_and(|before| source.set(&before).is_ok()) {
                return failure;
            }
            failure.hint("the file of the secrets has changed: correct the setting and reload")
        })
    }

    /// Returns what a reload would change, without changing anything.
    fn preview(&self) -> Result<(Reloaded, Warnings), Failure> {
        let loaded = self.load().map_err(|sentence| {
            Failure::new(Code::Refused, sentence)
                .hint("a reload would fail and change nothing: correct the setting first")
        })?;
        let old = self.server.live().settings.clone();
        let changes = config::changes(&old, &loaded.settings);
        let closing = self.server.would_close(&config::keep_fixed(&old, &loaded.settings));
        Ok((reloaded(&changes, closing, true), loaded.warnings))
    }

    fn load(&self) -> Result<Loaded, String> {
        let loaded = config::load(&self.overrides, &self.environment).map_err(|error| error.to_string())?;
        match loaded.settings.auth.secrets.source() {
            // A new secret would close every connection.
            SecretSource::Missing(path) => {
                Err(format!("the secret is missing: {} no longer exists", path.display()))
            }
            _ => Ok(loaded),
        }
    }

    fn apply(&mut self, loaded: Loaded) -> Reloaded {
        let old: Settings = self.server.live().settings.clone();
        let changes = config::changes(&old, &loaded.settings);
        let Changes { applied, needs_restart } = &changes;
        let settings = config::keep_fixed(&old, &loaded.settings);
        let is_new = |key| applied.iter().any(|change| change.key == key);
        // A level that was set with philotectl stays until the setting changes.
        if is_new("log.level") {
            self.log.set_level(super::log_level(settings.log.level));
        }
        if is_new("auth.secret") {
            let secrets = settings.auth.secrets.iter().count();
            self.server.events.tell(|| Event::SecretChanged(SystemTime::now(), secrets));
        }
        let spread = drain_time(&self.server);
        let closing = self.server.reload(settings, spread);
        loaded.warnings.iter().for_each(|warning| tracing::warn!("{warning}"));
        lock(&self.max_connections_source).clone_from(loaded.max_connections_source());
        self.loaded = loaded;
        tracing::info!("reloaded: {} applied, {} need a restart", applied.len(), needs_restart.len());
        for change in applied {
            tracing::info!("applied {change}");
        }
        for change in needs_restart {
            tracing::warn!("needs a restart: {change}");
        }
        if closing > 0 {
            tracing::info!("closing {closing} connections whose key was removed");
        }
        reloaded(&changes, closing, false)
    }
}

fn reloaded(changes: &Changes, closing: usize, dry_run: bool) -> Reloaded {
    let keys = |changes: &[config::Change]| changes.iter().map(|change| change.key.to_owned()).collect();
    Reloaded {
        at: Timestamp::now(),
        applied: keys(&changes.applied),
        needs_restart: keys(&changes.needs_restart),
        closing: closing as u64,
        dry_run,
    }
}
