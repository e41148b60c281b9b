//! What a process may do beside who it is: its capabilities, and its saved and file-system ids.

use dogwatch_ebpf::record::Credentials;
use dogwatch_schemas::Text;
use dogwatch_schemas::records::Event;

/// Names of capabilities, by their bits.
const CAPABILITIES: [&str; 41] = [
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_DAC_READ_SEARCH",
    "CAP_FOWNER",
    "CAP_FSETID",
    "CAP_KILL",
    "CAP_SETGID",
    "CAP_SETUID",
    "CAP_SETPCAP",
    "CAP_LINUX_IMMUTABLE",
    "CAP_NET_BIND_SERVICE",
    "CAP_NET_BROADCAST",
    "CAP_NET_ADMIN",
    "CAP_NET_RAW",
    "CAP_IPC_LOCK",
    "CAP_IPC_OWNER",
    "CAP_SYS_MODULE",
    "CAP_SYS_RAWIO",
    "CAP_SYS_CHROOT",
    "CAP_SYS_PTRACE",
    "CAP_SYS_PACCT",
    "CAP_SYS_ADMIN",
    "CAP_SYS_BOOT",
    "CAP_SYS_NICE",
    "CAP_SYS_RESOURCE",
    "CAP_SYS_TIME",
    "CAP_SYS_TTY_CONFIG",
    "CAP_MKNOD",
    "CAP_LEASE",
    "CAP_AUDIT_WRITE",
    "CAP_AUDIT_CONTROL",
    "CAP_SETFCAP",
    "CAP_MAC_OVERRIDE",
    "CAP_MAC_ADMIN",
    "CAP_SYSLOG",
    "CAP_WAKE_ALARM",
    "CAP_BLOCK_SUSPEND",
    "CAP_AUDIT_READ",
    "CAP_PERFMON",
    "CAP_BPF",
    "CAP_CHECKPOINT_RESTORE",
];

/// Columns of the credentials that a process has after the event.
pub(super) fn set(event: &mut Event, credentials: &Credentials) {
    event.thread_cap_effective = Some(names(credentials.effective));
    event.thread_cap_permitted = Some(names(credentials.permitted));
    event.thread_cap_inheritable = Some(names(credentials.inheritable));
    event.user_host_suid = Some(i64::from(credentials.saved_uid));
    event.user_host_fsuid = Some(i64::from(credentials.fs_uid));
    event.group_host_sgid = Some(i64::from(credentials.saved_gid));
    event.group_host_fsgid = Some(i64::from(credentials.fs_gid));
}

/// The capabilities by name, joined by blanks as Falco does; one that has no name yet by its bit.
fn names(set: u64) -> Text {
    let bits = (0..u64::BITS as usize).filter(|bit| set >> bit & 1 != 0);
    let names = bits.map(|bit| match CAPABILITIES.get(bit) {
        Some(name) => (*name).to_owned(),
        None => format!("CAP_{bit}"),
    });
    names.collect::<Vec<_>>().join(" ").into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn capabilities_have_their_names() {
        assert_eq!(&*names(0), "");
        assert_eq!(
            &*names(1 | 1 << 21 | 1 << 40),
            "CAP_CHOWN CAP_SYS_ADMIN CAP_CHECKPOINT_RESTORE"
        );
        assert_eq!(&*names(1 << 63), "CAP_63");
        // The names of another hand.
        for capability in caps::all() {
            assert_eq!(&*names(1 << capability.index()), capability.to_string());
        }
    }
    /// Who writes a detection is told which there are: the contract's words are these.
    #[test]
    fn the_contract_knows_every_capability() {
        for column in [
            "thread_cap_effective",
            "thread_cap_permitted",
            "thread_cap_inheritable",
        ] {
            let known = dogwatch_schemas::vocabulary::of(column);
            let flags = known.and_then(|known| known.flags.as_ref()).expect("flags");
            assert_eq!(flags.words, CAPABILITIES, "{column}");
        }
    }
}
