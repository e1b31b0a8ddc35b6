//! A value before its type is known.

use toml::de::{DeArray, DeValue};

use super::super::error::ProblemKind;

/// A value as a layer gives it. It has no `Debug` because it may be the secret.
#[derive(Clone)]
pub(in crate::config) enum Raw {
    /// Text from the environment or the command line, which have no types.
    Untyped(String),
    /// A TOML string.
    String(String),
    /// A TOML integer; one beyond 128 bits becomes the largest.
    Integer(i128),
    /// A TOML boolean.
    Boolean(bool),
    /// A TOML array.
    List(Vec<Raw>),
    /// A TOML table within an array, sorted by name.
    Table(Vec<(String, Raw)>),
    /// A TOML value of a type that no key takes; the text names the type.
    Other(&'static str),
}

impl Raw {
    /// Takes a value of TOML.
    pub(in crate::config) fn from_toml(value: &DeValue<'_>) -> Raw {
        let items = |items: &DeArray<'_>| items.iter().map(|item| Raw::from_toml(item.get_ref())).collect();
        match value {
            DeValue::String(text) => Raw::String(text.clone().into_owned()),
            DeValue::Integer(integer) => {
                Raw::Integer(i128::from_str_radix(integer.as_str(), integer.radix()).unwrap_or(i128::MAX))
            }
            DeValue::Boolean(boolean) => Raw::Boolean(*boolean),
            DeValue::Array(array) => Raw::List(items(array)),
            DeValue::Float(_) => Raw::Other("a fraction"),
            DeValue::Datetime(_) => Raw::Other("a date or time without quotes"),
            DeValue::Table(table) => Raw::Table(
                table
                    .iter()
                    .map(|(name, value)| (name.get_ref().to_string(), Raw::from_toml(value.get_ref())))
                    .collect(),
            ),
        }
    }

    /// Returns the items of a list. Untyped text is separated at commas.
    pub(super) fn list(&self, expected: &'static str) -> Result<Vec<Raw>, ProblemKind> {
        match self {
            Raw::List(items) => Ok(items.clone()),
            Raw::Untyped(text) => Ok(text
                .split(',')
                .map(str::trim)
                .filter(|item| !item.is_empty())
                .map(|item| Raw::String(item.to_owned()))
                .collect()),
            _ => Err(self.wrong_type(expected)),
        }
    }

    /// Returns the text of a string.
    pub(in crate::config) fn text(&self, expected: &'static str) -> Result<&str, ProblemKind> {
        match self {
            Raw::Untyped(text) | Raw::String(text) => Ok(text),
            _ => Err(self.wrong_type(expected)),
        }
    }

    /// Returns the problem with a value of this type. It does not show the value.
    pub(super) fn wrong_type(&self, expected: &'static str) -> ProblemKind {
        let found = match self {
            Raw::Untyped(_) => "this text",
            Raw::String(_) => "text in quotes",
            Raw::Integer(_) => "a number without quotes or unit",
            Raw::Boolean(_) => "true or false",
            Raw::List(_) => "a list",
            Raw::Table(_) => "a table",
            Raw::Other(found) => found,
        };
        ProblemKind::WrongType { expected, found }
    }
}
