//! What the daemon says when it is ready: its addresses, and the next commands for the person who started it.

use std::io::IsTerminal;
use std::path::Path;

use super::reload::Reloader;
use crate::admin;
use crate::admin::instance::Instance;
use crate::config::{Address, DEFAULT_PORT, Listener, Settings};
use crate::installation::command;

/// Logs the addresses of the daemon and the next commands for its administrator.
pub(super) fn announce(
    open: &[Listener],
    admin_socket: Option<&Path>,
    reloader: &Reloader,
    settings: &Settings,
) {
    for listener in open {
        tracing::info!("philote {} is listening on {listener}", env!("CARGO_PKG_VERSION"));
    }
    match admin_socket {
        Some(path) => tracing::info!("the admin socket is {}", path.display()),
        None => tracing::info!(
            "there is no admin socket: philotectl cannot connect, and only SIGHUP reloads the settings"
        ),
    }
    if let Some(path) = &settings.admin.observe_socket {
        tracing::info!("the observe socket, for monitoring, is {}", path.display());
    }
    let tool = command("philotectl");
    let named = admin_socket.filter(|path| !is_found(path, reloader));
    let option = named.map_or_else(String::new, |path| match Instance::of_socket(path) {
        Some(instance) => format!(" --instance {instance}"),
        None => format!(" --socket {}", path.display()),
    });
    let source = reloader.secret_source();
    tracing::info!("{source}; to show it for your backend, run: {tool}{option} secret show");
    // On a terminal and without settings this is somebody's first try. A token is printed by a command and not here, because
    // the output of a daemon ends up in files.
    if reloader.config_file().is_none() && !settings.dev && std::io::stderr().is_terminal() {
        first_steps(open, named);
    }
    tracing::info!("for a first test, get a token with: {tool}{option} token --read chat --write chat");
}

/// Whether philotectl and jane find this socket by themselves.
fn is_found(path: &Path, reloader: &Reloader) -> bool {
    let variable = |name: &str| reloader.environment().get(name).map(std::ffi::OsStr::to_os_string);
    admin::path::candidates(variable).iter().any(|candidate| candidate == path)
}

/// Says how to talk to it from a terminal, from a browser, and from a program.
fn first_steps(open: &[Listener], named: Option<&Path>) {
    let Some((listener, port)) = open.iter().find_map(|listener| match &listener.address {
        Address::Tcp(address) => Some((listener, address.port())),
        Address::Unix(_) => None,
    }) else {
        return;
    };
    let scheme = if listener.tls { "wss" } else { "ws" };
    let variable =
        named.map_or_else(String::new, |path| format!("{}={} ", admin::path::ENVIRONMENT, path.display()));
    let server = if port == DEFAULT_PORT { String::new() } else { format!(" -p localhost:{port}") };
    tracing::info!("to talk in two terminals, run in both: {variable}{}{server} -c chat", command("jane"));
    tracing::info!("clients connect to {scheme}://localhost:{port}/ with a token");
    tracing::info!("to try it in a browser, stop this one and run: {} --dev", command("philote"));
}
