//! What a process executes: its arguments, and where the executable came from.

use dogwatch_ebpf::record::Exec;
use dogwatch_schemas::Text;
use dogwatch_schemas::records::Event;

use super::layer;
use crate::container::Container;
use crate::fact::Running;
use crate::process::{InnerIds, Process, Program};
use crate::redact::Redactor;
use crate::text::text;

const OVERLAYFS_MAGIC: u64 = 0x794c_7630;
const TMPFS_MAGIC: u64 = 0x0102_1994;

/// Arguments as they are, for comparing, and as they may be told.
pub(super) struct Arguments {
    pub raw: Vec<Text>,
    pub told: Vec<Text>,
    /// With as many of them as the table keeps.
    pub program: Program,
}

/// Splits arguments of an executable that each end with NUL, and redacts them.
pub(super) fn arguments(
    executable: Option<&[u8]>,
    argv: &[u8],
    redactor: &Redactor,
    escaped: &mut bool,
) -> Arguments {
    let argv = argv.strip_suffix(b"\0").unwrap_or(argv);
    let raw: Vec<Text> = match argv {
        b"" => Vec::new(),
        _ => argv
            .split(|&byte| byte == 0)
            .map(|argument| text(argument, escaped))
            .collect(),
    };
    let mut told = raw.clone();
    let executable = executable.map(String::from_utf8_lossy);
    let redacted = redactor.redact(executable.as_deref(), &mut told);
    let mut program = Program::new(&told);
    program.redacted = redacted;
    Arguments { raw, told, program }
}

/// All arguments, as the row of the exec itself has them.
pub(super) fn set_arguments(event: &mut Event, told: Vec<Text>) {
    event.proc_cmdline = Some(told.join(" ").into());
    event.proc_args = Some(told.into_iter().skip(1).collect());
}

/// A path of `/proc/PID/exe` without the kernel's note that the file is deleted.
pub(super) fn without_deleted(path: &[u8]) -> &[u8] {
    path.strip_suffix(b" (deleted)").unwrap_or(path)
}

/// Copies what the scan says of a process itself.
pub(super) fn set_running(process: &mut Process, running: &Running, escaped: &mut bool) {
    process.vpid = Some(running.vpid);
    process.sid = Some(running.sid);
    process.pgid = Some(running.pgid);
    process.tty = Some(running.tty);
    process.login_uid = running.login_uid;
    process.mnt_ns = running.mnt_ns;
    process.pid_ns = running.pid_ns;
    process.comm = Some(text(&running.comm, escaped));
    process.inner_ids = running
        .inner_uid
        .zip(running.inner_gid)
        .map(|(uid, gid)| InnerIds {
            uid,
            gid,
            host_uid: running.uid,
            host_gid: running.gid,
        });
}

/// Where the executable came from (`proc_exe_from`).
pub(super) fn origin(
    exec: &Exec,
    in_container: bool,
    in_host_mntns: bool,
    known: Option<&Container>,
) -> &'static str {
    let file = &exec.file;
    let path = String::from_utf8_lossy(&exec.path);
    if layer::is_memfd(file, &path) {
        return "memfd";
    }
    if !in_container || in_host_mntns {
        return "unknown";
    }
    if file.fs_magic == OVERLAYFS_MAGIC {
        return if file.overlay_upper { "upper" } else { "image" };
    }
    let on_mount = known.is_some_and(|container| container.mount_of(&path).is_some());
    if on_mount || file.fs_magic == TMPFS_MAGIC {
        return "mount";
    }
    // Other storage drivers copy the image before the start: what changed since is the container's own.
    match known
        .filter(|container| container.source.starts_with("docker"))
        .and_then(|container| container.start_ns)
    {
        Some(start_ns) if file.ctime_ns > start_ns => "upper",
        Some(_) => "image",
        None => "unknown",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use dogwatch_ebpf::record::FileIdentity;

    fn check(file: FileIdentity, path: &str, in_container: bool, expected: &str) {
        let known = Container {
            mounts: vec![crate::container::Mount {
                destination: "/data".into(),
                ..Default::default()
            }],
            source: "docker_files".into(),
            start_ns: Some(1_000),
            ..Container::default()
        };
        let exec = Exec {
            file,
            path: path.as_bytes().to_vec(),
            ..Exec::default()
        };
        assert_eq!(
            origin(&exec, in_container, false, Some(&known)),
            expected,
            "{path}"
        );
    }

    #[test]
    fn executables_tell_where_they_came_from() {
        let file = FileIdentity {
            fs_magic: OVERLAYFS_MAGIC,
            nlink: 1,
            ..FileIdentity::default()
        };
        check(file, "/bin/sh", true, "image");
        check(
            FileIdentity {
                overlay_upper: true,
                ..file
            },
            "/tmp/x",
            true,
            "upper",
        );
        check(
            FileIdentity {
                fs_magic: TMPFS_MAGIC,
                ..file
            },
            "/dev/shm/x",
            true,
            "mount",
        );
        check(
            FileIdentity {
                fs_magic: 0xef53,
                ..file
            },
            "/data/x",
            true,
            "mount",
        );
        check(
            FileIdentity {
                fs_magic: 0xef53,
                ctime_ns: 5_000,
                ..file
            },
            "/tmp/x",
            true,
            "upper",
        );
        check(
            FileIdentity {
                fs_magic: 0xef53,
                ctime_ns: 500,
                ..file
            },
            "/bin/x",
            true,
            "image",
        );
        let memory = FileIdentity {
            fs_magic: TMPFS_MAGIC,
            nlink: 0,
            ..FileIdentity::default()
        };
        check(memory, "/memfd:x", true, "memfd");
        check(memory, "memfd:x (deleted)", false, "memfd");
        check(memory, "/dev/shm/x", true, "mount");
        check(file, "/bin/sh", false, "unknown");
    }

    #[test]
    fn arguments_are_split_joined_and_redacted() {
        let redactor = Redactor::new(true, &[]).unwrap();
        let Arguments { raw, program, .. } =
            arguments(None, b"app\0\0--password\0x\0", &redactor, &mut false);
        assert_eq!(
            raw.iter().map(|text| &**text).collect::<Vec<_>>(),
            ["app", "", "--password", "x"]
        );
        assert_eq!(
            program.cmdline.as_deref(),
            Some("app  --password [redacted:option:1-7]")
        );
        assert!(program.redacted);
        assert!(arguments(None, b"", &redactor, &mut false).raw.is_empty());
    }
}
