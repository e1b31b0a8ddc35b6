//! The audit log: one line for each order, with who gave it and its outcome.

use std::fmt;
use std::net::SocketAddr;

/// Who gave an order.
#[derive(Clone, Copy, Debug)]
pub enum Actor<'a> {
    /// A process that is connected to the admin socket, as the kernel reports it (`SO_PEERCRED`).
    Peer {
        /// Its user.
        uid: u32,
        /// Its group.
        gid: u32,
        /// Its process id; 0 if the kernel does not report it.
        pid: i32,
    },
    /// The holder of a token for the backend API.
    Token {
        /// The `sub` of the token.
        subject: Option<&'a str>,
        /// The name of the key that signed it.
        key: &'a str,
        /// The client's address.
        address: SocketAddr,
    },
    /// Another node of the cluster, whose own audit line says who gave it the order.
    Node {
        /// Its name.
        name: &'a str,
    },
}

impl fmt::Display for Actor<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Actor::Peer { uid, pid, .. } => write!(f, "uid {uid}, pid {pid}"),
            Actor::Node { name } => write!(f, "node {name}"),
            Actor::Token { subject: Some(subject), key, address } => {
                write!(f, "{subject:?} ({key}) from {address}")
            }
            Actor::Token { subject: None, key, address } => {
                write!(f, "a token without a subject ({key}) from {address}")
            }
        }
    }
}

/// Writes the audit line of an order. `what` describes its target; names in it must be quoted, so that no name can look
/// like another line.
pub fn audit(actor: Actor<'_>, command: &'static str, what: &str, outcome: &str) {
    let (mut peer_uid, mut peer_gid, mut peer_pid) = (None, None, None);
    let (mut token_subject, mut token_key, mut client) = (None, None, None);
    let origin = match actor {
        Actor::Peer { uid, gid, pid } => {
            (peer_uid, peer_gid, peer_pid) = (Some(uid), Some(gid), Some(pid));
            "admin"
        }
        Actor::Token { subject, key, address } => {
            (token_subject, token_key, client) = (subject, Some(key), Some(address));
            "api"
        }
        Actor::Node { .. } => "cluster",
    };
    let space = if what.is_empty() { "" } else { " " };
    tracing::info!(
        target: "philote::audit",
        peer_uid, peer_gid, peer_pid,
        token_subject, token_key, address = client.map(tracing::field::display),
        command, outcome,
        "{origin}: {command}{space}{what} by {actor}: {outcome}",
    );
}
