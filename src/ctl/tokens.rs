//! `philotectl token` and `philotectl inspect`: their requests, and the text of the answers.

use std::time::{Duration, SystemTime};

use super::args::Token;
use super::input::standard_input;
use super::print::Facts;
use super::{Complaint, Report};
use crate::admin::api::{Hidden, Inspection, IssuedToken, Timestamp, TokenRequest};
use crate::escape::{escape, escape_json};
use crate::terminal::{self, Style, Tone};
use crate::timestamp::span;
use crate::token::{ApiRight, ApiRights, NewMay};

pub(super) fn request(token: &Token) -> TokenRequest {
    TokenRequest {
        read: token.read.clone(),
        // With --api, no --write means any channel, which is expressed by leaving the claim out.
        write: (!token.write.is_empty()).then(|| token.write.clone()),
        may: NewMay { read: token.may_read.clone(), write: token.may_write.clone() },
        presence: token.presence,
        info: token.info.as_ref().map(|info| info.0.clone()),
        // --api without values grants all rights.
        api: token.api.as_ref().map_or(ApiRights::NONE, |names| match names.as_slice() {
            [] => ApiRights::ALL,
            names => names.iter().filter_map(|name| ApiRight::named(name)).collect(),
        }),
        subject: token.subject.clone(),
        expires_in: token.expires_in.0.map(|life| life.as_secs()),
    }
}

/// Prints a warning for each channel whose name is probably not what was meant.
pub(super) fn warn(token: &Token) {
    for (option, channels) in [
        ("--read", &token.read),
        ("--write", &token.write),
        ("--may-read", &token.may_read),
        ("--may-write", &token.may_write),
    ] {
        let warnings = channels.iter().filter_map(|channel| warning(option, channel));
        warnings.for_each(|warning| terminal::complain(&warning, None));
    }
}

/// Returns a warning if a channel's name looks like a list or a pattern, because it is neither. For `--may-read` and
/// `--may-write`, a `*` at the end is no part of the name.
fn warning(option: &str, channel: &str) -> Option<String> {
    let may = option.starts_with("--may-");
    let text = if may { channel.strip_suffix('*').unwrap_or(channel) } else { channel };
    let parts: Vec<&str> = channel
        .split(|c: char| ",;".contains(c) || c.is_whitespace())
        .filter(|part| !part.is_empty())
        .collect();
    let pattern = text.contains('*')
        || [">", "#", "+"].iter().any(|wild| text.split(['.', '/']).any(|part| part == *wild));
    let what = if may { "one name or one beginning" } else { "the name of one channel" };
    let name = format!("warning: {option} \"{channel}\" is {what}");
    if parts.len() > 1 {
        let each: Vec<String> = parts.iter().map(|part| format!("{option} {part}")).collect();
        return Some(format!("{name}, not a list; for several: {}", each.join(" ")));
    }
    if pattern && may {
        return Some(format!("{name}, not a pattern: only a * at its end is special"));
    }
    if pattern {
        let may = channel.ends_with('*').then(|| format!(", or use --may-{} \"{channel}\"", &option[2..]));
        return Some(format!("{name}, not a pattern: name each channel{}", may.unwrap_or_default()));
    }
    (parts.first() != Some(&channel)).then(|| format!("{name}, which differs from \"{}\"", parts.concat()))
}

pub(super) fn issued(issued: &IssuedToken) -> Report {
    let aside = match issued.expires_at {
        Some(end) => format!("expires {}", moment(end)),
        None => "never expires".into(),
    };
    Report { aside: Some(aside), ..Report::new(format!("{}\n", issued.token.0)) }
}

/// Formats a time, and its distance from now.
fn moment(at: Timestamp) -> String {
    let now = SystemTime::now();
    match (at.0.duration_since(now), now.duration_since(at.0)) {
        (Ok(ahead), _) => format!("{at} (in {})", span(ahead + Duration::from_millis(999))),
        (_, Ok(ago)) => format!("{at} ({} ago)", span(ago)),
        _ => at.to_string(),
    }
}

/// Returns the token to inspect, without the scheme of a pasted `Authorization` header.
pub(super) fn to_inspect(argument: Option<&str>) -> Result<Hidden, Complaint> {
    let text = match argument {
        Some(token) if token != "-" => token.to_owned(),
        _ => standard_input("token", "philotectl token --read chat | philotectl inspect")?,
    };
    let token = text.trim();
    let bare =
        token.split_once(char::is_whitespace).filter(|(scheme, _)| scheme.eq_ignore_ascii_case("bearer"));
    Ok(Hidden(bare.map_or(token, |(_, rest)| rest.trim()).to_owned()))
}

pub(super) fn inspection(token: &Inspection, style: Style) -> String {
    let mut facts = Facts::new(style);
    let accepted = match &token.reason {
        None => style.paint(Tone::Good, "yes"),
        Some(reason) => format!("{}: {}", style.paint(Tone::Bad, "no"), escape(reason)),
    };
    facts.add("accepted", accepted);
    if let Some(expires) = token.expires_at {
        facts.add("expires", moment(expires));
    } else if token.accepted {
        facts.add("expires", "never");
    }
    if let Some(key) = &token.signed_by {
        facts.add("signed by", escape(key));
    }
    for (label, part) in [("claims", &token.claims), ("header", &token.header)] {
        if let Some(value) = part {
            facts.add(label, escape_json(&value.to_string()));
        }
    }
    facts.render()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_channel_that_looks_like_a_list_or_a_pattern_causes_a_warning() {
        for (channel, words) in [
            ("chat,news", "not a list; for several: --read chat --read news"),
            ("chat, news", "not a list; for several: --read chat --read news"),
            ("chat news", "not a list"),
            ("*", "not a pattern"),
            ("room:*", "not a pattern: name each channel, or use --may-read \"room:*\""),
            ("a.>", "not a pattern"),
            ("a/#", "not a pattern"),
            ("chat ", "which differs from \"chat\""),
            ("chat,", "which differs from \"chat\""),
        ] {
            let text = warning("--read", channel).unwrap_or_default();
            assert!(text.contains(words) && text.contains(channel), "{channel}: {text}");
        }
        for plain in ["chat", "room:42", "c++", "room#1", "a>b", "a.b/c"] {
            assert_eq!(warning("--read", plain), None);
        }
        for (pattern, words) in [
            (
                "room:*,dm:*",
                "is one name or one beginning, not a list; for several: --may-read room:* --may-read dm:*",
            ),
            ("a*b", "only a * at its end is special"),
            ("room:**", "only a * at its end is special"),
            ("room:* ", "only a * at its end is special"),
        ] {
            let text = warning("--may-read", pattern).unwrap_or_default();
            assert!(text.contains(words) && text.contains(pattern), "{pattern}: {text}");
        }
        for plain in ["*", "room:*", "room:42"] {
            assert_eq!(warning("--may-write", plain), None);
        }
    }

    #[test]
    fn a_token_may_be_pasted_with_the_scheme_of_its_header() {
        for text in ["a.b.c", " a.b.c\n", "Bearer a.b.c", "bearer  a.b.c "] {
            assert_eq!(to_inspect(Some(text)).unwrap().0, "a.b.c");
        }
    }
}
