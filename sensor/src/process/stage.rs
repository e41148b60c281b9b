//! The stage of a process: what part of a container's life it belongs to.
//!
//! It decides most false positives: a shell of a healthcheck is not an intruder.
//! Nothing here looks at names. What counts is structure:
//!
//! ```text
//! comes into the container's cgroup from outside            -> runtime (runc sets itself up there)
//!   executes, still in the host's mount namespace           -> runtime (runc executes itself again)
//!   executes inside the container, as init of its pid
//!     namespace, or first of all where that is another's    -> entrypoint
//!   executes inside it later                                -> healthcheck if it was called as one is, else exec
//! is made by a process of the container                     -> as its parent
//! ```
//! Of a process whose beginning was not seen the stage is not known, unless its own structure or a parent tells it.
//! Without the right to see the host's mount namespace (CAP_SYS_PTRACE), neither is that of what is brought in later.

use dogwatch_schemas::Text;

/// What part of a container's life a process belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum Stage {
    /// Not in a container.
    #[default]
    Host,
    /// The runtime's own set-up.
    Runtime,
    /// What the container was started for.
    Entrypoint,
    /// Brought in later: `docker exec` and the like.
    Exec,
    /// The configured healthcheck.
    Healthcheck,
}

impl Stage {
    /// The column's value.
    pub fn name(self) -> &'static str {
        match self {
            Self::Host => "host",
            Self::Runtime => "runtime",
            Self::Entrypoint => "entrypoint",
            Self::Exec => "exec",
            Self::Healthcheck => "healthcheck",
        }
    }
}

/// What decides the stage of a process that was brought into a container and now executes a program.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Arrival<'a> {
    /// The process is still in the host's mount namespace, as far as that one is known.
    pub in_host_mntns: Option<bool>,
    /// The process is pid 1 of a pid namespace that is not the host's.
    pub init_of_pidns: bool,
    /// The container's runtime says that this process is its init.
    pub init_of_container: bool,
    /// The container's entrypoint has been seen.
    pub entrypoint_seen: bool,
    /// The container's pid namespace is the host's or another container's, as far as is known.
    pub shares_pidns: bool,
    /// What it executes.
    pub called: Invocation<'a>,
    /// The container's configured healthcheck.
    pub healthcheck: Option<&'a [Text]>,
    /// Further commands that are healthchecks of this container.
    pub probes: &'a [Vec<Text>],
}

/// How a program was called.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Invocation<'a> {
    /// The arguments, not redacted.
    pub arguments: &'a [Text],
    /// The script, where that is what is executed: the kernel puts its interpreter before it.
    pub script: Option<Script<'a>>,
}

impl Invocation<'_> {
    /// Whether this command calls it so.
    fn is_called_by(&self, command: &[Text]) -> bool {
        command == self.arguments
            || self
                .script
                .is_some_and(|script| script.is_called_by(command))
    }
}

/// A script as it was called; the word that it was called by is lost.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Script<'a> {
    /// Its absolute path in the container, links not followed.
    pub path: &'a str,
    /// Where it was called from.
    pub cwd: &'a str,
    /// What follows it.
    pub arguments: &'a [Text],
}

/// Where a program is found that is called by its name alone. Another folder in a container's `PATH` may be one that anybody
/// writes to.
const FOLDERS: [&str; 6] = [
    "/usr/local/sbin",
    "/usr/local/bin",
    "/usr/sbin",
    "/usr/bin",
    "/sbin",
    "/bin",
];

impl Script<'_> {
    /// Whether this command calls it so.
    fn is_called_by(&self, command: &[Text]) -> bool {
        let Some((called, arguments)) = command.split_first() else {
            return false;
        };
        arguments == self.arguments
            && match called.strip_prefix("./").unwrap_or(called) {
                "" => false,
                absolute if absolute.starts_with('/') => absolute == self.path,
                name if called.contains('/') => self.is_in(self.cwd, name),
                name => FOLDERS.into_iter().any(|folder| self.is_in(folder, name)),
            }
    }

    fn is_in(&self, folder: &str, name: &str) -> bool {
        let rest = self.path.strip_prefix(folder.trim_end_matches('/'));
        rest.and_then(|rest| rest.strip_prefix('/')) == Some(name)
    }
}

/// The stage after the exec that ends the runtime's part. Where the host's mount namespace is not known, the runtime cannot
/// be told from what it brings in.
pub(crate) fn on_arrival(arrival: &Arrival<'_>) -> Option<Stage> {
    if arrival.in_host_mntns == Some(true) {
        return Some(Stage::Runtime);
    }
    let inside = arrival.in_host_mntns == Some(false);
    let first_without_init = inside && arrival.shares_pidns && !arrival.entrypoint_seen;
    if arrival.init_of_container || arrival.init_of_pidns || first_without_init {
        return Some(Stage::Entrypoint);
    }
    let probes = arrival.probes.iter().map(|probe| &**probe);
    let mut checks = arrival.healthcheck.into_iter().chain(probes);
    if checks.any(|check| !check.is_empty() && arrival.called.is_called_by(check)) {
        return Some(Stage::Healthcheck);
    }
    inside.then_some(Stage::Exec)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(change: impl FnOnce(&mut Arrival<'_>), expected: impl Into<Option<Stage>>) {
        let arguments = [Text::from("/bin/sh"), "-c".into(), "test -f /ok".into()];
        let mut arrival = Arrival {
            in_host_mntns: Some(false),
            init_of_pidns: false,
            init_of_container: false,
            entrypoint_seen: true,
            shares_pidns: false,
            called: Invocation {
                arguments: &arguments,
                script: None,
            },
            healthcheck: None,
            probes: &[],
        };
        change(&mut arrival);
        assert_eq!(on_arrival(&arrival), expected.into(), "{arrival:?}");
    }

    #[test]
    fn structure_decides() {
        check(|_| {}, Stage::Exec);
        check(|a| a.in_host_mntns = Some(true), Stage::Runtime);
        check(|a| a.init_of_pidns = true, Stage::Entrypoint);
        check(|a| a.init_of_container = true, Stage::Entrypoint);
        check(
            |a| (a.shares_pidns, a.entrypoint_seen) = (true, false),
            Stage::Entrypoint,
        );
        check(|a| a.shares_pidns = true, Stage::Exec);
        check(
            |a| a.healthcheck = Some(a.called.arguments),
            Stage::Healthcheck,
        );
        check(|a| a.healthcheck = Some(&[]), Stage::Exec);
        check(
            |a| (a.healthcheck, a.init_of_pidns) = (Some(a.called.arguments), true),
            Stage::Entrypoint,
        );
    }

    #[test]
    fn without_the_hosts_mount_namespace_only_what_is_certain_is_told() {
        let unknown = |a: &mut Arrival<'_>| a.in_host_mntns = None;
        check(unknown, None);
        let first = |a: &mut Arrival<'_>| {
            unknown(a);
            (a.shares_pidns, a.entrypoint_seen) = (true, false);
        };
        check(first, None);
        let init = |a: &mut Arrival<'_>| {
            unknown(a);
            a.init_of_pidns = true;
        };
        check(init, Stage::Entrypoint);
        let healthcheck = |a: &mut Arrival<'_>| {
            unknown(a);
            a.healthcheck = Some(a.called.arguments);
        };
        check(healthcheck, Stage::Healthcheck);
    }

    #[test]
    fn a_probe_that_the_operator_names_is_a_healthcheck() {
        let words = |words: &[&str]| words.iter().map(|word| Text::from(*word)).collect();
        let fitting: [Vec<Text>; 2] = [words(&["true"]), words(&["/bin/sh", "-c", "test -f /ok"])];
        assert_eq!(with_probes(&fitting), Some(Stage::Healthcheck));
        let others: [Vec<Text>; 2] = [words(&["/bin/sh"]), words(&[])];
        assert_eq!(with_probes(&others), Some(Stage::Exec));
    }

    fn with_probes(probes: &[Vec<Text>]) -> Option<Stage> {
        let arguments = [Text::from("/bin/sh"), "-c".into(), "test -f /ok".into()];
        on_arrival(&Arrival {
            in_host_mntns: Some(false),
            init_of_pidns: false,
            init_of_container: false,
            entrypoint_seen: true,
            shares_pidns: false,
            called: Invocation {
                arguments: &arguments,
                script: None,
            },
            healthcheck: None,
            probes,
        })
    }

    #[test]
    fn a_part_of_the_healthcheck_is_not_the_healthcheck() {
        check(
            |a| a.healthcheck = Some(&a.called.arguments[..2]),
            Stage::Exec,
        );
    }

    /// Whether a script, run by `/bin/sh` in `/srv`, is the healthcheck.
    fn check_script(path: &str, arguments: &[&str], healthcheck: &[&str], expected: Stage) {
        let words =
            |words: &[&str]| -> Vec<Text> { words.iter().map(|word| Text::from(*word)).collect() };
        let (arguments, healthcheck) = (words(arguments), words(healthcheck));
        let whole = [words(&["/bin/sh", "-e", path]), arguments.clone()].concat();
        let arrival = Arrival {
            in_host_mntns: Some(false),
            init_of_pidns: false,
            init_of_container: false,
            entrypoint_seen: true,
            shares_pidns: false,
            called: Invocation {
                arguments: &whole,
                script: Some(Script {
                    path,
                    cwd: "/srv",
                    arguments: &arguments,
                }),
            },
            healthcheck: Some(&healthcheck),
            probes: &[],
        };
        assert_eq!(
            on_arrival(&arrival),
            Some(expected),
            "{path} {arguments:?}, {healthcheck:?}"
        );
    }

    #[test]
    fn a_script_is_the_healthcheck_that_it_was_called_as() {
        use Stage::{Exec, Healthcheck};
        check_script("/check.sh", &[], &["/check.sh"], Healthcheck);
        check_script(
            "/check.sh",
            &["a", "b"],
            &["/check.sh", "a", "b"],
            Healthcheck,
        );
        check_script("/srv/bin/check", &[], &["./bin/check"], Healthcheck);
        check_script("/srv/bin/check", &[], &["bin/check"], Healthcheck);
        check_script("/usr/local/bin/check", &["a"], &["check", "a"], Healthcheck);
        // With the interpreter before it, as it is executed.
        check_script(
            "/check.sh",
            &[],
            &["/bin/sh", "-e", "/check.sh"],
            Healthcheck,
        );

        check_script("/tmp/check.sh", &[], &["/check.sh"], Exec);
        check_script("/check.sh", &["c"], &["/check.sh", "a"], Exec);
        check_script("/check.sh", &["a", "b"], &["/check.sh", "a"], Exec);
        check_script("/check.sh", &[], &["/check.sh", "a"], Exec);
        check_script("/tmp/check", &[], &["check"], Exec);
        check_script("/srv/check", &[], &["check"], Exec);
        check_script("/usr/bin/deep/check", &[], &["check"], Exec);
        check_script("/tmp/bin/check", &[], &["./bin/check"], Exec);
        check_script("/check.sh", &[], &[""], Exec);
        check_script("/check.sh", &[], &["./"], Exec);
    }
}
