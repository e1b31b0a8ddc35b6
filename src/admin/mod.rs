//! The admin socket: how `philotectl` and `curl` ask a running daemon, and how it answers.
//!
//! [`api`] is the vocabulary, [`server`] answers on a thread of its own through whatever implements
//! [`Control`], [`client`] asks, and [`path`] is how both find the same socket.

pub mod api;
pub mod client;
mod commands;
pub mod path;
pub mod server;
pub mod socket;

use api::{Failure, Inspection, IssuedToken, Ready, Reloaded, SecretChanged, Secrets, Status, TokenRequest};

/// What the admin socket may ask of the daemon.
///
/// Every method may block (a reload waits for the daemon, a secret is written to disk): the server calls each
/// on a thread where that stops nobody else. Each may be called from several threads at once.
pub trait Control: Send + Sync + 'static {
    /// How the daemon is doing, now.
    fn status(&self) -> Result<Status, Failure>;
    /// Signs a token with the secret that signs.
    fn issue_token(&self, request: TokenRequest) -> Result<IssuedToken, Failure>;
    /// Says what is in a token and whether this daemon would accept it now. A token that it would not accept
    /// is an answer too, not a failure.
    fn inspect(&self, token: &str) -> Result<Inspection, Failure>;
    /// The secrets in use. The server lets only root and the daemon's own user come this far.
    fn secret_show(&self) -> Result<Secrets, Failure>;
    /// Replaces the daemon's own secret file by `lines` (the first signs, all verify) and takes them into use;
    /// [`Code::Conflict`](api::Code::Conflict) when the secret is not the daemon's own file.
    /// The server lets only root and the daemon's own user come this far.
    fn secret_set(&self, lines: &str) -> Result<SecretChanged, Failure>;
    /// Puts a new secret on top of the daemon's own file, so that it signs while the older ones still verify.
    fn secret_rotate(&self) -> Result<SecretChanged, Failure>;
    /// Reads the configuration again and waits until it is in use; [`Code::Refused`](api::Code::Refused), with
    /// the sentence that says which key in which line is wrong, when it changed nothing.
    fn reload(&self) -> Result<Reloaded, Failure>;
    /// Whether the daemon serves clients; [`Code::NotReady`](api::Code::NotReady) while it starts or drains.
    fn ready(&self) -> Result<Ready, Failure>;
}
