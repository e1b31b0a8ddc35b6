//! The daemon, from its command line to the end of its drain: a straight line to read.

mod control;
mod descriptors;
mod dev;
mod error;
mod expiry;
mod listing;
mod metrics;
mod rates;
mod reload;
mod steering;
mod terminal;
mod watchdog;

use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant, SystemTime};

use clap::Parser;
use tokio::net::{TcpListener, UnixListener};
use tokio::sync::mpsc;
use tracing::level_filters::LevelFilter;

use self::control::DaemonControl;
use self::error::StartError;
use self::expiry::ExpiryWatch;
use self::metrics::Metrics;
use self::rates::Rates;
use self::reload::{ReloadRequest, Reloader};
use self::steering::Steering;
use self::terminal::StartedOn;
use self::watchdog::{Watchdog, Workers};
use crate::admin::{self, api::Timestamp};
use crate::close::CloseReason;
use crate::completions;
use crate::config::{
    self, Address, AdminSocket, CommandLine, Drain, Environment, Listener, LogFormat, LogLevel, Settings,
};
use crate::escape::escape;
use crate::log::{self, LogHandle};
use crate::server::{BanFile, SHORTEST_DRAIN, Server, listener, unix_now};
use crate::signals::{self, Signal};
use crate::systemd::{self, Notifier, PassedSocket};

/// How long the log may take to write what is queued when the daemon ends.
const LAST_LOG: Duration = Duration::from_secs(1);

/// How often `systemctl status` gets new figures.
const STATUS_INTERVAL: Duration = Duration::from_secs(5);

/// The longest drain of sockets that systemd keeps: the clients' next connections wait in them already.
const PASSED_SOCKETS_DRAIN: Duration = Duration::from_secs(5);

/// The files in the state directory that the daemon replaces.
const OWN_FILES: [&str; 2] = ["secret", REFUSED_FILE];

/// Who is kept out, across restarts.
const REFUSED_FILE: &str = "refused.json";

/// Runs the program `philote`. The exit status: 0 stopped as asked, or the settings are good; 1 it can't run; 2 a wrong
/// option; 78 a wrong setting (EX_CONFIG of sysexits.h, which the unit takes as a reason not to start again).
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
        println!("the settings are good");
        return Ok(());
    }

    let started_on = StartedOn::terminal();
    let signals = signals::listen()?;
    loaded.make_secret()?;
    let log = log::init(format(&loaded.settings), log_level(loaded.settings.log.level))?;
    let notifier = Arc::new(Notifier::from_environment());
    loaded.warnings.iter().for_each(|warning| tracing::warn!("{warning}"));
    for file in environment.state_directory().iter().flat_map(|state| OWN_FILES.map(|name| state.join(name)))
    {
        config::remove_unfinished(&file).iter().for_each(|removed| tracing::warn!("{removed}"));
    }
    let max_descriptors = descriptors::raise();
    descriptors::warn(&loaded.settings, max_descriptors);

    let result = {
        let server = Server::new(loaded.settings.clone(), max_descriptors);
        let reloader =
            Reloader::new(overrides, environment, loaded, server.clone(), log.clone(), notifier.clone());
        serve(server, reloader, (signals, &started_on), &log, &notifier)
    };
    if result.is_ok() {
        tracing::info!("stopped");
    }
    log.flush(LAST_LOG);
    result
}

/// Serves until told to stop.
fn serve(
    server: Arc<Server>,
    reloader: Reloader,
    (mut signals, started_on): (mpsc::Receiver<Signal>, &StartedOn),
    log: &LogHandle,
    notifier: &Arc<Notifier>,
) -> Result<(), StartError> {
    let settings = server.live().settings.clone();
    let mut builder = tokio::runtime::Builder::new_multi_thread();
    let workers = Workers::of(&mut builder);
    let runtime = builder.enable_all().build().map_err(StartError::Runtime)?;
    let _entered = runtime.enter();

    // Before anybody is let in.
    let state = reloader.environment().state_directory();
    let refused = BanFile::new(state.map(|directory| directory.join(REFUSED_FILE)));
    server.bans.remember_in(refused)?;
    let passed = systemd::passed_listeners()?;
    let from_systemd = !passed.is_empty();
    let listeners = if from_systemd {
        passed.into_iter().map(|passed| of_passed(passed, &settings)).collect::<Result<_, _>>()?
    } else {
        bind(&settings)?
    };
    let mut open = Vec::new();
    let mut addresses = Vec::new();
    let mut accepting = Vec::new();
    for (socket, listener) in listeners {
        let (door, address): (listener::Door, _) = match socket {
            PassedSocket::Tcp(socket) => {
                let socket = TcpListener::from_std(socket).map_err(StartError::Runtime)?;
                let address = socket.local_addr().map_err(StartError::Runtime)?;
                if settings.dev && !address.ip().is_loopback() {
                    return Err(StartError::DevSocket(address));
                }
                server.set_port(address.port());
                addresses.push(address);
                (socket.into(), Address::Tcp(address))
            }
            PassedSocket::Unix(socket) => (
                UnixListener::from_std(socket).map_err(StartError::Runtime)?.into(),
                listener.address.clone(),
            ),
        };
        accepting.push(runtime.spawn(listener::accept(server.clone(), door.of(&listener))));
        open.push(Listener { address, ..listener });
    }
    let made = if from_systemd { Vec::new() } else { names_of(&open) };
    runtime.spawn(server.clone().look_after());

    let (requests, mut reloads) = mpsc::channel::<ReloadRequest>(1);
    let rates = Arc::new(Rates::default());
    let drain_ends = Arc::new(OnceLock::new());
    let started = Timestamp::now();
    let metrics = Arc::new(Metrics::new(log.clone(), reloader.report(), started.0));
    let control = DaemonControl {
        server: server.clone(),
        log: log.clone(),
        reloads: requests,
        last_reload: reloader.report(),
        listeners: open.iter().map(Listener::to_string).collect(),
        config_file: reloader.config_file(),
        drain_ends: drain_ends.clone(),
        started,
        rates: rates.clone(),
        steering: Steering::new(server.clone(), runtime.handle().clone()),
        metrics: metrics.clone(),
    };
    let admin = start_admin(&settings, &reloader, control)?;
    if let Some(address) = settings.metrics.listen {
        let listener = listener::bind(address).map_err(|source| StartError::Metrics { address, source })?;
        // On the admin thread, which answers while the data path is saturated.
        let _entered = admin.handle().enter();
        let listener = TcpListener::from_std(listener).map_err(StartError::Runtime)?;
        let address = listener.local_addr().map_err(StartError::Runtime)?;
        let served = server.clone();
        admin.handle().spawn(crate::metrics::serve(listener, Arc::new(move || metrics.text(&served))));
        tracing::info!("its figures are at http://{address}/metrics");
    }
    let watchdog = Watchdog::new(server.clone(), runtime.handle().clone(), workers);
    admin.handle().spawn(watchdog.watch(notifier.clone()));
    #[cfg(debug_assertions)]
    watchdog::block_on_purpose(runtime.handle());

    announce(&open, admin.path(), &reloader);
    if settings.dev {
        dev::announce(&server, &addresses);
    }
    notifier.ready();

    runtime.block_on(async {
        let mut reloader = reloader;
        let mut tick = tokio::time::interval(Duration::from_secs(1));
        let mut told: Option<Instant> = None;
        let mut expiry = ExpiryWatch::default();
        loop {
            tokio::select! {
                signal = signals.recv() => match signal {
                    Some(Signal::Hangup) if settings.dev && started_on.is_gone() => {
                        tracing::info!("SIGHUP, and the terminal is gone: stopping");
                        break;
                    }
                    Some(Signal::Hangup) => { let _ = reloader.reload(); }
                    Some(stop) => {
                        tracing::info!("{stop}: stopping");
                        break;
                    }
                    None => break,
                },
                Some(request) = reloads.recv() => request.serve(&mut reloader),
                _ = tick.tick() => {
                    rates.sample(&server);
                    server.log.tick(Instant::now());
                    if let Some(warning) = expiry.look(server.live().settings.tls.as_ref(), unix_now()) {
                        tracing::warn!("{warning}");
                    }
                    if told.is_none_or(|at| at.elapsed() >= STATUS_INTERVAL) {
                        told = Some(Instant::now());
                        notifier.status(&rates.line(&server));
                        rates.warn_if_nearly_full(&server);
                    }
                }
            }
        }
        drain(&server, notifier, from_systemd, accepting, &drain_ends).await;
    });
    server.events.end();
    admin.stop();
    runtime.shutdown_background();
    for (path, inode) in made {
        // Another daemon's may stand there by now.
        if std::fs::symlink_metadata(&path).is_ok_and(|there| there.ino() == inode) {
            let _ = std::fs::remove_file(path);
        }
    }
    Ok(())
}

/// Says goodbye to every client, spread over the drain time, and cuts those that have not answered at its end.
async fn drain(
    server: &Arc<Server>,
    notifier: &Notifier,
    from_systemd: bool,
    accepting: Vec<tokio::task::JoinHandle<()>>,
    ends: &OnceLock<Timestamp>,
) {
    let (reason, within) = match (from_systemd, server.drain_time()) {
        (true, within) => (CloseReason::Restarting, within.min(PASSED_SOCKETS_DRAIN)),
        (false, within) => (CloseReason::Stopping, within),
    };
    let within = within.max(SHORTEST_DRAIN);
    let _ = ends.set(Timestamp(SystemTime::now() + within));
    notifier.stopping();
    notifier.extend_timeout(within + Duration::from_secs(15));
    notifier.status(&format!("stopping: closing {} connections", server.connected()));
    if from_systemd {
        // Who connects from now on is served by the next daemon: the socket stays open at systemd.
        accepting.iter().for_each(tokio::task::JoinHandle::abort);
    }
    server.drain(reason, within).await;
    server.log.finish(Instant::now());
}

/// Binds what the settings say. The default falls back to IPv4 where there is no IPv6.
fn bind(settings: &Settings) -> Result<Vec<(PassedSocket, Listener)>, StartError> {
    let mut bound = Vec::new();
    for listener in settings.listen.listeners() {
        let failed = |source| StartError::Bind { address: listener.address.clone(), source };
        let socket = match &listener.address {
            Address::Unix(path) => PassedSocket::Unix(listener::bind_unix(path).map_err(failed)?),
            Address::Tcp(address) => {
                let socket = match (listener::bind(*address), settings.listen.without_ipv6()) {
                    (Err(error), Some(ipv4)) if error::means_no_ipv6(&error) => listener::bind(ipv4),
                    (result, _) => result,
                };
                PassedSocket::Tcp(socket.map_err(failed)?)
            }
        };
        bound.push((socket, listener.clone()));
    }
    Ok(bound)
}

/// A socket that systemd passed, with how `listen` says it is spoken to.
fn of_passed(
    passed: systemd::PassedListener,
    settings: &Settings,
) -> Result<(PassedSocket, Listener), StartError> {
    let address = match &passed.socket {
        PassedSocket::Tcp(socket) => Address::Tcp(socket.local_addr().map_err(StartError::Runtime)?),
        PassedSocket::Unix(socket) => {
            let address = socket.local_addr().map_err(StartError::Runtime)?;
            Address::Unix(address.as_pathname().unwrap_or(std::path::Path::new("")).to_owned())
        }
    };
    let listener = settings.listen.for_passed_socket(&address).unwrap_or_else(|| {
        tracing::warn!(
            "listen has no entry for {address}, which systemd passed: it is served as a plain string would be"
        );
        let tls = settings.tls.is_some() && matches!(address, Address::Tcp(_));
        Listener { tls, ..Listener::plain(address) }
    });
    Ok((passed.socket, listener))
}

/// The names of Unix sockets, each with what the file system calls the socket.
fn names_of(open: &[Listener]) -> Vec<(PathBuf, u64)> {
    let name = |listener: &Listener| match &listener.address {
        Address::Unix(path) => Some((path.clone(), std::fs::symlink_metadata(path).ok()?.ino())),
        Address::Tcp(_) => None,
    };
    open.iter().filter_map(name).collect()
}

fn start_admin(
    settings: &Settings,
    reloader: &Reloader,
    control: DaemonControl,
) -> Result<admin::server::Server, StartError> {
    let variable = |name: &str| reloader.environment().get(name).map(std::ffi::OsStr::to_os_string);
    let path = match &settings.admin.socket {
        AdminSocket::At(path) => Some(path.clone()),
        AdminSocket::Default => Some(admin::path::for_daemon(&admin::path::candidates(variable))),
        AdminSocket::None => None,
    };
    let bind = |path: PathBuf| admin::socket::Socket::bind(&path, settings.admin.mode);
    let socket = path.map(bind).transpose()?;
    admin::server::Server::start(socket, Arc::new(control)).map_err(StartError::Runtime)
}

/// Tells whoever started it what there is and what to type next.
fn announce(open: &[Listener], admin_socket: Option<&std::path::Path>, reloader: &Reloader) {
    for listener in open {
        tracing::info!("philote {} is listening on {listener}", env!("CARGO_PKG_VERSION"));
    }
    match admin_socket {
        Some(path) => tracing::info!("its administrator asks it on {}", path.display()),
        None => tracing::info!("it has no admin socket: philotectl can't ask it, and SIGHUP reloads it"),
    }
    let source = reloader.secret_source();
    let tool = philotectl();
    tracing::info!("{source}; give it to your backend: {tool} secret show");
    tracing::info!("for a token to try it with: {tool} token --read chat --write chat");
}

/// How `philotectl` is called from here: by its name where it is installed, from the build directory by cargo.
fn philotectl() -> &'static str {
    let built = std::env::current_exe().is_ok_and(|path| {
        let mut parents = path.ancestors().skip(1);
        parents.any(|parent| parent.join("CACHEDIR.TAG").exists())
    });
    if built { "cargo run --release --bin philotectl --" } else { "philotectl" }
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

impl Server {
    /// How long a drain may take, from the first Close to the last answer: as set, or a second for each 1,000 connections, from 10 s to 2 min.
    fn drain_time(&self) -> Duration {
        match self.live().settings.shutdown.drain {
            Drain::Fixed(time) => time,
            Drain::Auto if self.connected() == 0 => Duration::ZERO,
            Drain::Auto => Duration::from_secs((self.connected() as u64 / 1000).clamp(10, 120)),
        }
    }
}
