//! Columns of events: what a record itself says.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::LazyLock;

use dogwatch_ebpf::record::{Counters, Exec, FileIdentity, Header, Record, SocketAddresses, Stdio};
use dogwatch_schemas::records::{self, Event};
use dogwatch_schemas::{Text, errno};

use super::{calls, credentials, layer};
use crate::container::{Container, Place, short};
use crate::fact::Host;
use crate::text::{cut, text};

/// The text of a word that most events bear: allocated once, not once an event.
macro_rules! word {
    ($word:literal) => {{
        static WORD: LazyLock<Text> = LazyLock::new(|| $word.into());
        WORD.clone()
    }};
}

/// Columns every event has, but for those of the sensor's run.
pub(super) fn base(boot_ns: u64, wall_ns: i64, evt_type: &str, category: &str) -> Box<Event> {
    let mut event = Box::<Event>::default();
    event.ts = wall_ns;
    event.boot_ts = boot_ns as i64;
    event.evt_type = evt_type.into();
    event.evt_category = category.into();
    event.evt_outcome = word!("success");
    event.evt_backend = word!("sensor");
    event.evt_abi = word!("native");
    event.container_id = word!("host");
    event
}

/// Columns from a record's common part.
pub(super) fn set_header(event: &mut Event, header: &Header, hook: &str) {
    event.evt_backend = word!("tracepoint");
    event.evt_hook = hook.into();
    event.evt_abi = match (header.flags.ia32, header.flags.x32) {
        (true, _) => "ia32".into(),
        (_, true) => "x32".into(),
        _ => word!("native"),
    };
    event.evt_truncated = header.flags.truncated;
    event.evt_unresolved = header.flags.unresolved;
    event.evt_fault = header.flags.fault;
    event.evt_call = header.call.map(|call| call.name.into());
    event.evt_cpu = Some(i64::from(header.cpu));
    event.proc_pid = i64::from(header.pid);
    event.thread_tid = i64::from(header.tid);
    event.proc_vpid = Some(i64::from(header.vpid));
    event.user_host_uid = Some(i64::from(header.uid));
    set_result(event, header.ret);
}

fn set_result(event: &mut Event, ret: i64) {
    event.evt_rawres = Some(ret);
    let errno = u32::try_from(-ret)
        .ok()
        .filter(|&errno| (1..4096).contains(&errno));
    event.evt_failed = errno.is_some();
    (event.evt_outcome, event.evt_res) = match errno {
        Some(errno) => (word!("failed"), Some(errno::name(errno).as_ref().into())),
        None => (word!("success"), Some(word!("SUCCESS"))),
    };
}

/// Type, category and hook of a record's event.
pub(super) fn call(record: &Record) -> (&'static str, &'static str, &'static str) {
    match record {
        Record::Exec(_) => ("execve", "process", "sched_process_exec"),
        Record::Fork { .. } => ("clone", "process", "sched_process_fork"),
        Record::Threads { .. } => ("threads", "process", "sched_process_fork"),
        Record::Exit { .. } => ("procexit", "process", "sched_process_exit"),
        Record::Open { header, .. } => (
            header.call.map_or("open", |call| call.name),
            "file",
            "sys_exit",
        ),
        Record::Called(called) => (
            calls::event_type(called.call),
            called.call.category,
            "sys_exit",
        ),
        Record::Cgroup { made: true, .. } => ("cgroup_mkdir", "container", "cgroup_mkdir"),
        Record::Cgroup { made: false, .. } => ("cgroup_rmdir", "container", "cgroup_rmdir"),
        Record::CgroupMove { .. } => ("container_move", "container", "cgroup_attach_task"),
    }
}

/// Columns of records that need no table.
pub(super) fn set_record(event: &mut Event, record: &Record) {
    let mut escaped = false;
    match record {
        Record::Exit {
            header,
            status,
            counters,
        } => set_exit(event, header, *status, counters),
        Record::Open { .. } => set_open(event, record, &mut escaped),
        Record::Called(called) => calls::set_called(event, called, &mut escaped),
        Record::Cgroup { id, path, .. } => {
            let path = text(path, &mut escaped);
            event.evt_args = Some(BTreeMap::from([
                ("cgroup_id".into(), id.to_string().into()),
                ("path".into(), path),
            ]));
        }
        Record::Threads { header } => {
            let threads = header.ret.to_string().into();
            event.evt_args = Some(BTreeMap::from([("threads".into(), threads)]));
        }
        Record::Exec(_) | Record::Fork { .. } | Record::CgroupMove { .. } => {}
    }
    event.evt_escaped |= escaped;
}

fn flag_names(flags: u64, names: &[(u64, &str)]) -> String {
    let set = names
        .iter()
        .filter(|(bits, _)| flags & bits == *bits)
        .map(|(_, name)| *name);
    set.collect::<Vec<_>>().join("|")
}

fn set_exit(event: &mut Event, header: &Header, status: u32, counters: &Counters) {
    event.evt_rawres = None;
    event.evt_res = None;
    event.proc_exit_code = Some(i64::from(status >> 8 & 0xff));
    event.proc_exit_signal = Some(i64::from(status & 0x7f));
    event.proc_duration_ns = Some(header.boot_ns.saturating_sub(header.start_ns) as i64);
    event.proc_cpu_user_ns = Some(counters.utime_ns as i64);
    event.proc_cpu_system_ns = Some(counters.stime_ns as i64);
    event.proc_pfminor = Some(counters.min_flt as i64);
    event.proc_pfmajor = Some(counters.maj_flt as i64);
    event.proc_read_chars = Some(counters.rchar as i64);
    event.proc_write_chars = Some(counters.wchar as i64);
    event.proc_read_bytes = Some(counters.read_bytes as i64);
    event.proc_write_bytes = Some(counters.write_bytes as i64);
}

/// Flags of open calls; longer ones come before those they contain.
const OPEN_FLAGS: &[(u64, &str)] = &[
    (0o100, "O_CREAT"),
    (0o200, "O_EXCL"),
    (0o400, "O_NOCTTY"),
    (0o1000, "O_TRUNC"),
    (0o2000, "O_APPEND"),
    (0o4000, "O_NONBLOCK"),
    (0o10000, "O_DSYNC"),
    (0o4000000, "O_SYNC"),
    (0o40000, "O_DIRECT"),
    (0o200000, "O_DIRECTORY"),
    (0o400000, "O_NOFOLLOW"),
    (0o1000000, "O_NOATIME"),
    (0o2000000, "O_CLOEXEC"),
    (0o10000000, "O_PATH"),
    (0o20000000, "O_TMPFILE"),
];
const O_PATH: u64 = 0o10000000;
const O_CREAT: u64 = 0o100;

fn open_flags(flags: u64) -> String {
    let access = ["O_RDONLY", "O_WRONLY", "O_RDWR", "O_ACCMODE"][(flags & 3) as usize];
    let rest = flag_names(flags, OPEN_FLAGS);
    if rest.is_empty() {
        access.to_owned()
    } else {
        format!("{access}|{rest}")
    }
}

fn set_open(event: &mut Event, record: &Record, escaped: &mut bool) {
    let Record::Open {
        header,
        open_flags: flags,
        mode,
        file,
        path,
        raw,
        base,
        ..
    } = record
    else {
        return;
    };
    let for_path_only = flags & O_PATH != 0;
    event.evt_is_open_read = !for_path_only && matches!(flags & 3, 0 | 2);
    event.evt_is_open_write = !for_path_only && matches!(flags & 3, 1..=3);
    event.evt_is_open_create = flags & O_CREAT != 0;
    event.fd_flags = Some(open_flags(*flags).into());
    event.fd_mode = event.evt_is_open_create.then_some(i64::from(*mode));
    let raw = text(raw, escaped);
    let resolved = !path.is_empty();
    let name = if resolved {
        text(path, escaped)
    } else {
        below(&text(base, escaped), &raw)
    };
    event.evt_unresolved |= !resolved;
    event.evt_path_source = Some(if resolved {
        word!("kernel")
    } else {
        word!("user_memory")
    });
    if header.ret >= 0 {
        event.fd_num = Some(header.ret);
        event.fd_created = Some(header.flags.created);
        set_file(event, file, name);
    } else {
        set_file_name(event, name);
    }
    event.fd_nameraw = (event.fd_name.as_ref() != Some(&raw)).then_some(raw);
}

/// A path as given, below the folder it starts from where that is known: an absolute one starts from the process's root. An
/// empty one is the folder itself.
pub(super) fn below(base: &str, raw: &Text) -> Text {
    let rest = raw.trim_start_matches('/');
    match base.trim_end_matches('/') {
        "" if base.is_empty() || raw.starts_with('/') => raw.clone(),
        "" if rest.is_empty() => "/".into(),
        base if rest.is_empty() => base.into(),
        base => format!("{base}/{rest}").into(),
    }
}

/// Columns of a file that the kernel knows.
pub(super) fn set_file(event: &mut Event, file: &FileIdentity, name: Text) {
    event.fd_type = Some(file_type(file.mode, 0, file.fs_magic, &name).into());
    event.fd_dev = Some(file.dev as i64);
    event.fd_ino = Some(file.ino as i64);
    event.fd_from = layer::of(file, &name).map(Text::from);
    if !layer::has_no_path(file.fs_magic) {
        set_file_name(event, name);
    }
}

pub(super) fn set_file_name(event: &mut Event, name: Text) {
    if let Some((directory, file)) = name.rsplit_once('/') {
        event.fd_directory = Some(if directory.is_empty() {
            "/".into()
        } else {
            directory.into()
        });
        event.fd_filename = Some(file.into());
    } else {
        event.fd_filename = Some(name.clone());
    }
    event.fd_name = Some(name);
}

const DEVPTS_MAGIC: u64 = 0x1cd1;

/// `fd_type` of a file; a terminal and the null device by their numbers where these are known, else by where they are.
fn file_type(mode: u16, rdev: u64, fs_magic: u64, path: &str) -> &'static str {
    match u32::from(mode) & libc::S_IFMT {
        libc::S_IFREG => "file",
        libc::S_IFDIR => "directory",
        libc::S_IFIFO => "pipe",
        libc::S_IFSOCK => "unix",
        libc::S_IFBLK => "device",
        libc::S_IFCHR => match (libc::major(rdev), libc::minor(rdev)) {
            (1, 3) => "null",
            (4 | 5 | 136..=143, _) => "tty",
            (0, 0) if path == "/dev/null" => "null",
            (0, 0) if fs_magic == DEVPTS_MAGIC || path.starts_with("/dev/tty") => "tty",
            _ => "device",
        },
        _ => "other",
    }
}

/// An address and port as text.
fn address(family: u16, bytes: &[u8; 16]) -> Option<IpAddr> {
    match i32::from(family) {
        libc::AF_INET => Some(Ipv4Addr::new(bytes[0], bytes[1], bytes[2], bytes[3]).into()),
        // What reaches an IPv4 host through an IPv6 socket is IPv4.
        libc::AF_INET6 => Some(Ipv6Addr::from(*bytes).to_canonical()),
        _ => None,
    }
}

/// What is known of both ends of a socket.
pub(super) struct Ends<'a> {
    /// As the kernel has it after the call.
    pub socket: &'a SocketAddresses,
    /// Where the kernel tried to connect to, though the socket does not say so any more.
    pub peer: Option<&'a SocketAddresses>,
    /// The address that the program gave.
    pub asked: Option<&'a SocketAddresses>,
    /// This end waits for the other.
    pub is_server: bool,
}

impl<'a> Ends<'a> {
    /// The far end of a client, the own one of a server that has no far end yet; and whether it is as the program gave it.
    /// A refused connection leaves no peer, or no port of it, in the socket.
    fn address(&self, failed: bool) -> (&'a SocketAddresses, bool) {
        let inet = address(self.socket.family, &self.socket.remote).is_some();
        let kept = match inet {
            true => self.socket.remote_port != 0 || (self.is_server && self.socket.local_port != 0),
            false => !failed && !self.socket.unix_path.is_empty(),
        };
        match (kept, self.peer, self.asked) {
            (true, ..) | (false, None, None) => (self.socket, false),
            (false, Some(peer), _) => (peer, false),
            (false, None, Some(asked)) => (asked, true),
        }
    }
}

/// Columns of a socket and of what it is, or was to be, connected with.
pub(super) fn set_ends(event: &mut Event, ends: &Ends<'_>, escaped: &mut bool) {
    if event.evt_rawres == Some(-i64::from(libc::EINPROGRESS)) {
        event.evt_failed = false;
        event.evt_outcome = "attempted".into();
    }
    event.fd_is_server = Some(ends.is_server);
    let (named, from_user) = ends.address(event.evt_failed);
    event.evt_unresolved |= from_user;
    event.fd_addr_source = Some(if from_user { "user_memory" } else { "kernel" }.into());
    let socket = ends.socket;
    let Some(remote) = address(named.family, &named.remote) else {
        set_unix(event, named, escaped);
        return;
    };
    let family = if remote.is_ipv4() { "ipv4" } else { "ipv6" };
    event.fd_type = Some(family.into());
    event.fd_family = Some(family.into());
    event.fd_l4proto = Some(protocol(socket.socket_type, socket.protocol).into());
    let end =
        |ip: IpAddr, port: u16| (port != 0).then(|| (Text::from(ip.to_string()), i64::from(port)));
    let mut local = address(socket.family, &socket.local).and_then(|ip| end(ip, socket.local_port));
    let mut remote = Some((Text::from(remote.to_string()), i64::from(named.remote_port)));
    if ends.is_server && from_user {
        // What was to be bound is this end.
        local = remote.take();
    } else if ends.is_server && named.remote_port == 0 {
        remote = None;
    }
    let (client, server) = match ends.is_server {
        true => (&remote, &local),
        false => (&local, &remote),
    };
    event.fd_name = Some(connection_name(client.as_ref(), server.as_ref(), ends.is_server).into());
    (event.fd_cip, event.fd_cport) = split(client);
    (event.fd_sip, event.fd_sport) = split(server);
    (event.fd_lip, event.fd_lport) = split(&local);
    (event.fd_rip, event.fd_rport) = split(&remote);
}

type End = (Text, i64);

fn split(end: &Option<End>) -> (Option<Text>, Option<i64>) {
    (
        end.as_ref().map(|(ip, _)| ip.clone()),
        end.as_ref().map(|(_, port)| *port),
    )
}

/// `client->server`, each as address and port; a server's own end alone where it waits.
fn connection_name(client: Option<&End>, server: Option<&End>, is_server: bool) -> String {
    let told = |end: Option<&End>| end.map_or_else(String::new, |(ip, port)| end_name(ip, *port));
    match client {
        None if is_server => told(server),
        _ => format!("{}->{}", told(client), told(server)),
    }
}

/// An address with its port; one of IPv6, which has colons of its own, in brackets.
fn end_name(ip: &str, port: i64) -> String {
    match ip.contains(':') {
        true => format!("[{ip}]:{port}"),
        false => format!("{ip}:{port}"),
    }
}

fn set_unix(event: &mut Event, peer: &SocketAddresses, escaped: &mut bool) {
    let unix = i32::from(peer.family) == libc::AF_UNIX;
    event.fd_type = Some(if unix { "unix" } else { "other" }.into());
    event.fd_family = unix.then(|| "unix".into());
    event.fd_name = unix.then(|| text(&peer.unix_path, escaped));
}

fn protocol(socket_type: u16, protocol: u16) -> &'static str {
    match (i32::from(protocol), i32::from(socket_type)) {
        (_, libc::SOCK_RAW) => "raw",
        (libc::IPPROTO_TCP, _) | (0, libc::SOCK_STREAM) => "tcp",
        (libc::IPPROTO_UDP, _) | (0, libc::SOCK_DGRAM) => "udp",
        (libc::IPPROTO_ICMP | libc::IPPROTO_ICMPV6, _) => "icmp",
        _ => "other",
    }
}

/// Columns of a successful exec.
pub(super) fn set_exec(event: &mut Event, exec: &Exec, origin: &str) {
    let mut escaped = false;
    event.evt_truncated |= exec.argv_bytes as usize > exec.argv.len();
    event.evt_path_source = Some("kernel".into());
    let filename = text(&exec.filename, &mut escaped);
    if let Some(descriptor) = filename.strip_prefix("/dev/fd/")
        && exec.header.call.is_some_and(|call| call.name == "execveat")
        && !descriptor.contains('/')
    {
        event.evt_call = Some("fexecve".into());
    }
    let mut arguments = BTreeMap::from([("filename".into(), filename)]);
    if !exec.interp.is_empty() && exec.interp != exec.filename {
        arguments.insert("interp".into(), text(&exec.interp, &mut escaped));
    }
    event.evt_args = Some(arguments);
    event.proc_exe_from = Some(origin.into());
    event.proc_exe_dev = Some(exec.file.dev as i64);
    event.proc_exe_ino = Some(exec.file.ino as i64);
    event.proc_exe_ino_mtime = Some(exec.file.mtime_ns);
    event.proc_exe_ino_ctime = Some(exec.file.ctime_ns);
    event.proc_argc = Some(i64::from(exec.argc));
    event.proc_sockets = Some(i64::from(exec.sockets));
    let connected = Some(&exec.socket).filter(|socket| socket.remote_port != 0);
    event.proc_socket_name = connected.and_then(ends).map(|(_, name)| name);
    credentials::set(event, &exec.identity.credentials);
    let [stdin, stdout, stderr] = exec
        .stdio
        .each_ref()
        .map(|stdio| stream(stdio, &mut escaped));
    set_streams(event, [stdin, stdout, stderr]);
    event.evt_escaped |= escaped;
}

type Stream = (Option<Text>, Option<Text>);

fn set_streams(event: &mut Event, [stdin, stdout, stderr]: [Stream; 3]) {
    (event.proc_stdin_type, event.proc_stdin_name) = stdin;
    (event.proc_stdout_type, event.proc_stdout_name) = stdout;
    (event.proc_stderr_type, event.proc_stderr_name) = stderr;
}

/// Type and name of one of descriptors 0 to 2.
fn stream(stdio: &Stdio, escaped: &mut bool) -> Stream {
    match stdio {
        Stdio::Closed => (Some("closed".into()), None),
        Stdio::File {
            mode,
            rdev,
            fs_magic,
            path,
        } => {
            let path = text(path, escaped);
            let kind = file_type(*mode, *rdev, *fs_magic, &path);
            (
                Some(kind.into()),
                Some(path).filter(|path| !path.is_empty() && !layer::has_no_path(*fs_magic)),
            )
        }
        Stdio::Socket(socket) => match ends(socket) {
            Some((kind, name)) => (Some(kind.into()), Some(name)),
            _ if i32::from(socket.family) == libc::AF_UNIX => (
                Some("unix".into()),
                Some(text(&socket.unix_path, escaped)).filter(|path| !path.is_empty()),
            ),
            _ => (Some("other".into()), None),
        },
    }
}

/// The family of an internet socket, and both its ends, the local one first.
fn ends(socket: &SocketAddresses) -> Option<(&'static str, Text)> {
    let local = address(socket.family, &socket.local)?;
    let remote = address(socket.family, &socket.remote)?;
    let kind = if remote.is_ipv4() { "ipv4" } else { "ipv6" };
    let end = |ip: IpAddr, port: u16| end_name(&ip.to_string(), i64::from(port));
    let local = end(local, socket.local_port);
    let remote = end(remote, socket.remote_port);
    Some((kind, format!("{local}->{remote}").into()))
}

/// Descriptors 0 to 2 as the links of `/proc/PID/fd` show them; what a link does not tell stays unknown.
pub(super) fn set_scanned_stdio(event: &mut Event, links: &[Option<Vec<u8>>; 3]) {
    let mut escaped = false;
    let streams = links.each_ref().map(|link| {
        let Some(link) = link else {
            return (None, None);
        };
        let name = text(link, &mut escaped);
        let kind = match &*name {
            "/dev/null" => Some("null"),
            name if name.starts_with("pipe:") => Some("pipe"),
            name if name.starts_with("socket:") => None,
            name if name.starts_with("/dev/pts/") || name.starts_with("/dev/tty") => Some("tty"),
            name if name.starts_with("/dev/") => Some("device"),
            name if name.starts_with('/') => Some("file"),
            _ => Some("other"),
        };
        (kind.map(Text::from), name.starts_with('/').then_some(name))
    });
    set_streams(event, streams);
    event.evt_escaped |= escaped;
}

/// Whether a row tells all that is known of its process and container; every other row tells it in brief.
pub(super) fn tells_in_full(event: &Event) -> bool {
    match &*event.evt_type {
        "execve" => !event.evt_failed,
        "running" | "container" => true,
        _ => false,
    }
}

/// Columns of a process that is in no container that is known.
pub(super) fn set_no_container(event: &mut Event, place: &Place) {
    event.container_id = place.name();
    event.container_type = (*place == Place::Host).then(|| "host".into());
}

/// What an event that waits takes, bytes: itself, and its texts by a generous rule of thumb.
pub(super) fn bytes(event: &Event) -> usize {
    let mut encoded = Vec::with_capacity(4_096);
    event.encode_framed(&mut encoded);
    size_of::<Event>() + 2 * encoded.len()
}

/// Bytes of each text of a container but its labels.
const CONTAINER_TEXT_BYTES_MAX: usize = 512;
/// Bytes of all labels, names included, on rows that tell in full.
const LABELS_BYTES_MAX: usize = 64 << 10;
/// Bytes of each label's value on the other rows.
const LABEL_BYTES_MAX: usize = 64;

/// Columns of a container; rows that tell in brief have only the labels of these names.
pub(super) fn set_container(event: &mut Event, container: &Container, labels: &[Text]) {
    let in_full = tells_in_full(event);
    let mut truncated = false;
    let mut kept = |text: &Option<Text>| {
        let kept = cut(text.as_ref()?, CONTAINER_TEXT_BYTES_MAX);
        truncated |= Some(kept.len()) != text.as_ref().map(|text| text.len());
        Some(kept)
    };
    event.container_id = short(&container.id);
    event.container_full_id = Some(container.id.clone());
    event.container_name = kept(&container.name);
    event.container_type = Some(container.runtime.clone());
    event.container_image = kept(&container.image);
    event.container_image_id = kept(&container.image_id).filter(|_| in_full);
    event.container_image_repository = kept(&container.repository);
    event.container_image_tag = kept(&container.tag);
    event.container_image_digest = kept(&container.digest);
    event.container_privileged = container.privileged;
    event.container_host_pid = container.host_pid;
    event.container_host_network = container.host_network;
    event.container_start_ts = container.start_ns;
    event.container_sandbox = container.sandbox;
    event.k8s_pod_name = kept(&container.pod_name());
    event.k8s_ns_name = kept(&container.pod_namespace());
    event.k8s_pod_uid = kept(&container.pod_uid());
    event.container_labels = container.labels.as_ref().map(|all| {
        if in_full {
            bounded_labels(all, labels, &mut truncated)
        } else {
            named_labels(all, labels)
        }
    });
    // Rows in brief keep little of it anyway.
    event.evt_truncated |= truncated | (in_full && container.truncated);
}

/// As many labels as there is room for, those that rows in brief keep first.
fn bounded_labels(
    all: &BTreeMap<Text, Text>,
    names: &[Text],
    truncated: &mut bool,
) -> BTreeMap<Text, Text> {
    let mut left = LABELS_BYTES_MAX;
    let mut kept = BTreeMap::new();
    let named = names.iter().filter_map(|name| all.get_key_value(name));
    let others = all.iter().filter(|(name, _)| !names.contains(name));
    for (name, value) in named.chain(others) {
        let size = name.len() + value.len();
        if size > left {
            *truncated = true;
            continue;
        }
        left -= size;
        kept.insert(name.clone(), value.clone());
    }
    kept
}

/// The labels that rows in brief keep, by the names that are configured.
pub(super) fn named_labels(all: &BTreeMap<Text, Text>, names: &[Text]) -> BTreeMap<Text, Text> {
    let named = names.iter().filter_map(|name| {
        let value = all.get(name)?;
        Some((name.clone(), cut(value, LABEL_BYTES_MAX)))
    });
    named.collect()
}

/// Where the file lies on the host: the path itself in the host's mount namespace, else through a mount of the container,
/// be it the one that the process has left.
pub(super) fn set_host_name(event: &mut Event, in_host_mntns: bool, container: Option<&Container>) {
    let Some(name) = event
        .fd_name
        .as_ref()
        .filter(|name| event.evt_category.as_ref() == "file" && name.starts_with('/'))
    else {
        return;
    };
    if event.fd_host_name.is_some() {
        return; // reached in the host's tree, whatever the process's own is
    }
    if in_host_mntns {
        event.fd_host_name = Some(name.clone());
        return;
    }
    event.fd_host_name = container.and_then(|container| container.host_path(name));
    // A file that the kernel knows, and not only a path; what is in its own file systems is nowhere else.
    let elsewhere = !matches!(event.fd_from.as_deref(), Some("kernel" | "memfd"));
    if event.fd_host_name.is_some() && event.fd_ino.is_some() && elsewhere {
        event.fd_from = Some("mount".into());
    }
}

/// Who says a container's record, and when.
pub(super) fn set_record_host(record: &mut records::Container, host: &Host, wall_ns: i64) {
    record.host_id = host.host_id.clone();
    record.host_name = host.host_name.clone();
    record.host_tags = host.host_tags.clone();
    record.boot_id = host.boot_id.clone();
    record.sensor_run = host.sensor_run.clone();
    record.ts = wall_ns;
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Who writes a detection is told which there are, and in which order: the contract's words are these.
    #[test]
    fn the_contract_knows_every_flag_of_opens() {
        let known = dogwatch_schemas::vocabulary::of("fd_flags");
        let flags = known.and_then(|known| known.flags.as_ref()).expect("flags");
        let first: Vec<String> = (0..4).map(open_flags).collect();
        assert_eq!(flags.first, first);
        let all = format!("O_ACCMODE|{}", flags.words.join("|"));
        assert_eq!(open_flags(u64::MAX), all);
    }
}
