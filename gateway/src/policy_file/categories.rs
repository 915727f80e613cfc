//! The `[[category]]` tables.

use barrage_router::{
    Aggregation, CATEGORIES_MAX, Category, Class, Keep, Level, Policy, Rate, Retention,
};

use toml::de::DeValue;

use super::source::{Source, Table};
use super::values::{bytes, describe, one_of, rate, time_s, whole, yes_no};

/// Bytes of a category's name, which also stands in metrics.
const NAME_BYTES_MAX: usize = 64;
/// How long history is kept unless the file says it.
const KEEP_AGE_S: u64 = 24 * 3600;

const LEVELS: usize = Level::ALL.len();

const FIELDS: [&str; 12] = [
    "id",
    "name",
    "class",
    "never-drop",
    "aggregation",
    "limits",
    "burst",
    "inbox",
    "history",
    "keep-age",
    "keep-count",
    "keep-bytes",
];

const CLASSES: [(&str, Class); 4] =
    [("P0", Class::P0), ("P1", Class::P1), ("P2", Class::P2), ("P3", Class::P3)];
const AGGREGATIONS: [(&str, Aggregation); 3] =
    [("none", Aggregation::None), ("combo", Aggregation::Combo), ("latest", Aggregation::Latest)];
const HISTORIES: [(&str, Keep); 2] = [("memory", Keep::Memory), ("disk", Keep::Disk)];

/// The policy with the file's categories, or with those that it had when the file has none; and the
/// ids that messages may name, also those of categories with something wrong.
pub(super) fn read(
    source: &mut Source<'_>,
    root: Table<'_>,
    mut policy: Policy,
) -> (Policy, Vec<u16>) {
    let tables = root.tables(source, "category", &FIELDS);
    if root.is_empty_list("category") {
        // Who writes this may mean none, or those that are built in.
        let says = "there has to be one; for the built-in categories leave it out";
        root.problem(source, "category", says);
    }
    if tables.is_empty() {
        let ids = policy.categories().map(|category| category.id).collect();
        return (policy, ids);
    }
    policy = policy.without_categories();
    let mut ids: Vec<(u16, usize)> = Vec::new();
    let mut names: Vec<(String, usize)> = Vec::new();
    for table in tables {
        let id = table.need(source, "id", whole::<u16>(0..=CATEGORIES_MAX as i64 - 1));
        let id = id.filter(|id| is_first(source, table, "id", id, &mut ids));
        let name = table.need(source, "name", name);
        let name = name.filter(|name| is_first(source, table, "name", name, &mut names));
        let category = category(source, table);
        if let (Some(id), Some(name), Some(category)) = (id, name, category) {
            policy.insert(&name, Category { id, ..category });
        }
    }
    (policy, ids.into_iter().map(|(id, _)| id).collect())
}

/// Everything but id and name; nothing if the class is not known.
fn category(source: &mut Source<'_>, table: Table<'_>) -> Option<Category> {
    let class = table.need(source, "class", one_of("a class", &CLASSES));
    let mut never_drop = false;
    table.set(source, "never-drop", &mut never_drop, yes_no);
    let mut aggregation = Aggregation::None;
    let says = one_of("an aggregation", &AGGREGATIONS);
    table.set(source, "aggregation", &mut aggregation, says);
    let mut inbox = false;
    table.set(source, "inbox", &mut inbox, yes_no);
    let limits = limits(source, table);
    let (keep, retention) = history(source, table);

    let merges = aggregation != Aggregation::None;
    if never_drop && merges {
        let says = "a category that is never dropped is not merged either; say \"none\"";
        table.problem(source, "aggregation", says);
    }
    if never_drop && limits.iter().any(|limit| !limit.is_unlimited()) {
        let says = "a category that is never dropped has no limits; say \"unlimited\" or nothing";
        table.problem(source, "limits", says);
    }
    if never_drop && keep == Keep::Memory {
        let says =
            "what is never dropped has to outlive the room's memory; say \"disk\" or nothing";
        table.problem(source, "history", says);
    }
    if inbox && merges {
        let says = "messages that are merged cannot wait in inboxes; say false";
        table.problem(source, "inbox", says);
    }
    Some(Category { id: 0, class: class?, never_drop, aggregation, limits, inbox, keep, retention })
}

fn limits(source: &mut Source<'_>, table: Table<'_>) -> [Rate; LEVELS] {
    let each = "one for each of L1 to L4";
    let limits = table.array(source, "limits", each, rate);
    let wrong = limits.is_none() && table.has("limits");
    let mut limits = limits.unwrap_or([Rate::UNLIMITED; LEVELS]);
    let bursts = table.array(source, "burst", each, whole::<u32>(0..=i64::from(u32::MAX)));
    // Without the limits nothing can be said about what goes with them.
    let bursts: [u32; LEVELS] = bursts.filter(|_| !wrong).unwrap_or_default();
    for ((limit, burst), level) in limits.iter_mut().zip(bursts).zip(Level::ALL) {
        if burst > 0 && limit.is_unlimited() {
            let says = format!("L{} has no limit for {burst} to go with; say 0", level.number());
            table.problem(source, "burst", says);
        } else if burst > 0 {
            limit.burst = burst;
        }
    }
    refuse_looser(source, table, &limits);
    limits
}

/// A room that grows is never allowed more.
fn refuse_looser(source: &mut Source<'_>, table: Table<'_>, limits: &[Rate; LEVELS]) {
    // The rate that stands for no limit is the loosest of all.
    let looseness = |limit: Rate| match limit.is_unlimited() {
        true => (u64::MAX, u64::MAX),
        false => (u64::from(limit.per_second), u64::from(limit.burst)),
    };
    for (pair, level) in limits.windows(2).zip(&Level::ALL[1..]) {
        let (before, after) = (looseness(pair[0]), looseness(pair[1]));
        let field = match (after.0 > before.0, after.1 > before.1) {
            (true, _) => "limits",
            // Bursts that are not said follow their rates, so this one is.
            (false, true) => "burst",
            (false, false) => continue,
        };
        let (level, before) = (level.number(), level.number() - 1);
        let says = format!("L{level} is allowed more than L{before}; larger rooms may not be");
        table.problem(source, field, says);
    }
}

fn history(source: &mut Source<'_>, table: Table<'_>) -> (Keep, Retention) {
    let mut keep = Keep::Disk;
    table.set(source, "history", &mut keep, one_of("a history", &HISTORIES));
    let mut retention = Retention { age_s: KEEP_AGE_S, count: 0, bytes: 0 };
    table.set(source, "keep-age", &mut retention.age_s, |value| match value {
        // No bound has no unit.
        DeValue::Integer(number) if number.as_str() == "0" => Ok(0),
        _ => time_s("0s", "3650d")(value),
    });
    table.set(source, "keep-count", &mut retention.count, whole(0..=i64::MAX));
    table.set(source, "keep-bytes", &mut retention.bytes, bytes);
    if keep == Keep::Memory {
        for field in ["keep-age", "keep-count", "keep-bytes"] {
            if table.has(field) {
                let says = "history in memory is bounded by the gateway; leave this out";
                table.problem(source, field, says);
            }
        }
        retention = Retention::default();
    }
    (keep, retention)
}

/// Whether no table before this one has said the same.
fn is_first<T: PartialEq + ToString + Clone>(
    source: &mut Source<'_>,
    table: Table<'_>,
    field: &str,
    value: &T,
    seen: &mut Vec<(T, usize)>,
) -> bool {
    let first = seen.iter().find(|(other, _)| other == value);
    let Some((_, at)) = first else {
        seen.push((value.clone(), table.at));
        return true;
    };
    let line = source.line(*at);
    let says = format!("{} is taken by the category of line {line}", value.to_string());
    table.problem(source, field, says);
    false
}

fn name(value: &DeValue<'_>) -> Result<String, String> {
    let allowed = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_';
    let name = value.as_str().filter(|name| (1..=NAME_BYTES_MAX).contains(&name.len()));
    let name = name.filter(|name| name.bytes().all(allowed));
    name.map(str::to_owned).ok_or_else(|| {
        let says = "say 1 to 64 of the letters a to z, digits and _";
        format!("{} is not a name; {says}", describe(value))
    })
}

const _: () = assert!(NAME_BYTES_MAX == 64, "the message says so");
