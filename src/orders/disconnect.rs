//! The order to close connections.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::selection::{Address, IdPrefix};

/// An order to close every connection that matches all of the given filters.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DisconnectOrder {
    /// Every connection; then there are no filters.
    pub all: bool,
    /// Ids, or starts of ids that each match one connection.
    pub ids: Vec<IdPrefix>,
    /// A channel that the connections read or may write.
    pub channel: Option<String>,
    /// The `sub` of their tokens.
    pub subject: Option<String>,
    /// The clients' address.
    pub address: Option<Address>,
    /// Close with 1012, which asks clients to reconnect, instead of 4403, which asks them not to.
    pub reconnect: bool,
    /// How long to ban `subject`, in seconds.
    pub ban_seconds: Option<u64>,
}

/// The description in an audit line. Names are quoted, so that no name can look like another line.
impl fmt::Display for DisconnectOrder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let DisconnectOrder { all, ids, channel, subject, address, reconnect, ban_seconds } = self;
        let mut parts: Vec<String> = Vec::new();
        parts.extend(all.then(|| "all".into()));
        parts.extend(ids.iter().map(|id| format!("connection {id}")));
        parts.extend(channel.iter().map(|channel| format!("channel {channel:?}")));
        parts.extend(subject.iter().map(|subject| format!("subject {subject:?}")));
        parts.extend(address.iter().map(|address| format!("address {address}")));
        parts.extend(reconnect.then(|| "to reconnect".into()));
        parts.extend(ban_seconds.map(|seconds| format!("banned for {seconds} s")));
        f.write_str(&parts.join(", "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_cannot_forge_an_audit_line() {
        let order = DisconnectOrder {
            subject: Some("al\nice".into()),
            ban_seconds: Some(86_400),
            ..DisconnectOrder::default()
        };
        assert_eq!(order.to_string(), "subject \"al\\nice\", banned for 86400 s");
        let all = DisconnectOrder { all: true, reconnect: true, ..DisconnectOrder::default() };
        assert_eq!(all.to_string(), "all, to reconnect");
    }
}
