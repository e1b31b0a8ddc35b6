//! Reloading: all or nothing, one at a time, and a report of what it came to.

use std::sync::{Arc, Mutex};
use std::time::SystemTime;

use tokio::sync::{mpsc, oneshot};

use crate::admin::api::{Code, Failure, ReloadReport, Reloaded, Timestamp};
use crate::config::{self, Changes, Environment, Loaded, Overrides, SecretSource, Settings};
use crate::log::LogHandle;
use crate::server::{self, Event, Server};
use crate::sync::lock;
use crate::systemd::Notifier;

/// A reload that somebody waits for.
pub(super) struct ReloadRequest {
    dry_run: bool,
    answer: oneshot::Sender<Result<Reloaded, Failure>>,
}

impl ReloadRequest {
    /// Asks the daemon's main loop for a reload, or for what it would come to, and waits until it is done. Blocks.
    ///
    /// # Errors
    /// What refused the reload, or the daemon's end.
    pub(super) fn ask(requests: &mpsc::Sender<ReloadRequest>, dry_run: bool) -> Result<Reloaded, Failure> {
        let (answer, done) = oneshot::channel();
        let ending = |_| Failure::new(Code::NotReady, "the daemon is stopping");
        requests.blocking_send(ReloadRequest { dry_run, answer }).map_err(|_| ending(()))?;
        done.blocking_recv().map_err(|_| ending(()))?
    }

    /// Does it and tells whoever asked; they may have gone.
    pub(super) fn serve(self, reloader: &mut Reloader) {
        let result = if self.dry_run { reloader.preview() } else { reloader.reload() };
        let _ = self.answer.send(result);
    }
}

/// The last reload's report, shared with the admin socket.
pub(super) type LastReload = Arc<Mutex<Option<ReloadReport>>>;

/// What a reload needs.
pub(super) struct Reloader {
    overrides: Overrides,
    environment: Environment,
    loaded: Loaded,
    server: Arc<Server>,
    log: LogHandle,
    notifier: Arc<Notifier>,
    report: LastReload,
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
        Reloader { overrides, environment, loaded, server, log, notifier, report: LastReload::default() }
    }

    pub(super) fn report(&self) -> LastReload {
        self.report.clone()
    }

    /// The configuration file, where there is one.
    pub(super) fn config_file(&self) -> Option<std::path::PathBuf> {
        self.loaded.file.clone()
    }

    pub(super) fn environment(&self) -> &Environment {
        &self.environment
    }

    /// Where the secret came from, as a phrase.
    pub(super) fn secret_source(&self) -> &SecretSource {
        self.loaded.settings.auth.secrets.source()
    }

    /// Reads the settings again and puts them in force, or changes nothing.
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
            Failure::new(Code::Refused, sentence).hint("nothing changed: mend it and reload again")
        })
    }

    /// Says what a reload would come to. Changes nothing.
    fn preview(&self) -> Result<Reloaded, Failure> {
        let loaded = self.load().map_err(|sentence| {
            Failure::new(Code::Refused, sentence).hint("a reload would change nothing: mend it first")
        })?;
        let old = self.server.live().settings.clone();
        let changes = config::changes(&old, &loaded.settings);
        let closing = self.server.would_close(&config::keep_fixed(&old, &loaded.settings));
        Ok(reloaded(&changes, closing, true))
    }

    fn load(&self) -> Result<Loaded, String> {
        let loaded = config::load(&self.overrides, &self.environment).map_err(|error| error.to_string())?;
        match loaded.settings.auth.secrets.source() {
            // A new one here would close every connection for want of a file.
            SecretSource::Missing(path) => {
                Err(format!("the secret is gone: {} does not exist any more", path.display()))
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
        // What was set by hand stays while the file says nothing new.
        if is_new("log.level") {
            self.log.set_level(super::log_level(settings.log.level));
        }
        if is_new("auth.secret") {
            let secrets = settings.auth.secrets.iter().count();
            self.server.events.tell(|| Event::SecretChanged(SystemTime::now(), secrets));
        }
        let spread = self.server.drain_time();
        let closing = self.server.reload(settings, spread);
        loaded.warnings.iter().for_each(|warning| tracing::warn!("{warning}"));
        self.loaded = loaded;
        tracing::info!("reloaded: {} applied, {} need a restart", applied.len(), needs_restart.len());
        for change in applied {
            tracing::info!("applied {change}");
        }
        for change in needs_restart {
            tracing::warn!("needs a restart: {change}");
        }
        if closing > 0 {
            tracing::info!("closing {closing} connections whose key is gone");
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
