//! Variables of a program's environment that are told: those that change what it loads, runs or talks to, and no others.

use std::collections::BTreeMap;

use dogwatch_schemas::Text;

use crate::redact::Redactor;
use crate::text::{cut, text};

/// Bytes of each value.
const VALUE_BYTES_MAX: usize = 256;

/// What the dynamic loader, shells and interpreters load or run for it, and where clients send what they have to say.
const TOLD: [&str; 29] = [
    "LD_PRELOAD",
    "LD_LIBRARY_PATH",
    "LD_AUDIT",
    "LD_DEBUG_OUTPUT",
    "LD_ORIGIN_PATH",
    "LD_PROFILE_OUTPUT",
    "GLIBC_TUNABLES",
    "GCONV_PATH",
    "LOCPATH",
    "BASH_ENV",
    "ENV",
    "PROMPT_COMMAND",
    "HISTFILE",
    "HISTSIZE",
    "PYTHONPATH",
    "PYTHONSTARTUP",
    "PYTHONHOME",
    "PERL5LIB",
    "PERL5OPT",
    "RUBYOPT",
    "NODE_OPTIONS",
    "JAVA_TOOL_OPTIONS",
    "GIT_SSH_COMMAND",
    "HTTP_PROXY",
    "HTTPS_PROXY",
    "ALL_PROXY",
    "http_proxy",
    "https_proxy",
    "all_proxy",
];

/// Folders to which anybody may write.
const OPEN_FOLDERS: [&str; 3] = ["/tmp", "/var/tmp", "/dev/shm"];

/// The variables that are told, by name; whether something of them was redacted.
pub(super) fn told(
    environment: &[u8],
    redactor: &Redactor,
    escaped: &mut bool,
) -> (BTreeMap<Text, Text>, bool) {
    let mut told = BTreeMap::new();
    let mut redacted = false;
    for variable in environment.split(|byte| *byte == 0) {
        let Some((name, value)) = split(variable) else {
            continue;
        };
        let is_told = TOLD.iter().any(|wanted| wanted.as_bytes() == name)
            || (name == b"PATH" && is_odd(value));
        if !is_told {
            continue;
        }
        // As an assignment, which is how the rules know secrets.
        let mut whole = [text(variable, escaped)];
        redacted |= redactor.redact(None, &mut whole);
        if let Some((name, value)) = whole[0].split_once('=') {
            told.insert(name.into(), cut(&value.into(), VALUE_BYTES_MAX));
        }
    }
    (told, redacted)
}

fn split(variable: &[u8]) -> Option<(&[u8], &[u8])> {
    let at = variable.iter().position(|byte| *byte == b'=')?;
    Some((&variable[..at], &variable[at + 1..]))
}

/// A program may be found where others can put one: in a folder of everybody's, or in whichever one the process is in.
fn is_odd(path: &[u8]) -> bool {
    let path = String::from_utf8_lossy(path);
    path.split(':').any(|folder| {
        !folder.starts_with('/')
            || OPEN_FOLDERS.iter().any(|open| {
                let rest = folder.strip_prefix(open);
                rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
            })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(environment: &str, expected: &[(&str, &str)]) {
        let redactor = Redactor::new(true, &[]).unwrap();
        let (found, _) = told(environment.as_bytes(), &redactor, &mut false);
        let found: Vec<_> = found
            .iter()
            .map(|(name, value)| (&**name, &**value))
            .collect();
        assert_eq!(found, expected, "{environment:?}");
    }

    #[test]
    fn the_schema_names_every_variable_that_is_told() {
        let known = dogwatch_schemas::vocabulary::of("proc_env");
        let keys = known.and_then(|known| known.keys.clone()).unwrap();
        let mut told: Vec<&str> = TOLD.into_iter().chain(["PATH"]).collect();
        told.sort_unstable();
        assert_eq!(keys, told);
    }

    #[test]
    fn what_changes_a_program_is_told_and_nothing_else() {
        check(
            "HOME=/root\0LD_PRELOAD=/tmp/x.so\0TOKEN=abc\0",
            &[("LD_PRELOAD", "/tmp/x.so")],
        );
        check("LD_PRELOADED=1\0XLD_PRELOAD=1\0novalue\0=x\0", &[]);
        check("LD_AUDIT=\0", &[("LD_AUDIT", "")]);
        check("", &[]);
        let long = format!("LD_LIBRARY_PATH={}", "x".repeat(5_000));
        check(&long, &[("LD_LIBRARY_PATH", &"x".repeat(VALUE_BYTES_MAX))]);
    }

    #[test]
    fn a_path_is_told_where_others_can_put_programs() {
        check("PATH=/usr/bin:/bin\0", &[]);
        check("PATH=/tmpfiles:/bin\0", &[]);
        for odd in [
            "/tmp:/bin",
            "/bin:",
            "/bin::/sbin",
            ".:/bin",
            "/dev/shm/x:/bin",
        ] {
            check(&format!("PATH={odd}\0"), &[("PATH", odd)]);
        }
    }

    #[test]
    fn secrets_of_a_proxy_are_redacted() {
        let redactor = Redactor::new(true, &[]).unwrap();
        let variable = b"HTTPS_PROXY=http://me:hunter2@proxy:3128\0";
        let (found, redacted) = told(variable, &redactor, &mut false);
        assert!(
            redacted && !found["HTTPS_PROXY"].contains("hunter2"),
            "{found:?}"
        );
    }
}
