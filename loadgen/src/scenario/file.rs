//! Scenarios from TOML, with the line of every mistake.

mod phases;
mod relations;
mod sections;
mod settings;
mod source;
mod streams;
mod value;
mod values;

#[cfg(test)]
mod tests;

use std::fs::File;
use std::io::Read;

use anyhow::{Context, Result, bail};

use crate::scenario::library::{self, Ready};
use crate::scenario::{Scenario, file::source::Source};

/// Bytes of a scenario's file.
const FILE_BYTES_MAX: u64 = 256 * 1024;

/// A scenario with what it was read from, so that others can read it, too.
#[derive(Clone, Debug)]
pub struct Loaded {
    /// The scenario.
    pub scenario: Scenario,
    /// Its file's text.
    pub text: String,
    /// Where that was from: a path, or the library.
    pub origin: String,
    /// `key=value`, as if they stood in the file.
    pub settings: Vec<String>,
}

/// Reads the scenario `name`: one of the library, or a file.
pub fn load(name: &str, settings: &[String]) -> Result<Loaded> {
    if let Some(ready) = library::READY.iter().find(|ready| ready.name == name) {
        return parse(ready.text, &format!("library:{name}"), settings);
    }
    let file = match File::open(name) {
        Ok(file) => file,
        Err(error) if name.contains(['/', '.']) => {
            bail!("{name}: cannot be read: {error}");
        }
        Err(_) => bail!("{}", unknown(name)),
    };
    let mut text = String::new();
    // One more than allowed, so that a file that is too long can be told from one that is not.
    file.take(FILE_BYTES_MAX + 1)
        .read_to_string(&mut text)
        .with_context(|| format!("{name}: cannot be read"))?;
    if text.len() as u64 > FILE_BYTES_MAX {
        bail!("{name}: a scenario has at most {FILE_BYTES_MAX} bytes");
    }
    parse(&text, name, settings)
}

/// Reads a scenario's text; `origin` names it in errors.
pub fn parse(text: &str, origin: &str, settings: &[String]) -> Result<Loaded> {
    let mut root = match value::parse(text) {
        Ok(root) => root,
        Err(mistakes) => {
            let say = |(line, says): &(usize, String)| format!("{origin}:{line}: {says}");
            bail!("{}", mistakes.iter().map(say).collect::<Vec<_>>().join("\n"));
        }
    };
    let refused = settings::apply(&mut root, settings);
    let mut source = Source::new(origin, settings, &root);
    refused.into_iter().for_each(|(which, says)| source.setting_problem(which, says));
    let scenario = sections::read(&mut source);
    relations::check(&mut source, &scenario);
    if let Some(problems) = source.finish() {
        bail!("{problems}");
    }
    let (text, origin) = (text.to_owned(), origin.to_owned());
    Ok(Loaded { scenario, text, origin, settings: settings.to_vec() })
}

fn unknown(name: &str) -> String {
    let names: Vec<&str> = library::READY.iter().map(|ready: &Ready| ready.name).collect();
    match source::nearest(name, &names) {
        Some(nearest) => format!("there is no scenario `{name}`; did you mean `{nearest}`?"),
        None => format!(
            "there is no scenario `{name}`: give the path of a file, or one of {}",
            names.join(", ")
        ),
    }
}
