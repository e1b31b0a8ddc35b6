//! Carries out what other nodes of the cluster ask.

use std::sync::Arc;

use super::everywhere::{
    BANS, BanPage, BansAsked, COUNTS, DISCONNECT, DisconnectAsked, LIFT, RESOLVE, Resolved, WasBanned,
    add_bans,
};
use super::{bans, disconnect, list};
use crate::cluster::steering::reply;
use crate::orders::{Actor, IdPrefix, audit};
use crate::server::Server;

/// Carries out a request of node `from`, and returns the body of the answer, at most `room` bytes; `None` for an unknown
/// kind. May block. The caller must be in the context of the runtime that runs the connections.
pub fn carry_out(server: &Arc<Server>, from: &str, kind: &str, body: &[u8], room: usize) -> Option<Vec<u8>> {
    let actor = Actor::Node { name: from };
    let answer = match kind {
        RESOLVE => reply(body, room, |prefixes: Vec<IdPrefix>| -> Result<Resolved, String> {
            // The node that asks has checked it.
            if prefixes.len() > disconnect::MAX_PREFIXES {
                return Err("too many prefixes".to_owned());
            }
            Ok(disconnect::resolve(server, &prefixes))
        }),
        DISCONNECT => reply(body, room, |DisconnectAsked { order, dry_run }| {
            if dry_run {
                return disconnect::dry_run(server, &order).map_err(|error| error.to_string());
            }
            let outcome = disconnect::disconnect(server, &order).map_err(|error| error.to_string());
            let text = match &outcome {
                Ok(done) => format!("done, {} being closed", done.matched),
                Err(sentence) => sentence.clone(),
            };
            audit(actor, "disconnect", &format!("of {order}"), &text);
            outcome
        }),
        LIFT => reply(body, room, |subject: String| {
            let outcome = bans::lift(server, &subject).map_err(|error| error.to_string());
            let text = match &outcome {
                Ok(lifted) => format!("done, {} lifted", u8::from(*lifted)),
                Err(sentence) => sentence.clone(),
            };
            audit(actor, "refused remove", &format!("{subject:?}"), &text);
            outcome.map(WasBanned)
        }),
        BANS => reply(body, room, |BansAsked { known, wanted, after }| {
            add_bans(server, from, known);
            let page = wanted.then(|| BanPage::after(server, after.as_deref(), room / 2));
            Ok(page.unwrap_or_default())
        }),
        COUNTS => reply(body, room, |channels: Vec<String>| Ok(list::counts(server, &channels))),
        _ => return None,
    };
    Some(answer)
}
