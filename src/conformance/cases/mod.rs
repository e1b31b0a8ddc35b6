//! The cases. Each has the sentence of philote-v1(7) that it tests, in the words of the manual.

mod connection;
mod frames;
mod history;
mod publishing;
mod tokens;

use std::future::Future;
use std::pin::Pin;

use super::Broken;
use super::scene::Scene;

/// A case in progress.
type Running<'a> = Pin<Box<dyn Future<Output = Result<(), Broken>> + 'a>>;

/// One case.
pub(super) struct Case {
    pub(super) name: &'static str,
    /// What the server does.
    pub(super) fault: &'static str,
    /// The sentence of the manual.
    pub(super) sentence: &'static str,
    /// Returns what the client did wrong.
    pub(super) run: for<'a> fn(&'a mut Scene) -> Running<'a>,
}

/// Defines [`CASES`] by one row for each case.
macro_rules! cases {
    ($($name:literal, $run:path: $fault:literal, $sentence:literal;)*) => {
        /// All cases, in the order of the manual.
        pub(super) const CASES: &[Case] =
            &[$(Case { name: $name, fault: $fault, sentence: $sentence, run: |scene| Box::pin($run(scene)) },)*];
    };
}

cases! {
    "token-first", tokens::first:
        "waits for the first message",
        "Offer the subprotocol philote.v1, and send the token in the first message, not in the URL.";
    "cut", connection::cut:
        "ends the connection without a Close",
        "Reconnect when a connection ends without a Close, and send a token again.";
    "unavailable", connection::unavailable:
        "answers each upgrade with 503 for three seconds",
        "Wait before each attempt, and longer the more of them have failed.";
    "full", connection::full:
        "closes each connection with 1013 for three seconds",
        "A Close in answer to the token, such as 1013, is a failed attempt as well.";
    "restart", connection::restart:
        "closes the connection with 1012, again and again",
        "Choose the wait at random from zero up, because thousands of clients may have been closed at the same time.";
    "mute", connection::mute:
        "accepts a connection and never answers",
        "Limit the time of an attempt, because a server that is stuck accepts connections and does not answer.";
    "mute-token", connection::mute_token:
        "answers the upgrade and never the token",
        "The attempt lasts until the token is answered.";
    "silence", connection::silence:
        "stops answering, and leaves the connection open",
        "When nothing has arrived for some time, send a ping or the token, and reconnect if nothing arrives then.";
    "stay-away", connection::stay_away:
        "closes the connection with 4403",
        "Do not reconnect after 4403.";
    "too-slow", connection::too_slow:
        "closes the connection with 4413",
        "Reconnect after every other code, and tell the application the code and the sentence.";
    "quit", connection::quit:
        "waits for the end",
        "To end, send a Close with 1000 and wait for the answer.";
    "expired", tokens::expired:
        "closes the connection with 4401",
        "After 4401, get another token for the next attempt.";
    "rejected", connection::rejected:
        "closes each connection with 4401 for three seconds",
        "A token that was refused is not sent again, and its refusal is a failed attempt.";
    "renewal", tokens::renewal:
        "accepts a token that expires in 16 seconds",
        "Get another token before expires_at, and send it on the open connection.";
    "renewal-refused", tokens::renewal_refused:
        "answers another token with unauthorized",
        "If a later token is answered with unauthorized, the connection stays: go on, and get another token after a wait.";
    "resume", history::resume:
        "ends the connection while messages are published",
        "After a reconnection, send in since the id of the last message of each channel.";
    "resume-empty", history::resume_empty:
        "ends the connection before the first message",
        "Before the first message, the id of a channel is the one in ids of the answer to the token.";
    "gap", history::gap:
        "answers with recovered false",
        "Tell the application whether recovered is true; if not, messages are missing, and it must load its state again.";
    "epoch", history::epoch:
        "answers with recovered false and another epoch",
        "Then go on from the id in ids, and do not compare ids of different epochs.";
    "double", history::double:
        "delivers a message a second time",
        "Drop a message whose id is not after the last id of its channel.";
    "order", history::order:
        "delivers 500 messages at once",
        "Deliver the messages of a channel in the order in which they arrive.";
    "rejoin", history::rejoin:
        "ends the connection of a client that has joined and left channels",
        "After a reconnection, join again what was joined, with since, and not what was left.";
    "ping", frames::ping:
        "sends a ping",
        "Answer each ping with a pong of the same payload.";
    "unknown", frames::unknown:
        "sends frames and keys that no client knows",
        "Ignore frames and keys that you do not know.";
    "large", frames::large:
        "delivers a message of 300 kB with all kinds of characters",
        "Accept messages of any size, and every text that JSON can contain.";
    "malformed", frames::malformed:
        "sends a frame that is not JSON",
        "Survive a frame that is not a JSON object: ignore it, or reconnect.";
    "broken-frame", frames::broken_frame:
        "breaks the WebSocket protocol",
        "When a server breaks the WebSocket protocol, end the connection and reconnect.";
    "ack", publishing::ack:
        "answers acknowledgements",
        "Send ack with each message, in the order of the application, and tell it the number of readers.";
    "forbidden", publishing::forbidden:
        "answers a message with the error forbidden",
        "Tell the application the error with which a message is answered.";
    "unanswered", publishing::unanswered:
        "ends the connection instead of answering a message",
        "If the connection ends before the answer, tell the application, and do not publish the message again: it may have been published.";
    "rate-limited", publishing::rate_limited:
        "answers a message with the error rate_limited",
        "After rate_limited, wait a second before anything else is sent, and then repeat the message or report the error.";
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn names_and_sentences_are_unique() {
        let names: BTreeSet<_> = CASES.iter().map(|case| case.name).collect();
        let sentences: BTreeSet<_> = CASES.iter().map(|case| case.sentence).collect();
        assert_eq!((names.len(), sentences.len()), (CASES.len(), CASES.len()));
    }
}
