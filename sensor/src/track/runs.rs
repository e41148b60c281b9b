//! What an executed program was called to run, where that is another file: a script, or a program given to the loader.
//!
//! ```text
//! ./job.sh in /srv, which begins with #!/bin/sh       -> /srv/job.sh
//! /lib64/ld-linux-x86-64.so.2 --preload x.so /tmp/p   -> /tmp/p
//! ```
//! The kernel has let go of a script by the time that an exec is told, and the loader reads its program itself, so both
//! are as they were given: links in them are not followed.

use dogwatch_ebpf::record::Exec;
use dogwatch_schemas::Text;

use super::rows;
use crate::text::text;

/// Options of the dynamic loaders of glibc and musl that have an argument.
const WITH_ARGUMENT: [&str; 7] = [
    "--library-path",
    "--inhibit-rpath",
    "--audit",
    "--preload",
    "--argv0",
    "--glibc-hwcaps-prepend",
    "--glibc-hwcaps-mask",
];

/// Options with which they run nothing.
const RUNS_NOTHING: [&str; 6] = [
    "--list",
    "--verify",
    "--help",
    "--version",
    "--list-tunables",
    "--list-diagnostics",
];

/// The script that the exec runs, by its absolute path, and what follows it among all arguments.
pub(super) fn script<'a>(exec: &Exec, arguments: &'a [Text]) -> Option<(Text, &'a [Text])> {
    if !is_script(exec) {
        return None;
    }
    let given = text(&exec.filename, &mut false);
    // Before it the kernel puts its interpreter, with an option perhaps.
    let place = arguments.iter().position(|own| *own == given)?;
    let path = of(exec, arguments, &mut false)?;
    Some((path, &arguments[place + 1..]))
}

fn is_script(exec: &Exec) -> bool {
    !exec.interp.is_empty() && exec.interp != exec.filename
}

/// What the exec runs beside its executable; `arguments` are those that may be told.
pub(super) fn of(exec: &Exec, arguments: &[Text], escaped: &mut bool) -> Option<Text> {
    let given = if is_script(exec) {
        text(&exec.filename, escaped)
    } else if is_loader(&exec.path) || is_loader(&exec.filename) {
        loaded(arguments)?.clone()
    } else {
        return None;
    };
    if given.starts_with('/') {
        return Some(given);
    }
    // As a shell's user gives it: what it is called elsewhere has no such dot.
    let given = given.trim_start_matches("./").into();
    Some(rows::below(&text(&exec.cwd, escaped), &given))
}

/// `ld-linux-x86-64.so.2`, `ld-2.31.so`, `ld-musl-x86_64.so.1`, `ld64.so.2`, `ld.so`.
fn is_loader(path: &[u8]) -> bool {
    let name = path.rsplit(|byte| *byte == b'/').next().unwrap_or_default();
    let Some(rest) = name
        .strip_prefix(b"ld-")
        .or_else(|| name.strip_prefix(b"ld64."))
        .or_else(|| name.strip_prefix(b"ld."))
    else {
        return false;
    };
    rest.starts_with(b"so") || rest.windows(3).any(|part| part == b".so")
}

/// The program among the arguments of a dynamic loader.
fn loaded(arguments: &[Text]) -> Option<&Text> {
    let mut rest = arguments.iter().skip(1);
    while let Some(argument) = rest.next() {
        if &**argument == "--" {
            return rest.next();
        }
        if !argument.starts_with("--") {
            return Some(argument);
        }
        if RUNS_NOTHING.contains(&&**argument) {
            return None;
        }
        if WITH_ARGUMENT.contains(&&**argument) {
            rest.next();
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(path: &str, interp: &str, arguments: &[&str], expected: Option<&str>) {
        let exec = Exec {
            path: path.as_bytes().to_vec(),
            filename: arguments
                .first()
                .map_or(b"".to_vec(), |name| name.as_bytes().to_vec()),
            interp: interp.as_bytes().to_vec(),
            cwd: b"/srv".to_vec(),
            ..Exec::default()
        };
        let arguments: Vec<Text> = arguments
            .iter()
            .map(|argument| Text::from(*argument))
            .collect();
        let found = of(&exec, &arguments, &mut false);
        assert_eq!(found.as_deref(), expected, "{arguments:?}");
    }

    #[test]
    fn a_script_is_what_its_interpreter_runs() {
        check(
            "/usr/bin/dash",
            "/bin/sh",
            &["./job.sh"],
            Some("/srv/job.sh"),
        );
        check("/usr/bin/dash", "/bin/sh", &["/opt/job"], Some("/opt/job"));
        check("/usr/bin/dash", "/bin/sh", &["/bin/sh", "/opt/job"], None);
    }

    #[test]
    fn what_follows_a_script_are_its_arguments() {
        let called = |filename: &str, interp: &str| Exec {
            filename: filename.as_bytes().to_vec(),
            interp: interp.as_bytes().to_vec(),
            cwd: b"/srv".to_vec(),
            ..Exec::default()
        };
        let arguments = ["/bin/sh", "-e", "./check", "a", "b"].map(Text::from);
        let found = script(&called("./check", "/bin/sh"), &arguments);
        assert_eq!(found, Some(("/srv/check".into(), &arguments[3..])));
        assert_eq!(script(&called("/bin/sh", ""), &arguments), None);
        assert_eq!(script(&called("/bin/sh", "/bin/sh"), &arguments), None);
        // Cut before its place.
        assert_eq!(script(&called("./check", "/bin/sh"), &arguments[..2]), None);
    }

    #[test]
    fn a_loader_runs_the_program_that_it_is_given() {
        let glibc = "/usr/lib/x86_64-linux-gnu/ld-linux-x86-64.so.2";
        let musl = "/lib/ld-musl-x86_64.so.1";
        for (arguments, expected) in [
            (&["ld.so", "/tmp/p", "--list"][..], Some("/tmp/p")),
            (&["ld.so", "--preload", "/tmp/x.so", "p"], Some("/srv/p")),
            (
                &["ld.so", "--argv0", "sshd", "--inhibit-cache", "/tmp/p"],
                Some("/tmp/p"),
            ),
            (
                &["ld.so", "--library-path=/tmp", "--", "/tmp/p"],
                Some("/tmp/p"),
            ),
            (&["ld.so", "--list", "/bin/ls"], None),
            (&["ld.so"], None),
            (&[], None),
        ] {
            check(glibc, "", arguments, expected);
            check(musl, "", arguments, expected);
        }
        for name in ["ld-2.31.so", "ld64.so.2", "ld.so", "ld.so.1"] {
            assert!(is_loader(name.as_bytes()), "{name}");
        }
        for name in [
            "ld", "ld.gold", "ld.lld", "ldd", "ldconfig", "ld-new", "libld.so",
        ] {
            assert!(!is_loader(name.as_bytes()), "{name}");
        }
    }
}
