//! A scenario's tree while it is read: problems are collected, each with its place, until all are
//! known.

use std::fmt::Display;

use super::value::{Kind, Place, Value};
use super::values::describe;

/// Problems that are said one by one; more are only counted.
const PROBLEMS_MAX: usize = 50;
/// Letters of a name that a message repeats.
const NAME_CHARS_MAX: usize = 40;

/// The tree, and what is wrong with it.
pub(super) struct Source<'a> {
    origin: &'a str,
    settings: &'a [String],
    root: &'a Value,
    problems: Vec<Problem>,
}

struct Problem {
    place: Place,
    /// Fields and tables with dots between; empty for a setting that has no place at all.
    path: String,
    says: String,
}

impl<'a> Source<'a> {
    pub fn new(origin: &'a str, settings: &'a [String], root: &'a Value) -> Self {
        Self { origin, settings, root, problems: Vec::new() }
    }

    /// The file itself.
    pub fn table(&self) -> Table<'a> {
        Table { path: String::new(), value: self.root, asked: Vec::new() }
    }

    /// Something is wrong with what is at `path`, or with its not being there.
    pub fn problem(&mut self, path: &str, says: impl Display) {
        let place = self.place(path);
        self.problems.push(Problem { place, path: path.to_owned(), says: says.to_string() });
    }

    /// A setting cannot be put where it belongs.
    pub fn setting_problem(&mut self, which: usize, says: String) {
        self.problems.push(Problem { place: Place::Setting(which), path: String::new(), says });
    }

    /// What is at the first of these paths does not go with the others. When one of them is wrong
    /// anyhow, nothing can be said about it.
    pub fn conflict(&mut self, paths: &[&str], says: impl Display) {
        let wrong = |problem: &Problem| paths.iter().any(|path| *path == problem.path);
        if !self.problems.iter().any(wrong) {
            self.problem(paths[0], says);
        }
    }

    /// Everything that is wrong, if anything is.
    pub fn finish(mut self) -> Option<String> {
        if self.problems.is_empty() {
            return None;
        }
        // A setting that found no place may be why something is missing: it is said first.
        self.problems.sort_by_key(|problem| (!problem.path.is_empty(), problem.place));
        let more = self.problems.len().saturating_sub(PROBLEMS_MAX);
        let mut lines: Vec<String> =
            self.problems.iter().take(PROBLEMS_MAX).map(|problem| self.say(problem)).collect();
        if more > 0 {
            lines.push(format!("and {more} more"));
        }
        Some(lines.join("\n"))
    }

    fn say(&self, Problem { place, path, says }: &Problem) -> String {
        let place = match place {
            Place::Line(line) => format!("{}:{line}", self.origin),
            Place::Setting(which) => {
                let setting: String = self.settings[*which].chars().take(100).collect();
                format!("--set {setting}")
            }
        };
        match path.as_str() {
            "" => format!("{place}: {says}"),
            path => format!("{place}: {path}: {says}"),
        }
    }

    /// The place of what is at `path`, or of the table that it would be in.
    fn place(&self, path: &str) -> Place {
        let mut at = self.root;
        for step in path.split('.') {
            match at.at(step) {
                Some(next) => at = next,
                None => break,
            }
        }
        at.place
    }
}

/// A table that is being read. What nobody asks for is a mistake.
pub(super) struct Table<'a> {
    /// Its names with dots between.
    path: String,
    value: &'a Value,
    asked: Vec<&'static str>,
}

impl<'a> Table<'a> {
    /// The table at `value`, called `path`.
    pub fn new(path: String, value: &'a Value) -> Self {
        Self { path, value, asked: Vec::new() }
    }

    /// The whole name of a field.
    pub fn path(&self, field: &str) -> String {
        match self.path.as_str() {
            "" => field.to_owned(),
            path => format!("{path}.{field}"),
        }
    }

    /// The field, if it is there.
    pub fn take(&mut self, field: &'static str) -> Option<&'a Value> {
        self.asked.push(field);
        self.value.at(field)
    }

    /// Whether the field is there, right or wrong.
    pub fn has(&self, field: &str) -> bool {
        self.value.at(field).is_some()
    }

    /// The field, if it is there and right.
    pub fn read<T>(
        &mut self,
        source: &mut Source<'_>,
        field: &'static str,
        parse: impl FnOnce(&Value) -> Result<T, String>,
    ) -> Option<T> {
        let value = self.take(field)?;
        parse(value).map_err(|says| source.problem(&self.path(field), says)).ok()
    }

    /// The field, or what applies without it.
    pub fn or<T>(
        &mut self,
        source: &mut Source<'_>,
        field: &'static str,
        default: T,
        parse: impl FnOnce(&Value) -> Result<T, String>,
    ) -> T {
        self.read(source, field, parse).unwrap_or(default)
    }

    /// The field, which has to be there; `stand_in` when it is not, or is wrong.
    pub fn need<T>(
        &mut self,
        source: &mut Source<'_>,
        field: &'static str,
        stand_in: T,
        parse: impl FnOnce(&Value) -> Result<T, String>,
    ) -> T {
        if !self.has(field) {
            source.problem(&self.path(field), "missing; it has no default");
        }
        self.or(source, field, stand_in, parse)
    }

    /// The table of this name, if there is one.
    pub fn table(&mut self, source: &mut Source<'_>, field: &'static str) -> Option<Table<'a>> {
        let value = self.take(field)?;
        let path = self.path(field);
        match &value.kind {
            Kind::Table(_) => Some(Self::new(path, value)),
            _ => {
                source.problem(&path, format!("{} is not a table", describe(value)));
                None
            }
        }
    }

    /// The table of this name, empty if there is none.
    pub fn section(&mut self, source: &mut Source<'_>, field: &'static str) -> Table<'a> {
        static NOTHING: Value = Value { place: Place::Line(1), kind: Kind::Table(Vec::new()) };
        self.table(source, field).unwrap_or_else(|| Self::new(self.path(field), &NOTHING))
    }

    /// Everything was asked for: what is left is not known.
    pub fn end(self, source: &mut Source<'_>) {
        let Kind::Table(fields) = &self.value.kind else { return };
        for (name, _) in fields {
            if self.asked.iter().any(|asked| asked == name) {
                continue;
            }
            let says = match nearest(name, &self.asked) {
                Some(nearest) => format!("no such field; did you mean `{nearest}`?"),
                None => format!("no such field here; there are `{}`", self.asked.join("`, `")),
            };
            let shown: String = name.chars().take(NAME_CHARS_MAX).collect();
            source.problem(&self.path(&shown), says);
        }
    }
}

/// The name that is most like this one, if any is.
pub(super) fn nearest<'a>(name: &str, names: &[&'a str]) -> Option<&'a str> {
    let longest = names.iter().map(|name| name.len()).max()?;
    if name.len() > 2 * longest {
        return None;
    }
    let plain = name.to_ascii_lowercase();
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
