//! A TOML document as a tree in which everything knows where it is from.

use toml::Spanned;
use toml::de::{DeTable, DeValue};

/// Where something stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Place {
    /// In this line of the file.
    Line(usize),
    /// In this setting of the command line.
    Setting(usize),
}

/// A value and its place.
#[derive(Clone, Debug)]
pub(super) struct Value {
    pub place: Place,
    pub kind: Kind,
}

/// What a value is.
#[derive(Clone, Debug)]
pub(super) enum Kind {
    Text(String),
    Whole(i64),
    /// A whole number that is too large for anything here.
    Huge,
    Number(f64),
    Flag(bool),
    Date,
    List(Vec<Value>),
    /// In the order of the file.
    Table(Vec<(String, Value)>),
}

impl Value {
    /// The field of a table, or the table of this `name`, or number from 1, in a list of tables.
    pub fn at(&self, step: &str) -> Option<&Value> {
        match &self.kind {
            Kind::Table(fields) => fields.iter().find(|(name, _)| name == step).map(|(_, at)| at),
            Kind::List(items) => items.get(position(items, step)?),
            _ => None,
        }
    }

    /// The `name` of a table, if it has one.
    pub fn name(&self) -> Option<&str> {
        match &self.at("name")?.kind {
            Kind::Text(name) => Some(name),
            _ => None,
        }
    }
}

/// Which of these tables has this name, or else this number from 1.
pub(super) fn position(items: &[Value], step: &str) -> Option<usize> {
    let named = items.iter().position(|item| item.name() == Some(step));
    let numbered = || step.parse::<usize>().ok()?.checked_sub(1).filter(|at| *at < items.len());
    named.or_else(numbered)
}

/// The tree of a text, or what is not TOML about it, by line.
pub(super) fn parse(text: &str) -> Result<Value, Vec<(usize, String)>> {
    let lines = Lines::of(text);
    let (table, errors) = DeTable::parse_recoverable(text);
    if errors.is_empty() {
        return Ok(of_table(table.get_ref(), Place::Line(1), &|at| Place::Line(lines.line(at))));
    }
    let mistake = |error: &toml::de::Error| {
        let at = error.span().map_or(text.len(), |span| span.start);
        (lines.line(at), format!("this is not TOML: {}", error.message().replace('\n', ", ")))
    };
    let mut mistakes: Vec<_> = errors.iter().map(mistake).collect();
    mistakes.sort_by_key(|(line, _)| *line);
    Err(mistakes)
}

/// The value of a setting: TOML, or else a text as it stands.
pub(super) fn parse_setting(text: &str, which: usize) -> Result<Value, String> {
    let place = Place::Setting(which);
    let document = format!("value = {text}");
    match DeTable::parse(&document) {
        Ok(table) if table.get_ref().len() == 1 => {
            match of_table(table.get_ref(), place, &|_| place).kind {
                Kind::Table(mut fields) => Ok(fields.remove(0).1),
                _ => Err("it is not a value".to_owned()),
            }
        }
        Ok(_) => Err("it is more than one value".to_owned()),
        Err(error) if text.starts_with(['[', '{', '"', '\'']) => {
            Err(format!("this is not TOML: {}", error.message().replace('\n', ", ")))
        }
        Err(_) => Ok(Value { place, kind: Kind::Text(text.to_owned()) }),
    }
}

/// Where lines begin.
struct Lines(Vec<usize>);

impl Lines {
    fn of(text: &str) -> Self {
        Self(text.match_indices('\n').map(|(at, _)| at).collect())
    }

    /// The line of a place, as editors count.
    fn line(&self, at: usize) -> usize {
        1 + self.0.partition_point(|&end| end < at)
    }
}

fn of_table(table: &DeTable<'_>, place: Place, at: &dyn Fn(usize) -> Place) -> Value {
    let mut fields: Vec<_> = table.iter().collect();
    fields.sort_by_key(|(name, _)| name.span().start);
    let fields = fields.into_iter().map(|(name, value)| {
        let mut read = of_value(value, at);
        // A table that is made by the dots of its fields' names is where the first of them is.
        if let Kind::Table(_) = read.kind {
            read.place = at(name.span().start);
        }
        (name.get_ref().to_string(), read)
    });
    Value { place, kind: Kind::Table(fields.collect()) }
}

fn of_value(value: &Spanned<DeValue<'_>>, at: &dyn Fn(usize) -> Place) -> Value {
    let place = at(value.span().start);
    let kind = match value.get_ref() {
        DeValue::String(text) => Kind::Text(text.to_string()),
        DeValue::Integer(number) => {
            i64::from_str_radix(number.as_str(), number.radix()).map_or(Kind::Huge, Kind::Whole)
        }
        DeValue::Float(number) => Kind::Number(number.as_str().parse().unwrap_or(f64::NAN)),
        DeValue::Boolean(yes) => Kind::Flag(*yes),
        DeValue::Datetime(_) => Kind::Date,
        DeValue::Array(items) => Kind::List(items.iter().map(|item| of_value(item, at)).collect()),
        DeValue::Table(table) => return of_table(table, place, at),
    };
    Value { place, kind }
}
