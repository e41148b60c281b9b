//! Joins an event with its process: who it is, who started it, and which users it has.

use std::collections::HashMap;

use dogwatch_schemas::Text;
use dogwatch_schemas::records::Event;

use crate::clock::Clock;
use crate::container::Place;
use crate::fact::Host;
use crate::process::{Process, ProcessTable};
use crate::text::cut;
use crate::users::Users;

/// Bytes kept of each ancestor's command line.
const ANCESTOR_CMDLINE_BYTES_MAX: usize = 256;

/// The process itself.
pub(super) fn set_process(event: &mut Event, process: &Process, host: &Host, clock: &Clock) {
    event.proc_key = process.key.clone();
    event.proc_pid = i64::from(process.id.pid);
    if event.thread_tid == 0 {
        event.thread_tid = event.proc_pid;
    }
    event.proc_vpid = process.vpid.map(i64::from);
    event.proc_name = process.comm.clone();
    event.proc_tty = process.tty.map(i64::from);
    event.proc_sid = process.sid.map(i64::from);
    event.proc_pgid = process.pgid.map(i64::from);
    event.proc_pid_ts = Some(clock.wall_ns(process.start_ns));
    event.proc_mnt_ns = process.mnt_ns.map(i64::from);
    event.proc_pid_ns = process.pid_ns.map(i64::from);
    event.proc_in_host_mntns = process.mnt_ns.map(|mnt_ns| mnt_ns == host.mnt_ns);
    event.proc_stage = process.stage.map(|stage| stage.name().into());
    event.container_origin_id = process.origin.as_deref().map(crate::container::short);
    event.evt_escaped |= process.escaped;
    if let Some(program) = &process.program {
        event.proc_exe = program.arg0.clone();
        event.proc_exepath = program.exepath.clone();
        // The row of the exec itself has brought all arguments.
        if event.proc_cmdline.is_none() {
            event.proc_cmdline = program.cmdline.clone();
            event.proc_args = program.args();
            event.evt_truncated |= program.cut;
        }
        event.proc_cwd = program.cwd.clone();
        event.evt_redacted |= program.redacted;
    }
}

/// Parent, ancestors, and the session's first process.
pub(super) fn set_lineage(
    event: &mut Event,
    process: &Process,
    table: &ProcessTable,
    clock: &Clock,
) {
    event.proc_ppid = process.parent.map(|parent| i64::from(parent.pid));
    let ancestors: Vec<&Process> = table.ancestors(process).collect();
    if let Some(parent) = ancestors.first() {
        event.proc_pkey = Some(parent.key.clone());
        event.proc_pvpid = parent.vpid.map(i64::from);
        event.proc_pname = parent.comm.clone();
        event.proc_pexepath = exepath(parent);
        event.proc_pcmdline = cmdline(parent);
        event.proc_ppid_ts = Some(clock.wall_ns(parent.start_ns));
    }
    let texts = |of: fn(&Process) -> Option<Text>| -> Option<Vec<Text>> {
        Some(
            ancestors
                .iter()
                .map(|ancestor| of(ancestor).unwrap_or_default())
                .collect(),
        )
    };
    event.proc_aname = texts(|ancestor| ancestor.comm.clone());
    event.proc_akey = texts(|ancestor| Some(ancestor.key.clone()));
    event.proc_aexepath = texts(exepath);
    event.proc_acmdline =
        texts(|ancestor| Some(cut(&cmdline(ancestor)?, ANCESTOR_CMDLINE_BYTES_MAX)));
    event.proc_apid = Some(
        ancestors
            .iter()
            .map(|ancestor| i64::from(ancestor.id.pid))
            .collect(),
    );
    event.proc_auid = Some(
        ancestors
            .iter()
            .map(|ancestor| i64::from(ancestor.uid))
            .collect(),
    );
    event.proc_apid_ts = Some(
        ancestors
            .iter()
            .map(|ancestor| clock.wall_ns(ancestor.start_ns))
            .collect(),
    );
    event.evt_redacted |= ancestors.iter().any(|ancestor| {
        ancestor
            .program
            .as_ref()
            .is_some_and(|program| program.redacted)
    });
    if let Some(leader) = table.session_leader(process) {
        event.proc_skey = Some(leader.key.clone());
        event.proc_sname = leader.comm.clone();
        event.proc_scmdline = cmdline(leader);
        event.proc_sid_ts = Some(clock.wall_ns(leader.start_ns));
    }
}

fn exepath(process: &Process) -> Option<Text> {
    process.program.as_ref()?.exepath.clone()
}

fn cmdline(process: &Process) -> Option<Text> {
    process.program.as_ref()?.cmdline.clone()
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
