//! Execs: what ran, with which arguments, from which file, on which standard streams.

use std::fs;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};

use dogwatch_ebpf::record::{Exec, Record, Stdio as Descriptor, Value};
use dogwatch_sensor::probe::ProbeOptions;

use crate::watch::{Watch, text};

/// Runs the command and returns its exec and the status its exit tells.
fn run(watch: &mut Watch, command: &mut Command) -> (Exec, u32) {
    let mut child = command.spawn().unwrap();
    let pid = child.id();
    child.wait().unwrap();
    let records = watch.records();
    let exec = records.iter().find_map(|record| match record {
        Record::Exec(exec) if exec.header.pid == pid => Some((**exec).clone()),
        _ => None,
    });
    let status = records.iter().find_map(|record| match record {
        Record::Exit { header, status, .. } if header.pid == pid => Some(*status),
        _ => None,
    });
    (
        exec.expect("no exec record"),
        status.expect("no exit record"),
    )
}

#[test]
fn an_exec_has_its_environment_or_the_first_of_it() {
    let Some(mut watch) = Watch::start(&ProbeOptions::default()) else {
        return;
    };
    let mut command = Command::new("/bin/true");
    command.env_clear().env("LD_PRELOAD", "/dogwatch/none.so");
    let (exec, _) = run(&mut watch, command.stderr(Stdio::null()));
    assert_eq!(text(&exec.env), "LD_PRELOAD=/dogwatch/none.so\0");
    assert_eq!(exec.env_bytes as usize, exec.env.len());
    // As much as a variable may hold, sixteen times: 2 MiB.
    command.env_clear();
    for number in 0..16 {
        command.env(format!("V{number}"), "x".repeat(131_000));
    }
    let (exec, _) = run(&mut watch, &mut command);
    assert_eq!(exec.env.len(), 4_095);
    assert_eq!(exec.env_bytes, 16 * 131_000 + 10 * 4 + 6 * 5);
}

/// The capabilities of the set with this name in `/proc/PID/status`.
fn capabilities(set: &str) -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix(set));
    u64::from_str_radix(line.unwrap().trim_start_matches(':').trim(), 16).unwrap()
}

#[test]
fn an_exec_tells_what_the_program_may_do() {
    let Some(mut watch) = Watch::start(&ProbeOptions::default()) else {
        return;
    };
    let (exec, _) = run(&mut watch, &mut Command::new("/bin/true"));
    let mut found = exec.identity.credentials;
    // What root executes has all that the bounding set leaves it.
    let all = capabilities("CapBnd");
    assert_eq!((found.effective, found.permitted), (all, all));
    assert_eq!(found.inheritable, capabilities("CapInh"));
    assert_eq!(
        (found.saved_uid, found.saved_gid, found.fs_uid, found.fs_gid),
        (0, 0, 0, 0)
    );
    let (exec, _) = run(&mut watch, Command::new("/bin/true").uid(1_000).gid(1_001));
    found = exec.identity.credentials;
    assert_eq!((found.effective, found.permitted), (0, 0));
    assert_eq!(
        (found.saved_uid, found.saved_gid, found.fs_uid, found.fs_gid),
        (1_000, 1_001, 1_000, 1_001)
    );
}

#[test]
fn an_exec_tells_the_connections_that_it_is_left_with() {
    let Some(mut watch) = Watch::start(&ProbeOptions::default()) else {
        return;
    };
    let (exec, _) = run(&mut watch, &mut Command::new("/bin/true"));
    let before = exec.sockets;
    assert_eq!(exec.socket.remote_port, 0, "{:?}", exec.socket);
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let stream = std::net::TcpStream::connect(address).unwrap();
    let (end, _other) = UnixStream::pair().unwrap();
    let given = [end.as_raw_fd(), listener.as_raw_fd(), stream.as_raw_fd()];
    let mut command = Command::new("/bin/true");
    // SAFETY: dup2 is safe after a fork; what it makes stays open over an exec.
    unsafe {
        command.pre_exec(move || {
            for (fd, free) in given.into_iter().zip([57, 58, 59]) {
                libc::dup2(fd, free);
            }
            Ok(())
        })
    };
    let (exec, _) = run(&mut watch, &mut command);
    assert_eq!(exec.sockets, before + 3);
    let ends = (exec.socket.local_port, exec.socket.remote_port);
    assert_eq!(ends, (stream.local_addr().unwrap().port(), address.port()));
    assert_eq!(exec.socket.remote[..4], [127, 0, 0, 1]);
}

#[test]
fn an_exec_says_what_really_runs() {
    let Some(mut watch) = Watch::start(&ProbeOptions::default()) else {
        return;
    };
    let folder = tempfile::tempdir().unwrap();
    let mut command = Command::new("/bin/sh");
    command
        .args(["-c", "exit 3", "", "two words"])
        .current_dir(folder.path());
    command.stdin(Stdio::null()).stdout(Stdio::piped());
    let (exec, status) = run(&mut watch, &mut command);

    let program = fs::canonicalize("/bin/sh").unwrap();
    let metadata = fs::metadata(&program).unwrap();
    assert_eq!(text(&exec.path), program.to_str().unwrap());
    assert_eq!(
        (text(&exec.filename), text(&exec.interp)),
        ("/bin/sh".into(), "/bin/sh".into())
    );
    assert_eq!(
        text(&exec.cwd),
        folder.path().canonicalize().unwrap().to_str().unwrap()
    );
    assert_eq!(text(&exec.argv), "/bin/sh\0-c\0exit 3\0\0two words\0");
    assert_eq!(exec.argv_bytes as usize, exec.argv.len());
    assert_eq!(
        (exec.file.ino, exec.file.dev),
        (metadata.ino(), metadata.dev())
    );
    assert_eq!(text(&exec.identity.comm), "sh");
    assert_eq!(exec.identity.parent_pid, watch.probe.own_pid());
    assert_eq!((exec.identity.ns_uid, exec.identity.ns_gid), (0, 0));
    assert_eq!(
        u64::from(exec.identity.pid_ns),
        fs::metadata("/proc/self/ns/pid").unwrap().ino()
    );
    // SAFETY: no arguments.
    assert_eq!(exec.identity.sid, unsafe { libc::getsid(0) } as u32);
    assert_eq!(exec.identity.pgid, unsafe { libc::getpgrp() } as u32);
    assert_eq!(status, 3 << 8);
    let Descriptor::File {
        path, rdev, mode, ..
    } = &exec.stdio[0]
    else {
        panic!("{:?}", exec.stdio)
    };
    assert_eq!(
        (text(path).as_str(), *rdev, mode & 0o170000),
        ("/dev/null", 0x103, 0o020000)
    );
    let Descriptor::File { mode, .. } = &exec.stdio[1] else {
        panic!("{:?}", exec.stdio)
    };
    assert_eq!(mode & 0o170000, 0o010000);
}

#[test]
fn a_script_shows_its_interpreter_and_its_name() {
    let Some(mut watch) = Watch::start(&ProbeOptions::default()) else {
        return;
    };
    let folder = tempfile::tempdir().unwrap();
    let script = folder.path().join("script");
    fs::write(&script, "#!/bin/sh\nkill -9 $$\n").unwrap();
    fs::set_permissions(&script, fs::Permissions::from_mode(0o755)).unwrap();
    let (exec, status) = run(&mut watch, &mut Command::new(&script));
    assert_eq!(
        text(&exec.path),
        fs::canonicalize("/bin/sh").unwrap().to_str().unwrap()
    );
    assert_eq!(
        (text(&exec.filename), text(&exec.interp)),
        (script.to_str().unwrap().into(), "/bin/sh".into())
    );
    assert_eq!(status, 9);
}

#[test]
fn long_arguments_come_whole_up_to_the_limit() {
    let Some(mut watch) = Watch::start(&ProbeOptions::default()) else {
        return;
    };
    let arguments = |count: usize| {
        (0..count)
            .map(|number| format!("argument-{number:06}"))
            .collect::<Vec<_>>()
    };
    for (count, truncated) in [(300, false), (1_200, false), (2_000, false), (5_000, true)] {
        let (exec, _) = run(&mut watch, Command::new("/bin/true").args(arguments(count)));
        let expected = format!("/bin/true\0{}\0", arguments(count).join("\0")).into_bytes();
        assert_eq!(exec.argv_bytes as usize, expected.len());
        assert_eq!(exec.argc as usize, count + 1);
        assert_eq!(exec.header.flags.truncated, truncated, "{count}");
        assert_eq!(exec.argv, expected[..expected.len().min(32_768)], "{count}");
    }
}

#[test]
fn a_socket_as_standard_stream_is_told_with_its_ends() {
    let Some(mut watch) = Watch::start(&ProbeOptions::default()) else {
        return;
    };
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let stream = std::net::TcpStream::connect(address).unwrap();
    let local_port = stream.local_addr().unwrap().port();
    let (end, _other) = UnixStream::pair().unwrap();
    let mut command = Command::new("/bin/true");
    command
        .stdin(Stdio::from(OwnedFd::from(stream)))
        .stdout(Stdio::from(OwnedFd::from(end)));
    // SAFETY: closes the child's own descriptor.
    unsafe {
        command.pre_exec(|| {
            libc::close(2);
            Ok(())
        })
    };
    let (exec, _) = run(&mut watch, &mut command);
    let Descriptor::Socket(tcp) = &exec.stdio[0] else {
        panic!("{:?}", exec.stdio)
    };
    assert_eq!((tcp.family, tcp.socket_type, tcp.protocol), (2, 1, 6));
    assert_eq!(
        (tcp.local_port, tcp.remote_port),
        (local_port, address.port())
    );
    assert_eq!(
        (&tcp.local[..4], &tcp.remote[..4]),
        (&[127, 0, 0, 1][..], &[127, 0, 0, 1][..])
    );
    let Descriptor::Socket(unix) = &exec.stdio[1] else {
        panic!("{:?}", exec.stdio)
    };
    assert_eq!((unix.family, unix.socket_type), (1, 1));
    assert_eq!(exec.stdio[2], Descriptor::Closed);
}

#[test]
fn a_program_without_a_file_has_no_link() {
    let Some(mut watch) = Watch::start(&ProbeOptions::default()) else {
        return;
    };
    // SAFETY: the name ends in NUL.
    let memfd = unsafe { libc::memfd_create(c"payload".as_ptr(), 0) };
    let path = format!("/proc/self/fd/{memfd}");
    fs::write(&path, fs::read("/bin/true").unwrap()).unwrap();
    let (exec, status) = run(&mut watch, &mut Command::new(&path));
    assert_eq!(text(&exec.path), "/memfd:payload");
    assert_eq!((exec.file.nlink, status), (0, 0));
    assert_eq!(text(&exec.filename), path);
}

#[test]
fn failed_execs_are_seen() {
    let Some(mut watch) = Watch::start(&ProbeOptions::default()) else {
        return;
    };
    let records = watch.see(|| unsafe {
        // SAFETY: the strings and the empty lists outlive the calls.
        let nothing: [*const libc::c_char; 1] = [std::ptr::null()];
        libc::execve(
            c"/dogwatch/none".as_ptr(),
            nothing.as_ptr(),
            nothing.as_ptr(),
        );
        libc::syscall(
            libc::SYS_execveat,
            libc::AT_FDCWD,
            c"/etc".as_ptr(),
            nothing.as_ptr(),
            nothing.as_ptr(),
            0,
        );
    });
    let failed: Vec<_> = records
        .iter()
        .filter_map(|record| match record {
            Record::Called(called) => match called.argument("filename") {
                Some(Value::Text(path)) => Some((
                    called.header.ret,
                    text(path),
                    called.call.name == "execveat",
                )),
                _ => None,
            },
            _ => None,
        })
        .collect();
    let (enoent, eacces) = (-i64::from(libc::ENOENT), -i64::from(libc::EACCES));
    assert_eq!(
        failed,
        [
            (enoent, "/dogwatch/none".into(), false),
            (eacces, "/etc".into(), true)
        ]
    );
}
