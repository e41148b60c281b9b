//! What the whole machine uses: the row of the host, containers included.

use dogwatch_schemas::records::ContainerSample;

use super::Roots;
use super::growth::{self, Before};
use super::network::{Traffic, leads_inside};
use super::text::{long, named, number, pressure, read};
use crate::host::HOST_PIDS;

/// A tick of `/proc/stat` (USER_HZ is 100 on all machines that Linux runs on today).
const TICK_NS: u64 = 10_000_000;
/// `/proc/diskstats` counts in these, whatever the disk has.
const SECTOR_BYTES: u64 = 512;

/// See the module's description.
#[derive(Debug)]
pub(super) struct Machine {
    roots: Roots,
    before: Option<ContainerSample>,
}

impl Machine {
    pub fn new(roots: Roots) -> Self {
        Self {
            roots,
            before: None,
        }
    }

    /// What was used since the last call.
    pub fn sample(&mut self, now_ns: u64, went_back: &mut u64) -> ContainerSample {
        let reading = self.read(now_ns);
        let before = self.before.as_ref().map_or(Before::Unknown, Before::Read);
        let sample = growth::sample(&reading, before, went_back);
        self.before = Some(reading);
        sample
    }

    fn read(&self, now_ns: u64) -> ContainerSample {
        let mut reading = ContainerSample {
            boot_ts: long(now_ns),
            ..ContainerSample::default()
        };
        let file = |name: &str| read(&self.roots.proc.join(name)).unwrap_or_default();
        set_cpu(&mut reading, &file("stat"));
        set_memory(&mut reading, &file("meminfo"));
        reading.mem_oom_kills = named(&file("vmstat"), "oom_kill").map(long);
        let loadavg = file("loadavg");
        reading.pids_current = tasks(&loadavg).map(long);
        reading.pids_limit = self.tasks_max().map(long);
        self.set_disks(&mut reading, &file("diskstats"));
        self.set_network(&mut reading);
        set_pressure(&mut reading, |kind| {
            read(&self.roots.proc.join("pressure").join(kind))
        });
        reading
    }

    /// The kernel makes no process beyond any of the two.
    fn tasks_max(&self) -> Option<u64> {
        let of = |name: &str| number(&self.roots.proc.join("sys/kernel").join(name));
        [of("pid_max"), of("threads-max")]
            .into_iter()
            .flatten()
            .min()
    }

    fn set_disks(&self, reading: &mut ContainerSample, diskstats: &str) {
        let disk = |name: &str| {
            let built = ["loop", "ram", "dm-", "md", "zram"]
                .iter()
                .any(|start| name.starts_with(start));
            // Partitions are no folders here: their disk has counted for them.
            !built && self.roots.sys.join("block").join(name).is_dir()
        };
        let mut sums = [0u64; 4];
        let mut found = false;
        for line in diskstats.lines() {
            let fields: Vec<&str> = line.split_ascii_whitespace().collect();
            let number = |at: usize| fields.get(at).and_then(|field| field.parse::<u64>().ok());
            // major, minor, name, reads, merged, sectors, ms, writes, merged, sectors
            let (Some(name), Some(reads), Some(read), Some(writes), Some(written)) =
                (fields.get(2), number(3), number(5), number(7), number(9))
            else {
                continue;
            };
            if disk(name) {
                found = true;
                let added = [
                    read.saturating_mul(SECTOR_BYTES),
                    written.saturating_mul(SECTOR_BYTES),
                    reads,
                    writes,
                ];
                for (sum, added) in sums.iter_mut().zip(added) {
                    *sum = sum.saturating_add(added);
                }
            }
        }
        if found {
            let [read, written, reads, writes] = sums.map(long);
            reading.io_read_bytes = Some(read);
            reading.io_write_bytes = Some(written);
            reading.io_read_ops = Some(reads);
            reading.io_write_ops = Some(writes);
        }
    }

    fn set_network(&self, reading: &mut ContainerSample) {
        let files = HOST_PIDS.into_iter();
        let mut files = files.map(|pid| self.roots.proc.join(pid.to_string()).join("net/dev"));
        let Some(dev) = files.find_map(|path| read(&path)) else {
            return;
        };
        let class = self.roots.sys.join("class/net");
        let wire = |name: &str| class.join(name).join("device").exists();
        let traffic =
            Traffic::of(&dev, wire).or_else(|| Traffic::of(&dev, |name| !leads_inside(name)));
        if let Some(traffic) = traffic {
            traffic.set(reading);
        }
    }
}

/// `cpu user nice system idle iowait irq softirq steal …`, and a line for each CPU.
fn set_cpu(reading: &mut ContainerSample, stat: &str) {
    let Some(line) = stat.lines().find_map(|line| line.strip_prefix("cpu ")) else {
        return;
    };
    let ticks: Vec<u64> = line
        .split_ascii_whitespace()
        .map_while(|number| number.parse().ok())
        .collect();
    let &[user, nice, system, _, _, irq, softirq, ..] = &*ticks else {
        return;
    };
    let ns = |ticks: u64| long(ticks.saturating_mul(TICK_NS));
    reading.cpu_user_ns = Some(ns(user + nice));
    reading.cpu_system_ns = Some(ns(system + irq + softirq));
    reading.cpu_total_ns = Some(ns(user + nice + system + irq + softirq));
    let cpus = stat.lines().filter(|line| {
        line.strip_prefix("cpu")
            .is_some_and(|rest| rest.starts_with(|first: char| first.is_ascii_digit()))
    });
    reading.cpu_limit_millicores = Some(1_000 * cpus.count() as i64);
}

fn set_memory(reading: &mut ContainerSample, meminfo: &str) {
    let bytes = |name: &str| named(meminfo, name).map(|kib| kib.saturating_mul(1_024));
    let without = |all: Option<u64>, rest: Option<u64>| Some(long(all?.saturating_sub(rest?)));
    let total = bytes("MemTotal");
    reading.mem_limit_bytes = total.map(long);
    reading.mem_current_bytes = without(total, bytes("MemFree"));
    reading.mem_working_set_bytes = without(total, bytes("MemAvailable"));
    reading.mem_anon_bytes = bytes("AnonPages").map(long);
    reading.mem_file_bytes = bytes("Cached").map(long);
    reading.mem_swap_bytes = without(bytes("SwapTotal"), bytes("SwapFree"));
}

/// `0.00 0.01 0.05 running/all last_pid`.
fn tasks(loadavg: &str) -> Option<u64> {
    let (_, all) = loadavg.split_ascii_whitespace().nth(3)?.split_once('/')?;
    all.parse().ok()
}

/// Pressure of a machine or a cgroup; `file` has the text of one kind.
pub(super) fn set_pressure(
    reading: &mut ContainerSample,
    file: impl Fn(&'static str) -> Option<String>,
) {
    let of = |text: &Option<String>, kind: &str| pressure(text.as_deref()?, kind).map(long);
    let (cpu, memory, io) = (file("cpu"), file("memory"), file("io"));
    reading.psi_cpu_some_ns = of(&cpu, "some");
    reading.psi_memory_some_ns = of(&memory, "some");
    reading.psi_memory_full_ns = of(&memory, "full");
    reading.psi_io_some_ns = of(&io, "some");
    reading.psi_io_full_ns = of(&io, "full");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_are_nanoseconds_and_each_cpu_is_counted() {
        let mut reading = ContainerSample::default();
        set_cpu(
            &mut reading,
            "cpu  10 5 20 1000 3 1 2 7 0 0\ncpu0 5 5 5 5 5 5 5\ncpu1 5 5 5 5 5 5 5\nintr 3\n",
        );
        assert_eq!(reading.cpu_user_ns, Some(150_000_000));
        assert_eq!(reading.cpu_system_ns, Some(230_000_000));
        assert_eq!(reading.cpu_total_ns, Some(380_000_000));
        assert_eq!(reading.cpu_limit_millicores, Some(2_000));
        let mut nothing = ContainerSample::default();
        set_cpu(&mut nothing, "cpu  1 2");
        assert_eq!(nothing, ContainerSample::default());
    }

    #[test]
    fn tasks_are_all_threads() {
        assert_eq!(tasks("0.40 0.50 0.60 2/431 9911\n"), Some(431));
        assert_eq!(tasks(""), None);
    }
}
