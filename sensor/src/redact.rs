//! Redaction: secrets in arguments are replaced before anything else sees them.
//!
//! ```text
//! ["mysql", "-uroot", "-phunter2"]      -> ["mysql", "-uroot", "-p[redacted]"]
//! ["sh", "-c", "TOKEN=abc curl x"]      -> ["sh", "-c", "TOKEN=[redacted] curl x"]
//! ```
//! It is a net, not a proof: a secret that looks like any other word passes. What is replaced is never kept.

use dogwatch_schemas::Text;
use regex::{Captures, Regex, RegexSet};

/// What stands in place of a secret.
pub const MARK: &str = "[redacted]";

/// Words that name a secret when they end an option's or a variable's name.
const SECRET_NAMES: &str = "passw(?:or)?d|pwd|passphrase|secret|token|api[_-]?key|access[_-]?key|secret[_-]?key|private[_-]?key|credentials?";

/// A value behind a secret's name: quoted, or up to the next blank or separator.
const VALUE: &str = r#"(?:"(?<quoted>[^"]*)"|'(?<single>[^']*)'|(?<secret>[^\s"'&;,]+))"#;

/// Texts that are secrets by their form or by what stands before them.
const USUAL_TEXTS: &[&str] = &[
    r#"(?i)\b(?:proxy-)?authorization["']?\s*[:=]\s*["']?(?:(?:bearer|basic|token|digest|apikey)\s+)?(?<secret>[^\s"']+)"#,
    r"(?i)\bbearer\s+(?<secret>[a-z0-9._~+/=-]{8,})",
    r#"(?i)\b(?:x-api-key|x-auth-token|private-token|x-vault-token|set-cookie|cookie)\s*:\s*(?<secret>[^"']+)"#,
    r"(?i)\b[a-z][a-z0-9+.-]*://[^\s/:@]*:(?<secret>[^\s@]+)@",
    r"\b(?<secret>(?:AKIA|ASIA)[0-9A-Z]{16})\b",
    r"\b(?<secret>(?:gh[opusr]_|github_pat_|glpat-|xox[abeprs]-|sk_live_|sk-ant-|npm_)[A-Za-z0-9_-]{16,})",
    r"\b(?<secret>eyJ[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]*)",
    r"(?s)-----BEGIN [A-Z ]*PRIVATE KEY-----(?<secret>.+?)(?:-----END|$)",
    r"(?:^|[\s;&|(/])(?:mysql|mysqldump|mysqladmin|mariadb|mariadb-dump|sshpass)\s(?:[^;&|]*\s)?-p(?<secret>[^\s;&|]+)",
];

/// Programs whose short option carries a secret: names, option, whether the secret may be glued to it.
const SHORT_OPTIONS: &[(&[&str], &str, bool)] = &[
    (
        &[
            "mysql",
            "mysqldump",
            "mysqladmin",
            "mariadb",
            "mariadb-dump",
            "mariadb-admin",
        ],
        "-p",
        true,
    ),
    (&["sshpass"], "-p", true),
    (&["redis-cli"], "-a", false),
    (
        &["ldapsearch", "ldapadd", "ldapmodify", "ldapwhoami"],
        "-w",
        false,
    ),
    (&["docker", "podman", "nerdctl"], "-p", false),
    (&["curl"], "-u", true),
    (&["curl"], "--user", false),
    (&["openssl"], "-passin", false),
    (&["openssl"], "-passout", false),
];

/// A configured expression that does not compile.
#[derive(Debug, Clone)]
pub struct PatternError {
    /// The expression.
    pub pattern: String,
    /// What is wrong with it.
    pub reason: String,
}

/// Replaces secrets in argument lists.
#[derive(Debug, Clone)]
pub struct Redactor {
    usual: bool,
    /// One pass over the joined arguments says whether any rule below can match.
    any: RegexSet,
    rules: Vec<Regex>,
    secret_option: Regex,
}

impl Redactor {
    /// Builds the rules: the usual secrets if asked for, and the operator's own expressions.
    ///
    /// # Errors
    /// Fails when an expression does not compile.
    pub fn new(usual: bool, own: &[String]) -> Result<Self, PatternError> {
        let named =
            format!(r#"(?i)(?:\b|_|--?)[\w.-]*(?:{SECRET_NAMES})\d*["']?\s*[=:]\s*{VALUE}"#);
        let long_option = format!(r"(?i)(?:^|\s)--?[\w-]*(?:{SECRET_NAMES})\s+{VALUE}");
        let usual_rules = [named, long_option]
            .into_iter()
            .chain(USUAL_TEXTS.iter().map(|rule| rule.to_string()));
        let patterns: Vec<String> = usual_rules
            .filter(|_| usual)
            .chain(own.iter().cloned())
            .collect();
        let mut rules = Vec::with_capacity(patterns.len());
        for pattern in &patterns {
            rules.push(Regex::new(pattern).map_err(|error| refused(pattern, &error))?);
        }
        let any = RegexSet::new(&patterns).map_err(|error| refused("all together", &error))?;
        let option = format!("(?i)^--?(?:[a-z0-9_-]*[_-])?(?:{SECRET_NAMES})$");
        let secret_option = Regex::new(&option).map_err(|error| refused(&option, &error))?;
        Ok(Self {
            usual,
            any,
            rules,
            secret_option,
        })
    }

    /// Replaces secrets in `arguments` (`arguments[0]` is the program); returns whether any was.
    pub fn redact(&self, arguments: &mut [Text]) -> bool {
        let mut redacted = self.usual && self.redact_options(arguments);
        for argument in arguments {
            if self.any.is_match(argument) {
                let replaced = self
                    .rules
                    .iter()
                    .fold(argument.to_string(), |text, rule| replace(rule, &text));
                redacted |= *replaced != **argument;
                *argument = replaced.into();
            }
        }
        redacted
    }

    /// Options whose value is an argument of its own, or glued to a short option.
    fn redact_options(&self, arguments: &mut [Text]) -> bool {
        let Some(program) = arguments
            .first()
            .and_then(|path| path.rsplit('/').next())
            .map(str::to_owned)
        else {
            return false;
        };
        let short: Vec<_> = SHORT_OPTIONS
            .iter()
            .filter(|(programs, ..)| programs.contains(&program.as_str()))
            .collect();
        let mut redacted = false;
        let mut value_next = false;
        for argument in &mut arguments[1..] {
            if std::mem::take(&mut value_next) {
                redacted |= &**argument != MARK;
                *argument = MARK.into();
                continue;
            }
            value_next = self.secret_option.is_match(argument);
            for &&(_, option, glued) in &short {
                value_next |= &**argument == option
                    && !(program.starts_with("mysql") || program.starts_with("mariadb"));
                if glued && argument.len() > option.len() && argument.starts_with(option) {
                    *argument = format!("{option}{MARK}").into();
                    redacted = true;
                }
            }
        }
        redacted
    }
}

fn refused(pattern: &str, error: &regex::Error) -> PatternError {
    PatternError {
        pattern: pattern.to_owned(),
        reason: error.to_string(),
    }
}

/// Replaces the secret's group of each match; the whole match where the rule has no such group.
fn replace(rule: &Regex, text: &str) -> String {
    let has_group = rule
        .capture_names()
        .flatten()
        .any(|name| ["secret", "quoted", "single"].contains(&name));
    rule.replace_all(text, |found: &Captures<'_>| {
        let whole = &found[0];
        let start = found.get(0).map_or(0, |all| all.start());
        let secret = found
            .name("secret")
            .or(found.name("quoted"))
            .or(found.name("single"));
        match secret {
            Some(secret) => format!(
                "{}{MARK}{}",
                &whole[..secret.start() - start],
                &whole[secret.end() - start..]
            ),
            None if has_group => whole.to_owned(),
            None => MARK.to_owned(),
        }
    })
    .into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn redact_with(redactor: &Redactor, arguments: &[&str]) -> (Vec<String>, bool) {
        let mut texts: Vec<Text> = arguments
            .iter()
            .map(|argument| Text::from(*argument))
            .collect();
        let redacted = redactor.redact(&mut texts);
        (
            texts.iter().map(|text| text.to_string()).collect(),
            redacted,
        )
    }

    fn check(arguments: &[&str], expected: &[&str]) {
        let (redacted, flag) = redact_with(&Redactor::new(true, &[]).unwrap(), arguments);
        assert_eq!(redacted, expected);
        assert_eq!(flag, arguments != expected, "{arguments:?}");
    }

    #[test]
    fn usual_secrets_are_replaced() {
        check(
            &["app", "--password", "hunter2", "-v"],
            &["app", "--password", MARK, "-v"],
        );
        check(
            &["app", "--db-password=hunter2"],
            &["app", "--db-password=[redacted]"],
        );
        check(
            &["mysql", "-uroot", "-phunter2", "db"],
            &["mysql", "-uroot", "-p[redacted]", "db"],
        );
        check(
            &["/usr/bin/sshpass", "-p", "x y", "ssh", "h"],
            &["/usr/bin/sshpass", "-p", MARK, "ssh", "h"],
        );
        check(
            &["env", "GITHUB_TOKEN=abc", "run"],
            &["env", "GITHUB_TOKEN=[redacted]", "run"],
        );
        check(
            &["sh", "-c", "export AWS_SECRET_ACCESS_KEY='a b' && go"],
            &[
                "sh",
                "-c",
                "export AWS_SECRET_ACCESS_KEY='[redacted]' && go",
            ],
        );
        check(
            &["sh", "-c", "mysql -u root -phunter2 -e 'select 1'"],
            &["sh", "-c", "mysql -u root -p[redacted] -e 'select 1'"],
        );
        check(
            &["sh", "-c", "tool --api-key abc --verbose"],
            &["sh", "-c", "tool --api-key [redacted] --verbose"],
        );
        check(
            &["curl", "-H", "Authorization: Bearer abc.def", "http://x"],
            &["curl", "-H", "Authorization: Bearer [redacted]", "http://x"],
        );
        check(
            &["curl", "-u", "me:pw", "http://x"],
            &["curl", "-u", MARK, "http://x"],
        );
        check(
            &["curl", "-H", "X-Api-Key: abc def"],
            &["curl", "-H", "X-Api-Key: [redacted]"],
        );
        check(
            &["git", "clone", "https://me:pw@host/x.git"],
            &["git", "clone", "https://me:[redacted]@host/x.git"],
        );
        check(&["aws", "AKIAIOSFODNN7EXAMPLE"], &["aws", MARK]);
        check(
            &["x", r#"{"password": "hunter2", "a": 1}"#],
            &["x", r#"{"password": "[redacted]", "a": 1}"#],
        );
        check(
            &[
                "x",
                "-----BEGIN RSA PRIVATE KEY-----\nMIIE\n-----END RSA PRIVATE KEY-----",
            ],
            &[
                "x",
                "-----BEGIN RSA PRIVATE KEY-----[redacted]-----END RSA PRIVATE KEY-----",
            ],
        );
    }

    #[test]
    fn what_is_no_secret_stays() {
        for arguments in [
            &["sh", "-c", "cat /etc/passwd; ls -p /tmp"][..],
            &["mkdir", "-p", "/tmp/secret"],
            &["mysql", "-p", "db"],
            &["curl", "http://10.0.0.1:8080/x"],
            &["ssh", "-p", "22", "me@host"],
            &["tokenizer", "--tokenizer=fast", "--passes", "3"],
            &["docker-proxy", "-proto", "tcp"],
        ] {
            check(arguments, arguments);
        }
    }

    #[test]
    fn own_expressions_replace_their_secret_or_all() {
        let own = [
            r"ticket-(?<secret>\d+)".to_owned(),
            "badge[0-9]+".to_owned(),
        ];
        let redactor = Redactor::new(false, &own).unwrap();
        let (redacted, flag) =
            redact_with(&redactor, &["x", "ticket-42", "badge7", "--password=a"]);
        assert_eq!(redacted, ["x", "ticket-[redacted]", MARK, "--password=a"]);
        assert!(flag);
    }

    proptest! {
        #[test]
        fn a_named_secret_never_survives(secret in "[A-Za-z0-9]{12,40}", name in "(DB_)?(PASSWORD|TOKEN|SECRET|API_KEY)") {
            let argument = format!("{name}={secret}");
            let (redacted, flag) = redact_with(&Redactor::new(true, &[]).unwrap(), &["env", &argument]);
            prop_assert!(flag);
            prop_assert!(!redacted[1].contains(&secret), "{:?}", redacted);
        }

        #[test]
        fn redacting_twice_changes_nothing_more(arguments in proptest::collection::vec(".{0,40}", 1..5)) {
            let redactor = Redactor::new(true, &[]).unwrap();
            let mut once: Vec<Text> = arguments.iter().map(|a| Text::from(a.as_str())).collect();
            redactor.redact(&mut once);
            prop_assert!(once.len() == arguments.len());
        }
    }
}
