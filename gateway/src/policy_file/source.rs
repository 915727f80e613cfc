//! A TOML text whose problems are collected, each with its line, until all are known.

use std::fmt::Display;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::PolicyError;
use super::values::describe;

/// Problems that are said one by one; more are only counted.
const PROBLEMS_MAX: usize = 100;

/// The text, and what is wrong with it.
pub(super) struct Source<'a> {
    pub name: &'a str,
    text: &'a str,
    problems: Vec<Problem>,
    /// Problems that were left out.
    more: usize,
}

struct Problem {
    /// Tables are not read from top to bottom, but problems are said so.
    at: usize,
    /// The file and line, if it is in another file, which is named here.
    elsewhere: Option<(String, usize)>,
    says: String,
}

impl<'a> Source<'a> {
    pub fn new(name: &'a str, text: &'a str) -> Self {
        Self { name, text, problems: Vec::new(), more: 0 }
    }

    /// Something is wrong here.
    pub fn problem(&mut self, at: usize, says: impl Display) {
        self.add(Problem { at, elsewhere: None, says: says.to_string() });
    }

    /// Something is wrong in another file that is named here.
    pub fn problem_elsewhere(&mut self, at: usize, name: &str, line: usize, says: impl Display) {
        let elsewhere = Some((name.to_owned(), line));
        self.add(Problem { at, elsewhere, says: says.to_string() });
    }

    /// The line of a place, as editors count.
    pub fn line(&self, at: usize) -> usize {
        line(self.text.as_bytes(), at)
    }

    /// Whether all was well.
    pub fn finish(mut self) -> Result<(), PolicyError> {
        if self.problems.is_empty() {
            return Ok(());
        }
        self.keep_first();
        let say = |Problem { at, elsewhere, says }: &Problem| match elsewhere {
            None => format!("{}:{}: {says}", self.name, self.line(*at)),
            Some((name, line)) => format!("{name}:{line}: {says}"),
        };
        Err(PolicyError { problems: self.problems.iter().map(say).collect(), more: self.more })
    }

    fn add(&mut self, problem: Problem) {
        self.problems.push(problem);
        // Sorting once in so many problems keeps the work in proportion to their number.
        if self.problems.len() >= 2 * PROBLEMS_MAX {
            self.keep_first();
        }
    }

    fn keep_first(&mut self) {
        self.problems.sort_by_key(|problem| problem.at);
        self.more += self.problems.len().saturating_sub(PROBLEMS_MAX);
        self.problems.truncate(PROBLEMS_MAX);
    }
}

/// The line of a place, as editors count.
pub(super) fn line(text: &[u8], at: usize) -> usize {
    1 + text[..at.min(text.len())].iter().filter(|&&byte| byte == b'\n').count()
}

/// A table whose fields all have known names.
#[derive(Clone, Copy)]
pub(super) struct Table<'a> {
    /// What stands before its fields in messages; empty for the file itself.
    path: &'static str,
    /// Where it begins.
    pub at: usize,
    entries: &'a DeTable<'a>,
}

impl<'a> Table<'a> {
    /// The file itself.
    pub fn root(source: &mut Source<'_>, table: &'a Spanned<DeTable<'a>>, names: &[&str]) -> Self {
        let root = Self { path: "", at: table.span().start, entries: table.get_ref() };
        root.refuse_others(source, names);
        root
    }

    /// The table of this name, if there is one.
    pub fn table(
        self,
        source: &mut Source<'_>,
        path: &'static str,
        names: &[&str],
    ) -> Option<Table<'a>> {
        let value = self.entries.get(path)?;
        match value.get_ref() {
            DeValue::Table(entries) => {
                let table = Table { path, at: value.span().start, entries };
                table.refuse_others(source, names);
                Some(table)
            }
            _ => {
                self.problem(source, path, format!("not a table; say `[{path}]`"));
                None
            }
        }
    }

    /// Every table of this name.
    pub fn tables(
        self,
        source: &mut Source<'_>,
        path: &'static str,
        names: &[&str],
    ) -> Vec<Table<'a>> {
        let Some(value) = self.entries.get(path) else { return Vec::new() };
        let tables = match value.get_ref() {
            DeValue::Array(items) => items.iter().map(|item| match item.get_ref() {
                DeValue::Table(entries) => Some(Table { path, at: item.span().start, entries }),
                _ => None,
            }),
            _ => {
                self.problem(source, path, format!("say `[[{path}]]` before each"));
                return Vec::new();
            }
        };
        let tables: Option<Vec<_>> = tables.collect();
        let Some(tables) = tables else {
            self.problem(source, path, format!("not a table; say `[[{path}]]` before each"));
            return Vec::new();
        };
        tables.iter().for_each(|table| table.refuse_others(source, names));
        tables
    }

    /// Whether the field is a list of nothing.
    pub fn is_empty_list(self, field: &str) -> bool {
        let value = self.entries.get(field);
        value.is_some_and(
            |value| matches!(value.get_ref(), DeValue::Array(items) if items.is_empty()),
        )
    }

    /// Whether the field is there, right or wrong.
    pub fn has(self, field: &str) -> bool {
        self.entries.contains_key(field)
    }

    /// Where the field is, or the table that it would be in.
    pub fn place(self, field: &str) -> usize {
        self.entries.get(field).map_or(self.at, |value| value.span().start)
    }

    /// Something is wrong with this field, or with its not being there.
    pub fn problem(self, source: &mut Source<'_>, field: &str, says: impl Display) {
        self.problem_at(source, self.place(field), field, says);
    }

    /// The field, if it is there and right.
    pub fn read<T>(
        self,
        source: &mut Source<'_>,
        field: &str,
        parse: impl FnOnce(&DeValue<'a>) -> Result<T, String>,
    ) -> Option<T> {
        let value = self.entries.get(field)?;
        parse(value.get_ref()).map_err(|says| self.problem(source, field, says)).ok()
    }

    /// The field, which has to be there.
    pub fn need<T>(
        self,
        source: &mut Source<'_>,
        field: &str,
        parse: impl FnOnce(&DeValue<'a>) -> Result<T, String>,
    ) -> Option<T> {
        if !self.has(field) {
            self.problem(source, field, format!("missing; every {} needs one", self.path));
        }
        self.read(source, field, parse)
    }

    /// Replaces a default by the field, if it is there; whether it is not wrong.
    pub fn set<T>(
        self,
        source: &mut Source<'_>,
        field: &str,
        to: &mut T,
        parse: impl FnOnce(&DeValue<'a>) -> Result<T, String>,
    ) -> bool {
        let value = self.read(source, field, parse);
        let fine = value.is_some() || !self.has(field);
        if let Some(value) = value {
            *to = value;
        }
        fine
    }

    /// A field of several values, if it is there and all of them are right.
    pub fn list<T>(
        self,
        source: &mut Source<'_>,
        field: &str,
        parse: impl Fn(&DeValue<'a>) -> Result<T, String>,
    ) -> Option<Vec<T>> {
        let value = self.entries.get(field)?;
        let DeValue::Array(items) = value.get_ref() else {
            self.problem(source, field, format!("{} is not a list", describe(value.get_ref())));
            return None;
        };
        let mut read = Vec::with_capacity(items.len());
        for item in items.iter() {
            match parse(item.get_ref()) {
                Ok(one) => read.push(one),
                Err(says) => self.problem_at(source, item.span().start, field, says),
            }
        }
        (read.len() == items.len()).then_some(read)
    }

    /// A field of so many values, if it is there and all of them are right.
    pub fn array<T, const N: usize>(
        self,
        source: &mut Source<'_>,
        field: &str,
        each: &str,
        parse: impl Fn(&DeValue<'a>) -> Result<T, String>,
    ) -> Option<[T; N]> {
        let list = self.list(source, field, parse)?;
        let wrong = |list: Vec<T>| format!("{} values; {N} are needed, {each}", list.len());
        list.try_into().map_err(|list| self.problem(source, field, wrong(list))).ok()
    }

    fn problem_at(self, source: &mut Source<'_>, at: usize, field: &str, says: impl Display) {
        match self.path {
            "" => source.problem(at, format_args!("{field}: {says}")),
            path => source.problem(at, format_args!("{path}.{field}: {says}")),
        }
    }

    fn refuse_others(self, source: &mut Source<'_>, names: &[&str]) {
        for key in self.entries.keys() {
            let name = key.get_ref().as_ref();
            if !names.contains(&name) {
                let says = match nearest(name, names) {
                    Some(nearest) => format!("no such field; did you mean `{nearest}`?"),
                    None => format!("no such field; there are `{}`", names.join("`, `")),
                };
                let shown: String = name.chars().take(40).collect();
                self.problem_at(source, key.span().start, &shown, says);
            }
        }
    }
}

/// The name that is most like this one, if any is.
fn nearest<'a>(name: &str, names: &[&'a str]) -> Option<&'a str> {
    let longest = names.iter().map(|name| name.len()).max()?;
    if name.len() > 2 * longest {
        return None;
    }
    let plain = name.to_ascii_lowercase().replace('_', "-");
    let (distance, nearest) = names.iter().map(|other| (edits(&plain, other), *other)).min()?;
    (distance <= 1 + nearest.len() / 4).then_some(nearest)
}

/// How many letters have to be put in, left out or replaced to get from one to the other.
fn edits(a: &str, b: &str) -> usize {
    let mut row: Vec<usize> = (0..=b.chars().count()).collect();
    for (i, a) in a.chars().enumerate() {
        let mut diagonal = std::mem::replace(&mut row[0], i + 1);
        for (j, b) in b.chars().enumerate() {
            let replaced = diagonal + usize::from(a != b);
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[row.len() - 1]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_name_is_one_that_could_have_been_meant() {
        let check = |name: &str, expected: Option<&str>| {
            let names = ["dwell", "dwell-max", "from", "id"];
            assert_eq!(nearest(name, &names), expected, "{name}");
        };
        check("dwel", Some("dwell"));
        check("dwell_max", Some("dwell-max"));
        check("Dwell-Max", Some("dwell-max"));
        check("form", Some("from"));
        check("frm", Some("from"));
        check("to", None);
        check("ids", Some("id"));
        check("category", None);
        check("", None);
        check(&"x".repeat(1000), None);
    }

    #[test]
    fn edits_are_counted() {
        let check = |a, b, expected| assert_eq!(edits(a, b), expected, "{a} {b}");
        check("", "", 0);
        check("", "abc", 3);
        check("abc", "", 3);
        check("kitten", "sitting", 3);
        check("é", "e", 1);
    }
}
