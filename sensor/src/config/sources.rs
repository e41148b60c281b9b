//! Where settings come from, and the refusal of keys that do not exist.

use std::path::Path;

use config::builder::DefaultState;
use config::{ConfigBuilder, Environment, File, FileFormat};
use serde_json::Value;

use super::{ConfigError, Override, RawConfig};

const PREFIX: &str = "DOGWATCH_";
/// Tables whose keys are the user's own.
const OPEN_TABLES: [&str; 2] = ["host_tags", "kafka.options"];

/// Merges file, environment and overrides over the defaults.
pub(super) fn merge(
    file: Option<&Path>,
    variables: impl Iterator<Item = (String, String)>,
    overrides: &[Override],
) -> Result<RawConfig, ConfigError> {
    let unreadable = |source| ConfigError::Unreadable {
        file: file.map(Path::to_owned),
        source: Box::new(source),
    };
    let known = serde_json::to_value(RawConfig::default())
        .expect("the defaults are strings, numbers, lists and maps, which JSON can hold");
    let merged = builder(file, variables, overrides, &known)
        .and_then(ConfigBuilder::<DefaultState>::build)
        .map_err(unreadable)?;
    let tree: Value = merged.clone().try_deserialize().map_err(unreadable)?;
    refuse_unknown(&tree, &known, "")?;
    merged.try_deserialize().map_err(unreadable)
}

fn builder(
    file: Option<&Path>,
    variables: impl Iterator<Item = (String, String)>,
    overrides: &[Override],
    known: &Value,
) -> Result<ConfigBuilder<DefaultState>, config::ConfigError> {
    // Below all: a table that is given in part keeps the rest, the tables of rates among them.
    let defaults = config::Config::try_from(&RawConfig::default())?;
    let mut builder = config::Config::builder().add_source(defaults);
    if let Some(file) = file {
        builder = builder.add_source(File::from(file).format(FileFormat::Toml).required(true));
    }
    // Other programs share the prefix: only variables below one of our keys are ours.
    let ours = variables.filter(|(name, _)| {
        name.strip_prefix(PREFIX)
            .map(|rest| rest.split("__").next().unwrap_or(rest).to_lowercase())
            .is_some_and(|first| known.get(first).is_some())
    });
    let environment = Environment::with_prefix("DOGWATCH")
        .prefix_separator("_")
        .separator("__");
    builder = builder.add_source(environment.source(Some(ours.collect())));
    for (key, value) in overrides {
        builder = builder.set_override(*key, value.as_str())?;
    }
    Ok(builder)
}

fn refuse_unknown(given: &Value, known: &Value, above: &str) -> Result<(), ConfigError> {
    let (Value::Object(given), Value::Object(known)) = (given, known) else {
        return Ok(());
    };
    for (name, value) in given {
        let key = if above.is_empty() {
            name.clone()
        } else {
            format!("{above}.{name}")
        };
        let Some(expected) = known.get(name) else {
            let nearest = nearest(name, known.keys()).map(|near| key.replace(name.as_str(), near));
            return Err(ConfigError::UnknownKey { key, nearest });
        };
        if !OPEN_TABLES.contains(&key.as_str()) {
            refuse_unknown(value, expected, &key)?;
        }
    }
    Ok(())
}

pub(super) fn nearest<'a>(name: &str, known: impl Iterator<Item = &'a String>) -> Option<&'a str> {
    known
        .map(|candidate| (strsim::jaro_winkler(name, candidate), candidate.as_str()))
        .filter(|(similarity, _)| *similarity > 0.7)
        .max_by(|a, b| a.0.total_cmp(&b.0))
        .map(|(_, candidate)| candidate)
}
