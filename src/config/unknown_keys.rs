//! Names that are no keys: suggestions for misspelled ones.

use super::keys::{KEYS, Key, PREFIX, variable};

/// Returns whether there are keys in this section.
pub(super) fn is_section(name: &str) -> bool {
    !name.is_empty() && KEYS.iter().any(|key| key.section() == name)
}

/// Returns the section, or the key at the top of the file, with the most similar name.
pub(super) fn nearest_section(name: &str) -> Option<String> {
    let top = KEYS.iter().filter(|key| key.section().is_empty()).map(Key::path);
    nearest(name, KEYS.iter().map(Key::section).filter(|section| !section.is_empty()).chain(top))
        .map(str::to_owned)
}

/// Names that other servers, and the variables of this one, have for a key.
const OTHER_NAMES: [(&str, &str); 6] = [
    ("port", "listen = [\"[::]:6380\"]"),
    ("host", "listen = [\"127.0.0.1:6380\"]"),
    ("bind", "listen = [\"127.0.0.1:6380\"]"),
    ("address", "listen = [\"127.0.0.1:6380\"]"),
    ("loglevel", "log.level"),
    ("log_level", "log.level"),
];

/// Returns the most likely key: the most similar name in the same section, else the same name in another.
pub(super) fn nearest_key(path: &str) -> Option<String> {
    let (section, name) = path.rsplit_once('.').unwrap_or(("", path));
    let other = OTHER_NAMES.iter().find(|(other, _)| section.is_empty() && *other == name);
    if let Some((_, key)) = other {
        return Some((*key).to_owned());
    }
    let siblings = KEYS.iter().filter(|key| key.section() == section).map(Key::name);
    nearest(name, siblings).map(str::to_owned).or_else(|| {
        // In TOML every key below a section's header belongs to that section. A key meant for the top is a common mistake.
        KEYS.iter().find(|key| key.name() == name).map(|key| match key.section() {
            "" => format!("{name} at the top of the file, above the first [section]"),
            _ => key.path().to_owned(),
        })
    })
}

/// Returns the most likely variable.
pub(super) fn nearest_variable(name: &str) -> Option<String> {
    let name = name.strip_prefix(PREFIX).unwrap_or(name);
    let short = KEYS.iter().filter_map(Key::short_variable).find(|short| *short == name);
    // Compared without the prefix, which would make any two look similar.
    let long: Vec<String> = KEYS.iter().map(|key| key.path().replace('.', "_")).collect();
    let near = || nearest(name, long.iter().map(String::as_str)).map(variable);
    short.map(str::to_owned).or_else(near)
}

fn nearest<'a>(name: &str, candidates: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    /// Names that are less similar share only some letters.
    const SIMILAR: f64 = 0.85;
    let name = name.to_ascii_lowercase();
    candidates
        .map(|candidate| (strsim::jaro_winkler(&name, &candidate.to_ascii_lowercase()), candidate))
        .filter(|(likeness, _)| *likeness >= SIMILAR)
        .max_by(|(a, _), (b, _)| a.total_cmp(b))
        .map(|(_, candidate)| candidate)
}
