//! Joins an event with its process: who it is, who started it, and which users it has.

use std::collections::HashMap;

use dogwatch_schemas::Text;
use dogwatch_schemas::records::Event;

use crate::clock::Clock;
use crate::container::Place;
use crate::fact::Host;
use crate::process::{Process, ProcessTable, Program};
use crate::text::cut;
use crate::users::Users;

/// Bytes that a row keeps of its process's texts.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Limits {
    cmdline: usize,
    /// `proc_exe`; also all of `proc_args` together.
    args: usize,
    /// `proc_exepath`, `proc_cwd`, each.
    path: usize,
    parent_cmdline: usize,
    session_cmdline: usize,
    /// Each of `proc_acmdline`.
    ancestor_cmdline: usize,
    /// The same of those outside the process's container: the runtime's lines are long and tell little.
    outside_cmdline: usize,
    /// Whether the lists of a container's process go on past the first ancestor on the host ([`is_of_host`]).
    host_ancestors: bool,
    /// `proc_pexepath`.
    parent_path: usize,
    /// Each of `proc_aexepath`; `None` = not carried.
    ancestor_path: Option<usize>,
}

/// What rows that tell of a process in full keep: all that is known; the exec's own row has brought its arguments itself.
pub(super) const IN_FULL: Limits = Limits {
    cmdline: 4 << 10,
    args: 4 << 10,
    path: 16 << 10,
    parent_cmdline: 4 << 10,
    session_cmdline: 4 << 10,
    ancestor_cmdline: 256,
    outside_cmdline: 256,
    host_ancestors: true,
    parent_path: 4 << 10,
    ancestor_path: Some(4 << 10),
};

/// What all other rows keep.
pub(super) const IN_BRIEF: Limits = Limits {
    cmdline: 512,
    args: 256,
    path: 1 << 10,
    parent_cmdline: 96,
    session_cmdline: 96,
    ancestor_cmdline: 96,
    outside_cmdline: 32,
    host_ancestors: false,
    parent_path: 128,
    ancestor_path: None,
};

/// Names the event's process.
pub(super) fn set_identity(event: &mut Event, process: &Process) {
    event.proc_key = process.key.clone();
    event.proc_pid = i64::from(process.id.pid);
    if event.thread_tid == 0 {
        event.thread_tid = event.proc_pid;
    }
}

/// The process itself.
pub(super) fn set_process(
    event: &mut Event,
    process: &Process,
    limits: &Limits,
    host: &Host,
    clock: &Clock,
) {
    event.proc_vpid = process.vpid.map(i64::from);
    event.proc_name = process.comm.clone();
    event.proc_tty = process.tty.map(i64::from);
    event.proc_sid = process.sid.map(i64::from);
    event.proc_pgid = process.pgid.map(i64::from);
    event.proc_pid_ts = Some(clock.wall_ns(process.start_ns));
    event.proc_mnt_ns = process.mnt_ns.map(i64::from);
    event.proc_pid_ns = process.pid_ns.map(i64::from);
    event.proc_in_host_mntns = host.has_mount_namespace(process.mnt_ns);
    event.proc_stage = process.stage.map(|stage| stage.name().into());
    event.container_origin_id = process.origin.as_deref().map(crate::container::short);
    event.evt_escaped |= process.escaped;
    if let Some(program) = &process.program {
        set_program(event, program, limits);
    }
}

/// The program and its arguments; what is cut of them is told.
pub(super) fn set_program(event: &mut Event, program: &Program, limits: &Limits) {
    let mut truncated = false;
    let mut keep = |text: &Option<Text>, bytes_max: usize| {
        let whole = text.as_ref()?;
        let kept = cut(whole, bytes_max);
        truncated |= kept.len() < whole.len();
        Some(kept)
    };
    event.proc_exe = keep(&program.arg0, limits.args);
    event.proc_exepath = keep(&program.exepath, limits.path);
    event.proc_cwd = keep(&program.cwd, limits.path);
    // The row of the exec itself has brought all arguments.
    if event.proc_cmdline.is_none() {
        event.proc_cmdline = keep(&program.cmdline, limits.cmdline);
        event.proc_args = program.args().map(|args| {
            let kept = first_arguments(&args, limits.args);
            event.evt_truncated |= kept != args;
            kept
        });
        event.evt_truncated |= program.cut;
    }
    event.evt_truncated |= truncated;
    event.evt_redacted |= program.redacted;
}

/// The first arguments that have so many bytes together; the last one may be cut.
fn first_arguments(args: &[Text], bytes_max: usize) -> Vec<Text> {
    let mut left = bytes_max;
    let mut kept = Vec::with_capacity(args.len().min(16));
    for arg in args {
        // An argument has a byte of its own, so that empty ones have a bound as well.
        if left == 0 {
            break;
        }
        let arg = cut(arg, left);
        left -= (arg.len() + 1).min(left);
        kept.push(arg);
    }
    kept
}

/// Parent, ancestors, and the session's first process.
pub(super) fn set_lineage(
    event: &mut Event,
    process: &Process,
    limits: &Limits,
    table: &ProcessTable,
    clock: &Clock,
) {
    event.proc_ppid = process.parent.map(|parent| i64::from(parent.pid));
    let ancestors: Vec<&Process> = table.ancestors(process).collect();
    if let Some(parent) = ancestors.first() {
        event.proc_pkey = Some(parent.key.clone());
        event.proc_pvpid = parent.vpid.map(i64::from);
        event.proc_pname = parent.comm.clone();
        event.proc_pexepath = exepath(parent, limits.parent_path);
        event.proc_pcmdline = cmdline(parent, limits.parent_cmdline);
        event.proc_ppid_ts = Some(clock.wall_ns(parent.start_ns));
    }
    let told = if limits.host_ancestors {
        ancestors.len()
    } else {
        told_in_brief(process, &ancestors)
    };
    set_ancestors(event, process, &ancestors[..told], limits, clock);
    if let Some(leader) = table.session_leader(process) {
        event.proc_skey = Some(leader.key.clone());
        event.proc_sname = leader.comm.clone();
        event.proc_scmdline = cmdline(leader, limits.session_cmdline);
        event.proc_sid_ts = Some(clock.wall_ns(leader.start_ns));
    }
}

/// How many ancestors a row in brief has: of a container's process those up to the first of the host's, which brought it
/// in. Who started that one (shim, daemon, init) is the same for every container of the host, and on rows in full.
fn told_in_brief(process: &Process, ancestors: &[&Process]) -> usize {
    if process.place.container().is_none() {
        return ancestors.len();
    }
    let first_of_host = ancestors.iter().position(|ancestor| is_of_host(ancestor));
    first_of_host.map_or(ancestors.len(), |index| index + 1)
}

/// On the host, and not because it has left a container: who escaped is not the runtime.
fn is_of_host(process: &Process) -> bool {
    process.place == Place::Host && process.origin.is_none()
}

fn set_ancestors(
    event: &mut Event,
    process: &Process,
    ancestors: &[&Process],
    limits: &Limits,
    clock: &Clock,
) {
    let line = |ancestor: &Process| {
        let outside = process.place.container().is_some() && ancestor.place != process.place;
        let bytes_max = if outside {
            limits.outside_cmdline
        } else {
            limits.ancestor_cmdline
        };
        cmdline(ancestor, bytes_max)
    };
    let texts = |of: &dyn Fn(&Process) -> Option<Text>| -> Option<Vec<Text>> {
        let texts = ancestors
            .iter()
            .map(|ancestor| of(ancestor).unwrap_or_default());
        Some(texts.collect())
    };
    let numbers = |of: &dyn Fn(&Process) -> i64| -> Option<Vec<i64>> {
        Some(ancestors.iter().map(|ancestor| of(ancestor)).collect())
    };
    event.proc_aname = texts(&|ancestor| ancestor.comm.clone());
    event.proc_akey = texts(&|ancestor| Some(ancestor.key.clone()));
    event.proc_aexepath = limits
        .ancestor_path
        .and_then(|bytes_max| texts(&|ancestor| exepath(ancestor, bytes_max)));
    event.proc_acmdline = texts(&line);
    event.proc_apid = numbers(&|ancestor| i64::from(ancestor.id.pid));
    event.proc_auid = numbers(&|ancestor| i64::from(ancestor.uid));
    event.proc_apid_ts = numbers(&|ancestor| clock.wall_ns(ancestor.start_ns));
    event.evt_redacted |= ancestors.iter().any(|ancestor| {
        let program = ancestor.program.as_ref();
        program.is_some_and(|program| program.redacted)
    });
}

fn exepath(process: &Process, bytes_max: usize) -> Option<Text> {
    Some(cut(process.program.as_ref()?.exepath.as_ref()?, bytes_max))
}

fn cmdline(process: &Process, bytes_max: usize) -> Option<Text> {
    Some(cut(process.program.as_ref()?.cmdline.as_ref()?, bytes_max))
}

/// Versions of all processes that [`set_process`], [`set_lineage`] and [`set_users`] tell of.
pub(super) fn versions<'a>(
    process: &'a Process,
    table: &'a ProcessTable,
) -> impl Iterator<Item = u64> + 'a {
    let leader = table.session_leader(process);
    [process.version(), leader.map_or(0, Process::version)]
        .into_iter()
        .chain(table.ancestors(process).map(Process::version))
}

/// Users and groups, named by the container's own databases.
pub(super) fn set_users(
    event: &mut Event,
    process: &Process,
    users: &HashMap<Option<Text>, Users>,
) {
    let own = match process.place {
        // Whose users they are is not known.
        Place::Unknown => None,
        _ => users.get(&process.place.container().cloned()),
    };
    let uid = process.inner_uid();
    let gid = process.inner_gid();
    event.user_uid = uid.map(i64::from);
    event.user_name = uid.and_then(|uid| own?.users.get(&uid).cloned());
    event.user_host_uid = Some(i64::from(process.uid));
    event.group_gid = gid.map(i64::from);
    event.group_name = gid.and_then(|gid| own?.groups.get(&gid).cloned());
    event.user_loginuid = process.login_uid.map(i64::from);
    event.user_loginname = process
        .login_uid
        .and_then(|uid| users.get(&None)?.users.get(&uid).cloned());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_arguments_are_kept_within_their_bytes() {
        let check = |args: &[&str], bytes_max, expected: &[&str]| {
            let args: Vec<Text> = args.iter().copied().map(Text::from).collect();
            let expected: Vec<Text> = expected.iter().copied().map(Text::from).collect();
            assert_eq!(first_arguments(&args, bytes_max), expected);
        };
        check(&["-l", "file"], 100, &["-l", "file"]);
        check(&["-l", "file"], 7, &["-l", "file"]);
        check(&["-l", "file"], 6, &["-l", "fil"]);
        check(&["-l", "file"], 3, &["-l"]);
        check(&["", "", ""], 2, &["", ""]);
        check(&[], 2, &[]);
    }
}
