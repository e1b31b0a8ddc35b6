//! Escapes invisible characters in text, and decides which characters those are.
//!
//! Clients choose subjects, channel names and messages. Their characters must not control a terminal, look like
//! another line, or make two different names look the same.

use std::borrow::Cow;
use std::net::SocketAddr;
use std::ops::RangeInclusive;

/// Characters that are escaped in text for people, as ranges of code points in ascending order.
///
/// They are control characters; characters that change the direction of writing; those with Unicode's property
/// Default_Ignorable_Code_Point, which are invisible, and the blocks reserved for more of them; format characters and
/// fillers that are invisible without that property; every space character except U+0020; and noncharacters.
///
/// Joiners and variation selectors are included even within emoji, because many terminals show a name the same way with
/// and without them, and terminals disagree about the width of a joined emoji.
pub const INVISIBLE: &[RangeInclusive<u32>] = &[
    0x00..=0x1f,       // C0 controls
    0x7f..=0xa0,       // delete, C1 controls, no-break space
    0xad..=0xad,       // soft hyphen
    0x34f..=0x34f,     // combining grapheme joiner
    0x61c..=0x61c,     // Arabic letter mark
    0x115f..=0x1160,   // Hangul fillers
    0x1680..=0x1680,   // Ogham space mark, which many fonts show as a blank
    0x17b4..=0x17b5,   // Khmer inherent vowels
    0x180b..=0x180f,   // Mongolian selectors and vowel separator
    0x2000..=0x200f,   // blanks, zero-width characters, direction marks
    0x2028..=0x202f,   // line and paragraph separators, direction controls, narrow no-break space
    0x205f..=0x206f,   // mathematical space, invisible operators, direction isolates
    0x2800..=0x2800,   // Braille pattern blank
    0x3000..=0x3000,   // ideographic space
    0x3164..=0x3164,   // Hangul filler
    0xfdd0..=0xfdef,   // noncharacters
    0xfe00..=0xfe0f,   // variation selectors
    0xfeff..=0xfeff,   // zero-width no-break space, the byte order mark
    0xffa0..=0xffa0,   // halfwidth Hangul filler
    0xfff0..=0xfffb,   // reserved for invisible characters, interlinear annotation
    0xfffe..=0xffff,   // noncharacters
    0x1107f..=0x1107f, // Brahmi number joiner
    0x13430..=0x1343f, // Egyptian hieroglyph format controls
    0x16fe4..=0x16fe4, // Khitan small script filler
    0x1bca0..=0x1bca3, // shorthand format controls
    0x1d159..=0x1d159, // musical null notehead
    0x1d173..=0x1d17a, // musical format controls
    0xe0000..=0xe0fff, // tags, more variation selectors, and reserved code points
];

/// Whether a character is invisible or misleading.
#[must_use]
pub fn is_invisible(character: char) -> bool {
    let code = u32::from(character);
    // Most characters of most texts.
    if matches!(code, 0x20..=0x7e) {
        return false;
    }
    let place = INVISIBLE.partition_point(|range| *range.end() < code);
    INVISIBLE.get(place).is_some_and(|range| range.contains(&code))
}

/// Escapes the invisible characters in `text` (`\n`, `\u{1b}`). Escaping a second time changes nothing.
///
/// ```
/// assert_eq!(philote::escape::escape("grüß\x1b[2J\n"), "grüß\\u{1b}[2J\\n");
/// ```
#[must_use]
pub fn escape(text: &str) -> Cow<'_, str> {
    replace(text, is_invisible, |escaped, character| escaped.extend(character.escape_default()))
}

/// Escapes the invisible characters of a table cell, and spaces at its start and end, which are invisible there.
///
/// ```
/// assert_eq!(philote::escape::escape_cell("admin "), "admin\\u{20}");
/// ```
#[must_use]
pub fn escape_cell(text: &str) -> String {
    let mut cell = escape(text).into_owned();
    if cell.ends_with(' ') {
        cell.truncate(cell.len() - 1);
        cell.push_str("\\u{20}");
    }
    if cell.starts_with(' ') {
        cell.replace_range(..1, "\\u{20}");
    }
    cell
}

/// Escapes the invisible characters in a JSON document with JSON's own escapes, so that its value stays the same.
///
/// Outside of strings, only line endings are such characters, and they are kept.
///
/// ```
/// assert_eq!(philote::escape::escape_json("[\n \"a\u{202e}\u{e0041}\"]"), "[\n \"a\\u202e\\udb40\\udc41\"]");
/// ```
#[must_use]
pub fn escape_json(document: &str) -> Cow<'_, str> {
    replace(
        document,
        |character| character != '\n' && is_invisible(character),
        |escaped, character| {
            for unit in character.encode_utf16(&mut [0; 2]) {
                escaped.push_str(&format!("\\u{unit:04x}"));
            }
        },
    )
}

fn replace(text: &str, chosen: impl Fn(char) -> bool, write: impl Fn(&mut String, char)) -> Cow<'_, str> {
    if !text.contains(&chosen) {
        return Cow::Borrowed(text);
    }
    let mut escaped = String::with_capacity(text.len() + 8);
    for character in text.chars() {
        if chosen(character) {
            write(&mut escaped, character);
        } else {
            escaped.push(character);
        }
    }
    Cow::Owned(escaped)
}

/// Returns the address of a client as people read it: without the port if a proxy did not name it, and `unix` for a client
/// of a Unix socket, which has none.
pub fn address(address: SocketAddr) -> String {
    match (address.port(), address.ip()) {
        (0, ip) if ip.is_unspecified() => "unix".to_owned(),
        (0, ip) => ip.to_string(),
        _ => address.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use regex_syntax::hir::{Class, HirKind};

    use super::*;

    #[test]
    fn an_address_has_no_port_that_a_proxy_did_not_name() {
        for (given, shown) in [
            ("192.0.2.7:51234", "192.0.2.7:51234"),
            ("192.0.2.7:0", "192.0.2.7"),
            ("[2001:db8::7]:0", "2001:db8::7"),
            ("0.0.0.0:0", "unix"),
        ] {
            assert_eq!(address(given.parse().unwrap()), shown);
        }
    }

    /// Returns the ranges of a character class.
    fn class(pattern: &str) -> Vec<RangeInclusive<u32>> {
        let HirKind::Class(Class::Unicode(class)) = regex_syntax::parse(pattern).unwrap().into_kind() else {
            panic!("{pattern} is no class");
        };
        class.ranges().iter().map(|range| range.start().into()..=range.end().into()).collect()
    }

    #[test]
    fn the_ranges_are_sorted_and_do_not_overlap() {
        for pair in INVISIBLE.windows(2) {
            assert!(pair[0].start() <= pair[0].end() && pair[0].end() + 1 < *pair[1].start(), "{pair:x?}");
        }
    }

    #[test]
    fn invisible_characters_and_direction_controls_are_escaped() {
        for character in [
            '\u{9b}',
            '\u{61c}',
            '\u{200b}',
            '\u{200c}',
            '\u{200d}',
            '\u{200e}',
            '\u{202e}',
            '\u{2066}',
            '\u{2069}',
            '\u{2060}',
            '\u{feff}',
            '\u{ad}',
            '\u{34f}',
            '\u{115f}',
            '\u{3164}',
            '\u{ffa0}',
            '\u{180e}',
            '\u{2028}',
            '\u{2029}',
            '\u{fe0f}',
            '\u{e0001}',
            '\u{e0041}',
            '\u{e007f}',
            '\u{e01ef}',
            '\u{fff9}',
            '\u{a0}',
            '\u{2003}',
            '\u{3000}',
            '\u{2800}',
            '\u{1d173}',
            '\u{7f}',
        ] {
            assert!(is_invisible(character), "{character:?}");
        }
    }

    #[test]
    fn the_table_agrees_with_unicode_s_properties() {
        let wanted = r"[\p{Cc}[\p{Cf}--\p{Prepended_Concatenation_Mark}]\p{Zl}\p{Zp}[\p{Zs}--\x20]
            \p{Default_Ignorable_Code_Point}\p{Bidi_Control}\p{Join_Control}\p{Variation_Selector}]";
        for range in class(&wanted.replace(char::is_whitespace, "")) {
            for character in range.filter_map(char::from_u32) {
                assert!(is_invisible(character), "{character:?}");
            }
        }
        // No visible character: only those, noncharacters and these space characters.
        let known = r"[\p{Cc}\p{Cf}\p{Zl}\p{Zp}\p{Zs}\p{Default_Ignorable_Code_Point}\p{Noncharacter_Code_Point}
            \x{2800}\x{1107f}\x{16fe4}\x{1d159}\x{fff0}-\x{fffb}]";
        let known = class(&known.replace(char::is_whitespace, ""));
        for code in INVISIBLE.iter().cloned().flatten() {
            assert!(known.iter().any(|range| range.contains(&code)), "{code:x}");
        }
    }

    #[test]
    fn visible_characters_are_unchanged() {
        for plain in ["Grüße, 世界 👋🏽 \\", "नमस्ते", "שלום", "مرحبا", "e\u{301}", "🇪🇺", ""]
        {
            assert!(matches!(escape(plain), Cow::Borrowed(_)), "{plain}");
        }
        for (cell, shown) in
            [("", ""), (" ", "\\u{20}"), ("  ", "\\u{20}\\u{20}"), ("a b", "a b"), (" a", "\\u{20}a")]
        {
            assert_eq!(escape_cell(cell), shown);
        }
        assert_eq!(escape("👩\u{200d}🚀 ❤\u{fe0f}"), "👩\\u{200d}🚀 ❤\\u{fe0f}");
    }

    proptest! {
        #[test]
        fn no_text_keeps_an_invisible_character(text in any::<String>(), odd in odd()) {
            let text = text + &odd;
            let escaped = escape(&text);
            prop_assert!(!escaped.contains(is_invisible), "{escaped:?}");
            prop_assert_eq!(escape(&escaped), &*escaped);
        }

        #[test]
        fn an_escaped_document_is_the_same_document(text in any::<String>(), odd in odd()) {
            let value = serde_json::json!({ (text.clone()): [odd, text], "n": 1 });
            let document = serde_json::to_string_pretty(&value).unwrap();
            let escaped = escape_json(&document);
            prop_assert!(!escaped.replace('\n', "").contains(is_invisible), "{escaped:?}");
            prop_assert_eq!(serde_json::from_str::<serde_json::Value>(&escaped).unwrap(), value);
        }
    }

    /// Texts of characters from the ranges, which random text rarely contains.
    fn odd() -> impl Strategy<Value = String> {
        let one = prop::sample::select(INVISIBLE.to_vec()).prop_flat_map(|range| range);
        prop::collection::vec(one.prop_filter_map("a surrogate", char::from_u32), 0..8)
            .prop_map(String::from_iter)
    }
}
