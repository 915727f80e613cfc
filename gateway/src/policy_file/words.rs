//! The `[[filter]]` tables and the word lists that they name.

use std::io;
use std::path::Path;

use barrage_router::{CATEGORIES_MAX, Policy};

use super::source::{Source, Table, line};
use super::values::{describe, one_of, text, whole, yes_no};
use crate::filter::{Action, Scope, WORDS_BYTES_MAX, WORDS_MAX, WordList, check_word};

/// `[[filter]]` tables of one file.
const LISTS_MAX: usize = 1024;

const FIELDS: [&str; 6] = ["app", "words", "file", "action", "categories", "uplinks"];

const ACTIONS: [(&str, Action); 3] =
    [("mask", Action::Mask), ("reject", Action::Reject), ("flag", Action::Flag)];

/// Every list, without those that have something wrong.
pub(super) fn read(
    source: &mut Source<'_>,
    root: Table<'_>,
    policy: &Policy,
    ids: &[u16],
    read_file: &dyn Fn(&Path) -> io::Result<Vec<u8>>,
) -> Vec<WordList> {
    let tables = root.tables(source, "filter", &FIELDS);
    if let Some(table) = tables.get(LISTS_MAX) {
        source.problem(table.at, format_args!("filter: at most {LISTS_MAX} are allowed"));
        return Vec::new();
    }
    let mut budget = Budget { words: WORDS_MAX, bytes: WORDS_BYTES_MAX };
    let mut lists = Vec::new();
    for table in tables {
        let app = table.need(source, "app", whole::<u32>(0..=i64::from(u32::MAX)));
        let action = table.need(source, "action", one_of("an action", &ACTIONS));
        let scope = scope(source, table, policy, ids);
        // What is wrong with a word without regard to the action is worth saying anyway.
        let check = |word: &str| check_word(word, action.unwrap_or(Action::Flag));
        let mut words = words_here(source, table, &check);
        words.extend(words_in_file(source, table, &check, read_file));
        if !budget.spend(&words) {
            let says = format!(
                "too many words; all lists together may have {WORDS_MAX}, and {WORDS_BYTES_MAX} \
                 bytes of them"
            );
            table.problem(source, if table.has("file") { "file" } else { "words" }, says);
        } else if let (Some(app), Some(action)) = (app, action) {
            lists.push(WordList { app, action, scope, words });
        }
    }
    lists
}

fn scope(source: &mut Source<'_>, table: Table<'_>, policy: &Policy, ids: &[u16]) -> Scope {
    let mut uplinks = false;
    let known = table.set(source, "uplinks", &mut uplinks, yes_no);
    let categories = table.list(source, "categories", |value| {
        let id = whole::<u16>(0..=CATEGORIES_MAX as i64 - 1)(value)?;
        if !ids.contains(&id) {
            return Err(format!("there is no category {id}"));
        }
        if policy.category(id).is_some_and(|category| category.never_drop) {
            let name = policy.name(id);
            return Err(format!("clients may not publish in {id} ({name}): it is never dropped"));
        }
        Ok(id)
    });
    if known && !uplinks && categories.as_ref().is_some_and(Vec::is_empty) {
        let says = "no category, and no uplinks either, so nothing would be looked into";
        table.problem(source, "categories", says);
    }
    Scope { categories, uplinks }
}

fn words_here(
    source: &mut Source<'_>,
    table: Table<'_>,
    check: &dyn Fn(&str) -> Result<(), String>,
) -> Vec<String> {
    if !table.has("words") && !table.has("file") {
        table.problem(source, "words", "missing; every filter needs `words`, `file` or both");
    }
    let words = table.list(source, "words", |value| {
        let word = text(value)?;
        check(&word).map(|()| word)
    });
    words.unwrap_or_default()
}

fn words_in_file(
    source: &mut Source<'_>,
    table: Table<'_>,
    check: &dyn Fn(&str) -> Result<(), String>,
    read_file: &dyn Fn(&Path) -> io::Result<Vec<u8>>,
) -> Vec<String> {
    let name = Path::new(source.name);
    let file = table.read(source, "file", |value| match text(value)?.as_str() {
        "" => Err("\"\" is not a file".to_owned()),
        file => {
            let path = name.with_file_name(file);
            let bytes = read_file(&path);
            let wrong = |error| format!("{} cannot be read: {error}", describe(value));
            bytes.map(|bytes| (path.display().to_string(), bytes)).map_err(wrong)
        }
    });
    let Some((name, bytes)) = file else { return Vec::new() };
    let at = table.place("file");
    let text = str::from_utf8(&bytes).unwrap_or_else(|error| {
        let line = line(&bytes, error.valid_up_to());
        source.problem_elsewhere(at, &name, line, "this is not UTF-8");
        ""
    });
    let mut words = Vec::new();
    // Editors of other systems begin a file with a mark that is not part of the first word.
    let lines = text.strip_prefix('\u{feff}').unwrap_or(text).lines().map(str::trim);
    for (word, line) in lines.zip(1..) {
        if word.is_empty() || word.starts_with('#') {
            continue;
        }
        match check(word) {
            Ok(()) => words.push(word.to_owned()),
            Err(says) => source.problem_elsewhere(at, &name, line, says),
        }
    }
    words
}

/// What the lists that are still to come may take.
struct Budget {
    words: usize,
    bytes: usize,
}

impl Budget {
    fn spend(&mut self, words: &[String]) -> bool {
        let left = self.words.checked_sub(words.len());
        let bytes = words.iter().map(String::len).sum();
        match (left, self.bytes.checked_sub(bytes)) {
            (Some(words), Some(bytes)) => {
                *self = Self { words, bytes };
                true
            }
            _ => false,
        }
    }
}
