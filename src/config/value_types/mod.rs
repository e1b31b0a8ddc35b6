//! Value types: how the value of a setting is read from text, checked against its range, and printed.
//!
//! In reading order: [`Raw`] is a value before its type is known, [`ValueType`] is what a type must do, `scalars`,
//! `numbers` and `durations` are the simple types, and `listen`, `networks`, `web_origin`, `public_key_files`, `histories`
//! and `cluster` are the types with rules of their own. Nothing here knows the names of settings.

mod cluster;
mod durations;
mod histories;
mod listen;
mod networks;
mod numbers;
mod public_key_files;
mod raw;
mod scalars;
mod web_origin;

use std::fmt::Display;
use std::ops::RangeInclusive;

pub(super) use cluster::{NatsServers, NodeName, OptionalSecretFile, SubjectPrefix, host_name};
pub(super) use durations::{DrainPeriod, Period, seconds};
pub(super) use histories::{ChannelHistories, MESSAGES, TTL};
pub(super) use listen::{read_listen, set_port, show_listen, socket_path};
pub(super) use networks::Proxies;
pub(super) use numbers::{GIB, KIB, MIB, Number, Size, SizeOrOff, TIB, size};
pub(super) use public_key_files::{JwksFile, PublicKeyFiles};
pub(super) use raw::Raw;
pub(super) use scalars::{Choice, Flag, Mode, OptionalAddress, OptionalPath, OptionalText};
pub(super) use web_origin::WebOrigins;

pub use durations::Drain;
pub use listen::{Address, DEFAULT_PORT, Listen, Listener};
pub use networks::{Network, TrustedProxies};
pub use web_origin::{AllowedOrigin, WebOrigin, names_loopback};

use super::error::ProblemKind;
use crate::escape::is_invisible;

/// A type of value: how it is read, and printed so that it can be read again.
pub(super) trait ValueType {
    /// The checked value.
    type Value;

    /// Returns the value, within its range.
    fn read(&self, raw: &Raw) -> Result<Self::Value, ProblemKind>;

    /// Returns the value as the file would write it; `None` if the file expresses it by leaving the key out.
    fn show(&self, value: &Self::Value) -> Option<String>;
}

/// Returns a TOML string, with invisible characters as TOML escapes.
pub(super) fn quoted(text: impl Display) -> String {
    let text = text.to_string();
    if !text.contains(is_invisible) {
        return toml::Value::String(text).to_string();
    }
    let mut quoted = String::from('"');
    for character in text.chars() {
        match character {
            '"' | '\\' => quoted.extend(['\\', character]),
            _ if is_invisible(character) => quoted += &format!("\\U{:08x}", u32::from(character)),
            _ => quoted.push(character),
        }
    }
    quoted + "\""
}

/// Returns a TOML array of strings.
fn quoted_list(items: impl IntoIterator<Item = impl Display>) -> String {
    let items: Vec<String> = items.into_iter().map(quoted).collect();
    format!("[{}]", items.join(", "))
}

/// Returns the problem with a value that cannot be parsed.
fn invalid(expected: impl Into<String>, found: &str) -> ProblemKind {
    ProblemKind::Invalid { expected: expected.into(), found: found.to_owned() }
}

/// Returns the problem with a value outside its range.
fn out_of_range<T: Copy>(
    found: impl Display,
    range: &RangeInclusive<T>,
    show: fn(T) -> String,
) -> ProblemKind {
    let (minimum, maximum) = (show(*range.start()), show(*range.end()));
    ProblemKind::OutOfRange { minimum, maximum, found: found.to_string() }
}

/// Checks a length or a count; `unit` follows the maximum in the error.
fn check_count(count: usize, range: RangeInclusive<usize>, unit: &str) -> Result<(), ProblemKind> {
    if range.contains(&count) {
        return Ok(());
    }
    let (minimum, maximum) = (range.start().to_string(), format!("{} {unit}", range.end()));
    Err(ProblemKind::OutOfRange { minimum, maximum, found: count.to_string() })
}
