//! Channels that are given by their names, or by the beginnings of their names.

use std::fmt;

use super::{ChannelName, ChannelNameError};

/// A channel's name, or the beginning of channels' names, which is written with a `*` behind it. Anywhere else `*` is an
/// ordinary character.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ChannelPattern {
    /// The name or the beginning, without the `*`.
    text: Box<str>,
    /// Whether it is a beginning. After the text in the order, so that a name comes before the beginning of the same text.
    is_prefix: bool,
}

impl ChannelPattern {
    /// Makes a pattern from valid text. The beginning in `*` alone is empty and matches every channel.
    pub fn new(pattern: &str, max_bytes: usize) -> Result<ChannelPattern, ChannelNameError> {
        let (text, is_prefix) = match pattern.strip_suffix('*') {
            Some(prefix) => (prefix, true),
            None => (pattern, false),
        };
        if !(is_prefix && text.is_empty()) {
            ChannelName::check(text, max_bytes)?;
        }
        Ok(ChannelPattern { text: text.into(), is_prefix })
    }

    /// Returns the pattern that matches the channel of this valid name.
    pub(crate) fn of_channel(name: &str) -> ChannelPattern {
        ChannelPattern { text: name.into(), is_prefix: false }
    }

    /// Returns whether the pattern matches this channel.
    pub fn matches(&self, channel: &str) -> bool {
        if self.is_prefix { channel.starts_with(&*self.text) } else { channel == &*self.text }
    }

    /// Returns whether this pattern matches every channel that `other` matches.
    fn covers(&self, other: &ChannelPattern) -> bool {
        self == other || (self.is_prefix && other.text.starts_with(&*self.text))
    }
}

/// The pattern as in a token, with its `*`.
impl fmt::Display for ChannelPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)?;
        if self.is_prefix { f.write_str("*") } else { Ok(()) }
    }
}

/// A set of patterns of which none covers another, sorted. So at most one of them matches a channel.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ChannelPatterns(Box<[ChannelPattern]>);

impl ChannelPatterns {
    /// Returns whether one of the patterns matches this channel.
    pub fn matches(&self, channel: &str) -> bool {
        // A beginning sorts before each name that starts with it, and nothing between the two is in the set, because the
        // beginning would cover it.
        let after = self.0.partition_point(|pattern| &*pattern.text <= channel);
        after > 0 && self.0[after - 1].matches(channel)
    }

    /// Calls `visit` with the position of each channel of a sorted list that one of the patterns matches, once each.
    pub fn each_match(&self, channels: &[&str], mut visit: impl FnMut(usize)) {
        for pattern in &self.0 {
            let first = channels.partition_point(|channel| *channel < &*pattern.text);
            let matching = channels[first..].iter().take_while(|channel| pattern.matches(channel)).count();
            (first..first + matching).for_each(&mut visit);
        }
    }

    /// Returns whether every channel that one of `others` matches is matched by one of these.
    pub fn cover(&self, others: &ChannelPatterns) -> bool {
        others.iter().all(|other| self.iter().any(|pattern| pattern.covers(other)))
    }

    /// Returns the patterns that match what both match.
    pub fn common(&self, others: &ChannelPatterns) -> ChannelPatterns {
        let narrower = |one: &ChannelPattern, other: &ChannelPattern| match () {
            () if one.covers(other) => Some(other.clone()),
            () if other.covers(one) => Some(one.clone()),
            () => None,
        };
        self.iter().flat_map(|one| others.iter().filter_map(move |other| narrower(one, other))).collect()
    }

    /// Returns the patterns, sorted.
    pub fn iter(&self) -> std::slice::Iter<'_, ChannelPattern> {
        self.0.iter()
    }

    /// Returns whether there are none, so that no channel matches.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl FromIterator<ChannelPattern> for ChannelPatterns {
    fn from_iter<I: IntoIterator<Item = ChannelPattern>>(patterns: I) -> ChannelPatterns {
        let mut patterns: Vec<ChannelPattern> = patterns.into_iter().collect();
        patterns.sort_unstable();
        let mut kept: Vec<ChannelPattern> = Vec::with_capacity(patterns.len());
        for pattern in patterns {
            // A name and the beginning of the same text: the name comes first and is covered by what follows.
            while kept.last().is_some_and(|last| pattern.covers(last)) {
                kept.pop();
            }
            if !kept.last().is_some_and(|last| last.covers(&pattern)) {
                kept.push(pattern);
            }
        }
        ChannelPatterns(kept.into_boxed_slice())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn patterns(texts: &[&str]) -> ChannelPatterns {
        texts.iter().map(|text| ChannelPattern::new(text, 16).unwrap()).collect()
    }

    #[test]
    fn only_a_star_at_the_end_is_special() {
        let set = patterns(&["room:*", "dm:17", "a*b", "c**", "?", "[x]"]);
        for inside in ["room:", "room:42", "room:*", "dm:17", "a*b", "c*", "c*d", "?", "[x]"] {
            assert!(set.matches(inside), "{inside}");
        }
        for outside in ["room", "Room:42", "dm:170", "dm:1", "axb", "a*bc", "c", "cd", "x", ""] {
            assert!(!set.matches(outside), "{outside}");
        }
        assert!(patterns(&["*"]).matches("anything"));
        assert!(!patterns(&[]).matches("anything"));
    }

    #[test]
    fn a_beginning_keeps_the_rules_of_names() {
        let error = |text: &str| ChannelPattern::new(text, 4).unwrap_err();
        assert_eq!(error(""), ChannelNameError::Empty);
        assert_eq!(error("a\n*"), ChannelNameError::ControlCharacter);
        assert_eq!(error("abcde*"), ChannelNameError::TooLong { bytes: 5, max: 4 });
        assert!(ChannelPattern::new("abcd*", 4).is_ok(), "the star is no part of the name");
    }

    #[test]
    fn what_another_pattern_covers_is_left_out() {
        let text = |set: ChannelPatterns| set.iter().map(ToString::to_string).collect::<Vec<_>>();
        assert_eq!(text(patterns(&["ab*", "a", "abc", "ab", "b", "abd*", "b"])), ["a", "ab*", "b"]);
        assert_eq!(text(patterns(&["x", "*", "y*"])), ["*"]);
    }

    proptest! {
        #[test]
        fn a_set_matches_what_one_of_its_patterns_matches(
            texts in proptest::collection::vec("[ab*]{0,3}\\*|[ab*]{1,3}", 0..8),
            mut names in proptest::collection::vec("[ab*]{1,4}", 1..12),
        ) {
            let all: Vec<ChannelPattern> = texts.iter().map(|text| ChannelPattern::new(text, 16).unwrap()).collect();
            let set: ChannelPatterns = all.iter().cloned().collect();
            names.sort();
            let names: Vec<&str> = names.iter().map(String::as_str).collect();
            let wanted: Vec<usize> =
                (0..names.len()).filter(|at| all.iter().any(|pattern| pattern.matches(names[*at]))).collect();
            let matching: Vec<usize> = (0..names.len()).filter(|at| set.matches(names[*at])).collect();
            prop_assert_eq!(&matching, &wanted);
            let mut visited = Vec::new();
            set.each_match(&names, |at| visited.push(at));
            prop_assert_eq!(visited, wanted);
        }

        #[test]
        fn what_two_sets_have_in_common_is_what_both_match(
            sets in proptest::array::uniform2(proptest::collection::vec("[ab*]{0,3}\\*|[ab*]{1,3}", 0..6)),
            names in proptest::collection::vec("[ab*]{1,4}", 1..24),
        ) {
            let [one, other] = sets.map(|texts| patterns(&texts.iter().map(String::as_str).collect::<Vec<_>>()));
            let common = one.common(&other);
            for name in &names {
                prop_assert_eq!(common.matches(name), one.matches(name) && other.matches(name), "{}", name);
            }
            prop_assert!(one.cover(&common) && other.cover(&common));
            if one.cover(&other) {
                prop_assert_eq!(&common, &other);
            }
        }
    }
}
