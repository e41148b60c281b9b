//! A child process whose output goes to a file, and that does not outlive its test.

use std::fs::{self, File};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use crate::wait;

/// A running program; killed when dropped.
#[derive(Debug)]
pub struct Process {
    name: String,
    child: Child,
    log: PathBuf,
}

impl Process {
    /// Starts a program with standard output and standard error appended to `log`.
    ///
    /// # Panics
    /// When it cannot be started.
    pub fn start(name: &str, command: &mut Command, log: &Path) -> Process {
        let file = File::options()
            .create(true)
            .append(true)
            .open(log)
            .expect("the log file can be written");
        let also = file.try_clone().expect("a file handle can be cloned");
        command.stdin(Stdio::null()).stdout(file).stderr(also);
        die_with_thread(command);
        let child = command
            .spawn()
            .unwrap_or_else(|error| panic!("could not start {name} ({command:?}): {error}"));
        Process {
            name: name.to_owned(),
            child,
            log: log.to_path_buf(),
        }
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Whether it is stopped, by SIGSTOP or by a debugger.
    pub fn is_stopped(&self) -> bool {
        let status = fs::read_to_string(format!("/proc/{}/stat", self.pid()));
        // The state follows the name, which stands in brackets and may hold anything.
        let state = status
            .ok()
            .and_then(|text| text.rsplit_once(") ")?.1.chars().next());
        matches!(state, Some('T' | 't'))
    }

    /// What it has written so far.
    pub fn log(&self) -> String {
        String::from_utf8_lossy(&fs::read(&self.log).unwrap_or_default()).into_owned()
    }

    /// Sends a signal.
    pub fn signal(&self, signal: libc::c_int) {
        // SAFETY: kill takes two integers; the child is not reaped while `self` lives.
        unsafe { libc::kill(self.child.id() as libc::pid_t, signal) };
    }

    /// Kills it as a crash would (SIGKILL) and reaps it.
    pub fn crash(mut self) {
        self.child.kill().expect("the process can be killed");
        let status = self.child.wait().expect("the process can be waited for");
        assert_eq!(
            status.signal(),
            Some(libc::SIGKILL),
            "{} had ended by itself: {}",
            self.name,
            self.log()
        );
    }

    /// Asks it to end (SIGTERM) and waits.
    ///
    /// # Panics
    /// When it does not end in time.
    pub fn stop(mut self, patience: Duration) -> ExitStatus {
        self.signal(libc::SIGTERM);
        self.wait(patience)
    }

    /// How it ended, if it has.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        self.child
            .try_wait()
            .expect("the process can be waited for")
    }

    /// Waits until it ends.
    ///
    /// # Panics
    /// When it does not end in time.
    pub fn wait(&mut self, patience: Duration) -> ExitStatus {
        let what = format!("the end of {} (see {})", self.name, self.log.display());
        wait::until(&what, patience, || {
            self.child
                .try_wait()
                .expect("the process can be waited for")
        })
    }

    /// Waits until its output holds `text`.
    ///
    /// # Panics
    /// When it ends before that, or does not say it in time; the message holds its output.
    pub fn wait_for_text(&mut self, text: &str, patience: Duration) {
        let start = std::time::Instant::now();
        while !self.log().contains(text) {
            let ended = self.ended();
            let late = start.elapsed() > patience;
            if ended.is_some() || late {
                panic!(
                    "{} did not say {text:?} (ended: {ended:?}):\n{}",
                    self.name,
                    self.log()
                );
            }
            std::thread::sleep(Duration::from_millis(50));
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // Both fail only when it has ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Has the kernel kill the child when the thread that started it ends, so that a killed test leaves nothing behind, and lets
/// it hear a SIGHUP even where the tests were started to ignore it.
pub fn die_with_thread(command: &mut Command) {
    // SAFETY: prctl and signal are async-signal-safe and touch only the child between fork and exec.
    unsafe {
        command.pre_exec(|| {
            libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL);
            libc::signal(libc::SIGHUP, libc::SIG_DFL);
            Ok(())
        });
    }
}
