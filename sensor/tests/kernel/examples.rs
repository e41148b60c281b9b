//! One real call for each row of the table of system calls, and what its record must say.

use std::ffi::CString;
use std::fs;
use std::path::Path;

use dogwatch_ebpf::calls::Call;

use crate::act::c_path;

/// What a call does with: a folder of its own with a file and a folder in it. Made before the child, which must not allocate.
pub struct Scene {
    pub folder: tempfile::TempDir,
    file: CString,
    inner: CString,
    new: CString,
    /// Descriptors of the folder and of the file.
    pub dir_fd: usize,
    file_fd: usize,
}

impl Scene {
    pub fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let real = folder.path().canonicalize().unwrap();
        fs::write(real.join("file"), "x").unwrap();
        fs::create_dir(real.join("inner")).unwrap();
        let open = |path: &Path, flags| {
            let path = c_path(path);
            // SAFETY: the path ends in NUL and outlives the call.
            unsafe { libc::open(path.as_ptr(), flags) as usize }
        };
        Self {
            file: c_path(&real.join("file")),
            inner: c_path(&real.join("inner")),
            new: c_path(&real.join("new")),
            dir_fd: open(&real, libc::O_RDONLY),
            file_fd: open(&real.join("file"), libc::O_RDWR),
            folder,
        }
    }

    pub fn file(&self) -> usize {
        at(&self.file)
    }

    fn inner(&self) -> usize {
        at(&self.inner)
    }

    /// What is not there.
    pub fn new_one(&self) -> usize {
        at(&self.new)
    }
}

impl Drop for Scene {
    fn drop(&mut self) {
        for fd in [self.dir_fd, self.file_fd] {
            // SAFETY: opened by `new`.
            unsafe { libc::close(fd as i32) };
        }
    }
}

/// Where a text is, which is looked at before, so that its page is there when the kernel programs read it.
pub fn at(text: &std::ffi::CStr) -> usize {
    // SAFETY: the text's first byte.
    unsafe { text.as_ptr().read_volatile() };
    text.as_ptr() as usize
}

/// How a call must end.
#[derive(Clone, Copy)]
pub enum Ends {
    /// With success.
    Well,
    /// With this errno.
    Badly(i32),
    /// Some machines refuse it, or do not know it.
    Anyhow,
}
pub use Ends::{Anyhow, Badly, Well};

/// Name, end, what its record says (% stands for the scene's folder), and the arguments, which may do something before.
pub type Example = (&'static str, Ends, &'static str, fn(&Scene) -> [usize; 6]);

const NONE: usize = 0;
const CWD: usize = libc::AT_FDCWD as usize;

/// Arguments, the rest 0.
pub fn with<const N: usize>(given: [usize; N]) -> [usize; 6] {
    let mut all = [0; 6];
    all[..N].copy_from_slice(&given);
    all
}

fn socket(family: i32, kind: i32) -> usize {
    // SAFETY: no pointers.
    unsafe { libc::socket(family, kind, 0) as usize }
}

/// 127.0.0.1 and a port as sockaddr_in.
static NOBODY: [u8; 16] = [2, 0, 0, 1, 127, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0];
static ANYWHERE: [u8; 16] = [2, 0, 0, 0, 127, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0];

fn bound(kind: i32) -> usize {
    let fd = socket(libc::AF_INET, kind);
    // SAFETY: the address has the length given.
    unsafe { libc::bind(fd as i32, ANYWHERE.as_ptr().cast(), 16) };
    fd
}

/// A socket that listens, to which somebody has connected.
fn visited() -> usize {
    let fd = bound(libc::SOCK_STREAM);
    let client = socket(libc::AF_INET, libc::SOCK_STREAM);
    // SAFETY: the addresses have room for what the kernel writes, and the lengths given.
    unsafe {
        let mut address: libc::sockaddr_in = std::mem::zeroed();
        let mut len = 16;
        libc::listen(fd as i32, 1);
        libc::getsockname(fd as i32, (&raw mut address).cast(), &mut len);
        libc::connect(client as i32, (&raw const address).cast(), 16);
    }
    fd
}

/// A message to nobody, as native programs give it.
pub fn message() -> usize {
    // SAFETY: a new mapping of a page, into which a struct smaller than that is written.
    unsafe {
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
        let protection = libc::PROT_READ | libc::PROT_WRITE;
        let page = libc::mmap(std::ptr::null_mut(), 4096, protection, flags, -1, 0);
        let message = page.cast::<libc::msghdr>();
        (*message).msg_name = NOBODY.as_ptr().cast_mut().cast();
        (*message).msg_namelen = 16;
        page as usize
    }
}

/// Another user, who may have no more processes.
fn confined() -> [usize; 6] {
    let none = libc::rlimit {
        rlim_cur: 0,
        rlim_max: 0,
    };
    // SAFETY: the struct outlives the call.
    unsafe {
        libc::setrlimit(libc::RLIMIT_NPROC, &none);
        libc::setuid(12_345);
    }
    [0; 6]
}

/// A mount namespace of its own, so that what is mounted stays there.
fn apart() {
    // SAFETY: no pointers but texts that end in NUL.
    unsafe {
        libc::unshare(libc::CLONE_NEWNS);
        let none: *const libc::c_char = std::ptr::null();
        let flags = libc::MS_REC | libc::MS_PRIVATE;
        libc::mount(none, c"/".as_ptr(), none, flags, none.cast());
    }
}

#[rustfmt::skip]
pub const EXAMPLES: &[Example] = &[
    ("connect", Badly(libc::ECONNREFUSED), "fd=socket, addr=127.0.0.1:1, peer=127.0.0.1:1",
        |_| with([socket(libc::AF_INET, libc::SOCK_STREAM), NOBODY.as_ptr() as usize, 16])),
    ("execve", Badly(libc::ENOENT), "filename=/dogwatch/none", |_| with([at(c"/dogwatch/none")])),
    ("execveat", Badly(libc::EACCES), "filename=/etc", |_| with([CWD, at(c"/etc")])),
    ("setns", Badly(libc::EBADF), "flags=CLONE_NEWNS, identity", |_| with([usize::MAX, libc::CLONE_NEWNS as usize])),
    ("unshare", Well, "flags=CLONE_FILES, identity", |_| with([libc::CLONE_FILES as usize])),
    ("rename", Well, "oldpath=%/file@/, newpath=%/new@/", |s| with([s.file(), s.new_one()])),
    ("renameat", Well, "oldpath=file@%, newpath=new@%", |s| with([s.dir_fd, at(c"file"), s.dir_fd, at(c"new")])),
    ("renameat2", Well, "oldpath=file@%, newpath=new@%, flags=RENAME_NOREPLACE",
        |s| with([s.dir_fd, at(c"file"), s.dir_fd, at(c"new"), 1])),
    ("rmdir", Well, "path=%/inner@/", |s| with([s.inner()])),
    ("unlink", Badly(libc::ENOENT), "path=%/new@/", |s| with([s.new_one()])),
    ("unlinkat", Well, "name=inner@%, flags=AT_REMOVEDIR", |s| with([s.dir_fd, at(c"inner"), 0x200])),
    ("link", Well, "oldpath=%/file@/, newpath=%/new@/", |s| with([s.file(), s.new_one()])),
    ("linkat", Well, "oldpath=file@%, newpath=%/new@/, flags=0", |s| with([s.dir_fd, at(c"file"), CWD, s.new_one(), 0])),
    ("symlink", Well, "target=/etc/shadow, linkpath=%/new@/", |s| with([at(c"/etc/shadow"), s.new_one()])),
    ("symlinkat", Well, "target=/etc/shadow, linkpath=new@%", |s| with([at(c"/etc/shadow"), s.dir_fd, at(c"new")])),
    ("mkdir", Well, "path=%/new@/, mode=488", |s| with([s.new_one(), 0o750])),
    ("mkdirat", Well, "path=new@%, mode=488", |s| with([s.dir_fd, at(c"new"), 0o750])),
    ("mknod", Well, "path=%/new@/, mode=4480, dev=0", |s| with([s.new_one(), 0o10600])),
    ("mknodat", Well, "path=new@%, mode=4480, dev=0", |s| with([s.dir_fd, at(c"new"), 0o10600])),
    ("truncate", Well, "path=%/file@/, length=7", |s| with([s.file(), 7])),
    ("ftruncate", Well, "fd=%/file, length=7", |s| with([s.file_fd, 7])),
    ("chmod", Well, "filename=%/file@/, mode=2541", |s| with([s.file(), 0o4755])),
    ("fchmod", Well, "fd=%/file, mode=2541", |s| with([s.file_fd, 0o4755])),
    ("fchmodat", Well, "filename=file@%, mode=2541", |s| with([s.dir_fd, at(c"file"), 0o4755])),
    ("fchmodat2", Anyhow, "filename=file@%, mode=2541, flags=0", |s| with([s.dir_fd, at(c"file"), 0o4755])),
    ("chown", Well, "path=%/file@/, uid=1, gid=-1", |s| with([s.file(), 1, usize::MAX])),
    ("fchown", Well, "fd=%/file, uid=1, gid=2", |s| with([s.file_fd, 1, 2])),
    ("lchown", Well, "path=%/file@/, uid=1, gid=2", |s| with([s.file(), 1, 2])),
    ("fchownat", Well, "pathname=file@%, uid=1, gid=2, flags=0", |s| with([s.dir_fd, at(c"file"), 1, 2])),
    ("utimensat", Well, "path=file@%, flags=0", |s| with([s.dir_fd, at(c"file"), NONE, 0])),
    ("name_to_handle_at", Badly(libc::EFAULT), "pathname=file@%, flags=0", |s| with([s.dir_fd, at(c"file"), NONE, NONE])),
    ("open_by_handle_at", Anyhow, "flags=O_CLOEXEC", |s| with([s.dir_fd, NONE, libc::O_CLOEXEC as usize])),
    ("setxattr", Anyhow, "path=%/file@/, name=security.capability", |s| with([s.file(), at(c"security.capability"), NONE, 0])),
    ("lsetxattr", Anyhow, "path=%/file@/, name=security.capability", |s| with([s.file(), at(c"security.capability"), NONE, 0])),
    ("fsetxattr", Anyhow, "fd=%/file, name=security.capability", |s| with([s.file_fd, at(c"security.capability"), NONE, 0])),
    ("setxattrat", Anyhow, "path=file@%, flags=0, name=security.capability",
        |s| with([s.dir_fd, at(c"file"), 0, at(c"security.capability"), NONE])),
    ("chdir", Well, "path=%/inner@/, cwd=%/inner", |s| with([s.inner()])),
    ("fchdir", Well, "fd=%, cwd=%", |s| with([s.dir_fd])),
    ("chroot", Well, "path=%/inner@%/inner", |s| with([s.inner()])),
    ("pivot_root", Anyhow, "new_root=%/inner@/, put_old=%/inner@/", |s| { apart(); with([s.inner(), s.inner()]) }),
    ("mount", Well, "dev=none, dir=%/inner@/, type=tmpfs, flags=MS_NOSUID",
        |s| { apart(); with([at(c"none"), s.inner(), at(c"tmpfs"), libc::MS_NOSUID as usize, NONE]) }),
    ("umount2", Badly(libc::EINVAL), "name=%/inner@/, flags=MNT_DETACH", |s| with([s.inner(), 2])),
    ("move_mount", Anyhow, "from_path=file@%, to_path=%/inner@/, flags=0", |s| with([s.dir_fd, at(c"file"), CWD, s.inner(), 0])),
    ("open_tree", Well, "path=inner@%, flags=OPEN_TREE_CLOEXEC", |s| with([s.dir_fd, at(c"inner"), libc::O_CLOEXEC as usize])),
    ("fsopen", Well, "fsname=tmpfs, flags=0", |_| with([at(c"tmpfs"), 0])),
    ("fsconfig", Anyhow, "cmd=FSCONFIG_SET_STRING, key=source", |s| with([s.dir_fd, 1, at(c"source"), at(c"none"), 0])),
    ("fsmount", Anyhow, "flags=0, attributes=MOUNT_ATTR_NOSUID", |s| with([s.dir_fd, 0, 2])),
    ("fspick", Anyhow, "path=inner@%, flags=0", |s| with([s.dir_fd, at(c"inner"), 0])),
    ("mount_setattr", Anyhow, "path=inner@%, flags=0", |s| with([s.dir_fd, at(c"inner"), 0, NONE, 0])),
    ("swapon", Anyhow, "specialfile=%/file@/, flags=0", |s| with([s.file(), 0])),
    ("socket", Anyhow, "domain=AF_PACKET, type=SOCK_RAW, proto=768, fd=socket", |_| with([17, 3, 768])),
    ("bind", Well, "fd=socket, addr=127.0.0.1:0", |_| with([socket(libc::AF_INET, libc::SOCK_STREAM), ANYWHERE.as_ptr() as usize, 16])),
    ("listen", Well, "fd=socket, backlog=7", |_| with([bound(libc::SOCK_STREAM), 7])),
    ("accept", Well, "fd=socket", |_| with([visited()])),
    ("accept4", Well, "flags=SOCK_CLOEXEC, fd=socket", |_| with([visited(), NONE, NONE, libc::SOCK_CLOEXEC as usize])),
    ("sendto", Well, "fd=socket, size=0, flags=0, addr=127.0.0.1:1",
        |_| with([socket(libc::AF_INET, libc::SOCK_DGRAM), NONE, 0, 0, NOBODY.as_ptr() as usize, 16])),
    ("sendmsg", Well, "fd=socket, msg=127.0.0.1:1, flags=0", |_| with([socket(libc::AF_INET, libc::SOCK_DGRAM), message()])),
    ("sendmmsg", Well, "fd=socket, msg=127.0.0.1:1, vlen=1, flags=0",
        |_| with([socket(libc::AF_INET, libc::SOCK_DGRAM), message(), 1])),
    ("clone", Badly(libc::EINVAL), "flags=CLONE_SIGHAND", |_| with([libc::CLONE_SIGHAND as usize])),
    ("clone3", Badly(libc::EINVAL), "", |_| with([NONE, 0])),
    ("fork", Badly(libc::EAGAIN), "", |_| confined()),
    ("vfork", Badly(libc::EAGAIN), "", |_| confined()),
    ("setsid", Well, "identity", |_| [0; 6]),
    ("setuid", Well, "uid=1000, identity", |_| with([1000])),
    ("setgid", Well, "gid=1000, identity", |_| with([1000])),
    ("setreuid", Well, "ruid=-1, euid=1000, identity", |_| with([usize::MAX, 1000])),
    ("setregid", Well, "rgid=-1, egid=1000, identity", |_| with([usize::MAX, 1000])),
    ("setresuid", Well, "ruid=-1, euid=1000, suid=-1, identity", |_| with([usize::MAX, 1000, usize::MAX])),
    ("setresgid", Well, "rgid=-1, egid=1000, sgid=-1, identity", |_| with([usize::MAX, 1000, usize::MAX])),
    ("setfsuid", Well, "uid=1000", |_| with([1000])),
    ("setfsgid", Well, "gid=1000", |_| with([1000])),
    ("setgroups", Well, "size=0", |_| [0; 6]),
    ("capset", Badly(libc::EFAULT), "identity", |_| [0; 6]),
    ("prctl", Well, "option=PR_SET_NO_NEW_PRIVS, arg2=1, identity", |_| with([38, 1])),
    ("personality", Well, "persona=ADDR_NO_RANDOMIZE", |_| with([0x40000])),
    ("seccomp", Badly(libc::EFAULT), "op=SECCOMP_SET_MODE_FILTER, flags=0", |_| with([1, 0, NONE])),
    ("ptrace", Badly(libc::ESRCH), "request=PTRACE_ATTACH, pid=999999, addr=0, data=0", |_| with([16, 999_999])),
    ("process_vm_readv", Well, "pid=999999", |_| with([999_999])),
    ("process_vm_writev", Well, "pid=999999", |_| with([999_999])),
    ("kill", Badly(libc::ESRCH), "pid=999999, sig=SIGKILL", |_| with([999_999, 9])),
    ("tkill", Badly(libc::ESRCH), "tid=999999, sig=SIGTERM", |_| with([999_999, 15])),
    ("tgkill", Badly(libc::ESRCH), "pid=999999, tid=999999, sig=SIGTERM", |_| with([999_999, 999_999, 15])),
    ("rt_sigqueueinfo", Anyhow, "pid=999999, sig=SIGUSR1", |_| with([999_999, 10, message()])),
    ("rt_tgsigqueueinfo", Anyhow, "pid=999999, tid=999999, sig=SIGUSR1", |_| with([999_999, 999_999, 10, message()])),
    ("pidfd_open", Badly(libc::ESRCH), "pid=999999, flags=0", |_| with([999_999])),
    ("pidfd_send_signal", Badly(libc::EBADF), "sig=SIGKILL", |_| with([usize::MAX, 9])),
    ("pidfd_getfd", Badly(libc::EBADF), "target_fd=1, flags=0", |_| with([usize::MAX, 1])),
    ("memfd_create", Well, "name=payload, flags=MFD_CLOEXEC, fd=/memfd:payload", |_| with([at(c"payload"), 1])),
    ("memfd_secret", Anyhow, "flags=0, fd=/secretmem", |_| [0; 6]),
    ("userfaultfd", Anyhow, "flags=O_CLOEXEC", |_| with([libc::O_CLOEXEC as usize])),
    ("keyctl", Anyhow, "option=0, arg2=-3", |_| with([0, (-3i64) as usize])),
    ("add_key", Anyhow, "type=user, description=dogwatch", |_| with([at(c"user"), at(c"dogwatch"), NONE, 0, 0])),
    ("request_key", Anyhow, "type=user, description=dogwatch", |_| with([at(c"user"), at(c"dogwatch")])),
    ("perf_event_open", Badly(libc::EFAULT), "pid=0, cpu=-1, flags=0", |_| with([NONE, 0, usize::MAX, usize::MAX, 0])),
    ("bpf", Anyhow, "cmd=BPF_PROG_LOAD", |_| with([5])),
    ("init_module", Anyhow, "length=1, uargs=p=1", |s| with([s.file(), 1, at(c"p=1")])),
    ("finit_module", Anyhow, "fd=%/file, uargs=p=1, flags=0", |s| with([s.file_fd, at(c"p=1"), 0])),
    ("delete_module", Anyhow, "name=dogwatch_none, flags=2048", |_| with([at(c"dogwatch_none"), 2048])),
    ("kexec_load", Anyhow, "entry=0, nr_segments=1, flags=65535", |_| with([0, 1, NONE, 65_535])),
    ("kexec_file_load", Anyhow, "kernel_fd=%/file, cmdline=quiet", |s| with([s.file_fd, usize::MAX, 6, at(c"quiet"), 65_535])),
    ("io_uring_setup", Anyhow, "entries=1", |_| with([1, NONE])),
    ("mmap", Well, "addr=0, length=4096, prot=PROT_READ|PROT_WRITE|PROT_EXEC, flags=MAP_PRIVATE|MAP_ANONYMOUS",
        |_| with([0, 4096, 7, 0x22, usize::MAX, 0])),
    ("mprotect", Badly(libc::ENOMEM), "addr=4096, length=4096, prot=PROT_WRITE|PROT_EXEC", |_| with([4096, 4096, 6])),
    ("pkey_mprotect", Anyhow, "addr=4096, length=4096, prot=PROT_WRITE|PROT_EXEC", |_| with([4096, 4096, 6, usize::MAX])),
    ("dup", Well, "oldfd=9, res=socket", |_| { onto_nine(); with([9]) }),
    ("dup2", Well, "oldfd=9, newfd=socket", |_| { onto_nine(); with([9, 1]) }),
    ("dup3", Well, "oldfd=9, newfd=socket", |_| { onto_nine(); with([9, 2, 0]) }),
    ("fcntl", Well, "oldfd=9, res=socket", |_| { onto_nine(); with([9, 0, 0]) }),
];

/// A socket as descriptor 9, and descriptor 0 free.
fn onto_nine() {
    let fd = socket(libc::AF_INET, libc::SOCK_STREAM);
    // SAFETY: no pointers.
    unsafe {
        libc::dup2(fd as i32, 9);
        libc::close(0);
    }
}

/// Does what an example does, in the process that it is called in.
pub fn perform(scene: &Scene, call: &Call, arguments: fn(&Scene) -> [usize; 6]) {
    let number = call.x86_64.map_or(-1, i64::from);
    let [a, b, c, d, e, f] = arguments(scene);
    // SAFETY: the example's arguments are for this call: what is a pointer there leads to what the call asks for.
    unsafe { libc::syscall(number, a, b, c, d, e, f) };
}
