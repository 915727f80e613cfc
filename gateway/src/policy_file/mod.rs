//! The operator's policy: a TOML file that says what differs from the built-in one.
//!
//! `policy/default.toml` is the built-in policy as such a file, and explains every field.

mod categories;
mod source;
mod values;
mod words;

#[cfg(test)]
mod tests;

use std::fmt;
use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use barrage_router::{Level, LevelRules, PLATFORMS, Policy, Rate};
use toml::de::DeTable;

use crate::filter::Filter;
use source::{Source, Table};
use values::{bytes, rate, time_ms, time_s, whole};

/// Bytes of a policy file, and of each word list that it names.
pub const FILE_BYTES_MAX: u64 = 8 * 1024 * 1024;

/// The built-in policy as a file, with comments.
pub const DEFAULT: &str = include_str!("../../policy/default.toml");

/// Everything that an operator can change while the gateway runs.
#[derive(Clone, Debug)]
pub struct Rules {
    /// What rooms, inboxes and quotas go by.
    pub policy: Policy,
    /// What clients may not say.
    pub filter: Filter,
}

/// Everything that is wrong with a policy file: a sentence for each problem, with file and line.
#[derive(Debug, PartialEq, Eq)]
pub struct PolicyError {
    /// By their places in the file; at least one.
    pub problems: Vec<String>,
    /// Problems that there are besides.
    pub more: usize,
}

/// What applies when the operator has said nothing else.
pub fn builtin() -> Rules {
    Rules { policy: Policy::builtin(), filter: Filter::default() }
}

/// Reads a policy file and the word lists that it names, which stand relative to it.
pub fn load(path: &Path) -> Result<Rules, PolicyError> {
    let name = path.display().to_string();
    let bytes = read(path)
        .map_err(|error| PolicyError::single(format!("{name}: cannot be read: {error}")))?;
    match str::from_utf8(&bytes) {
        Ok(text) => parse(text, &name, &read),
        Err(error) => {
            let line = source::line(&bytes, error.valid_up_to());
            Err(PolicyError::single(format!("{name}:{line}: this is not UTF-8")))
        }
    }
}

/// Reads a policy from its text. The name is that of the file; the word lists that the text names
/// are asked for by paths next to it.
pub fn parse(
    text: &str,
    name: &str,
    read_file: &dyn Fn(&Path) -> io::Result<Vec<u8>>,
) -> Result<Rules, PolicyError> {
    let table = DeTable::parse(text).map_err(|error| {
        let at = error.span().map_or(text.len(), |span| span.start);
        let line = source::line(text.as_bytes(), at);
        let message = error.message().replace('\n', ", ");
        PolicyError::single(format!("{name}:{line}: this is not TOML: {message}"))
    })?;
    let mut source = Source::new(name, text);
    let tables = ["levels", "merge", "inbox", "quotas", "egress", "devices", "category", "filter"];
    let root = Table::root(&mut source, &table, &tables);
    let mut policy = Policy::builtin();
    levels(&mut source, root, &mut policy.levels);
    merge(&mut source, root, &mut policy);
    inbox(&mut source, root, &mut policy);
    quotas(&mut source, root, &mut policy);
    egress(&mut source, root, &mut policy);
    devices(&mut source, root, &mut policy.devices);
    let (policy, ids) = categories::read(&mut source, root, policy);
    let lists = words::read(&mut source, root, &policy, &ids, read_file);
    source.finish()?;
    Ok(Rules { policy, filter: Filter::new(lists) })
}

fn levels(source: &mut Source<'_>, root: Table<'_>, rules: &mut LevelRules) {
    let Some(table) = root.table(source, "levels", &["from", "dwell", "dwell-max"]) else { return };
    let each = "one for each of L2, L3 and L4";
    let members = whole::<u32>(1..=i64::from(u32::MAX));
    if let Some(from) = table.array(source, "from", each, members) {
        rules.from = from;
        if let Some(pair) = from.windows(2).find(|pair| pair[0] >= pair[1]) {
            let says = format!("{} comes after {}; they have to rise", pair[1], pair[0]);
            table.problem(source, "from", says);
        }
    }
    let fine = table.set(source, "dwell", &mut rules.dwell_ms, time_ms("100ms", "1h"))
        & table.set(source, "dwell-max", &mut rules.dwell_max_ms, time_ms("100ms", "1d"));
    if fine && rules.dwell_ms > rules.dwell_max_ms {
        let field = if table.has("dwell") { "dwell" } else { "dwell-max" };
        let (dwell, most) = (rules.dwell_ms, rules.dwell_max_ms);
        let says = format!("dwell is {dwell} ms, and dwell-max is {most} ms, which is less");
        table.problem(source, field, says);
    }
}

fn merge(source: &mut Source<'_>, root: Table<'_>, policy: &mut Policy) {
    let names = ["combo-gap", "combo-every", "state-every"];
    let Some(table) = root.table(source, "merge", &names) else { return };
    let rules = &mut policy.merge;
    table.set(source, "combo-gap", &mut rules.combo_gap_ms, time_ms("10ms", "1m"));
    table.set(source, "combo-every", &mut rules.combo_every_ms, time_ms("10ms", "1m"));
    table.set(source, "state-every", &mut rules.state_every_ms, time_ms("10ms", "1m"));
}

fn inbox(source: &mut Source<'_>, root: Table<'_>, policy: &mut Policy) {
    let names = ["retry-after", "tries", "ttl", "messages"];
    let Some(table) = root.table(source, "inbox", &names) else { return };
    let rules = &mut policy.inbox;
    table.set(source, "retry-after", &mut rules.retry_after_ms, time_ms("1s", "1h"));
    table.set(source, "tries", &mut rules.tries, whole(1..=10));
    table.set(source, "messages", &mut rules.messages_max, whole(1..=i64::from(u16::MAX)));
    let ttl = |value: &_| {
        let seconds = time_s("1s", "365d")(value)?;
        Ok(u32::try_from(seconds).expect("a year of seconds fits"))
    };
    table.set(source, "ttl", &mut rules.ttl_s, ttl);
}

fn quotas(source: &mut Source<'_>, root: Table<'_>, policy: &mut Policy) {
    let names = ["user", "user-burst", "app", "app-burst"];
    let Some(table) = root.table(source, "quotas", &names) else { return };
    quota(source, table, ["user", "user-burst"], &mut policy.quotas.user);
    quota(source, table, ["app", "app-burst"], &mut policy.quotas.app);
}

fn quota(source: &mut Source<'_>, table: Table<'_>, names: [&str; 2], quota: &mut Rate) {
    let [name, burst_name] = names;
    let fine = table.set(source, name, quota, rate);
    let known = table.set(source, burst_name, &mut quota.burst, whole(1..=i64::from(u32::MAX)));
    if fine && known && table.has(burst_name) && quota.is_unlimited() {
        let says = format!("there is no rate for it to go with; say `{name}` too, or leave it out");
        table.problem(source, burst_name, says);
    }
}

fn egress(source: &mut Source<'_>, root: Table<'_>, policy: &mut Policy) {
    let Some(table) = root.table(source, "egress", &["bytes-per-second"]) else { return };
    table.set(source, "bytes-per-second", &mut policy.egress_bytes_per_second, bytes);
}

fn devices(source: &mut Source<'_>, root: Table<'_>, devices: &mut [u16; PLATFORMS]) {
    // In the order of the protocol's numbers.
    let names: [&str; PLATFORMS] = ["unknown", "ios", "android", "web", "desktop", "bot"];
    let Some(table) = root.table(source, "devices", &names) else { return };
    for (name, devices) in names.into_iter().zip(devices) {
        table.set(source, name, devices, whole(0..=i64::from(u16::MAX)));
    }
}

fn read(path: &Path) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    // One more than allowed, so that a file that is too long can be told from one that is not.
    File::open(path)?.take(FILE_BYTES_MAX + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > FILE_BYTES_MAX {
        return Err(io::Error::other(format!("it has more than {FILE_BYTES_MAX} bytes")));
    }
    Ok(bytes)
}

impl PolicyError {
    fn single(problem: String) -> Self {
        Self { problems: vec![problem], more: 0 }
    }
}

impl fmt::Display for PolicyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.problems.join("\n"))?;
        match self.more {
            0 => Ok(()),
            more => write!(f, "\nand {more} more"),
        }
    }
}

impl std::error::Error for PolicyError {}

/// Messages name levels by number.
const _: () = assert!(Level::ALL.len() == 4, "`levels.from` and `category.limits` say L1 to L4");
