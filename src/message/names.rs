//! Lists of channels' names that are kept for long.

/// Ends each name in the text. It is a control character, which no name contains.
const END: u8 = b'\n';

/// The names of channels, sorted and without duplicates, as one text. A list of [`ChannelName`](super::ChannelName) would take an allocation for
/// each name, and each connection keeps two lists.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ChannelNames<'a>(&'a str);

impl<'a> ChannelNames<'a> {
    /// Appends names to a text, of which they are then a list. They must be sorted and without duplicates.
    pub(crate) fn append(names: &[String], text: &mut String) {
        for name in names {
            text.push_str(name);
            text.push(char::from(END));
        }
    }

    /// Returns how many bytes [`ChannelNames::append`] appends.
    pub(crate) fn length_of(names: &[String]) -> usize {
        names.iter().map(|name| name.len() + 1).sum()
    }

    /// Returns the list that this text is, or this part of a text.
    pub(crate) fn of(text: &'a str) -> ChannelNames<'a> {
        ChannelNames(text)
    }

    /// Returns the names in order.
    pub fn iter(self) -> impl DoubleEndedIterator<Item = &'a str> {
        self.0.split_terminator(char::from(END))
    }

    /// Returns how many there are.
    pub fn len(self) -> usize {
        self.0.bytes().filter(|byte| *byte == END).count()
    }

    /// Returns whether there are none.
    pub fn is_empty(self) -> bool {
        self.0.is_empty()
    }

    /// Returns whether this channel is one of them.
    pub fn contains(self, channel: &str) -> bool {
        let (text, channel) = (self.0.as_bytes(), channel.as_bytes());
        // Most tokens name one channel. What is no name, such as two lines, is none of them. Names are short, and for a short
        // text memchr takes longer than a plain search.
        if text.split_last() == Some((&END, channel)) && !channel.contains(&END) {
            return true;
        }
        let (mut low, mut high) = (0, text.len());
        while low < high {
            let middle = low + (high - low) / 2;
            let start = memchr::memrchr(END, &text[low..middle]).map_or(low, |before| low + before + 1);
            let end = memchr::memchr(END, &text[middle..high]).map_or(high, |after| middle + after);
            match text[start..end].cmp(channel) {
                std::cmp::Ordering::Equal => return true,
                std::cmp::Ordering::Less => low = end + 1,
                std::cmp::Ordering::Greater => high = start,
            }
        }
        false
    }

    /// Returns each name by itself. The list has no room for more: larger memory that is freed at once would leave a gap beside
    /// each connection's own.
    pub fn to_vec(self) -> Vec<&'a str> {
        let mut names = Vec::with_capacity(self.len());
        names.extend(self.iter());
        names
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn two_names_in_one_text_are_no_name() {
        assert!(!ChannelNames::of("a\nb\n").contains("a\nb"));
    }

    proptest! {
        #[test]
        fn a_list_contains_its_names_and_no_other(
            names in proptest::collection::btree_set("[ab ~é]{1,3}", 0..12),
            others in proptest::collection::vec("[ab ~é\n]{0,3}", 0..12),
        ) {
            let names: Vec<String> = names.into_iter().collect();
            let mut text = String::new();
            ChannelNames::append(&names, &mut text);
            prop_assert_eq!(text.len(), ChannelNames::length_of(&names));
            let list = ChannelNames::of(&text);
            prop_assert!(list.iter().eq(&names));
            prop_assert_eq!((list.len(), list.is_empty()), (names.len(), names.is_empty()));
            prop_assert!(list.to_vec().iter().eq(&names));
            for name in names.iter().chain(&others) {
                prop_assert_eq!(list.contains(name), names.contains(name), "{:?}", name);
            }
        }
    }
}
