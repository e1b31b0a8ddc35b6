//! The negotiation of permessage-deflate: what a client offers, and what the server agrees to (RFC 7692 sections 5 and 7.1).

use std::borrow::Cow;

use super::Window;

/// The name of the extension.
const NAME: &[u8] = b"permessage-deflate";

/// What both sides have agreed on, besides that neither keeps context between messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Agreement {
    /// The largest window that the client can read.
    pub(crate) window: Window,
    /// The client has asked for that window, so the answer must name it.
    is_asked: bool,
}

impl Agreement {
    /// Returns the value of `Sec-WebSocket-Extensions` in the answer.
    pub(crate) fn answer(self) -> Cow<'static, str> {
        const ANSWER: &str = "permessage-deflate; server_no_context_takeover; client_no_context_takeover";
        if self.is_asked {
            format!("{ANSWER}; server_max_window_bits={}", self.window.bits()).into()
        } else {
            ANSWER.into()
        }
    }
}

/// Returns what to agree on with a client that sent these values of `Sec-WebSocket-Extensions`: the first offer that can be
/// accepted, in the client's order. Offers after a malformed part of a value do not count.
pub(crate) fn negotiate<'a>(lines: impl Iterator<Item = &'a [u8]>) -> Option<Agreement> {
    lines.flat_map(|line| Offers { rest: line }).find_map(|offer| offer)
}

/// The offers of one header line: for each whether it is accepted.
struct Offers<'a> {
    rest: &'a [u8],
}

impl Iterator for Offers<'_> {
    type Item = Option<Agreement>;

    fn next(&mut self) -> Option<Option<Agreement>> {
        // A list may have empty elements (RFC 9110 section 5.6.1).
        while self.punctuation(b',') {}
        let offer = self.offer();
        if offer.is_none() {
            self.rest = &[];
        }
        offer
    }
}

impl<'a> Offers<'a> {
    /// Reads an offer. Returns `None` if it is malformed or there is none, and `Some(None)` if it is declined.
    fn offer(&mut self) -> Option<Option<Agreement>> {
        let name = self.token()?;
        let mut terms = Terms { is_ours: name == NAME, ..Terms::default() };
        loop {
            if self.rest.is_empty() || self.rest[0] == b',' {
                return Some(terms.agreement());
            }
            if !self.punctuation(b';') {
                return None;
            }
            let parameter = self.token()?;
            let value = if self.punctuation(b'=') { Some(self.value()?) } else { None };
            terms.add(parameter, value.as_deref());
        }
    }

    /// Reads one character, and the blanks around it. Returns whether it was there.
    fn punctuation(&mut self, character: u8) -> bool {
        let is_there = self.rest.trim_ascii_start().first() == Some(&character);
        if is_there {
            self.rest = self.rest.trim_ascii_start()[1..].trim_ascii_start();
        }
        is_there
    }

    /// Reads a word, and the blanks around it.
    fn token(&mut self) -> Option<&'a [u8]> {
        let rest = self.rest.trim_ascii_start();
        let (token, rest) = rest.split_at(rest.iter().take_while(|byte| is_token(**byte)).count());
        self.rest = rest.trim_ascii_start();
        (!token.is_empty()).then_some(token)
    }

    /// Reads the value of a parameter. One in quotes must be a word, too (RFC 6455 section 9.1).
    fn value(&mut self) -> Option<Cow<'a, [u8]>> {
        let Some(mut rest) = self.rest.strip_prefix(b"\"") else { return self.token().map(Cow::Borrowed) };
        let mut value = Vec::new();
        loop {
            let (byte, after) = match rest {
                [b'"', after @ ..] => {
                    self.rest = after.trim_ascii_start();
                    return (!value.is_empty()).then_some(Cow::Owned(value));
                }
                [b'\\', byte, after @ ..] | [byte, after @ ..] => (*byte, after),
                [] => return None,
            };
            if !is_token(byte) {
                return None;
            }
            value.push(byte);
            rest = after;
        }
    }
}

/// Returns whether a byte may be part of a word (RFC 9110 section 5.6.2).
fn is_token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

/// The parameters of an offer. Each may appear once.
#[derive(Default)]
struct Terms {
    is_ours: bool,
    /// A parameter is unknown, has a wrong value, or appears twice.
    is_wrong: bool,
    server_window: Option<Window>,
    /// The other parameters that have appeared. They are satisfied in any case.
    seen: [bool; 3],
}

impl Terms {
    fn add(&mut self, parameter: &[u8], value: Option<&[u8]>) {
        let window = value.and_then(window);
        let is_good = match parameter {
            // The server never keeps context.
            b"server_no_context_takeover" => value.is_none() && !std::mem::replace(&mut self.seen[0], true),
            // It asks the client not to keep it, whether or not the client has offered that.
            b"client_no_context_takeover" => value.is_none() && !std::mem::replace(&mut self.seen[1], true),
            // The client may limit its window; it need not, because every window can be read here.
            b"client_max_window_bits" => {
                value.is_some() == window.is_some() && !std::mem::replace(&mut self.seen[2], true)
            }
            b"server_max_window_bits" => window.is_some() && self.server_window.is_none(),
            _ => false,
        };
        if parameter == b"server_max_window_bits" {
            self.server_window = self.server_window.or(window);
        }
        self.is_wrong |= !is_good;
    }

    fn agreement(&self) -> Option<Agreement> {
        (self.is_ours && !self.is_wrong).then(|| Agreement {
            window: self.server_window.unwrap_or(Window::LARGEST),
            is_asked: self.server_window.is_some(),
        })
    }
}

/// Returns a window of 8 to 15 bits, written without leading zeros (RFC 7692 section 7.1.2).
fn window(value: &[u8]) -> Option<Window> {
    let bits = match value {
        [digit @ b'8'..=b'9'] => digit - b'0',
        [b'1', digit @ b'0'..=b'5'] => 10 + digit - b'0',
        _ => return None,
    };
    Some(Window::of(bits))
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;
    use proptest::sample::select;

    use super::*;

    const PLAIN: &str = "permessage-deflate; server_no_context_takeover; client_no_context_takeover";

    fn answer(lines: &[&str]) -> Option<String> {
        negotiate(lines.iter().map(|line| line.as_bytes())).map(|agreement| agreement.answer().into_owned())
    }

    #[test]
    fn the_first_acceptable_offer_is_answered() {
        let bits = |bits| Some(format!("{PLAIN}; server_max_window_bits={bits}"));
        let plain = || Some(PLAIN.to_owned());
        for (lines, expected) in [
            (&["permessage-deflate"][..], plain()),
            (&["permessage-deflate; client_max_window_bits"], plain()),
            (&["permessage-deflate; client_max_window_bits=\"10\""], plain()),
            (&[", ,permessage-deflate ;server_no_context_takeover;client_no_context_takeover"], plain()),
            (&["permessage-deflate; server_max_window_bits=8"], bits(8)),
            (&["permessage-deflate;server_max_window_bits = \"1\\0\""], bits(10)),
            (&["permessage-deflate; server_max_window_bits=15; client_max_window_bits=15"], bits(15)),
            (&["x-webkit-deflate-frame", "permessage-deflate"], plain()),
            (&["foo; bar=\"a,b\", permessage-deflate"], None),
            (&["foo; bar=baz, permessage-deflate; server_max_window_bits=9"], bits(9)),
            (&["permessage-deflate; server_max_window_bits=7, permessage-deflate"], plain()),
            (&["permessage-deflate; unknown", "permessage-deflate; server_max_window_bits=12"], bits(12)),
            (&[], None),
            (&["", "permessage-bzip2", "Permessage-Deflate"], None),
        ] {
            assert_eq!(answer(lines), expected, "{lines:?}");
        }
    }

    #[test]
    fn an_offer_with_a_wrong_parameter_is_declined() {
        for parameters in [
            "unknown",
            "server_no_context_takeover=1",
            "client_no_context_takeover=\"\"",
            "server_no_context_takeover; server_no_context_takeover",
            "client_no_context_takeover; client_no_context_takeover",
            "client_max_window_bits; client_max_window_bits=9",
            "server_max_window_bits",
            "server_max_window_bits=7",
            "server_max_window_bits=16",
            "server_max_window_bits=08",
            "server_max_window_bits=+9",
            "server_max_window_bits=10; server_max_window_bits=10",
            "client_max_window_bits=0",
            "client_max_window_bits=010",
            "client_max_window_bits=\"1 0\"",
            "client_max_window_bits=",
            "client_max_window_bits=\"10",
            "=10",
            "",
            "client_max_window_bits x",
        ] {
            let offer = format!("permessage-deflate; {parameters}");
            assert_eq!(answer(&[&offer]), None, "{offer}");
            // The client's next line counts.
            assert_eq!(answer(&[&offer, "permessage-deflate"]).as_deref(), Some(PLAIN), "{offer}");
        }
    }

    /// What offers consist of, and what is nearly that.
    const PARTS: [&str; 20] = [
        "permessage-deflate",
        "server_no_context_takeover",
        "client_no_context_takeover",
        "server_max_window_bits",
        "client_max_window_bits",
        "; ",
        "; ",
        ";",
        ",",
        ", ",
        "=",
        "=",
        "\"",
        "\\",
        "8",
        "15",
        "10",
        "16",
        " ",
        "ü",
    ];

    proptest! {
        #[test]
        fn an_answer_repeats_what_one_offer_asks_for(lines in vec(vec(select(&PARTS[..]), 0..12), 0..4)) {
            let lines: Vec<String> = lines.iter().map(|parts| parts.concat()).collect();
            let Some(agreement) = negotiate(lines.iter().map(|line| line.as_bytes())) else { return Ok(()) };
            let answer = agreement.answer();
            prop_assert!(answer.starts_with(PLAIN));
            let all = lines.concat();
            prop_assert!(all.contains("permessage-deflate"));
            if let Some(bits) = answer.strip_prefix(PLAIN).filter(|rest| !rest.is_empty()) {
                // It is what was asked for, digit by digit.
                let bits = bits.strip_prefix("; server_max_window_bits=").unwrap();
                prop_assert!((8..=15).contains(&bits.parse::<u8>().unwrap()), "{}", bits);
                prop_assert!(all.contains("server_max_window_bits"));
            } else {
                prop_assert_eq!(agreement.window, Window::LARGEST);
            }
        }

        #[test]
        fn no_bytes_make_it_panic(lines in vec(vec(any::<u8>(), 0..60), 0..4)) {
            let _ = negotiate(lines.iter().map(Vec::as_slice));
        }
    }
}
