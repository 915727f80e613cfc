//! HdrHistogram interval logs: one line for the times of an interval, as HdrHistogram's own tools
//! write and read them. Nothing is rounded: moments have nanoseconds, histograms all their counts.

use std::fmt::Write;
use std::io::Read;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use flate2::read::ZlibDecoder;
use hdrhistogram::serialization::interval_log::{IntervalLogIterator, LogEntry, LogIteratorError};
use hdrhistogram::serialization::{Deserializer, Serializer, V2DeflateSerializer};

use crate::record::{Times, no_times};

/// Digits of the longest histogram in a log, encoded; ours take 200 kB when every count is used.
const ENCODED_BYTES_MAX: usize = 8 << 20;
/// Bytes of a histogram when it is not compressed any more: of the widest that there can be.
const PLAIN_BYTES_MAX: usize = 64 << 20;
/// What a histogram in the V2 encoding begins with, plain and compressed.
const PLAIN_COOKIE: u32 = 0x1c84_9313;
const COMPRESSED_COOKIE: u32 = 0x1c84_9314;
/// The plain encoding's head: cookie, length of the counts, offset, digits, lowest and highest value,
/// ratio.
const HEAD_BYTES: usize = 40;
/// A count of -2^63 in its variable length. It is no number of anything, and the reader of
/// histograms cannot turn its sign round.
const LEAST_COUNT: [u8; 9] = [0xff; 9];
/// Moments farther than this from a log's start are told from 1970 and not from the start, as
/// HdrHistogram's own reader has it.
const YEAR: Duration = Duration::from_secs(365 * 24 * 3600);
/// The longest log that is read.
const LOG_BYTES_MAX: u64 = 4 << 30;

/// One line of a log.
#[derive(Clone, Debug, PartialEq)]
pub struct Entry {
    /// What was timed, if the log says it.
    pub tag: Option<String>,
    /// The beginning, since the log's base.
    pub from: Duration,
    /// How long.
    pub length: Duration,
    /// The longest time, as the log says it.
    pub max: f64,
    /// The histogram as it stands in the log.
    pub encoded: String,
}

/// A log.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Log {
    /// The moment that all others are told from, since 1970; zero: they are told from there.
    pub base: Duration,
    /// Its lines, in their order.
    pub entries: Vec<Entry>,
}

/// How a log begins whose moments are told from `base_unix_ms`.
pub fn heading(comment: &str, base_unix_ms: u64) -> String {
    let (s, ms) = (base_unix_ms / 1000, base_unix_ms % 1000);
    let date = crate::machine::utc(s);
    let comment = comment.replace(['\r', '\n'], " ");
    format!(
        "#[Histogram log format version 1.3]\n\
         #{comment}\n\
         #[StartTime: {s}.{ms:03} (seconds since epoch), {date}]\n\
         #[BaseTime: {s}.{ms:03} (seconds since epoch)]\n\
         \"StartTimestamp\",\"Interval_Length\",\"Interval_Max\",\
         \"Interval_Compressed_Histogram\"\n"
    )
}

impl Entry {
    /// These times.
    pub fn new(tag: &str, from: Duration, length: Duration, times: &Times) -> Self {
        let (tag, encoded) = (Some(tag.to_owned()), encode(times));
        Self { tag, from, length, max: times.max() as f64, encoded }
    }

    /// As it stands in a log, with its line end.
    pub fn line(&self) -> String {
        let mut line = String::with_capacity(self.encoded.len() + 64);
        if let Some(tag) = &self.tag {
            line.push_str("Tag=");
            line.push_str(tag);
            line.push(',');
        }
        let Self { from, length, max, encoded, .. } = self;
        let (from_s, from_ns) = (from.as_secs(), from.subsec_nanos());
        let (s, ns) = (length.as_secs(), length.subsec_nanos());
        let rest = write!(line, "{from_s}.{from_ns:09},{s}.{ns:09},{max:.3},{encoded}");
        rest.expect("a String takes what is written");
        line.push('\n');
        line
    }
}

/// Reads a log from a file's bytes. The last line may be cut, as it is when a writer was killed:
/// then it is left out, and the second value says so.
pub fn read(mut from: impl Read) -> Result<(Log, bool)> {
    let mut bytes = Vec::new();
    from.by_ref().take(LOG_BYTES_MAX).read_to_end(&mut bytes)?;
    if bytes.len() as u64 == LOG_BYTES_MAX {
        bail!("longer than {LOG_BYTES_MAX} bytes: split it");
    }
    let whole = bytes.iter().rposition(|&byte| byte == b'\n').map_or(0, |at| at + 1);
    let cut = whole < bytes.len();
    Ok((parse(&bytes[..whole])?, cut))
}

fn parse(bytes: &[u8]) -> Result<Log> {
    if !bytes.is_empty() && !bytes.starts_with(b"#") && !bytes.starts_with(b"\"") {
        bail!("not an HdrHistogram interval log: it does not begin with a comment or a legend");
    }
    let (mut log, mut started, mut based) = (Log::default(), Duration::ZERO, false);
    for entry in IntervalLogIterator::new(bytes) {
        match entry {
            Ok(LogEntry::StartTime(start)) => started = start,
            Ok(LogEntry::BaseTime(base)) if log.entries.is_empty() => {
                (log.base, based) = (base, true);
            }
            Ok(LogEntry::BaseTime(_)) => bail!("a second base time after the first times"),
            Ok(LogEntry::Interval(interval)) => log.entries.push(Entry {
                tag: interval.tag().map(|tag| tag.as_str().to_owned()),
                from: interval.start_timestamp(),
                length: interval.duration(),
                max: interval.max(),
                encoded: interval.encoded_histogram().to_owned(),
            }),
            Err(LogIteratorError::ParseError { offset }) => {
                let line = 1 + bytes[..offset].iter().filter(|&&byte| byte == b'\n').count();
                bail!("line {line} is not one of an HdrHistogram interval log");
            }
        }
    }
    // A log that says no base tells its moments from its start, or from 1970.
    let first = log.entries.first().map_or(Duration::ZERO, |entry| entry.from);
    if !based && first < started.saturating_sub(YEAR) {
        log.base = started;
    }
    Ok(log)
}

/// A histogram in the compressed V2 encoding, in base64.
pub fn encode(times: &Times) -> String {
    let mut bytes = Vec::new();
    let written = V2DeflateSerializer::new().serialize(times, &mut bytes);
    written.expect("a histogram of our bounds fits, and a Vec takes what is written");
    STANDARD.encode(bytes)
}

/// A histogram with the bounds that all times have.
pub fn decode(text: &str) -> Result<Times> {
    let plain = plain(text)?;
    let mut times = no_times();
    // One with other bounds may hold what does not fit in, and may take far more memory.
    let [digits, low, high] = bounds(&plain);
    if (low, high, digits) != (times.low(), times.high(), times.sigfig().into()) {
        bail!("a histogram with other bounds");
    }
    let read = deserialize(&plain)?;
    times.add(&read).map_err(|error| anyhow!("a histogram that does not fit: {error}"))?;
    Ok(times)
}

/// A histogram with whatever bounds.
pub fn decode_any(text: &str) -> Result<Times> {
    deserialize(&plain(text)?)
}

/// The plain encoding of a histogram: its whole head, and no fewer bytes behind it than it says.
/// What is not checked here the reader of histograms takes on trust.
fn plain(text: &str) -> Result<Vec<u8>> {
    if text.len() > ENCODED_BYTES_MAX {
        bail!("a histogram of {} digits is longer than {ENCODED_BYTES_MAX}", text.len());
    }
    let bytes = STANDARD.decode(text).context("not base64")?;
    let plain = match bytes.split_at_checked(8) {
        Some((head, packed)) if head[..4] == COMPRESSED_COOKIE.to_be_bytes() => {
            let mut plain = Vec::new();
            let most = PLAIN_BYTES_MAX as u64 + 1;
            let inflated = ZlibDecoder::new(packed).take(most).read_to_end(&mut plain);
            inflated.context("not a histogram: it cannot be inflated")?;
            plain
        }
        _ => bytes,
    };
    if plain.len() > PLAIN_BYTES_MAX {
        bail!("not a histogram: it is longer than {PLAIN_BYTES_MAX} bytes");
    }
    let Some((head, counts)) = plain.split_at_checked(HEAD_BYTES) else {
        bail!("not a histogram: it has no whole head");
    };
    let told = u32::from_be_bytes([head[4], head[5], head[6], head[7]]);
    if head[..4] != PLAIN_COOKIE.to_be_bytes() || told as usize > counts.len() {
        bail!("not a histogram: it says {told} bytes of counts and has {}", counts.len());
    }
    if counts.windows(LEAST_COUNT.len()).any(|bytes| bytes == LEAST_COUNT) {
        bail!("not a histogram: it has a count that cannot be");
    }
    Ok(plain)
}

/// The digits that a histogram tells apart, and its lowest and highest value.
fn bounds(plain: &[u8]) -> [u64; 3] {
    let number = |at: std::ops::Range<usize>| {
        plain[at].iter().fold(0, |number, byte| number << 8 | u64::from(*byte))
    };
    [number(12..16), number(16..24), number(24..32)]
}

fn deserialize(plain: &[u8]) -> Result<Times> {
    let read = Deserializer::new().deserialize(&mut &*plain);
    read.map_err(|error| anyhow!("not a histogram: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn times(values: &[u64]) -> Times {
        let mut times = no_times();
        values.iter().for_each(|&us| times.saturating_record(us));
        times
    }

    fn text() -> String {
        let entry = |tag, s, us| {
            let from = Duration::new(s, 123_456_789);
            Entry::new(tag, from, Duration::from_secs(1), &times(&[us, 2 * us])).line()
        };
        let heading = heading("times in\nmicroseconds", 1_700_000_000_042);
        format!("{heading}{}{}", entry("corrected", 0, 17), entry("lag", 1, 600_000_000))
    }

    #[test]
    fn what_is_written_is_read_to_the_nanosecond() {
        let (log, cut) = read(text().as_bytes()).expect("it is one");
        assert!(!cut);
        assert_eq!(log.base, Duration::from_millis(1_700_000_000_042));
        let [first, second] = &log.entries[..] else { panic!("{log:?}") };
        assert_eq!(first.tag.as_deref(), Some("corrected"));
        assert_eq!(second.from, Duration::new(1, 123_456_789));
        assert_eq!(decode(&first.encoded).expect("a histogram"), times(&[17, 34]));
        assert_eq!(decode(&second.encoded).expect("another").len(), 2);
    }

    #[test]
    fn a_cut_line_is_left_out_and_told() {
        let text = text();
        let (log, cut) = read(&text.as_bytes()[..text.len() - 9]).expect("the rest is one");
        assert!(cut);
        assert_eq!(log.entries.len(), 1);
    }

    #[test]
    fn what_is_no_log_is_refused() {
        let check = |text: &str, part: &str| {
            let error = format!("{:#}", read(text.as_bytes()).expect_err(part));
            assert!(error.contains(part), "{error}");
        };
        check("hello\n", "not an HdrHistogram interval log");
        check(&format!("{}rubbish\n", text()), "line 8 is not one");
        check(&format!("{}#[BaseTime: 1.0 (seconds)]\n", text()), "a second base time");
    }

    #[test]
    fn what_is_no_histogram_is_refused() {
        let check = |text: &str, part: &str| {
            let error = format!("{:#}", decode(text).expect_err(part));
            assert!(error.contains(part), "{error}");
        };
        check("?", "not base64");
        check("AAAA", "not a histogram");
        let narrow = Times::new_with_bounds(1, 1000, 3).expect("the bounds are good");
        check(&encode(&narrow), "other bounds");
        // The bytes of a good one, with some of them changed before they are packed again.
        let damaged = |change: &dyn Fn(&mut Vec<u8>)| {
            let mut bytes = plain(&encode(&times(&[17; 300]))).expect("it is one");
            change(&mut bytes);
            STANDARD.encode(bytes)
        };
        assert_eq!(decode(&damaged(&|_| {})).expect("it need not be packed"), times(&[17; 300]));
        check(&damaged(&|bytes| bytes[4] = 0xff), "bytes of counts");
        check(&damaged(&|bytes| bytes.truncate(HEAD_BYTES - 1)), "no whole head");
        check(&damaged(&|bytes| bytes.truncate(HEAD_BYTES)), "bytes of counts");
        check(
            &damaged(&|bytes| {
                bytes.truncate(HEAD_BYTES);
                bytes.extend(LEAST_COUNT);
                bytes[4..8].copy_from_slice(&9_u32.to_be_bytes());
            }),
            "a count that cannot be",
        );
    }

    #[test]
    fn moments_are_told_from_the_base_or_else_from_the_start() {
        let base = |head: &str, from: u64| {
            let from = Duration::new(from, 500_000_000);
            let line = Entry::new("x", from, Duration::from_secs(1), &times(&[1])).line();
            let text = format!("#[Histogram log format version 1.3]\n{head}{line}");
            read(text.as_bytes()).expect("it is one").0.base.as_secs()
        };
        let start = "#[StartTime: 1700000000.0 (seconds since epoch)]\n";
        assert_eq!(base(start, 3), 1_700_000_000);
        assert_eq!(base(start, 1_700_000_003), 0, "that is a moment since 1970");
        let both = format!("{start}#[BaseTime: 0.0 (seconds since epoch)]\n");
        assert_eq!(base(&both, 3), 0, "what is said goes");
    }
}
