//! From the bytes of one record to a value. Any bytes may come (a damaged capture file): every read checks its length.

use crate::calls::Call;
use crate::control::Kind;
use crate::record::{
    Called, Counters, Credentials, Exec, FileIdentity, Flags, Header, Identity, OpenFile, Record,
    SocketAddresses, Stdio, Value,
};
use crate::wire::{
    CallWire, CgroupMoveWire, CgroupWire, ExecMoreWire, ExecWire, ExitWire, FLAG_CREATED,
    FLAG_FAULT, FLAG_IA32, FLAG_TRUNCATED, FLAG_UNRESOLVED, FLAG_X32, FileWire, ForkWire,
    HeaderWire, IdentityWire, OpenFileWire, OpenWire, STDIO_FILE, STDIO_SOCKET, SocketWire,
    StdioWire, VALUE_ADDRESS, VALUE_FILE, VALUE_IDENTITY, VALUE_NUMBER, VALUE_PATH, VALUE_PEER,
    VALUE_SOCKET, VALUE_STRING, Wire,
};

/// Why bytes are not a record.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ParseError {
    /// A struct or text reaches beyond the record's end.
    #[error("the record ends after {found} bytes where {needed} are needed")]
    Short {
        /// Bytes needed from the place of reading.
        needed: usize,
        /// Bytes there.
        found: usize,
    },
    /// The record says another length than its bytes have.
    #[error("the record says it has {said} bytes and has {found}")]
    Length {
        /// What it says.
        said: usize,
        /// What it has.
        found: usize,
    },
    /// A kind that this version does not know.
    #[error("unknown record kind {0}")]
    UnknownKind(u16),
    /// A number outside its enumeration.
    #[error("unknown {what} {number}")]
    UnknownNumber {
        /// Which enumeration.
        what: &'static str,
        /// The number.
        number: u32,
    },
}

/// One record of the ring, a long exec not yet joined. [`crate::Joiner`] makes [`Record`]s of them.
#[derive(Debug, Clone, PartialEq)]
pub enum Raw {
    /// Complete as it is.
    Whole(Record),
    /// An exec whose arguments go on.
    ExecStart {
        /// With the first piece of the arguments.
        exec: Box<Exec>,
        /// Bytes of arguments that will be there when all pieces have come.
        argv_sent: u32,
    },
    /// A piece of an exec's arguments.
    ExecMore {
        /// The exec's process and time.
        header: Header,
        /// Where the piece belongs.
        offset: u32,
        /// The piece.
        argv: Vec<u8>,
    },
}

impl Raw {
    /// What the record starts with.
    pub fn header(&self) -> &Header {
        match self {
            Raw::Whole(record) => record.header(),
            Raw::ExecStart { exec, .. } => &exec.header,
            Raw::ExecMore { header, .. } => header,
        }
    }
}

/// Takes one record of the ring apart.
///
/// # Errors
/// When the bytes are not a record of this version; they are then to be counted and skipped.
pub fn parse(bytes: &[u8]) -> Result<Raw, ParseError> {
    let header = HeaderWire::read(bytes)?;
    if header.len as usize != bytes.len() {
        return Err(ParseError::Length {
            said: header.len as usize,
            found: bytes.len(),
        });
    }
    let kind = Kind::from_number(header.kind).ok_or(ParseError::UnknownKind(header.kind))?;
    Ok(match kind {
        Kind::Exec => exec(bytes)?,
        Kind::ExecMore => exec_more(bytes)?,
        Kind::Fork => Raw::Whole(fork(bytes)?),
        Kind::Exit => Raw::Whole(exit(bytes)?),
        Kind::Open => Raw::Whole(open(bytes)?),
        Kind::Call => Raw::Whole(called(bytes)?),
        Kind::Cgroup => Raw::Whole(cgroup(bytes)?),
        Kind::CgroupMove => Raw::Whole(cgroup_move(bytes)?),
    })
}

/// What a record of the ring is counted under, without taking it apart; `None` for what is no record.
pub fn counted_as(bytes: &[u8]) -> Option<&'static str> {
    let header = HeaderWire::read(bytes).ok()?;
    match Kind::from_number(header.kind)? {
        Kind::Open | Kind::Call => Call::from_number(header.call).map(|call| call.name),
        kind => Some(kind.name()),
    }
}

/// The texts behind a record's fixed part, in order.
struct Texts<'a>(&'a [u8]);

impl<'a> Texts<'a> {
    fn after<T: Wire>(bytes: &'a [u8]) -> Result<(T, Self), ParseError> {
        let fixed = T::read(bytes)?;
        Ok((fixed, Texts(&bytes[size_of::<T>()..])))
    }

    /// Takes a struct.
    fn fixed<T: Wire>(&mut self) -> Result<T, ParseError> {
        let fixed = T::read(self.0)?;
        self.0 = &self.0[size_of::<T>()..];
        Ok(fixed)
    }

    fn number(&mut self) -> Result<u64, ParseError> {
        let (bytes, rest) = self.split(8)?;
        self.0 = rest;
        Ok(bytes
            .iter()
            .rev()
            .fold(0, |number, byte| number << 8 | u64::from(*byte)))
    }

    fn next(&mut self) -> Result<Vec<u8>, ParseError> {
        let (len, rest) = self.split(2)?;
        self.0 = rest;
        let (text, rest) = self.split(usize::from(u16::from_le_bytes([len[0], len[1]])))?;
        self.0 = rest;
        Ok(text.to_vec())
    }

    fn split(&self, needed: usize) -> Result<(&'a [u8], &'a [u8]), ParseError> {
        self.0.split_at_checked(needed).ok_or(ParseError::Short {
            needed,
            found: self.0.len(),
        })
    }
}

fn exec(bytes: &[u8]) -> Result<Raw, ParseError> {
    let (wire, mut texts) = Texts::after::<ExecWire>(bytes)?;
    let mut exec = Exec {
        header: header(&wire.header),
        identity: identity(&wire.identity),
        file: file(&wire.file),
        argv_bytes: wire.argv_bytes,
        argv: texts.next()?,
        path: texts.next()?,
        filename: texts.next()?,
        interp: texts.next()?,
        cwd: texts.next()?,
        stdio: Default::default(),
        env: Vec::new(),
        env_bytes: wire.env_bytes,
        argc: wire.argc,
        sockets: wire.sockets,
        socket: socket(&wire.socket, Vec::new()),
    };
    for (parsed, wire) in exec.stdio.iter_mut().zip(&wire.stdio) {
        *parsed = stdio(wire, texts.next()?);
    }
    exec.env = texts.next()?;
    let exec = Box::new(exec);
    if exec.argv.len() < wire.argv_sent as usize {
        return Ok(Raw::ExecStart {
            exec,
            argv_sent: wire.argv_sent,
        });
    }
    Ok(Raw::Whole(Record::Exec(exec)))
}

fn exec_more(bytes: &[u8]) -> Result<Raw, ParseError> {
    let (wire, mut texts) = Texts::after::<ExecMoreWire>(bytes)?;
    Ok(Raw::ExecMore {
        header: header(&wire.header),
        offset: wire.offset,
        argv: texts.next()?,
    })
}

fn fork(bytes: &[u8]) -> Result<Record, ParseError> {
    let wire = ForkWire::read(bytes)?;
    if wire.child_pid == wire.header.pid {
        let header = header(&wire.header);
        return Ok(Record::Threads { header });
    }
    Ok(Record::Fork {
        header: header(&wire.header),
        child_pid: wire.child_pid,
        child_vpid: wire.child_vpid,
        child_start_ns: wire.child_start_ns,
        child_cgroup_id: wire.child_cgroup_id,
        clone_flags: wire.clone_flags,
        child: identity(&wire.child),
    })
}

fn exit(bytes: &[u8]) -> Result<Record, ParseError> {
    let wire = ExitWire::read(bytes)?;
    let (utime_ns, stime_ns) = split_run_time(wire.run_ns, wire.utime_ns, wire.stime_ns);
    let counters = Counters {
        utime_ns,
        stime_ns,
        min_flt: wire.min_flt,
        maj_flt: wire.maj_flt,
        rchar: wire.rchar,
        wchar: wire.wchar,
        read_bytes: wire.read_bytes,
        write_bytes: wire.write_bytes,
    };
    Ok(Record::Exit {
        header: header(&wire.header),
        status: wire.status,
        counters,
    })
}

fn open(bytes: &[u8]) -> Result<Record, ParseError> {
    let (wire, mut texts) = Texts::after::<OpenWire>(bytes)?;
    let header = header(&wire.header);
    let (path, raw, base) = (texts.next()?, texts.next()?, texts.next()?);
    let mount_root = texts.next()?;
    let whole = wire.on_mount != 0 && !header.flags.truncated;
    let place = whole.then(|| place(&mount_root, &path, wire.below_mount as usize));
    Ok(Record::Open {
        header,
        open_flags: wire.open_flags,
        mode: wire.mode,
        file: file(&wire.file),
        path,
        raw,
        base,
        mnt_ns: wire.mnt_ns,
        fold: wire.fold,
        place: place.unwrap_or_default(),
    })
}

/// Where a file lies in its own file system: below the part of it that is mounted. Empty where that is the root of the tree
/// of mounts, which is no mount of anything.
fn place(mount_root: &[u8], path: &[u8], below_mount: usize) -> Vec<u8> {
    let (point, below) = path.split_at(path.len().saturating_sub(below_mount));
    if point.is_empty() || point == b"/" {
        return Vec::new();
    }
    // A file system's own root is called `/`, and the walk puts one before each name.
    let root = mount_root.strip_prefix(b"//").unwrap_or(mount_root);
    match [root, below].concat() {
        place if place.is_empty() => b"/".to_vec(),
        place => place,
    }
}

fn called(bytes: &[u8]) -> Result<Record, ParseError> {
    let (wire, mut rest) = Texts::after::<CallWire>(bytes)?;
    let number = wire.header.call;
    let call = Call::from_number(number).ok_or(ParseError::UnknownNumber {
        what: "system call",
        number,
    })?;
    let mut values = Vec::new();
    while !rest.0.is_empty() {
        let (tag, behind) = rest.split(2)?;
        let (place, shape) = (tag[0], tag[1]);
        rest.0 = behind;
        values.push((place, value(shape, &mut rest)?));
    }
    Ok(Record::Called(Box::new(Called {
        header: header(&wire.header),
        call,
        values,
    })))
}

fn value(shape: u8, rest: &mut Texts<'_>) -> Result<Value, ParseError> {
    Ok(match shape {
        VALUE_NUMBER => Value::Number(rest.number()?),
        VALUE_STRING => Value::Text(rest.next()?),
        VALUE_PATH => Value::Path {
            raw: rest.next()?,
            base: rest.next()?,
        },
        VALUE_FILE => Value::File {
            fd: rest.number()? as i64,
            file: file(&rest.fixed()?),
            path: rest.next()?,
        },
        VALUE_SOCKET => Value::Socket {
            fd: rest.number()? as i64,
            socket: socket(&rest.fixed()?, rest.next()?),
        },
        VALUE_ADDRESS => Value::Address(socket(&rest.fixed()?, rest.next()?)),
        VALUE_PEER => Value::Peer(socket(&rest.fixed()?, rest.next()?)),
        VALUE_IDENTITY => Value::Identity(identity(&rest.fixed()?)),
        _ => {
            return Err(ParseError::UnknownNumber {
                what: "shape of a value",
                number: shape.into(),
            });
        }
    })
}

fn cgroup(bytes: &[u8]) -> Result<Record, ParseError> {
    let (wire, mut texts) = Texts::after::<CgroupWire>(bytes)?;
    Ok(Record::Cgroup {
        header: header(&wire.header),
        made: wire.made != 0,
        id: wire.id,
        path: texts.next()?,
    })
}

fn cgroup_move(bytes: &[u8]) -> Result<Record, ParseError> {
    let (wire, mut texts) = Texts::after::<CgroupMoveWire>(bytes)?;
    Ok(Record::CgroupMove {
        header: header(&wire.header),
        pid: wire.pid,
        start_ns: wire.start_ns,
        to_id: wire.to_id,
        path: texts.next()?,
    })
}

fn header(wire: &HeaderWire) -> Header {
    Header {
        boot_ns: wire.boot_ns,
        cgroup_id: wire.cgroup_id,
        start_ns: wire.start_ns,
        pid: wire.pid,
        tid: wire.tid,
        vpid: wire.vpid,
        uid: wire.uid,
        gid: wire.gid,
        ret: wire.ret,
        cpu: wire.cpu as u16,
        cpu_seq: wire.cpu_seq,
        flags: Flags {
            truncated: wire.flags & FLAG_TRUNCATED != 0,
            fault: wire.flags & FLAG_FAULT != 0,
            unresolved: wire.flags & FLAG_UNRESOLVED != 0,
            ia32: wire.flags & FLAG_IA32 != 0,
            x32: wire.flags & FLAG_X32 != 0,
            created: wire.flags & FLAG_CREATED != 0,
        },
        call: Call::from_number(wire.call),
    }
}

fn identity(wire: &IdentityWire) -> Identity {
    let comm_len = wire
        .comm
        .iter()
        .position(|byte| *byte == 0)
        .unwrap_or(wire.comm.len());
    Identity {
        parent_pid: wire.parent_pid,
        parent_start_ns: wire.parent_start_ns,
        sid: wire.sid,
        pgid: wire.pgid,
        tty: user_device(wire.tty) as u32,
        loginuid: wire.loginuid,
        mnt_ns: wire.mnt_ns,
        pid_ns: wire.pid_ns,
        ns_uid: wire.ns_uid,
        ns_gid: wire.ns_gid,
        children_pid_ns: wire.children_pid_ns,
        credentials: Credentials {
            effective: wire.cap_effective,
            permitted: wire.cap_permitted,
            inheritable: wire.cap_inheritable,
            saved_uid: wire.saved_uid,
            saved_gid: wire.saved_gid,
            fs_uid: wire.fs_uid,
            fs_gid: wire.fs_gid,
        },
        comm: wire.comm[..comm_len].to_vec(),
    }
}

fn file(wire: &FileWire) -> FileIdentity {
    FileIdentity {
        dev: user_device(wire.dev),
        ino: wire.ino,
        mtime_ns: wire.mtime_ns,
        ctime_ns: wire.ctime_ns,
        mode: wire.mode,
        nlink: wire.nlink,
        fs_magic: wire.fs_magic,
        overlay_upper: wire.overlay_upper != 0,
    }
}

/// Bytes of one [`OpenFile`] as the iterator tells it.
pub const OPEN_FILE_BYTES: usize = size_of::<OpenFileWire>();

/// Takes an open file apart.
///
/// # Errors
/// When there are fewer than [`OPEN_FILE_BYTES`].
pub fn open_file(bytes: &[u8]) -> Result<OpenFile, ParseError> {
    let wire = OpenFileWire::read(bytes)?;
    let is_socket = wire.socket.family != 0;
    Ok(OpenFile {
        file: wire.file,
        ino: wire.ino,
        dev: user_device(wire.dev),
        start_ns: wire.start_ns,
        pid: wire.pid,
        fd: wire.fd,
        comm: wire.comm,
        share: wire.share,
        mode: wire.mode,
        flags: wire.flags,
        links: wire.links,
        position: wire.position,
        size: wire.size,
        socket: is_socket.then(|| socket(&wire.socket, Vec::new())),
        net_ns: wire.net_ns,
        state: wire.state,
        received: wire.received,
        acked: wire.acked,
        counted: wire.counted != 0,
        segments_in: wire.segments_in,
        segments_out: wire.segments_out,
        retransmitted: wire.retransmitted,
        dropped: wire.dropped,
        backlog: wire.backlog,
        backlog_max: wire.backlog_max,
    })
}

fn stdio(wire: &StdioWire, text: Vec<u8>) -> Stdio {
    match wire.kind {
        STDIO_SOCKET => Stdio::Socket(socket(&wire.socket, text)),
        STDIO_FILE => Stdio::File {
            mode: wire.mode,
            rdev: user_device(wire.rdev),
            fs_magic: wire.fs_magic,
            path: text,
        },
        _ => Stdio::Closed,
    }
}

fn socket(wire: &SocketWire, unix_path: Vec<u8>) -> SocketAddresses {
    SocketAddresses {
        family: wire.family,
        socket_type: wire.r#type,
        protocol: wire.protocol,
        local_port: wire.local_port,
        remote_port: wire.remote_port,
        local: wire.local,
        remote: wire.remote,
        unix_path,
    }
}

/// The exact run time, split as the sampled times are: what the kernel does for `/proc/PID/stat` (`cputime_adjust`).
fn split_run_time(run_ns: u64, user_ns: u64, system_ns: u64) -> (u64, u64) {
    let sampled = u128::from(user_ns) + u128::from(system_ns);
    let share = (u128::from(run_ns) * u128::from(system_ns))
        .checked_div(sampled)
        .unwrap_or(0);
    let system = u64::try_from(share).unwrap_or(run_ns);
    (run_ns - system, system)
}

/// The kernel keeps 12 bits of major over 20 of minor; `stat` shows the minor's low 8 bits, the major, the minor's rest.
fn user_device(kernel: u32) -> u64 {
    let (major, minor) = (u64::from(kernel >> 20), u64::from(kernel & 0xf_ffff));
    (minor & 0xff) | major << 8 | (minor & !0xff) << 12
}

#[cfg(test)]
mod tests;
