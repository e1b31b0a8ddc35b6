//! The lines of JSON between this program and the client that it tests: commands to the client, and events of it.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// The version of this protocol, which the client repeats in its first event. It changes when an old client could no
/// longer be tested.
pub(super) const VERSION: u32 = 1;

/// A line to the client.
#[derive(Debug, Serialize)]
#[serde(tag = "command", rename_all = "snake_case")]
pub(super) enum Command<'a> {
    /// Connect, and stay connected.
    Connect {
        url: &'a str,
        /// The first token. The client asks for the others by [`Event::Token`].
        token: &'a str,
        /// The channels whose messages it reports.
        channels: &'a [&'a str],
        timers: Timers,
    },
    /// The answer to [`Event::Token`].
    Token { token: &'a str },
    /// Publish a text, and report the answer by [`Event::Published`] or [`Event::Failed`] with the same number.
    Publish { number: u64, channel: &'a str, data: &'a str },
    /// Join a channel that the token allows to join, and report its messages.
    Join { channel: &'a str },
    /// Leave a channel that was joined.
    Leave { channel: &'a str },
    /// Close the connection and exit.
    Quit,
}

/// Times that a client should use if it can be told, so that a test takes seconds. All are milliseconds.
#[derive(Clone, Copy, Debug, Serialize)]
pub(super) struct Timers {
    /// The longest wait before the first reconnection.
    backoff_first: u64,
    /// The longest wait before any reconnection.
    backoff_longest: u64,
    /// The silence after which the server counts as dead.
    silence: u64,
    /// The longest time of an attempt to connect, up to the answer to the token.
    attempt: u64,
}

impl Timers {
    /// Times that matter to no case: quick reconnections, and no probe before a case is over.
    pub(super) const QUICK: Timers =
        Timers { backoff_first: 20, backoff_longest: 200, silence: 60_000, attempt: 20_000 };

    /// Returns these timers with another range of waits.
    pub(super) fn backoff(self, first: Duration, longest: Duration) -> Timers {
        let [backoff_first, backoff_longest] = [first, longest].map(milliseconds);
        Timers { backoff_first, backoff_longest, ..self }
    }

    /// Returns these timers with another silence.
    pub(super) fn silence(self, silence: Duration) -> Timers {
        Timers { silence: milliseconds(silence), ..self }
    }

    /// Returns these timers with another limit of an attempt.
    pub(super) fn attempt(self, attempt: Duration) -> Timers {
        Timers { attempt: milliseconds(attempt), ..self }
    }
}

fn milliseconds(time: Duration) -> u64 {
    time.as_millis().try_into().unwrap_or(u64::MAX)
}

/// A line of the client. Other keys are ignored.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub(super) enum Event {
    /// Comes first.
    Hello { version: u32 },
    /// The client needs another token.
    Token,
    /// The state of the connection has changed.
    State {
        state: State,
        /// The code and the sentence of the Close, if one ended the last connection.
        #[serde(default)]
        code: Option<u16>,
        #[serde(default)]
        reason: Option<String>,
    },
    /// A message was delivered to the application.
    Message { channel: String, data: String },
    /// The application was told whether a channel has missed messages.
    Recovered { channel: String, recovered: bool },
    /// A message was published.
    Published {
        number: u64,
        #[serde(default)]
        readers: Option<u64>,
    },
    /// A message was not published, or it is unknown whether it was.
    Failed { number: u64, code: String },
    /// Anything else that the application was told, such as a frame that the client did not understand.
    Error,
}

/// A state of the connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum State {
    Connecting,
    Open,
    /// There will be another attempt.
    Waiting,
    /// There will be none.
    Closed,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_lines_are_those_of_the_manual() {
        let line = |command: &Command<'_>| serde_json::to_string(command).unwrap();
        assert_eq!(line(&Command::Quit), r#"{"command":"quit"}"#);
        let timers = Timers::QUICK.silence(Duration::from_secs(1));
        assert_eq!(
            line(&Command::Connect { url: "ws://h/", token: "t", channels: &["c"], timers }),
            r#"{"command":"connect","url":"ws://h/","token":"t","channels":["c"],"timers":{"backoff_first":20,"backoff_longest":200,"silence":1000,"attempt":20000}}"#
        );
        let event = |text| serde_json::from_str::<Event>(text).ok();
        assert_eq!(event(r#"{"event":"hello","version":1,"name":"x"}"#), Some(Event::Hello { version: 1 }));
        assert_eq!(
            event(r#"{"event":"state","state":"waiting","code":1012}"#),
            Some(Event::State { state: State::Waiting, code: Some(1012), reason: None })
        );
        for bad in [r#"{"event":"weather"}"#, "{}", "[]", r#"{"event":"message","channel":"c"}"#] {
            assert_eq!(event(bad), None, "{bad}");
        }
    }
}
