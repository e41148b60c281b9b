//! How a piece of work is timed: CPU time of the process, best and median of several runs.
//!
//! CPU time of all threads, for large steps use several, and not wall time, because these machines are shared.
//! The ratios inside one table are what counts.

use std::time::{Duration, Instant};

/// Times of one piece of work, sorted, each the CPU time of one whole run.
pub struct Times(Vec<Duration>);

impl Times {
    /// Returns the median in nanoseconds per item.
    pub fn median_ns(&self, items: usize) -> f64 {
        self.0[self.0.len() / 2].as_nanos() as f64 / items as f64
    }

    /// Returns the fastest run in nanoseconds per item.
    pub fn best_ns(&self, items: usize) -> f64 {
        self.0[0].as_nanos() as f64 / items as f64
    }
}

/// What a benchmark over a broker runs again and again, each thing in each round: neighbours slow all of them down.
pub struct Rounds {
    /// How many; at least one.
    pub count: usize,
    /// Text that the names of what runs have.
    pub only: String,
}

impl Rounds {
    /// Tells whether something runs.
    pub fn wants(&self, name: &str) -> bool {
        name.contains(&self.only)
    }

    /// Says how it was measured, for the table's notes.
    pub fn note(&self) -> String {
        format!("{} rounds, medians; each round runs everything", self.count)
    }
}

/// How much of the machine's CPU time its own host gave to others.
pub struct Stolen {
    ticks: [u64; 2],
}

impl Stolen {
    /// Says what the column of that name is.
    pub const NOTE: &str = "Stolen: how much of the machine's CPU time its host gave to others, the median of the rounds";

    /// Begins to count.
    ///
    /// # Panics
    /// When the kernel does not say.
    pub fn start() -> Self {
        Self {
            ticks: Self::ticks(),
        }
    }

    /// The share of the time since the start in percent.
    ///
    /// # Panics
    /// As [`Stolen::start`].
    pub fn percent(&self) -> f64 {
        let [stolen, all] = Self::ticks();
        let [stolen_before, all_before] = self.ticks;
        100.0 * (stolen - stolen_before) as f64 / (all - all_before).max(1) as f64
    }

    /// The cell for what the rounds had.
    ///
    /// # Panics
    /// When there was none.
    pub fn cell(percents: impl IntoIterator<Item = f64>) -> String {
        let [percent, ..] = spread(percents);
        format!("{percent:.1} %")
    }

    /// Stolen ticks and all ticks since boot, by the first line of `/proc/stat` (proc_stat(5)).
    fn ticks() -> [u64; 2] {
        let text = std::fs::read_to_string("/proc/stat").expect("/proc/stat can be read");
        let line = text.lines().next().unwrap_or_default();
        // user, nice, system, idle, iowait, irq, softirq, steal; guests' time is in user's.
        let ticks: Vec<u64> = line
            .split_whitespace()
            .skip(1)
            .take(8)
            .map(|ticks| ticks.parse().expect("ticks are a number"))
            .collect();
        [ticks[7], ticks.iter().sum()]
    }
}

/// Returns the median, the lowest and the highest of values.
///
/// # Panics
/// When there is none.
pub fn spread(values: impl IntoIterator<Item = f64>) -> [f64; 3] {
    let mut values: Vec<f64> = values.into_iter().collect();
    values.sort_by(f64::total_cmp);
    [
        values[values.len() / 2],
        values[0],
        values[values.len() - 1],
    ]
}

/// Runs `work` once to warm up and then `runs` times.
///
/// # Panics
/// When `runs` is 0.
pub fn cpu_time(runs: usize, work: impl FnMut()) -> Times {
    let [cpu, _] = cpu_and_wall_time(runs, work);
    cpu
}

/// As [`cpu_time`], and beside it the time on the wall.
///
/// # Panics
/// As [`cpu_time`].
pub fn cpu_and_wall_time(runs: usize, mut work: impl FnMut()) -> [Times; 2] {
    assert!(runs > 0, "at least one run");
    work();
    let (mut cpu, mut wall) = (Vec::new(), Vec::new());
    for _ in 0..runs {
        let (cpu_start, wall_start) = (process_cpu(), Instant::now());
        work();
        cpu.push(process_cpu() - cpu_start);
        wall.push(wall_start.elapsed());
    }
    [cpu, wall].map(|mut times| {
        times.sort_unstable();
        Times(times)
    })
}

/// CPU time of all threads so far.
///
/// # Panics
/// When the kernel has no such clock, which every Linux has.
pub fn process_cpu() -> Duration {
    let mut time = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: the pointer is to a timespec of ours; the clock exists on every Linux.
    let status = unsafe { libc::clock_gettime(libc::CLOCK_PROCESS_CPUTIME_ID, &mut time) };
    assert_eq!(status, 0, "the process's CPU clock exists");
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}
