//! Formats what the server sends.

use serde::Deserialize;

use crate::escape::escape;
use crate::terminal::{Style, Tone};

/// The characters of an issuer that are shown. They are enough to tell clients apart.
const SHORT: usize = 8;
/// The colours of issuers. They are readable on black and on white; red is for errors.
const COLOURS: [&str; 10] = ["32", "33", "34", "35", "36", "92", "93", "94", "95", "96"];

/// A frame from the server: a delivery, or with `error` an answer to a message that was not published.
#[derive(Debug, Deserialize)]
pub(super) struct Frame {
    issuer: Option<String>,
    channel: Option<String>,
    data: Option<String>,
    subject: Option<String>,
    error: Option<String>,
    message: Option<String>,
}

/// What to print for a frame.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Shown {
    /// Print it on standard output.
    Delivery(String),
    /// Print it on standard error: a line was not published.
    Refusal(String),
    /// Print nothing.
    Nothing,
}

/// Parses and formats a frame for a stream with this `style`.
pub(super) fn show(text: &str, style: Style) -> Shown {
    let Ok(frame) = serde_json::from_str::<Frame>(text) else { return Shown::Nothing };
    if let Some(code) = frame.error {
        let reason = frame.message.unwrap_or_default();
        return Shown::Refusal(format!("not published: {reason} ({code})"));
    }
    let (Some(channel), Some(issuer)) = (frame.channel, frame.issuer) else { return Shown::Nothing };
    // A message may have no data.
    let data = frame.data.unwrap_or_default();
    let mut who: String = issuer.chars().take(SHORT).collect();
    if let Some(subject) = &frame.subject {
        who = format!("{who} {subject}");
    }
    let colour = issuer.bytes().map(usize::from).sum::<usize>() % COLOURS.len();
    let who = style.sgr(COLOURS[colour], &escape(&who));
    let channel = style.paint(Tone::Faint, &format!("{}:", escape(&channel)));
    Shown::Delivery(format!("{who} {channel} {}\n", escape(&data)))
}

#[cfg(test)]
mod tests {
    use super::*;

    const PLAIN: Style = Style { terminal: false, colour: false };
    const COLOUR: Style = Style { terminal: true, colour: true };

    #[test]
    fn a_delivery_is_one_line_with_its_issuer_and_channel() {
        let frame = r#"{"issuer": "0123456789abcdef", "channel": "chat", "data": "grüß\u001b[2Jdich\n", "subject": "eve\r"}"#;
        let expected = "01234567 eve\\r chat: grüß\\u{1b}[2Jdich\\n\n";
        assert_eq!(show(frame, PLAIN), Shown::Delivery(expected.into()));
        let Shown::Delivery(coloured) = show(frame, COLOUR) else { panic!() };
        assert!(coloured.starts_with("\x1b[") && coloured.ends_with("\\n\n"), "{coloured:?}");
        for empty in [r#"{"issuer": "i", "channel": "c", "data": ""}"#, r#"{"issuer": "i", "channel": "c"}"#]
        {
            assert_eq!(show(empty, PLAIN), Shown::Delivery("i c: \n".into()), "{empty}");
        }
    }

    #[test]
    fn an_error_is_printed_and_other_frames_are_not() {
        let refusal = r#"{"error": "forbidden", "channel": "x", "message": "this token may not write"}"#;
        let expected = "not published: this token may not write (forbidden)";
        assert_eq!(show(refusal, PLAIN), Shown::Refusal(expected.into()));
        for other in [r#"{"access": {}}"#, r#"{"ack": "1"}"#, "[]", "noise"] {
            assert_eq!(show(other, PLAIN), Shown::Nothing, "{other}");
        }
    }
}
