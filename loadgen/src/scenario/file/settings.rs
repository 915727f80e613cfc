//! `--set key=value`, put into the tree as if they stood in the file.

use super::source::nearest;
use super::value::{Kind, Place, Value, parse_setting, position};

/// Puts the settings into the tree, in their order; says which cannot be, and why.
pub(super) fn apply(root: &mut Value, settings: &[String]) -> Vec<(usize, String)> {
    let each = settings.iter().enumerate();
    each.filter_map(|(which, setting)| Some((which, put(root, setting, which).err()?))).collect()
}

fn put(root: &mut Value, setting: &str, which: usize) -> Result<(), String> {
    let Some((path, text)) = setting.split_once('=') else {
        return Err("give key=value, such as clients.count=100".to_owned());
    };
    let steps: Vec<&str> = path.split('.').map(str::trim).collect();
    if steps.iter().any(|step| step.is_empty()) {
        return Err("the key is names with dots between, such as clients.count".to_owned());
    }
    let value = parse_setting(text.trim(), which)?;
    let mut at = root;
    for (depth, step) in steps[..steps.len() - 1].iter().enumerate() {
        at = enter(at, &steps[..depth], step, which)?;
    }
    let last = steps[steps.len() - 1];
    match &mut at.kind {
        Kind::Table(fields) => match fields.iter_mut().find(|(name, _)| name == last) {
            Some((_, old)) => *old = value,
            None => fields.push((last.to_owned(), value)),
        },
        _ => return Err(format!("`{}` has no fields", steps[..steps.len() - 1].join("."))),
    }
    Ok(())
}

/// The table or list `step` of what is at `before`; a section that is not there is made.
fn enter<'a>(
    at: &'a mut Value,
    before: &[&str],
    step: &str,
    which: usize,
) -> Result<&'a mut Value, String> {
    match &mut at.kind {
        Kind::Table(fields) => {
            let found = fields.iter().position(|(name, _)| name == step);
            if found.is_none() && before == ["streams"] {
                let names: Vec<&str> = fields.iter().map(|(name, _)| name.as_str()).collect();
                return Err(no_such("stream", step, &names));
            }
            let found = found.unwrap_or_else(|| {
                let kind = Kind::Table(Vec::new());
                fields.push((step.to_owned(), Value { place: Place::Setting(which), kind }));
                fields.len() - 1
            });
            Ok(&mut fields[found].1)
        }
        Kind::List(items) => match position(items, step) {
            Some(found) => Ok(&mut items[found]),
            None => {
                let names: Vec<&str> = items.iter().filter_map(Value::name).collect();
                let what = if before == ["phases"] { "phase" } else { "item" };
                Err(no_such(what, step, &names))
            }
        },
        _ => Err(format!("`{}` has no fields", before.join("."))),
    }
}

fn no_such(what: &str, name: &str, names: &[&str]) -> String {
    match nearest(name, names) {
        Some(nearest) => format!("there is no {what} `{name}`; did you mean `{nearest}`?"),
        None if names.is_empty() => format!("there is no {what} `{name}`, and no other"),
        None => format!("there is no {what} `{name}`; there are `{}`", names.join("`, `")),
    }
}
