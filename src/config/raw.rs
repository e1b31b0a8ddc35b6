//! A value as it was written, before anything is known about what it should be.

use toml::de::DeValue;

use super::error::Situation;

/// A value as it was written. It has no `Debug`: it may be the secret.
#[derive(Clone)]
pub(super) enum Raw {
    /// Without a type of its own: from the environment or the command line.
    Text(String),
    /// A string of the file.
    String(String),
    /// An integer of the file; one beyond 128 bits has become the largest.
    Integer(i128),
    /// A boolean of the file.
    Boolean(bool),
    /// A list of the file.
    List(Vec<Raw>),
    /// A table within a list of the file, in the order of its names.
    Table(Vec<(String, Raw)>),
    /// Anything else of the file, which no key takes.
    Other(&'static str),
}

impl Raw {
    pub(super) fn from_toml(value: &DeValue<'_>) -> Self {
        match value {
            DeValue::String(text) => Raw::String(text.clone().into_owned()),
            DeValue::Integer(integer) => {
                Raw::Integer(i128::from_str_radix(integer.as_str(), integer.radix()).unwrap_or(i128::MAX))
            }
            DeValue::Boolean(boolean) => Raw::Boolean(*boolean),
            DeValue::Array(items) => {
                Raw::List(items.iter().map(|item| Raw::from_toml(item.get_ref())).collect())
            }
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

    /// The items of a list; text from outside the file is separated by commas.
    pub(super) fn list(&self, expected: &'static str) -> Result<Vec<Raw>, Situation> {
        match self {
            Raw::List(items) => Ok(items.clone()),
            Raw::Text(text) => Ok(text
                .split(',')
                .map(str::trim)
                .filter(|item| !item.is_empty())
                .map(|item| Raw::String(item.to_owned()))
                .collect()),
            _ => Err(self.is_not(expected)),
        }
    }

    /// The text.
    pub(super) fn text(&self, expected: &'static str) -> Result<&str, Situation> {
        match self {
            Raw::Text(text) | Raw::String(text) => Ok(text),
            _ => Err(self.is_not(expected)),
        }
    }

    /// What it is in place of what is expected; the value itself is not told.
    pub(super) fn is_not(&self, expected: &'static str) -> Situation {
        let found = match self {
            Raw::Text(_) => "this text",
            Raw::String(_) => "text in quotes",
            Raw::Integer(_) => "a number without quotes or unit",
            Raw::Boolean(_) => "true or false",
            Raw::List(_) => "a list",
            Raw::Table(_) => "a table",
            Raw::Other(found) => found,
        };
        Situation::WrongType { expected, found }
    }

    /// Whether it means "off" of a feature that this version lacks.
    pub(super) fn is_neutral(&self) -> bool {
        match self {
            Raw::Integer(integer) => *integer == 0,
            Raw::List(items) => items.is_empty(),
            Raw::Text(text) => text.is_empty() || text == "0",
            _ => false,
        }
    }
}
