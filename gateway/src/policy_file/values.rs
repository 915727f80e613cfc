//! How single values are written.

use std::ops::RangeInclusive;

use barrage_router::Rate;
use toml::de::DeValue;

const TIMES: [(&str, u64); 5] =
    [("ms", 1), ("s", 1_000), ("m", 60_000), ("h", 3_600_000), ("d", 86_400_000)];

const SIZES: [(&str, u64); 9] = [
    ("B", 1),
    ("KB", 1_000),
    ("MB", 1_000_000),
    ("GB", 1_000_000_000),
    ("TB", 1_000_000_000_000),
    ("KiB", 1 << 10),
    ("MiB", 1 << 20),
    ("GiB", 1 << 30),
    ("TiB", 1 << 40),
];

/// Milliseconds, from `"10s"`, between two times that are written alike.
pub(super) fn time_ms(
    least: &'static str,
    most: &'static str,
) -> impl Fn(&DeValue<'_>) -> Result<u32, String> {
    let millis = time(least, most);
    let fits = "a time that is kept in milliseconds is bounded by one that fits";
    move |value| millis(value).map(|millis| u32::try_from(millis).expect(fits))
}

/// Seconds, from `"7d"`, between two times that are written alike.
pub(super) fn time_s(
    least: &'static str,
    most: &'static str,
) -> impl Fn(&DeValue<'_>) -> Result<u64, String> {
    let millis = time(least, most);
    move |value| match millis(value)? {
        millis if millis % 1_000 == 0 => Ok(millis / 1_000),
        _ => Err(format!("{} is not whole seconds", describe(value))),
    }
}

/// Bytes, from `"10GB"` or a number.
pub(super) fn bytes(value: &DeValue<'_>) -> Result<u64, String> {
    let bytes = match value {
        DeValue::Integer(_) => integer(value).and_then(|bytes| u64::try_from(bytes).ok()),
        DeValue::String(text) => with_unit(text, &SIZES),
        _ => None,
    };
    let wrong = "is not a size; say a whole number and B, KB, MB, GB or TB, such as \"10GB\"";
    match bytes {
        Some(u64::MAX) => {
            let most = u64::MAX / 1_000_000_000_000;
            Err(format!("{} is too much; say at most \"{most}TB\"", describe(value)))
        }
        bytes => bytes.ok_or_else(|| format!("{} {wrong}", describe(value))),
    }
}

/// So many a second, and as many at once, from `"20/s"` or `"unlimited"`.
pub(super) fn rate(value: &DeValue<'_>) -> Result<Rate, String> {
    let per_second = match value.as_str() {
        Some("unlimited") => return Ok(Rate::UNLIMITED),
        Some(text) => text.strip_suffix("/s").and_then(digits),
        None => None,
    };
    match per_second.map(u32::try_from) {
        Some(Ok(0)) => Err("\"0/s\" would let nothing through; say at least \"1/s\"".to_owned()),
        Some(Ok(per_second)) => Ok(Rate { per_second, burst: per_second }),
        Some(Err(_)) => Err(format!("{} is too much; say \"unlimited\"", describe(value))),
        None => Err(format!(
            "{} is not a rate; say for example \"20/s\", or \"unlimited\"",
            describe(value)
        )),
    }
}

/// A whole number in this range.
pub(super) fn whole<T: TryFrom<i64>>(
    range: RangeInclusive<i64>,
) -> impl Fn(&DeValue<'_>) -> Result<T, String> {
    move |value| {
        let number = integer(value).filter(|number| range.contains(number));
        number.and_then(|number| T::try_from(number).ok()).ok_or_else(|| {
            let (least, most) = (range.start(), range.end());
            match (value, *most) {
                (DeValue::Integer(_), i64::MAX) => {
                    format!("{} is out of range; at least {least} is needed", describe(value))
                }
                (DeValue::Integer(_), _) => format!(
                    "{} is out of range; between {least} and {most} is allowed",
                    describe(value)
                ),
                _ => format!("{} is not a whole number", describe(value)),
            }
        })
    }
}

/// `true` or `false`.
pub(super) fn yes_no(value: &DeValue<'_>) -> Result<bool, String> {
    value.as_bool().ok_or_else(|| format!("{} is neither true nor false", describe(value)))
}

/// Any text.
pub(super) fn text(value: &DeValue<'_>) -> Result<String, String> {
    let text = value.as_str().ok_or_else(|| format!("{} is not a text", describe(value)))?;
    Ok(text.to_owned())
}

/// One of these words.
pub(super) fn one_of<T: Copy>(
    what: &str,
    choices: &[(&str, T)],
) -> impl Fn(&DeValue<'_>) -> Result<T, String> {
    move |value| {
        let meant = choices.iter().find(|(name, _)| value.as_str() == Some(name));
        meant.map(|(_, choice)| *choice).ok_or_else(|| {
            let quoted = |(name, _): &(&str, T)| format!("\"{name}\"");
            let names: Vec<String> = choices.iter().map(quoted).collect();
            let (last, others) = names.split_last().expect("there is something to choose from");
            format!("{} is not {what}; say {} or {last}", describe(value), others.join(", "))
        })
    }
}

/// A value as it may stand in a message.
pub(super) fn describe(value: &DeValue<'_>) -> String {
    const CHARS_MAX: usize = 40;
    match value {
        DeValue::String(text) if text.chars().nth(CHARS_MAX).is_none() => format!("{text:?}"),
        DeValue::String(text) => {
            let start: String = text.chars().take(CHARS_MAX).collect();
            format!("{:?}", start + "…")
        }
        DeValue::Integer(number) if number.as_str().len() <= CHARS_MAX => number.to_string(),
        DeValue::Integer(_) => "the number".to_owned(),
        DeValue::Float(_) => "a number with a fraction".to_owned(),
        DeValue::Boolean(yes) => yes.to_string(),
        DeValue::Datetime(_) => "a date".to_owned(),
        DeValue::Array(_) => "a list".to_owned(),
        DeValue::Table(_) => "a table".to_owned(),
    }
}

fn time(least: &'static str, most: &'static str) -> impl Fn(&DeValue<'_>) -> Result<u64, String> {
    let known = |text| with_unit(text, &TIMES).expect("bounds are times");
    let range = known(least)..=known(most);
    let wrong = "is not a time; say a whole number and ms, s, m, h or d, such as \"10s\"";
    move |value| match value.as_str().and_then(|text| with_unit(text, &TIMES)) {
        Some(millis) if range.contains(&millis) => Ok(millis),
        Some(_) => Err(format!(
            "{} is out of range; between \"{least}\" and \"{most}\" is allowed",
            describe(value)
        )),
        None => Err(format!("{} {wrong}", describe(value))),
    }
}

/// A whole number and, right behind it, its unit; `u64::MAX` for all that is more.
fn with_unit(text: &str, units: &[(&str, u64)]) -> Option<u64> {
    let unit_at = text.find(|letter: char| !letter.is_ascii_digit())?;
    let (number, unit) = text.split_at(unit_at);
    let (_, factor) = units.iter().find(|(name, _)| *name == unit)?;
    Some(digits(number)?.saturating_mul(*factor))
}

/// Digits and nothing else: `parse` alone would take a sign. `u64::MAX` for all that is more.
fn digits(text: &str) -> Option<u64> {
    let is_number = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    is_number.then(|| text.parse().unwrap_or(u64::MAX))
}

fn integer(value: &DeValue<'_>) -> Option<i64> {
    let number = value.as_integer()?;
    i64::from_str_radix(number.as_str(), number.radix()).ok()
}
