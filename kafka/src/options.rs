//! Options that are passed through to librdkafka: their names mended, secrets read, those that a setting decides refused.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read as _;

/// An option, by librdkafka's name, that may not be passed through, and the mend.
pub type Decided = (&'static str, &'static str);

/// What every program decides.
const DECIDED: [Decided; 7] = [
    ("bootstrap.servers", "set kafka.bootstrap_servers"),
    ("metadata.broker.list", "set kafka.bootstrap_servers"),
    ("acks", "all is needed: what was acknowledged is not lost"),
    (
        "request.required.acks",
        "all is needed: what was acknowledged is not lost",
    ),
    ("enable.idempotence", "order without repeats needs it"),
    ("partitioner", "all producers must agree on murmur2_random"),
    (
        "statistics.interval.ms",
        "metrics and lost connections are seen in the statistics",
    ),
];

/// Largest file of a secret, in bytes.
const SECRET_BYTES_MAX: u64 = 64 << 10;

/// Why the pass-through options are refused. The user's to mend.
#[derive(Debug, thiserror::Error)]
pub enum OptionError {
    /// An option that a named setting decides.
    #[error("kafka.options may not set {option}: {mend}")]
    Decided {
        /// The option.
        option: String,
        /// What to set instead.
        mend: &'static str,
    },
    /// A file that holds a secret and cannot be read.
    #[error("kafka.options {option}.file: could not read {file}: {reason}")]
    Secret {
        /// The option that it is for.
        option: String,
        /// The file.
        file: String,
        /// Why not.
        reason: String,
    },
    /// A secret that is given twice.
    #[error("kafka.options gives both {option} and {option}.file: leave one out")]
    Twice {
        /// The option.
        option: String,
    },
}

/// Returns the options by librdkafka's names, with secrets read from their files; `decided` are those that the program
/// decides beside what all do.
///
/// # Errors
/// [`OptionError`] for the first that does not do.
pub fn checked(
    given: BTreeMap<String, String>,
    decided: &[Decided],
) -> Result<BTreeMap<String, String>, OptionError> {
    let options = with_secrets(dotted(given))?;
    let contradicts = |(option, _): &&Decided| options.contains_key(*option);
    match DECIDED.iter().chain(decided).find(contradicts) {
        Some((option, mend)) => Err(OptionError::Decided {
            option: (*option).to_owned(),
            mend,
        }),
        None => Ok(options),
    }
}

/// Says whether an option's value is a secret: not to be shown, and to be had from a file.
pub fn is_secret(option: &str) -> bool {
    // Cut short, so that those that are misspelt are hidden, too.
    let words = ["pas", "pwd", "secr", "key.pem", "jaas", "token.val", "cred"];
    let holds_one = words.iter().any(|word| option.contains(word));
    // Hold the secret of a token's issuer among others, or a password on a command line.
    let may_hold_one = [
        "sasl.oauthbearer.config",
        "sasl.oauthbearer.extensions",
        "sasl.kerberos.kinit.cmd",
    ];
    let holds_one = holds_one || may_hold_one.contains(&option);
    holds_one && !option.ends_with(".file")
}

/// Variables of the environment cannot hold dots; librdkafka's options hold nothing else between words.
fn dotted(options: BTreeMap<String, String>) -> BTreeMap<String, String> {
    let mend = |(key, value): (String, String)| (key.replace('_', "."), value);
    options.into_iter().map(mend).collect()
}

/// Sets `sasl.password` from the file that `sasl.password.file` names, and so with every secret.
fn with_secrets(given: BTreeMap<String, String>) -> Result<BTreeMap<String, String>, OptionError> {
    let mut options = BTreeMap::new();
    for (name, value) in given {
        let secret = name.strip_suffix(".file").filter(|of| is_secret(of));
        let (name, value) = match secret {
            Some(option) => (option.to_owned(), read_secret(option, &value)?),
            None => (name, value),
        };
        if options.insert(name.clone(), value).is_some() {
            return Err(OptionError::Twice { option: name });
        }
    }
    Ok(options)
}

/// Reads a file's text without the line end that editors leave behind it.
fn read_secret(option: &str, file: &str) -> Result<String, OptionError> {
    let failed = |reason: String| OptionError::Secret {
        option: option.to_owned(),
        file: file.to_owned(),
        reason,
    };
    let mut text = String::new();
    let opened = File::open(file).map_err(|error| failed(error.to_string()))?;
    opened
        .take(SECRET_BYTES_MAX + 1)
        .read_to_string(&mut text)
        .map_err(|error| failed(error.to_string()))?;
    if text.len() as u64 > SECRET_BYTES_MAX {
        return Err(failed(format!("it has more than {SECRET_BYTES_MAX} bytes")));
    }
    let text = text.strip_suffix('\n').unwrap_or(&text);
    let text = text.strip_suffix('\r').unwrap_or(text);
    if text.is_empty() {
        return Err(failed("it is empty".to_owned()));
    }
    Ok(text.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(of: &[(&str, &str)]) -> BTreeMap<String, String> {
        of.iter()
            .map(|(name, value)| (name.to_string(), value.to_string()))
            .collect()
    }

    #[test]
    fn names_get_their_dots_and_what_is_decided_is_refused() {
        let given = options(&[("socket_keepalive_enable", "true"), ("client.id", "a_b")]);
        let checked = checked(given, &[]).unwrap();
        assert_eq!(checked["socket.keepalive.enable"], "true");
        assert_eq!(checked["client.id"], "a_b");
        let decided = super::checked(options(&[("group_id", "x")]), &[("group.id", "set it")]);
        assert_eq!(
            decided.unwrap_err().to_string(),
            "kafka.options may not set group.id: set it"
        );
        let decided = super::checked(options(&[("acks", "1")]), &[]).unwrap_err();
        assert!(decided.to_string().contains("acknowledged"), "{decided}");
    }

    #[test]
    fn secrets_come_from_files() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name).display().to_string();
        std::fs::write(path("password"), " hunter 2\r\n").unwrap();
        std::fs::write(path("empty"), "\n").unwrap();
        let from = |file: &str| options(&[("sasl_password_file", &path(file))]);
        assert_eq!(
            checked(from("password"), &[]).unwrap(),
            options(&[("sasl.password", " hunter 2")])
        );
        let said = |given| checked(given, &[]).unwrap_err().to_string();
        let missing = said(from("missing"));
        assert!(
            missing.starts_with("kafka.options sasl.password.file: could not read /")
                && missing.contains("No such file"),
            "{missing}"
        );
        assert!(said(from("empty")).ends_with("it is empty"));
        let mut twice = from("password");
        twice.insert("sasl.password".to_owned(), "x".to_owned());
        assert!(said(twice).contains("both sasl.password and sasl.password.file"));
        // An option of librdkafka that happens to end so is none of ours.
        let other = options(&[("some.file", "/x")]);
        assert_eq!(checked(other.clone(), &[]).unwrap(), other);
    }

    #[test]
    fn what_is_secret_is_known_by_its_name() {
        for option in [
            "sasl.password",
            "ssl.key.password",
            "ssl.keystore.password",
            "ssl.key.pem",
            "sasl.oauthbearer.client.secret",
            "sasl.oauthbearer.config",
            "sasl.kerberos.kinit.cmd",
            "sasl.jaas.config",
            "sasl.oauthbearer.assertion.private.key.passphrase",
            "sasl.pasword",
            "sasl.passwrod",
            "sasl.oauthbearer.client.secrt",
        ] {
            assert!(is_secret(option), "{option}");
        }
        for option in [
            "sasl.username",
            "ssl.ca.pem",
            "sasl.password.file",
            "partition.assignment.strategy",
            "compression.type",
        ] {
            assert!(!is_secret(option), "{option}");
        }
    }
}
