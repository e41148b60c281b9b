//! File, environment and flags, merged over the defaults.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use config::{Config, File, FileFormat, Format as _, Map, Source, Value, ValueKind};
use serde::de::DeserializeOwned;

use crate::environment::{Meaning, meaning, nearest_setting};
use crate::keys::{Program, in_open_table, other_with, other_with_section};

/// Stands for a secret.
pub(crate) const MASK: &str = "********";

/// A setting given on the command line: its key, levels joined by dots, and its value.
pub type Flag = (&'static str, String);

/// Why settings were refused. The user's to mend.
#[derive(Debug, thiserror::Error)]
pub enum SettingsError {
    /// The file cannot be read or parsed, or a value has the wrong type.
    #[error("could not read the configuration{}: {reason}", place(.file))]
    Unreadable {
        /// The file, where one was named.
        file: Option<PathBuf>,
        /// The reader's words.
        reason: String,
    },
    /// A key in the file that no setting has.
    #[error("unknown key {key} in {file}{mend}")]
    UnknownKey {
        /// The key, levels joined by dots.
        key: String,
        /// Where it stands.
        file: String,
        /// What may have been meant.
        mend: String,
    },
    /// A variable that was meant for us and is no setting.
    #[error("the environment's {name} is no setting{mend}")]
    UnknownVariable {
        /// Its name.
        name: String,
        /// What may have been meant.
        mend: String,
    },
}

/// A reader's words, which may show the line where it stopped, without the values of lines that may hold a secret.
fn without_secrets(reason: &str) -> String {
    const SECRET: [&str; 5] = ["password", "secret", "token", "pem", "@"];
    let lines = reason.lines().map(|line| {
        let quotes = line.split_once(" | ").map(|(_, shown)| shown);
        let small = line.to_lowercase();
        let hidden = quotes.is_some() && SECRET.iter().any(|word| small.contains(word));
        match line.split_once('=') {
            Some((name, _)) if hidden => format!("{name}= {MASK}"),
            None if hidden => MASK.to_owned(),
            _ => line.to_owned(),
        }
    });
    lines.collect::<Vec<_>>().join("\n")
}

fn place(file: &Option<PathBuf>) -> String {
    file.as_ref()
        .map_or(String::new(), |path| format!(" {}", path.display()))
}

/// The settings that were given, and where.
#[derive(Debug)]
pub struct Settings {
    merged: Config,
    file: Option<PathBuf>,
    /// Variables whose names begin with ours and that were passed over, with the reason.
    pub passed_over: BTreeMap<String, String>,
}

/// What a file gives, which is read once and whole: it may be a pipe.
#[derive(Debug, Clone)]
struct Given(Map<String, Value>);

impl Given {
    fn read(path: &Path) -> Result<Self, SettingsError> {
        let unreadable = |reason: String| SettingsError::Unreadable {
            file: Some(path.to_owned()),
            reason,
        };
        let text = std::fs::read_to_string(path).map_err(|error| match error.kind() {
            ErrorKind::NotFound => unreadable("there is no such file".to_owned()),
            _ => unreadable(error.to_string()),
        })?;
        let name = path.display().to_string();
        let given = FileFormat::Toml.parse(Some(&name), &text);
        let given = given.map_err(|error| unreadable(without_secrets(&error.to_string())))?;
        Ok(Self(given))
    }
}

impl Source for Given {
    fn clone_into_box(&self) -> Box<dyn Source + Send + Sync> {
        Box::new(self.clone())
    }

    fn collect(&self) -> Result<Map<String, Value>, config::ConfigError> {
        Ok(self.0.clone())
    }
}

impl Settings {
    /// Reads `file` (none: the defaults), `variables` and `flags`; later ones win.
    ///
    /// # Errors
    /// [`SettingsError`], naming the place and the nearest setting.
    pub fn read(
        program: Program,
        file: Option<&Path>,
        variables: impl Iterator<Item = (OsString, OsString)>,
        flags: &[Flag],
    ) -> Result<Self, SettingsError> {
        let unreadable = |error: config::ConfigError| SettingsError::Unreadable {
            file: file.map(Path::to_owned),
            reason: error.to_string(),
        };
        let mut builder = Config::builder();
        // A table that is given in part keeps the rest of its defaults.
        for defaults in program.defaults() {
            builder = builder.add_source(File::from_str(defaults, FileFormat::Toml));
        }
        if let Some(path) = file {
            let given = Given::read(path)?;
            refuse_unknown(program, path, &given.0, "")?;
            builder = builder.add_source(given);
        }
        let (given, passed_over) = environment(program, variables)?;
        for (name, (key, value)) in given {
            let origin = format!("environment, {name}");
            let value = Value::new(Some(&origin), ValueKind::String(value));
            builder = builder.set_override(&key, value).map_err(unreadable)?;
        }
        for (key, value) in flags {
            let origin = "command line".to_owned();
            let value = Value::new(Some(&origin), ValueKind::String(value.clone()));
            builder = builder.set_override(*key, value).map_err(unreadable)?;
        }
        Ok(Self {
            merged: builder.build().map_err(unreadable)?,
            file: file.map(Path::to_owned),
            passed_over,
        })
    }

    /// Reads them into the form that the program checks.
    ///
    /// # Errors
    /// [`SettingsError::Unreadable`] when a value has the wrong type.
    pub fn take<T: DeserializeOwned>(&self) -> Result<T, SettingsError> {
        let merged = self.merged.clone().try_deserialize();
        merged.map_err(|error| SettingsError::Unreadable {
            file: self.file.clone(),
            reason: self.in_full(&error.to_string()),
        })
    }

    /// The reader's words, with what a duration looks like and where the value is from, which it does not always say.
    fn in_full(&self, reason: &str) -> String {
        let durations = "expected a duration, such as 500ms, 10s or 1h";
        let reason = reason.replace("expected a duration", durations);
        // Counts and sizes are all that is whole here.
        let whole = "expected a whole number, 0 or more";
        let reason = reason.replace("expected an integer", whole);
        let key = reason.split_once("for key `");
        let key = key.and_then(|(_, rest)| rest.strip_suffix('`'));
        let origin = key.and_then(|key| self.origins().remove(&plain(key)));
        match origin {
            Some(origin) => format!("{reason} in {origin}"),
            None => reason,
        }
    }

    /// Returns where each setting is from that is not a default, by its key; see [`plain`] for the names.
    pub(crate) fn origins(&self) -> BTreeMap<String, String> {
        let mut origins = BTreeMap::new();
        let tree = self.merged.collect();
        // What was built is collected again; nothing is read.
        note_origins(&tree.unwrap_or_default(), "", &mut origins);
        origins
    }
}

/// A key as it is looked up among origins: the environment's names of options hold underscores, the files' dots.
pub(crate) fn plain(key: &str) -> String {
    key.replace('.', "_")
}

fn note_origins(tree: &Map<String, Value>, above: &str, origins: &mut BTreeMap<String, String>) {
    for (name, value) in tree {
        let key = format!("{above}{name}");
        match &value.kind {
            ValueKind::Table(below) => note_origins(below, &format!("{key}."), origins),
            // A default has none.
            _ => {
                let origin = value.origin().map(|of| (plain(&key), of.to_owned()));
                origins.extend(origin);
            }
        }
    }
}

/// Logs which variables begin like ours and are like no setting, once a program can log.
pub fn tell_unknown(program: Program, variables: impl Iterator<Item = (OsString, OsString)>) {
    for (name, value) in variables {
        let Ok(name) = name.into_string() else {
            continue;
        };
        if meaning(program, &name, &value.to_string_lossy()) == Some(Meaning::Unknown) {
            let files = program.listed_in();
            tracing::warn!(
                name,
                files,
                "a variable of the environment begins like ours and is no setting: passed over; the files list all"
            );
        }
    }
}

/// The settings among the variables, by variable, and what was passed over.
type Found = (BTreeMap<String, (String, String)>, BTreeMap<String, String>);

fn environment(
    program: Program,
    variables: impl Iterator<Item = (OsString, OsString)>,
) -> Result<Found, SettingsError> {
    let mut given = BTreeMap::new();
    let mut passed_over = BTreeMap::new();
    for (name, value) in variables {
        // What is no text is no setting of ours, unless it is one's value.
        let Ok(name) = name.into_string() else {
            continue;
        };
        let text = value.to_string_lossy().into_owned();
        let reason = match meaning(program, &name, &text) {
            None | Some(Meaning::Aside) => continue,
            Some(Meaning::Setting(_)) if value.to_str().is_none() => {
                return Err(SettingsError::Unreadable {
                    file: None,
                    reason: format!("the environment's {name} is not UTF-8"),
                });
            }
            Some(Meaning::Setting(key)) => {
                given.insert(name, (key, text));
                continue;
            }
            Some(Meaning::Misspelt(near)) => {
                let mend = match near {
                    Some(near) => format!(": did you mean {near}?"),
                    None => format!("; {} lists all settings", program.listed_in()),
                };
                return Err(SettingsError::UnknownVariable { name, mend });
            }
            Some(Meaning::OfAnother(other)) => format!("a setting of {other}"),
            Some(Meaning::Link) => "made by Kubernetes or Docker for a service".to_owned(),
            Some(Meaning::Unknown) => format!("no setting; {} lists all", program.listed_in()),
        };
        passed_over.insert(name, reason);
    }
    Ok((given, passed_over))
}

fn refuse_unknown(
    program: Program,
    file: &Path,
    tree: &Map<String, Value>,
    above: &str,
) -> Result<(), SettingsError> {
    for (name, value) in tree {
        let key = format!("{above}{name}");
        let known = match &value.kind {
            // The user's own names need not be those of a setting, and may hold dots.
            ValueKind::Table(_) if in_open_table(&format!("{key}.x")).is_some() => {
                program.has(&format!("{key}.x"))
            }
            ValueKind::Table(below) if program.has_section(&key) => {
                refuse_unknown(program, file, below, &format!("{key}."))?;
                true
            }
            _ => program.has(&key),
        };
        if !known {
            return Err(SettingsError::UnknownKey {
                mend: mend(program, &key),
                file: file.display().to_string(),
                key,
            });
        }
    }
    Ok(())
}

fn mend(program: Program, key: &str) -> String {
    if let Some(other) = other_with(program, key) {
        return format!(": it is a setting of {other}");
    }
    if let Some(other) = other_with_section(program, key) {
        return format!(": it is a section of {other}, whose file this seems to be");
    }
    match nearest_setting(program, key) {
        Some(near) => format!(": did you mean {near}?"),
        None => format!("; {} lists all keys", program.listed_in()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(file: &str, variables: &[(&str, &str)], flags: &[Flag]) -> Result<Settings, String> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("own.toml");
        std::fs::write(&path, file).unwrap();
        let variables = variables
            .iter()
            .map(|(name, value)| (OsString::from(name), OsString::from(value)));
        Settings::read(Program::Processor, Some(&path), variables, flags)
            .map_err(|error| error.to_string())
    }

    fn refused(file: &str, variables: &[(&str, &str)], sentence: &str) {
        let said = read(file, variables, &[]).unwrap_err();
        assert!(said.contains(sentence), "{said}");
    }

    #[test]
    fn later_sources_win_and_each_is_named() {
        let file = "[kafka]\nbootstrap_servers = 'file:1'\npartitions = 3\n[kafka.options]\n'client.id' = 'a'";
        let variables = [
            ("DOGWATCH_KAFKA__BOOTSTRAP_SERVERS", "variable:1"),
            ("DOGWATCH_KAFKA__PARTITIONS", "4"),
            ("DOGWATCH_KAFKA__OPTIONS__SASL_PASSWORD", "x"),
        ];
        let flags = [("kafka.bootstrap_servers", "flag:1".to_owned())];
        let settings = read(file, &variables, &flags).unwrap();
        let tree: toml::Table = settings.take().unwrap();
        assert_eq!(tree["kafka"]["bootstrap_servers"].as_str(), Some("flag:1"));
        assert_eq!(tree["kafka"]["partitions"].as_str(), Some("4"));
        let origins = settings.origins();
        assert_eq!(origins["kafka_bootstrap_servers"], "command line");
        assert_eq!(
            origins["kafka_partitions"],
            "environment, DOGWATCH_KAFKA__PARTITIONS"
        );
        assert!(origins["kafka_options_client_id"].ends_with("own.toml"));
        assert!(origins["kafka_options_sasl_password"].starts_with("environment"));
    }

    #[test]
    fn unknown_keys_of_the_file_are_refused_with_the_nearest() {
        refused(
            "[kafka]\nbootstrap_server = 'a:1'",
            &[],
            "own.toml: did you mean kafka.bootstrap_servers?",
        );
        refused("[kafak]\ngroup_id = 'a'", &[], "unknown key kafak");
        refused("zzz = 1", &[], "processor.toml lists all keys");
        refused(
            "[redaction]\nusual_secrets = true",
            &[],
            "it is a section of dogwatch-sensor, whose file this seems to be",
        );
        refused(
            "[kernel]\nring_bytes = '8MiB'",
            &[],
            "unknown key kernel in",
        );
        refused("host_id = 'a'", &[], "it is a setting of dogwatch-sensor");
        refused("kafka = 1", &[], "unknown key kafka in");
    }

    #[test]
    fn a_misspelt_variable_is_refused_and_the_surroundings_are_not() {
        refused(
            "",
            &[("DOGWATCH_KAFKA_BOOTSTRAP_SERVERS", "a:1")],
            "the environment's DOGWATCH_KAFKA_BOOTSTRAP_SERVERS is no setting: \
             did you mean DOGWATCH_KAFKA__BOOTSTRAP_SERVERS?",
        );
        refused(
            "",
            &[("DOGWATCH_ZZZ__ABSOLUTELY_NOTHING", "1")],
            "DOGWATCH_ZZZ__ABSOLUTELY_NOTHING is no setting",
        );
        let surroundings = [
            ("DOGWATCH_KAFKA_PORT", "tcp://10.0.0.1:9092"),
            ("DOGWATCH_KERNEL__RING_BYTES", "8MiB"),
            ("DOGWATCH_IMAGE_TAG", "1"),
        ];
        let settings = read("", &surroundings, &[]).unwrap();
        assert_eq!(settings.passed_over.len(), 3, "{:?}", settings.passed_over);
        let reason = &settings.passed_over["DOGWATCH_KERNEL__RING_BYTES"];
        assert_eq!(reason, "a setting of dogwatch-sensor");
    }

    #[test]
    fn variables_that_are_no_text_do_no_harm() {
        use std::os::unix::ffi::OsStringExt as _;
        let bytes = || OsString::from_vec(vec![0xff]);
        let set = |name: &str| {
            let variables = [(OsString::from(name), bytes()), (bytes(), bytes())];
            Settings::read(Program::Processor, None, variables.into_iter(), &[])
        };
        assert!(set("LESSOPEN").is_ok());
        let said = set("DOGWATCH_KAFKA__GROUP_ID").unwrap_err().to_string();
        assert!(
            said.contains("DOGWATCH_KAFKA__GROUP_ID is not UTF-8"),
            "{said}"
        );
    }

    #[test]
    fn a_file_may_be_a_pipe() {
        let (reader, mut writer) = std::io::pipe().unwrap();
        std::io::Write::write_all(&mut writer, b"[kafka]\npartitions = 3\n").unwrap();
        drop(writer);
        let path = format!("/dev/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&reader));
        let none = std::iter::empty();
        let settings = Settings::read(Program::Processor, Some(Path::new(&path)), none, &[]);
        let settings = settings.unwrap();
        let tree: toml::Table = settings.take().unwrap();
        assert_eq!(tree["kafka"]["partitions"].as_integer(), Some(3));
        assert_eq!(settings.origins()["kafka_partitions"], path);
    }

    #[test]
    fn a_file_that_is_no_toml_is_told_without_its_secrets() {
        for line in [
            "bootstrap_servers = user:hunter2@broker:9092",
            "bootstrap_servers = \"user:hunter2@broker:9092",
            "'sasl.password' = hunter2",
            "'user:hunter2@broker:9092'",
        ] {
            let said = read(&format!("[kafka]\n{line}\n"), &[], &[]);
            let said = said.unwrap_err().to_string();
            assert!(!said.contains("hunter2"), "{line}: {said}");
            assert!(said.contains("line 2"), "{line}: {said}");
        }
        let said = read("[kafka]\npartitions = four\n", &[], &[]);
        let said = said.unwrap_err().to_string();
        assert!(said.contains("partitions = four"), "{said}");
    }

    #[test]
    fn a_value_of_the_wrong_type_is_told_with_its_place() {
        #[derive(Debug, serde::Deserialize)]
        struct Kafka {
            #[serde(rename = "partitions")]
            _partitions: i32,
        }
        #[derive(Debug, serde::Deserialize)]
        struct Own {
            #[serde(rename = "kafka")]
            _kafka: Kafka,
        }
        let settings = read("", &[("DOGWATCH_KAFKA__PARTITIONS", "four")], &[]).unwrap();
        let said = settings.take::<Own>().unwrap_err().to_string();
        assert!(
            said.contains("four") && said.contains("kafka.partitions"),
            "{said}"
        );
        assert!(said.contains("DOGWATCH_KAFKA__PARTITIONS"), "{said}");
    }

    #[test]
    fn a_duration_without_its_unit_is_told_with_what_one_looks_like() {
        #[derive(Debug, serde::Deserialize)]
        struct Checkpoint {
            #[serde(rename = "interval", with = "humantime_serde")]
            _interval: std::time::Duration,
        }
        #[derive(Debug, serde::Deserialize)]
        struct Own {
            #[serde(rename = "checkpoint")]
            _checkpoint: Checkpoint,
        }
        let settings = read("", &[("DOGWATCH_CHECKPOINT__INTERVAL", "10")], &[]).unwrap();
        let said = settings.take::<Own>().unwrap_err().to_string();
        for words in ["such as 500ms, 10s or 1h", "DOGWATCH_CHECKPOINT__INTERVAL"] {
            assert!(said.contains(words), "{said}");
        }
    }
}
