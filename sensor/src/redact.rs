//! Redaction: secrets in arguments are replaced before anything else sees them.
//!
//! ```text
//! ["mysql", "-uroot", "-phunter2"]      -> ["mysql", "-uroot", "-p[redacted:program:1-7:9f21a0c4]"]
//! ["sh", "-c", "TOKEN=abc curl x"]      -> ["sh", "-c", "TOKEN=[redacted:assignment:1-7:07be11d2] curl x"]
//! ```
//! It is a net, not a proof: a secret that looks like any other word passes. What is replaced is never kept.
//!
//! It must hide no payload either, so it never replaces more than one word, or what stands between one pair of quotes, and
//! the mark says by which rule ([`rules`], [`programs`]), how long the secret was, and, by a hash with the host's own key,
//! which secrets are the same. What may be a command (it holds blanks, `;`, `|`, `$(`) is marked `+code`: a password of
//! that kind is rare, `P='curl x|sh'; eval $P` is not.

pub(crate) mod key;
mod programs;
mod rules;
mod shell;

use std::fmt;
use std::ops::Range;
use std::sync::OnceLock;

use dogwatch_schemas::Text;
use regex::{Captures, Regex, RegexBuilder, RegexSet, RegexSetBuilder};
use sha2::{Digest as _, Sha256};

use key::Key;

/// How a mark begins.
const MARK: &str = "[redacted:";

/// Bytes that an expression keeps of what it worked out while it searched, where it would take 2 MiB.
const CACHE_BYTES_MAX: usize = 512 << 10;

/// A configured expression that does not compile.
#[derive(Debug, Clone)]
pub struct PatternError {
    /// The expression.
    pub pattern: String,
    /// What is wrong with it.
    pub reason: String,
}

/// Replaces secrets in argument lists.
#[derive(Clone)]
pub struct Redactor {
    usual: bool,
    /// One pass over an argument says whether any rule below can match.
    any: RegexSet,
    rules: Vec<Rule>,
    secret_option: Regex,
    secret_name: Regex,
    key: Option<Key>,
}

/// An expression, compiled when it matches first: together they take a megabyte, and most never match.
#[derive(Clone)]
struct Rule {
    name: String,
    pattern: String,
    compiled: OnceLock<Regex>,
}

impl Rule {
    fn regex(&self) -> &Regex {
        self.compiled.get_or_init(|| {
            compile(&self.pattern).expect("it was compiled in the set of all rules")
        })
    }
}

impl fmt::Debug for Redactor {
    /// Without the key.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<_> = self.rules.iter().map(|rule| &rule.name).collect();
        f.debug_struct("Redactor").field("rules", &names).finish()
    }
}

/// Part of an argument that is a secret, and by which rule.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Found {
    argument: usize,
    range: Range<usize>,
    rule: &'static str,
}

impl Redactor {
    /// Builds the rules: the usual secrets if asked for, and the operator's own expressions.
    ///
    /// # Errors
    /// Fails when an expression does not compile.
    pub fn new(usual: bool, own: &[String]) -> Result<Self, PatternError> {
        let usual_rules = rules::usual().into_iter().filter(|_| usual);
        let own_rules = own
            .iter()
            .enumerate()
            .map(|(index, pattern)| (format!("own{}", index + 1), pattern.clone()));
        let rules: Vec<Rule> = usual_rules
            .chain(own_rules)
            .map(|(name, pattern)| Rule {
                name,
                pattern,
                compiled: OnceLock::new(),
            })
            .collect();
        // Told one by one which is wrong.
        for own in own {
            compile(own)?;
        }
        let patterns = rules.iter().map(|rule| &rule.pattern);
        let any = RegexSetBuilder::new(patterns)
            .dfa_size_limit(CACHE_BYTES_MAX)
            .build()
            .map_err(|error| refused("all together", &error))?;
        Ok(Self {
            usual,
            any,
            rules,
            secret_option: compile(&rules::secret_option())?,
            secret_name: compile(&rules::secret_name())?,
            key: None,
        })
    }

    /// With the key of this host, by which equal secrets have equal hashes in their marks.
    pub(crate) fn with_key(mut self, key: Option<Key>) -> Self {
        self.key = key;
        self
    }

    /// Replaces secrets in `arguments` (`arguments[0]` is what the program calls itself); returns whether any was.
    /// `executable` is the file that is executed, where it is known: what a program calls itself is its caller's choice.
    pub fn redact(&self, executable: Option<&str>, arguments: &mut [Text]) -> bool {
        let mut redacted = false;
        if self.usual {
            let found = self.in_options(executable, arguments);
            redacted |= self.replace_all(found, arguments);
            for argument in arguments.iter_mut() {
                redacted |= self.redact_commands(argument);
            }
        }
        for argument in arguments {
            let matching = self.any.matches(argument);
            if !matching.matched_any() {
                continue;
            }
            let rules = matching.into_iter().map(|index| &self.rules[index]);
            let replaced = rules.fold(argument.to_string(), |text, rule| self.replace(rule, text));
            redacted |= *replaced != **argument;
            *argument = replaced.into();
        }
        redacted
    }

    /// Values of options that name a secret, and those that the program is known to take.
    fn in_options(&self, executable: Option<&str>, arguments: &[Text]) -> Vec<Found> {
        let words: Vec<&str> = arguments.iter().map(|argument| &**argument).collect();
        let mut found = programs::secrets(executable, &words, &self.secret_name);
        for (index, pair) in words.windows(2).enumerate().skip(1) {
            let [option, value] = [pair[0], pair[1]];
            if self.secret_option.is_match(option) && !value.starts_with("--") {
                found.push(whole(index + 1, value, "option"));
            }
        }
        found
    }

    /// Secrets of programs that a shell is told to run.
    fn redact_commands(&self, argument: &mut Text) -> bool {
        if !programs::names_any(argument) {
            return false;
        }
        let mut found = Vec::new();
        shell::each_command(argument, &mut |words| {
            let contents: Vec<&str> = words.iter().map(|word| &argument[word.clone()]).collect();
            for secret in programs::secrets(None, &contents, &self.secret_name) {
                let start = words[secret.argument].start;
                let range = start + secret.range.start..start + secret.range.end;
                found.push(Found {
                    argument: 0,
                    range,
                    ..secret
                });
            }
        });
        self.replace_all(found, std::slice::from_mut(argument))
    }

    /// Puts marks over what was found; of what overlaps, over the first.
    fn replace_all(&self, mut found: Vec<Found>, arguments: &mut [Text]) -> bool {
        found.retain(|found| {
            let secret = &arguments[found.argument][found.range.clone()];
            !secret.is_empty() && !is_mark(secret)
        });
        // From behind, so that the ranges still to come hold.
        found.sort_by_key(|found| (found.argument, found.range.start, found.range.end));
        found.dedup_by(|next, before| {
            next.argument == before.argument && next.range.start < before.range.end
        });
        for found in found.iter().rev() {
            let argument = &arguments[found.argument];
            let (before, rest) = argument.split_at(found.range.start);
            let (secret, after) = rest.split_at(found.range.len());
            let mark = self.mark(found.rule, secret);
            arguments[found.argument] = format!("{before}{mark}{after}").into();
        }
        !found.is_empty()
    }

    /// Replaces the secret's group of each match; the whole match where the rule has no such group.
    fn replace(&self, rule: &Rule, text: String) -> String {
        let (name, rule) = (rule.name.as_str(), rule.regex());
        let groups = ["secret", "quoted", "single"];
        let has_group = rule
            .capture_names()
            .flatten()
            .any(|name| groups.contains(&name));
        let replaced = rule.replace_all(&text, |found: &Captures<'_>| {
            let whole = &found[0];
            let start = found.get(0).map_or(0, |all| all.start());
            let secret = groups.into_iter().find_map(|group| found.name(group));
            let Some(secret) = secret else {
                return if has_group || whole.contains(MARK) {
                    whole.to_owned()
                } else {
                    self.mark(name, whole)
                };
            };
            // Marked already, or a reference that the shell will put something in place of: no secret itself.
            let expands = found.name("single").is_none() && rules::is_reference(secret.as_str());
            if is_mark(secret.as_str()) || secret.is_empty() || expands {
                return whole.to_owned();
            }
            let (before, after) = (
                &whole[..secret.start() - start],
                &whole[secret.end() - start..],
            );
            format!("{before}{}{after}", self.mark(name, secret.as_str()))
        });
        replaced.into_owned()
    }

    /// What stands in place of a secret.
    fn mark(&self, rule: &str, secret: &str) -> String {
        let code = if may_be_code(secret) { "+code" } else { "" };
        let length = length_class(secret.len());
        let Some(key) = &self.key else {
            return format!("{MARK}{rule}{code}:{length}]");
        };
        let hash = Sha256::new()
            .chain_update(key.bytes())
            .chain_update(secret)
            .finalize();
        let hash = u32::from_be_bytes([hash[0], hash[1], hash[2], hash[3]]);
        format!("{MARK}{rule}{code}:{length}:{hash:08x}]")
    }
}

fn whole(argument: usize, word: &str, rule: &'static str) -> Found {
    Found {
        argument,
        range: 0..word.len(),
        rule,
    }
}

fn compile(pattern: &str) -> Result<Regex, PatternError> {
    RegexBuilder::new(pattern)
        .dfa_size_limit(CACHE_BYTES_MAX)
        .build()
        .map_err(|error| refused(pattern, &error))
}

fn refused(pattern: &str, error: &regex::Error) -> PatternError {
    PatternError {
        pattern: pattern.to_owned(),
        reason: error.to_string(),
    }
}

/// Whether it is nothing but a mark.
fn is_mark(text: &str) -> bool {
    text.starts_with(MARK) && text.find(']') == Some(text.len() - 1)
}

fn may_be_code(secret: &str) -> bool {
    secret.contains(|c: char| c.is_whitespace() || [';', '|', '&', '`', '<', '>'].contains(&c))
        || secret.contains("$(")
}

/// How long a secret was, roughly: enough to tell an empty one or a whole program from a password.
fn length_class(bytes: usize) -> &'static str {
    match bytes {
        0..8 => "1-7",
        8..16 => "8-15",
        16..32 => "16-31",
        32..64 => "32-63",
        64..256 => "64-255",
        _ => "256+",
    }
}

#[cfg(test)]
mod tests;
