//! The daemon: reads its settings, opens its listeners, serves until a signal stops it, and drains.
//!
//! In reading order: [`main`] and `serve` in this file, `listeners`, `announce`, `drain`, `handover`, `reload`; then `control`, which answers the
//! admin socket with `lists`, `explain`, `actions`, `doctor` and, for all nodes of a cluster, `everywhere`; then what runs once a second
//! or on request: `metrics`, `rates`, `recent`,
//! `certificate_expiry`, `watchdog`; and for `--dev`, `dev` and `hangup`.

mod actions;
mod announce;
mod certificate_expiry;
mod control;
mod descriptors;
mod dev;
mod doctor;
mod drain;
mod error;
mod everywhere;
mod explain;
mod handover;
mod hangup;
mod listeners;
mod lists;
mod metrics;
mod rates;
mod recent;
mod reload;
mod watchdog;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use clap::Parser;
use tokio::net::TcpListener;
use tokio::runtime::Runtime;
use tokio::sync::mpsc;
use tracing::level_filters::LevelFilter;

use self::announce::announce;
use self::certificate_expiry::ExpiryWatch;
use self::control::DaemonControl;
use self::drain::drain;
use self::error::StartError;
use self::everywhere::Everywhere;
use self::handover::Handover;
use self::hangup::StartTerminal;
use self::listeners::Listeners;
use self::metrics::Metrics;
use self::rates::Rates;
use self::recent::{Recent, Troubles};
use self::reload::{ReloadRequest, Reloader};
use self::watchdog::{Watchdog, Workers};
use crate::admin;
use crate::admin::api::Timestamp;
use crate::admin::socket::{Access, Socket};
use crate::completions;
use crate::config::{self, AdminSocket, CommandLine, Environment, LogFormat, LogLevel, Settings};
use crate::escape::escape;
use crate::log::{self, LogHandle};
use crate::server::{BanFile, Server, listener, unix_now};
use crate::signals::{self, Signal};
use crate::systemd::{self, Notifier};

/// The time that the log gets at the end to write its queued records.
const LAST_LOG: Duration = Duration::from_secs(1);

/// How long the start waits for a cluster. Without it the daemon serves its own clients.
const FIRST_CONTACT: Duration = Duration::from_secs(3);

/// The interval at which `systemctl status` gets a new status line.
const STATUS_INTERVAL: Duration = Duration::from_secs(5);

/// The files in the state directory that the daemon replaces.
const STATE_FILES: [&str; 2] = ["secret", REFUSED_FILE];

/// The file of banned subjects, which outlives a restart.
const REFUSED_FILE: &str = "refused.json";

/// Runs the program `philote`. Its exit status is 0 if it stopped on request or the settings are valid, 1 if it cannot run,
/// 2 for an invalid option, and 78 for an invalid setting (`EX_CONFIG` in sysexits.h, after which the unit does not restart
/// it).
pub fn main() -> ExitCode {
    completions::answer_shell::<CommandLine>("philote");
    match run(CommandLine::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let text = error.to_string();
            let lines: Vec<_> = text.lines().map(escape).collect();
            eprintln!("philote: {}", lines.join("\n"));
            ExitCode::from(error.exit_code())
        }
    }
}

fn run(command_line: CommandLine) -> Result<(), StartError> {
    let environment = Environment::from_process();
    let overrides = command_line.overrides;
    let mut loaded = config::load(&overrides, &environment)?;
    if command_line.print_config {
        print!("{}", config::print_config(&loaded));
        return Ok(());
    }
    if command_line.check {
        config::check_for_service(&loaded)?;
        config::check(&loaded).iter().for_each(|line| println!("{}", escape(line)));
        println!("the settings are valid");
        return Ok(());
    }

    let start_terminal = StartTerminal::now();
    let signals = signals::listen()?;
    loaded.make_secret()?;
    let log = log::init(format(&loaded.settings), log_level(loaded.settings.log.level))?;
    let notifier = Arc::new(Notifier::from_environment());
    loaded.warnings.iter().for_each(|warning| tracing::warn!("{warning}"));
    for file in
        environment.state_directory().iter().flat_map(|state| STATE_FILES.map(|name| state.join(name)))
    {
        config::remove_unfinished(&file).iter().for_each(|removed| tracing::warn!("{removed}"));
    }
    let max_descriptors = descriptors::raise();
    descriptors::warn(&loaded.settings, max_descriptors);

    let result = {
        let server = Server::new(loaded.settings.clone(), max_descriptors);
        let reloader =
            Reloader::new(overrides, environment, loaded, server.clone(), log.clone(), notifier.clone());
        serve(server, reloader, (signals, &start_terminal), &log, &notifier)
    };
    if result.is_ok() {
        tracing::info!("stopped");
    }
    log.flush(LAST_LOG);
    result
}

/// Serves until a signal stops the daemon, then drains.
fn serve(
    server: Arc<Server>,
    reloader: Reloader,
    (signals, start_terminal): (mpsc::Receiver<Signal>, &StartTerminal),
    log: &LogHandle,
    notifier: &Arc<Notifier>,
) -> Result<(), StartError> {
    let settings = server.live().settings.clone();
    let mut builder = tokio::runtime::Builder::new_multi_thread();
    let workers = Workers::of(&mut builder);
    let runtime = builder.enable_all().build().map_err(StartError::Runtime)?;
    let _entered = runtime.enter();

    // The bans must be known before the first connection is accepted.
    let state = reloader.environment().state_directory();
    let refused = BanFile::new(state.map(|directory| directory.join(REFUSED_FILE)));
    server.bans.remember_in(refused)?;
    // Before the link is up, so that this node hears of bans as soon as it is.
    let everywhere = Everywhere::new(server.clone(), runtime.handle().clone());
    join_cluster(&server, &runtime)?;
    let passed = systemd::passed(handover::STORED_NAME)?;
    let mut listeners = Listeners::open(&server, passed.listeners, &settings)?;
    runtime.spawn(server.clone().look_after());

    let (requests, reloads) = mpsc::channel::<ReloadRequest>(1);
    let rates = Arc::new(Rates::default());
    let recent = Arc::new(Recent::default());
    let drain_ends = Arc::new(OnceLock::new());
    let started = Timestamp::now();
    let metrics = Arc::new(Metrics::new(log.clone(), reloader.report(), started.0));
    let control = DaemonControl {
        server: server.clone(),
        log: log.clone(),
        reloads: requests,
        last_reload: reloader.report(),
        max_connections_source: reloader.max_connections_source(),
        listeners: listeners.open.clone(),
        config_file: reloader.config_file(),
        drain_ends: drain_ends.clone(),
        started,
        rates: rates.clone(),
        recent: recent.clone(),
        everywhere,
        metrics: metrics.clone(),
    };
    let sockets = bind_admin(&settings, &reloader)?;
    // While this process has the socket, no other one takes or leaves an image beside it.
    let handover = Handover::new(notifier.clone(), sockets.first());
    handover.take_over(&server, passed.stored);
    let admin = admin::server::Server::start(sockets, Arc::new(control)).map_err(StartError::Runtime)?;
    listeners.accept(&server, &runtime);
    if let Some(address) = settings.metrics.listen {
        serve_metrics(address, &admin, metrics, server.clone())?;
    }
    let watchdog = Watchdog::new(server.clone(), runtime.handle().clone(), workers);
    admin.handle().spawn(watchdog.watch(notifier.clone()));
    #[cfg(debug_assertions)]
    watchdog::block_on_purpose(runtime.handle());

    announce(&listeners.open, admin.path(), &reloader, &settings);
    if settings.dev {
        dev::announce(&server, &listeners.open);
    }
    notifier.ready();
    runtime.block_on(async {
        let mut main_loop = MainLoop {
            server: &server,
            reloader,
            reloads,
            signals,
            start_terminal,
            notifier,
            rates,
            recent,
            log,
        };
        main_loop.run().await;
        drain(&server, notifier, &listeners, &drain_ends).await;
        // Until then it has clients, who read channels and publish.
        if let Some(cluster) = &server.cluster {
            cluster.leave().await;
        }
    });
    handover.hand_over(&server);
    server.events.end();
    admin.stop();
    runtime.shutdown_background();
    drop(listeners);
    Ok(())
}

/// The main loop of the daemon, and what it uses.
struct MainLoop<'a> {
    server: &'a Arc<Server>,
    reloader: Reloader,
    reloads: mpsc::Receiver<ReloadRequest>,
    signals: mpsc::Receiver<Signal>,
    start_terminal: &'a StartTerminal,
    notifier: &'a Notifier,
    rates: Arc<Rates>,
    recent: Arc<Recent>,
    log: &'a LogHandle,
}

impl MainLoop<'_> {
    /// Reloads on request and does the work of each second, until a signal stops the daemon.
    async fn run(&mut self) {
        let mut tick = tokio::time::interval(Duration::from_secs(1));
        let mut status_sent: Option<Instant> = None;
        let mut expiry = ExpiryWatch::default();
        loop {
            tokio::select! {
                signal = self.signals.recv() => match signal {
                    Some(Signal::Hangup) if self.server.live().settings.dev && self.start_terminal.is_gone() => {
                        tracing::info!("SIGHUP, and the terminal is gone: stopping");
                        return;
                    }
                    Some(Signal::Hangup) => { let _ = self.reloader.reload(); }
                    Some(stop) => {
                        tracing::info!("{stop}: stopping");
                        return;
                    }
                    None => return,
                },
                Some(request) = self.reloads.recv() => request.serve(&mut self.reloader),
                _ = tick.tick() => {
                    self.rates.sample(self.server);
                    self.rates.report(self.server);
                    self.recent.sample(Instant::now(), || Troubles::of(self.server, self.log));
                    self.server.log.tick(Instant::now());
                    let warning = expiry.look(self.server.live().settings.tls.as_ref(), unix_now());
                    if let Some(warning) = warning {
                        tracing::warn!("{warning}");
                    }
                    if status_sent.is_none_or(|at| at.elapsed() >= STATUS_INTERVAL) {
                        status_sent = Some(Instant::now());
                        self.notifier.status(&self.rates.line(self.server));
                        self.rates.warn_if_nearly_full(self.server);
                    }
                }
            }
        }
    }
}

/// Connects to the other nodes, and waits a while for them: clients that connect before would have to connect again.
fn join_cluster(server: &Server, runtime: &Runtime) -> Result<(), StartError> {
    let Some(cluster) = &server.cluster else { return Ok(()) };
    runtime.spawn(cluster.clone().run());
    runtime.block_on(cluster.first_contact(FIRST_CONTACT)).map_err(StartError::Cluster)
}

/// Binds the admin socket, which comes first, and the observe socket.
fn bind_admin(settings: &Settings, reloader: &Reloader) -> Result<Vec<Socket>, StartError> {
    let variable = |name: &str| reloader.environment().get(name).map(std::ffi::OsStr::to_os_string);
    let path = match &settings.admin.socket {
        AdminSocket::At(path) => Some(path.clone()),
        AdminSocket::Default => Some(admin::path::for_daemon(&admin::path::candidates(variable))),
        AdminSocket::None => None,
    };
    let sockets = [
        (path, settings.admin.mode, Access::Administer),
        (settings.admin.observe_socket.clone(), settings.admin.observe_mode, Access::Observe),
    ];
    let bind = |(path, mode, access): (Option<PathBuf>, u32, Access)| {
        path.map(|path| Socket::bind(&path, mode, access))
    };
    Ok(sockets.into_iter().filter_map(bind).collect::<Result<_, _>>()?)
}

/// Serves the metrics at this address.
fn serve_metrics(
    address: SocketAddr,
    admin: &admin::server::Server,
    metrics: Arc<Metrics>,
    server: Arc<Server>,
) -> Result<(), StartError> {
    let listener = listener::bind(address).map_err(|source| StartError::Metrics { address, source })?;
    // The admin thread responds even if the threads of the connections are busy.
    let _entered = admin.handle().enter();
    let listener = TcpListener::from_std(listener).map_err(StartError::Runtime)?;
    let address = listener.local_addr().map_err(StartError::Runtime)?;
    admin.handle().spawn(crate::metrics::serve(listener, Arc::new(move || metrics.text(&server))));
    tracing::info!("the metrics are at http://{address}/metrics");
    Ok(())
}

fn format(settings: &Settings) -> log::Format {
    match settings.log.format {
        LogFormat::Auto => log::Format::Auto,
        LogFormat::Json => log::Format::Json,
    }
}

fn log_level(level: LogLevel) -> LevelFilter {
    match level {
        LogLevel::Trace => LevelFilter::TRACE,
        LogLevel::Debug => LevelFilter::DEBUG,
        LogLevel::Info => LevelFilter::INFO,
        LogLevel::Warning => LevelFilter::WARN,
        LogLevel::Error => LevelFilter::ERROR,
    }
}
