//! A server for development, `--dev`: what is different from the defaults, and what is refused.

use super::draft::Draft;
use super::error::Situation;
use super::listen::{DEFAULT_PORT, Listen};
use super::settings::Settings;

/// The secret where none is set. No blank in it, so that it can be given to a backend without quotes.
pub const DEV_SECRET: &str = "everybody-knows-this-secret-of-philote-dev";

/// Messages kept of each channel, so that coming back can be tried.
const HISTORY: usize = 100;

/// Makes of the defaults those for development.
pub(super) fn prepare(settings: &mut Settings) {
    settings.dev = true;
    settings.history.messages = HISTORY;
    settings.listen = Listen::tcp(([127, 0, 0, 1], DEFAULT_PORT).into());
}

/// Refuses what would let others in.
pub(super) fn check(draft: &mut Draft) {
    if !draft.settings.dev {
        return;
    }
    let addresses = draft.settings.listen.addresses();
    for address in addresses.iter().filter(|address| !address.ip().is_loopback()) {
        let situation = Situation::NotLoopback { found: address.to_string() };
        draft.wrong("listen", draft.origins.get("listen").cloned(), situation);
    }
}
