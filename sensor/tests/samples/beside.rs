//! Containers' cgroups without a runtime, and a sensor whose rows of samples are taken in.

use std::fs;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::sync::mpsc::{self, Receiver};
use std::time::{Duration, Instant};

use dogwatch_schemas::local::{self, LogRecord};
use dogwatch_schemas::records::{ContainerSample, IoSample, ProcessSample, SyscallSample};
use dogwatch_schemas::topics::Topic;
use dogwatch_sensor::config::{Config, RawConfig};
use dogwatch_sensor::pipeline::{Input, Loaded, Output, Shutdown, Stats};

/// An emulated processor on a busy machine takes its time.
pub const PATIENCE: Duration = Duration::from_secs(120);

/// A container's cgroups, one in each hierarchy; removed when dropped.
pub struct Cgroups {
    pub id: String,
    pub folders: Vec<PathBuf>,
}

impl Cgroups {
    pub fn make() -> Self {
        let id: String = (0..64)
            .map(|_| char::from_digit(rand::random::<u32>() % 16, 16).unwrap())
            .collect();
        let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
        let mut folders = Vec::new();
        for line in mounts.lines() {
            let (before, after) = line.split_once(" - ").unwrap();
            let kind = after.split(' ').next().unwrap();
            let point = before.split(' ').nth(4).unwrap();
            let root = before.split(' ').nth(3) == Some("/");
            if root && (kind == "cgroup" || kind == "cgroup2") && !after.contains("cpuset") {
                let parent = Path::new(point).join("docker");
                let folder = parent.join(&id);
                let _ = fs::create_dir_all(&parent);
                for above in [Path::new(point), &parent] {
                    // Of version 2, and there only what the host has not given away.
                    for controller in ["+cpu", "+memory", "+pids", "+io"] {
                        let _ = fs::write(above.join("cgroup.subtree_control"), controller);
                    }
                }
                fs::create_dir(&folder).unwrap();
                folders.push(folder);
            }
        }
        Self { id, folders }
    }

    /// Starts a command in them; it ends with this program.
    pub fn start(&self, mut command: Command) -> Child {
        let members: Vec<PathBuf> = self
            .folders
            .iter()
            .map(|folder| folder.join("cgroup.procs"))
            .collect();
        let enter = move || {
            // SAFETY: a plain system call.
            unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) };
            members.iter().try_for_each(|file| fs::write(file, "0"))
        };
        // SAFETY: system calls, on what was made before; the child has one thread.
        unsafe { command.pre_exec(enter) };
        command.spawn().unwrap()
    }
}

impl Drop for Cgroups {
    fn drop(&mut self) {
        for folder in &self.folders {
            // Best effort: an empty cgroup that stays does no harm.
            let _ = fs::remove_dir(folder);
        }
    }
}

/// What a sensor says of this machine.
pub struct Rows {
    records: Receiver<LogRecord>,
    pub containers: Vec<ContainerSample>,
    pub processes: Vec<ProcessSample>,
    pub calls: Vec<SyscallSample>,
    pub io: Vec<IoSample>,
}

impl Rows {
    /// Takes rows until all tables have so many marks more than there are by now.
    pub fn rounds(&mut self, count: usize) {
        while let Ok(record) = self.records.try_recv() {
            self.take(&record);
        }
        let end = Instant::now() + PATIENCE;
        let wanted = self.marks().map(|marks| marks + count);
        while self
            .marks()
            .iter()
            .zip(wanted)
            .any(|(marks, wanted)| *marks < wanted)
        {
            let left = end.saturating_duration_since(Instant::now());
            let record = self.records.recv_timeout(left).expect("rows go on");
            self.take(&record);
        }
    }

    fn take(&mut self, record: &LogRecord) {
        let value = &record.value;
        match record.topic {
            Topic::ContainerSamples => self
                .containers
                .push(ContainerSample::decode_framed(value).unwrap()),
            Topic::ProcessSamples => self
                .processes
                .push(ProcessSample::decode_framed(value).unwrap()),
            Topic::SyscallSamples => self
                .calls
                .push(SyscallSample::decode_framed(value).unwrap()),
            Topic::IoSamples => self.io.push(IoSample::decode_framed(value).unwrap()),
            _ => {}
        }
    }

    fn marks(&self) -> [usize; 4] {
        let containers = self
            .containers
            .iter()
            .filter(|row| &*row.evt_type == "mark");
        let processes = self.processes.iter().filter(|row| &*row.evt_type == "mark");
        let calls = self.calls.iter().filter(|row| &*row.evt_type == "mark");
        let io = self.io.iter().filter(|row| &*row.evt_type == "mark");
        [
            containers.count(),
            processes.count(),
            calls.count(),
            io.count(),
        ]
    }
}

fn config(interval: Duration) -> Config {
    let mut raw = RawConfig {
        host_id: "samples".into(),
        state_file: String::new(),
        ..RawConfig::default()
    };
    raw.metrics.listen = String::new();
    raw.samples.interval = interval;
    Config::check(raw).unwrap()
}

/// Runs `test` beside a sensor that samples so often.
pub fn beside(interval: Duration, test: impl FnOnce(&mut Rows)) {
    let (sender, records) = local::channel(1_000);
    let shutdown = Shutdown::new();
    let own = shutdown.clone();
    // It gives up rights that the load still needs: in a thread of its own.
    let sensor = std::thread::spawn(move || {
        let loaded = Loaded::load(config(interval), Input::Kernel).unwrap();
        loaded.run(Output::Local(sender), own, Stats::default())
    });
    // Whatever the test does meanwhile, the sensor is not held back.
    let (kept, records_kept) = mpsc::channel();
    std::thread::spawn(move || {
        let tables = [
            Topic::ContainerSamples,
            Topic::ProcessSamples,
            Topic::SyscallSamples,
            Topic::IoSamples,
        ];
        let mut samples = records
            .iter()
            .filter(|record| tables.contains(&record.topic));
        samples.try_for_each(|record| kept.send(record))
    });
    let mut rows = Rows {
        records: records_kept,
        containers: Vec::new(),
        processes: Vec::new(),
        calls: Vec::new(),
        io: Vec::new(),
    };
    rows.rounds(1);
    test(&mut rows);
    shutdown.trigger_because("the test is over");
    drop(rows);
    sensor.join().unwrap().unwrap();
}
