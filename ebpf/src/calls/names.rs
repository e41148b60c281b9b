//! Names of bits and numbers in arguments, as the kernel's headers have them.

/// Names of bits or numbers; of bits, those of several come before those they contain.
#[derive(Debug, PartialEq, Eq)]
pub struct Names {
    /// What 0 is called.
    pub zero: &'static str,
    /// The bits of a number that its name stands for.
    mask: u64,
    names: &'static [(u64, &'static str)],
}

impl Names {
    const fn of(names: &'static [(u64, &'static str)]) -> Self {
        Self {
            zero: "0",
            mask: u64::MAX,
            names,
        }
    }

    /// The bits that are set by name, joined by `|`; what has no name is told in hexadecimal digits.
    pub fn flags(&self, mut flags: u64) -> String {
        if flags == 0 {
            return self.zero.to_owned();
        }
        let mut parts = Vec::new();
        for (bits, name) in self.names {
            if *bits != 0 && flags & bits == *bits {
                parts.push((*name).to_owned());
                flags &= !bits;
            }
        }
        if flags != 0 {
            parts.push(format!("{flags:#x}"));
        }
        parts.join("|")
    }

    /// The name of a number; the number itself where it has none.
    pub fn number(&self, number: u64) -> String {
        let number = number & self.mask;
        let found = self.names.iter().find(|(known, _)| *known == number);
        found.map_or_else(|| number.to_string(), |(_, name)| (*name).to_owned())
    }
}

macro_rules! names {
    ($($name:ident { $($value:literal $text:ident)* })*) => {$(
        pub(super) static $name: Names = Names::of(&[$(($value, stringify!($text)),)*]);
    )*};
}

const CLONE_FLAGS: &[(u64, &str)] = &[
    (0x100, "CLONE_VM"),
    (0x200, "CLONE_FS"),
    (0x400, "CLONE_FILES"),
    (0x800, "CLONE_SIGHAND"),
    (0x1000, "CLONE_PIDFD"),
    (0x2000, "CLONE_PTRACE"),
    (0x4000, "CLONE_VFORK"),
    (0x8000, "CLONE_PARENT"),
    (0x1_0000, "CLONE_THREAD"),
    (0x2_0000, "CLONE_NEWNS"),
    (0x4_0000, "CLONE_SYSVSEM"),
    (0x8_0000, "CLONE_SETTLS"),
    (0x10_0000, "CLONE_PARENT_SETTID"),
    (0x20_0000, "CLONE_CHILD_CLEARTID"),
    (0x80_0000, "CLONE_UNTRACED"),
    (0x100_0000, "CLONE_CHILD_SETTID"),
    (0x200_0000, "CLONE_NEWCGROUP"),
    (0x400_0000, "CLONE_NEWUTS"),
    (0x800_0000, "CLONE_NEWIPC"),
    (0x1000_0000, "CLONE_NEWUSER"),
    (0x2000_0000, "CLONE_NEWPID"),
    (0x4000_0000, "CLONE_NEWNET"),
    (0x8000_0000, "CLONE_IO"),
    (0x80, "CLONE_NEWTIME"),
];

/// Flags of `clone`.
pub static CLONE: Names = Names::of(CLONE_FLAGS);
/// What `setns` asks a namespace to be; 0 = whichever it is.
pub(super) static NSTYPE: Names = Names {
    zero: "any",
    mask: u64::MAX,
    names: CLONE_FLAGS,
};

names! {
    OPEN {
        0o100 O_CREAT 0o200 O_EXCL 0o400 O_NOCTTY 0o1000 O_TRUNC 0o2000 O_APPEND 0o4000 O_NONBLOCK 0o4010000 O_SYNC
        0o10000 O_DSYNC 0o40000 O_DIRECT 0o20200000 O_TMPFILE 0o200000 O_DIRECTORY 0o400000 O_NOFOLLOW 0o1000000 O_NOATIME
        0o2000000 O_CLOEXEC 0o10000000 O_PATH 1 O_WRONLY 2 O_RDWR
    }
    AT {
        0x100 AT_SYMLINK_NOFOLLOW 0x200 AT_REMOVEDIR 0x400 AT_SYMLINK_FOLLOW 0x800 AT_NO_AUTOMOUNT 0x1000 AT_EMPTY_PATH
        0x8000 AT_RECURSIVE
    }
    RENAME { 1 RENAME_NOREPLACE 2 RENAME_EXCHANGE 4 RENAME_WHITEOUT }
    MS {
        1 MS_RDONLY 2 MS_NOSUID 4 MS_NODEV 8 MS_NOEXEC 16 MS_SYNCHRONOUS 32 MS_REMOUNT 64 MS_MANDLOCK 128 MS_DIRSYNC
        256 MS_NOSYMFOLLOW 1024 MS_NOATIME 2048 MS_NODIRATIME 4096 MS_BIND 8192 MS_MOVE 16384 MS_REC 32768 MS_SILENT
        0x10000 MS_POSIXACL 0x20000 MS_UNBINDABLE 0x40000 MS_PRIVATE 0x80000 MS_SLAVE 0x100000 MS_SHARED
        0x200000 MS_RELATIME 0x1000000 MS_STRICTATIME 0x2000000 MS_LAZYTIME
    }
    UMOUNT { 1 MNT_FORCE 2 MNT_DETACH 4 MNT_EXPIRE 8 UMOUNT_NOFOLLOW }
    MOVE_MOUNT {
        1 MOVE_MOUNT_F_SYMLINKS 2 MOVE_MOUNT_F_AUTOMOUNTS 4 MOVE_MOUNT_F_EMPTY_PATH 0x10 MOVE_MOUNT_T_SYMLINKS
        0x20 MOVE_MOUNT_T_AUTOMOUNTS 0x40 MOVE_MOUNT_T_EMPTY_PATH 0x100 MOVE_MOUNT_SET_GROUP 0x200 MOVE_MOUNT_BENEATH
    }
    OPEN_TREE {
        1 OPEN_TREE_CLONE 0o2000000 OPEN_TREE_CLOEXEC 0x100 AT_SYMLINK_NOFOLLOW 0x1000 AT_EMPTY_PATH 0x8000 AT_RECURSIVE
    }
    MOUNT_ATTR {
        1 MOUNT_ATTR_RDONLY 2 MOUNT_ATTR_NOSUID 4 MOUNT_ATTR_NODEV 8 MOUNT_ATTR_NOEXEC 0x80 MOUNT_ATTR_NODIRATIME
        0x100000 MOUNT_ATTR_IDMAP 0x200000 MOUNT_ATTR_NOSYMFOLLOW
    }
    FSCONFIG {
        0 FSCONFIG_SET_FLAG 1 FSCONFIG_SET_STRING 2 FSCONFIG_SET_BINARY 3 FSCONFIG_SET_PATH 4 FSCONFIG_SET_PATH_EMPTY
        5 FSCONFIG_SET_FD 6 FSCONFIG_CMD_CREATE 7 FSCONFIG_CMD_RECONFIGURE 8 FSCONFIG_CMD_CREATE_EXCL
    }
    DOMAIN {
        1 AF_UNIX 2 AF_INET 10 AF_INET6 15 AF_KEY 16 AF_NETLINK 17 AF_PACKET 30 AF_TIPC 38 AF_ALG 40 AF_VSOCK 44 AF_XDP
    }
    SOCK { 0o4000 SOCK_NONBLOCK 0o2000000 SOCK_CLOEXEC }
    MSG {
        1 MSG_OOB 4 MSG_DONTROUTE 0x40 MSG_DONTWAIT 0x80 MSG_EOR 0x800 MSG_CONFIRM 0x4000 MSG_NOSIGNAL 0x8000 MSG_MORE
        0x4000000 MSG_ZEROCOPY 0x20000000 MSG_FASTOPEN
    }
    MEMFD { 1 MFD_CLOEXEC 2 MFD_ALLOW_SEALING 4 MFD_HUGETLB 8 MFD_NOEXEC_SEAL 16 MFD_EXEC }
    PROT { 1 PROT_READ 2 PROT_WRITE 4 PROT_EXEC 8 PROT_SEM 0x1000000 PROT_GROWSDOWN 0x2000000 PROT_GROWSUP }
    MAP {
        3 MAP_SHARED_VALIDATE 1 MAP_SHARED 2 MAP_PRIVATE 0x10 MAP_FIXED 0x20 MAP_ANONYMOUS 0x40 MAP_32BIT 0x100 MAP_GROWSDOWN
        0x800 MAP_DENYWRITE 0x1000 MAP_EXECUTABLE 0x2000 MAP_LOCKED 0x4000 MAP_NORESERVE 0x8000 MAP_POPULATE
        0x10000 MAP_NONBLOCK 0x20000 MAP_STACK 0x40000 MAP_HUGETLB 0x100000 MAP_FIXED_NOREPLACE
    }
    PERSONALITY {
        0x20000 UNAME26 0x40000 ADDR_NO_RANDOMIZE 0x80000 FDPIC_FUNCPTRS 0x100000 MMAP_PAGE_ZERO 0x200000 ADDR_COMPAT_LAYOUT
        0x400000 READ_IMPLIES_EXEC 0x800000 ADDR_LIMIT_32BIT 0x1000000 SHORT_INODE 0x2000000 WHOLE_SECONDS
        0x4000000 STICKY_TIMEOUTS 0x8000000 ADDR_LIMIT_3GB 8 PER_LINUX32
    }
    PRCTL {
        4 PR_SET_DUMPABLE 8 PR_SET_KEEPCAPS 15 PR_SET_NAME 22 PR_SET_SECCOMP 28 PR_SET_SECUREBITS 35 PR_SET_MM
        36 PR_SET_CHILD_SUBREAPER 38 PR_SET_NO_NEW_PRIVS 47 PR_CAP_AMBIENT
    }
    SECCOMP {
        0 SECCOMP_SET_MODE_STRICT 1 SECCOMP_SET_MODE_FILTER 2 SECCOMP_GET_ACTION_AVAIL 3 SECCOMP_GET_NOTIF_SIZES
    }
    PTRACE {
        0 PTRACE_TRACEME 4 PTRACE_POKETEXT 5 PTRACE_POKEDATA 6 PTRACE_POKEUSR 13 PTRACE_SETREGS 15 PTRACE_SETFPREGS
        16 PTRACE_ATTACH 0x4205 PTRACE_SETREGSET 0x4206 PTRACE_SEIZE
    }
    BPF {
        5 BPF_PROG_LOAD 6 BPF_OBJ_PIN 7 BPF_OBJ_GET 8 BPF_PROG_ATTACH 9 BPF_PROG_DETACH 13 BPF_PROG_GET_FD_BY_ID
        14 BPF_MAP_GET_FD_BY_ID 17 BPF_RAW_TRACEPOINT_OPEN 28 BPF_LINK_CREATE 29 BPF_LINK_UPDATE 30 BPF_LINK_GET_FD_BY_ID
        34 BPF_LINK_DETACH 36 BPF_TOKEN_CREATE
    }
    SIGNAL {
        1 SIGHUP 2 SIGINT 3 SIGQUIT 4 SIGILL 5 SIGTRAP 6 SIGABRT 7 SIGBUS 8 SIGFPE 9 SIGKILL 10 SIGUSR1 11 SIGSEGV
        12 SIGUSR2 13 SIGPIPE 14 SIGALRM 15 SIGTERM 16 SIGSTKFLT 17 SIGCHLD 18 SIGCONT 19 SIGSTOP 20 SIGTSTP 21 SIGTTIN
        22 SIGTTOU 23 SIGURG 24 SIGXCPU 25 SIGXFSZ 26 SIGVTALRM 27 SIGPROF 28 SIGWINCH 29 SIGIO 30 SIGPWR 31 SIGSYS
    }
}

/// A socket's type, whatever flags come with it.
pub(super) static SOCKET: Names = Names {
    zero: "0",
    mask: 15,
    names: &[
        (1, "SOCK_STREAM"),
        (2, "SOCK_DGRAM"),
        (3, "SOCK_RAW"),
        (4, "SOCK_RDM"),
        (5, "SOCK_SEQPACKET"),
        (6, "SOCK_DCCP"),
        (10, "SOCK_PACKET"),
    ],
};

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bits_and_numbers_have_names_and_what_has_none_is_told() {
        assert_eq!(CLONE.flags(0), "0");
        assert_eq!(NSTYPE.flags(0), "any");
        assert_eq!(AT.flags(0x200), "AT_REMOVEDIR");
        assert_eq!(MS.flags(4096 | 16384), "MS_BIND|MS_REC");
        assert_eq!(
            PROT.flags(6 | 1 << 40),
            "PROT_WRITE|PROT_EXEC|0x10000000000"
        );
        assert_eq!(SIGNAL.number(9), "SIGKILL");
        assert_eq!(SIGNAL.number(64), "64");
        assert_eq!(SOCKET.number(3 | 0o2000000), "SOCK_RAW");
    }

    /// What a gate lets through has a name, and what it does not has none: from these names the linter of detections knows
    /// what no sensor sends.
    #[test]
    fn what_has_a_gate_has_the_names_of_what_is_sent() {
        let source = include_str!("../../bpf/calls.h");
        for (gate, names) in [
            ("TELLING_PRCTLS", &PRCTL),
            ("TELLING_PTRACES", &PTRACE),
            ("TELLING_BPFS", &BPF),
        ] {
            let (_, defined) = source.split_once(&format!("#define {gate}")).unwrap();
            let (defined, _) = defined.split_once(')').unwrap();
            let sent = defined.split("1ull << ").skip(1);
            let sent = sent.map(|rest| rest.split([' ', ')']).next().unwrap().parse().unwrap());
            let sent: Vec<u64> = sent.collect();
            let named = names.names.iter().map(|(number, _)| *number);
            // Larger ones are no bits of a word, and stand in the gate itself.
            let named: Vec<u64> = named.filter(|number| *number < 64).collect();
            assert_eq!(sent, named, "{gate}");
        }
    }
}
