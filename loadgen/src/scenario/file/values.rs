//! How single values are written.

use std::net::{IpAddr, SocketAddr};
use std::ops::RangeInclusive;

use super::value::{Kind, Value};
use crate::clock::seconds_ns;
use crate::sources;
use crate::upstream::{UpstreamAddress, parse_address};

/// Letters of a text that a message repeats.
const CHARS_MAX: usize = 40;
/// The longest that anything may take, in seconds.
const SECONDS_MAX: f64 = 1e6;

/// A whole number in this range.
pub(super) fn whole<T: TryFrom<i64>>(
    range: RangeInclusive<i64>,
) -> impl Fn(&Value) -> Result<T, String> {
    move |value| match value.kind {
        Kind::Whole(number) => {
            let fits = Some(number).filter(|number| range.contains(number));
            fits.and_then(|number| T::try_from(number).ok()).ok_or_else(|| outside(value, &range))
        }
        Kind::Huge => Err(outside(value, &range)),
        _ => Err(format!("{} is not a whole number", describe(value))),
    }
}

/// A number in this range.
pub(super) fn number(range: RangeInclusive<f64>) -> impl Fn(&Value) -> Result<f64, String> {
    move |value| {
        let number = match value.kind {
            Kind::Whole(number) => number as f64,
            Kind::Number(number) => number,
            Kind::Huge => f64::INFINITY,
            _ => return Err(format!("{} is not a number", describe(value))),
        };
        match range.contains(&number) {
            true => Ok(number),
            false => Err(outside(value, &range)),
        }
    }
}

/// So many in a hundred.
pub(super) fn percent(value: &Value) -> Result<f64, String> {
    number(0.0..=100.0)(value)
}

/// Seconds, at least so many, as nanoseconds.
pub(super) fn seconds(least: f64) -> impl Fn(&Value) -> Result<u64, String> {
    move |value| number(least..=SECONDS_MAX)(value).map(seconds_ns)
}

/// `true` or `false`.
pub(super) fn flag(value: &Value) -> Result<bool, String> {
    match value.kind {
        Kind::Flag(yes) => Ok(yes),
        _ => Err(format!("{} is neither true nor false", describe(value))),
    }
}

/// A text of at most so many bytes.
pub(super) fn text(bytes_max: usize) -> impl Fn(&Value) -> Result<String, String> {
    move |value| match &value.kind {
        Kind::Text(text) if text.len() <= bytes_max => Ok(text.clone()),
        Kind::Text(_) => Err(format!("it is longer than {bytes_max} bytes")),
        _ => Err(format!("{} is not a text", describe(value))),
    }
}

/// A name that may stand in paths of files and in the keys of settings.
pub(super) fn name(value: &Value) -> Result<String, String> {
    let name = text(usize::MAX)(value)?;
    check_name(&name).map(|()| name)
}

/// Whether that is such a name.
pub(super) fn check_name(name: &str) -> Result<(), String> {
    let allowed = |letter: char| letter.is_ascii_alphanumeric() || "-_".contains(letter);
    match (1..=64).contains(&name.len()) && name.chars().all(allowed) {
        true => Ok(()),
        false => Err("a name is 1 to 64 letters, digits, - and _".to_owned()),
    }
}

/// One of these words.
pub(super) fn one_of<T: Copy>(
    what: &str,
    choices: &[(&str, T)],
) -> impl Fn(&Value) -> Result<T, String> {
    move |value| {
        let meant = choices.iter().find(|(name, _)| match &value.kind {
            Kind::Text(text) => text == name,
            _ => false,
        });
        meant.map(|(_, choice)| *choice).ok_or_else(|| {
            let names: Vec<String> =
                choices.iter().map(|(name, _)| format!("\"{name}\"")).collect();
            let (last, others) = names.split_last().expect("there is something to choose from");
            format!("{} is not {what}; say {} or {last}", describe(value), others.join(", "))
        })
    }
}

/// A list of such values.
pub(super) fn list<T>(
    parse: impl Fn(&Value) -> Result<T, String>,
) -> impl Fn(&Value) -> Result<Vec<T>, String> {
    move |value| match &value.kind {
        Kind::List(items) => items.iter().map(&parse).collect(),
        _ => Err(format!("{} is not a list", describe(value))),
    }
}

/// `HOST:PORT`.
pub(super) fn address(value: &Value) -> Result<SocketAddr, String> {
    parse_address(&text(usize::MAX)(value)?)
}

/// `HOST:PORT`, or `none`.
pub(super) fn address_or_none(value: &Value) -> Result<Option<SocketAddr>, String> {
    match &value.kind {
        Kind::Text(text) if text == "none" => Ok(None),
        _ => address(value).map(Some),
    }
}

/// `HOST:PORT` or `unix:PATH`.
pub(super) fn upstream(value: &Value) -> Result<UpstreamAddress, String> {
    UpstreamAddress::parse(&text(usize::MAX)(value)?)
}

/// Addresses and networks, as a list or with commas between.
pub(super) fn source_list(value: &Value) -> Result<Vec<IpAddr>, String> {
    match &value.kind {
        Kind::List(_) => sources::parse_list(&list(text(usize::MAX))(value)?.join(",")),
        _ => sources::parse_list(&text(usize::MAX)(value)?),
    }
}

/// A value as it may stand in a message.
pub(super) fn describe(value: &Value) -> String {
    match &value.kind {
        Kind::Text(text) if text.chars().nth(CHARS_MAX).is_none() => format!("{text:?}"),
        Kind::Text(text) => {
            let start: String = text.chars().take(CHARS_MAX).collect();
            format!("{:?}", start + "…")
        }
        Kind::Whole(number) => number.to_string(),
        Kind::Huge => "the number".to_owned(),
        Kind::Number(number) => number.to_string(),
        Kind::Flag(yes) => yes.to_string(),
        Kind::Date => "a date".to_owned(),
        Kind::List(_) => "a list".to_owned(),
        Kind::Table(_) => "a table".to_owned(),
    }
}

fn outside<T: std::fmt::Display>(value: &Value, range: &RangeInclusive<T>) -> String {
    let (least, most) = (range.start(), range.end());
    format!("{} is out of range; {least} to {most} is allowed", describe(value))
}
