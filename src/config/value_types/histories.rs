//! The channels whose history is another than that of the rest, by the beginnings of their names.

use toml::de::DeTable;

use super::durations::{Period, seconds};
use super::numbers::Number;
use super::{ProblemKind, Raw, ValueType, check_count, invalid, quoted};
use crate::config::settings::ChannelHistory;

/// The messages of one channel.
pub(in crate::config) const MESSAGES: Number = Number(0..=100_000);

/// How long a message is kept.
pub(in crate::config) const TTL: Period = Period(seconds(1)..=seconds(7 * 24 * 3600));

/// Each beginning is compared with the name of each new channel.
const MAX_PREFIXES: usize = 64;

/// The longest name that a channel may have, in bytes.
const LONGEST_PREFIX: usize = 4096;

const EXPECTED: &str = "a list of tables such as [{ prefix = \"ai:\", messages = 500, ttl = \"10m\" }]";

/// A list of tables. Text from the environment or the command line is the same list in TOML.
pub(in crate::config) struct ChannelHistories;

impl ValueType for ChannelHistories {
    type Value = Vec<ChannelHistory>;

    fn read(&self, raw: &Raw) -> Result<Vec<ChannelHistory>, ProblemKind> {
        let raw = match raw {
            Raw::Untyped(text) => &inline(text).ok_or_else(|| invalid(EXPECTED, text))?,
            raw => raw,
        };
        let Raw::List(items) = raw else { return Err(raw.wrong_type(EXPECTED)) };
        check_count(items.len(), 0..=MAX_PREFIXES, "prefixes")?;
        let mut histories: Vec<ChannelHistory> = Vec::with_capacity(items.len());
        for item in items {
            let Raw::Table(entries) = item else { return Err(item.wrong_type(EXPECTED)) };
            let history = table(entries)?;
            if histories.iter().any(|other| other.prefix == history.prefix) {
                return Err(ProblemKind::Repeated {
                    found: format!("the prefix {}", quoted(&history.prefix)),
                });
            }
            histories.push(history);
        }
        Ok(histories)
    }

    fn show(&self, histories: &Vec<ChannelHistory>) -> Option<String> {
        let table = |history: &ChannelHistory| {
            let ttl = history.ttl.and_then(|ttl| TTL.show(&ttl));
            let ttl = ttl.map_or_else(String::new, |ttl| format!(", ttl = {ttl}"));
            format!("{{ prefix = {}, messages = {}{ttl} }}", quoted(&history.prefix), history.messages)
        };
        Some(format!("[{}]", histories.iter().map(table).collect::<Vec<_>>().join(", ")))
    }
}

/// Reads a value in TOML.
fn inline(text: &str) -> Option<Raw> {
    let text = format!("value = {text}");
    let table = DeTable::parse(&text).ok()?;
    table.get_ref().iter().next().map(|(_, value)| Raw::from_toml(value.get_ref()))
}

fn table(entries: &[(String, Raw)]) -> Result<ChannelHistory, ProblemKind> {
    let find = |name: &str| entries.iter().find(|(key, _)| key == name).map(|(_, value)| value);
    if let Some((unknown, _)) =
        entries.iter().find(|(key, _)| !["prefix", "messages", "ttl"].contains(&key.as_str()))
    {
        return Err(invalid(EXPECTED, unknown));
    }
    let (Some(prefix), Some(messages)) = (find("prefix"), find("messages")) else {
        return Err(invalid(EXPECTED, "one without prefix or messages"));
    };
    let prefix = prefix.text("the beginning of a name in quotes")?.to_owned();
    if prefix.is_empty() {
        return Err(invalid(
            "the beginning of a name",
            "\"\": messages and ttl of [history] are for all others",
        ));
    }
    check_count(prefix.len(), 1..=LONGEST_PREFIX, "bytes long")?;
    let ttl = find("ttl").map(|ttl| TTL.read(ttl)).transpose()?;
    Ok(ChannelHistory { prefix, messages: MESSAGES.read(messages)?, ttl })
}
