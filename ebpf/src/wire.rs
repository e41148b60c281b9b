//! The structs of `bpf/record.h`, byte for byte. A test compares names, offsets and sizes with the object's BTF.

use crate::parse::ParseError;

pub(crate) const FLAG_TRUNCATED: u16 = 1;
pub(crate) const FLAG_FAULT: u16 = 2;
pub(crate) const FLAG_UNRESOLVED: u16 = 4;
pub(crate) const FLAG_IA32: u16 = 8;
pub(crate) const FLAG_X32: u16 = 16;
pub(crate) const FLAG_CREATED: u16 = 32;
pub(crate) const STDIO_SOCKET: u16 = 1;
pub(crate) const STDIO_FILE: u16 = 2;
pub(crate) const VALUE_NUMBER: u8 = 1;
pub(crate) const VALUE_STRING: u8 = 2;
pub(crate) const VALUE_PATH: u8 = 3;
pub(crate) const VALUE_FILE: u8 = 4;
pub(crate) const VALUE_SOCKET: u8 = 5;
pub(crate) const VALUE_ADDRESS: u8 = 6;
pub(crate) const VALUE_PEER: u8 = 7;
pub(crate) const VALUE_IDENTITY: u8 = 8;
/// Bytes of a key of a path list.
pub const PATH_KEY_BYTES: usize = 256;

/// A struct every bit pattern of which is a value: integers, arrays of them, structs of them.
///
/// # Safety
/// Only `wire!` implements it, for `repr(C)` structs of such fields.
pub(crate) unsafe trait Wire: Copy {
    /// Name, offset and size of each field.
    #[cfg(test)]
    const FIELDS: &'static [(&'static str, usize, usize)];

    /// Copies the struct from the start of `bytes`, however they are aligned.
    fn read(bytes: &[u8]) -> Result<Self, ParseError> {
        let needed = size_of::<Self>();
        if bytes.len() < needed {
            return Err(ParseError::Short {
                needed,
                found: bytes.len(),
            });
        }
        // SAFETY: the length was checked, the read asks for no alignment, and every bit pattern is a value.
        Ok(unsafe { bytes.as_ptr().cast::<Self>().read_unaligned() })
    }
}

macro_rules! wire {
    ($($name:ident = $c_name:literal { $($field:ident: $type:ty,)* })*) => {$(
        #[derive(Debug, Clone, Copy)]
        #[repr(C)]
        #[allow(dead_code)] // padding, and what only the kernel reads
        pub(crate) struct $name { $(pub $field: $type,)* }

        // SAFETY: `repr(C)` and integers, arrays of integers or other `Wire` structs only.
        unsafe impl Wire for $name {
            #[cfg(test)]
            const FIELDS: &'static [(&'static str, usize, usize)] =
                &[$((stringify!($field), core::mem::offset_of!($name, $field), size_of::<$type>())),*];
        }
    )*

    /// All structs, for the test that compares them with the object.
    #[cfg(test)]
    const ALL: &[tests::Described] = &[$(($c_name, size_of::<$name>(), <$name as Wire>::FIELDS)),*];
    };
}

wire! {
    HeaderWire = "record_header" {
        len: u32, kind: u16, flags: u16, boot_ns: u64, cgroup_id: u64, start_ns: u64, pid: u32, tid: u32, vpid: u32,
        uid: u32, gid: u32, cpu: u32, cpu_seq: u32, call: u32, ret: i64,
    }
    IdentityWire = "record_identity" {
        parent_start_ns: u64, cap_effective: u64, cap_permitted: u64, cap_inheritable: u64, parent_pid: u32, sid: u32, pgid: u32, tty: u32, loginuid: u32, mnt_ns: u32, pid_ns: u32,
        ns_uid: u32, ns_gid: u32, children_pid_ns: u32, saved_uid: u32, saved_gid: u32, fs_uid: u32, fs_gid: u32,
        comm: [u8; 16],
    }
    FileWire = "record_file" {
        ino: u64, mtime_ns: i64, ctime_ns: i64, fs_magic: u64, dev: u32, nlink: u32, mode: u16, overlay_upper: u16, pad: u32,
    }
    SocketWire = "record_socket" {
        family: u16, r#type: u16, protocol: u16, local_port: u16, remote_port: u16, pad: [u16; 3], local: [u8; 16],
        remote: [u8; 16],
    }
    StdioWire = "record_stdio" { fs_magic: u64, rdev: u32, kind: u16, mode: u16, socket: SocketWire, }
    ExecWire = "record_exec" {
        header: HeaderWire, identity: IdentityWire, file: FileWire, argv_bytes: u32, argv_sent: u32, env_bytes: u32, argc: u32,
        sockets: u32, pad: u32, socket: SocketWire, stdio: [StdioWire; 3],
    }
    ExecMoreWire = "record_exec_more" { header: HeaderWire, offset: u32, pad: u32, }
    ForkWire = "record_fork" {
        header: HeaderWire, child_start_ns: u64, child_cgroup_id: u64, child_pid: u32, child_vpid: u32, clone_flags: u64,
        child: IdentityWire,
    }
    ExitWire = "record_exit" {
        header: HeaderWire, utime_ns: u64, stime_ns: u64, run_ns: u64, min_flt: u64, maj_flt: u64, rchar: u64, wchar: u64,
        read_bytes: u64, write_bytes: u64, status: u32, pad: u32,
    }
    OpenWire = "record_open" {
        header: HeaderWire, file: FileWire, open_flags: u64, mode: u32, mnt_ns: u32, fold: u64, below_mount: u32, on_mount: u32,
    }
    CallWire = "record_call" { header: HeaderWire, }
    CgroupWire = "record_cgroup" { header: HeaderWire, id: u64, made: u32, pad: u32, }
    CgroupMoveWire = "record_cgroup_move" { header: HeaderWire, to_id: u64, start_ns: u64, pid: u32, pad: u32, }
    OpenFileWire = "open_file" {
        file: u64, ino: u64, start_ns: u64, share: u64, position: i64, size: i64, received: u64, acked: u64, segments_in: u32,
        segments_out: u32, retransmitted: u32, dropped: u32, backlog: u32, backlog_max: u32, pid: u32, fd: u32, dev: u32,
        flags: u32, links: u32, net_ns: u32, mode: u16, state: u16, counted: u32, socket: SocketWire, comm: [u8; 16],
    }
    PathKey = "path_key" { bits: u32, path: [u8; PATH_KEY_BYTES], }
}

#[cfg(test)]
mod tests;
