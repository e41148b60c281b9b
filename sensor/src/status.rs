//! What the sensor says of itself: hello, heartbeat, loss, goodbye.

use dogwatch_schemas::Text;
use dogwatch_schemas::records::{Loss, SensorStatus};

use crate::clock::Clock;
use crate::fact::{Counters, Host};
use crate::loss::Ledger;
use crate::publish::Publisher;
use crate::stop::StopReason;

/// What a status tells beside the losses.
pub(crate) struct Circumstances<'a> {
    pub host: &'a Host,
    pub clock: &'a Clock,
    pub backend: &'static str,
    pub counters: &'a Counters,
    pub publisher: &'a Publisher,
    /// Processes and containers known, once they were looked for.
    pub known: Option<(usize, usize)>,
    /// What this host cannot deliver, one sentence each.
    pub not_delivered: &'a [Text],
    /// Files whose reading is published every time; none where that is not this sensor's doing (a replay).
    pub sensitive_read_paths: Option<&'a [Text]>,
    /// System calls that are switched off; none as above.
    pub calls_off: Option<&'a [Text]>,
}

/// A status record; `losses` are those not told before.
pub(crate) fn status(
    name: &str,
    now: &Circumstances<'_>,
    ledger: &Ledger,
    losses: Vec<Loss>,
) -> SensorStatus {
    let usage = usage();
    let longs = |map: &std::collections::BTreeMap<Text, u64>| {
        Some(
            map.iter()
                .map(|(key, count)| (key.clone(), *count as i64))
                .collect(),
        )
    };
    SensorStatus {
        host_id: now.host.host_id.clone(),
        host_name: now.host.host_name.clone(),
        host_tags: now.host.host_tags.clone(),
        boot_id: now.host.boot_id.clone(),
        sensor_run: now.host.sensor_run.clone(),
        ts: now.clock.wall_ns(now.clock.boot_ns()),
        boot_ts: now.clock.boot_ns() as i64,
        status: name.into(),
        sensor_version: env!("CARGO_PKG_VERSION").into(),
        kernel_release: now.host.kernel_release.clone(),
        arch: now.host.arch.clone(),
        backend: now.backend.into(),
        losses,
        losses_total: longs(ledger.totals()),
        sent: longs(&now.counters.sent),
        dropped: longs(&now.counters.dropped),
        filtered: longs(&now.counters.filtered),
        events_published: Some(now.publisher.events as i64),
        bytes_published: Some(now.publisher.bytes as i64),
        containers: now.known.map(|(_, containers)| containers as i64),
        processes: now.known.map(|(processes, _)| processes as i64),
        memory_bytes: usage.memory_bytes,
        cpu_ns: Some(usage.cpu_ns),
        not_delivered: Some(now.not_delivered.to_vec()),
        sensitive_read_paths: now.sensitive_read_paths.map(<[Text]>::to_vec),
        calls_off: now.calls_off.map(<[Text]>::to_vec),
        ..SensorStatus::default()
    }
}

/// Adds why the sensor ends.
pub(crate) fn set_goodbye(status: &mut SensorStatus, reason: &StopReason) {
    status.goodbye_signal = Some(reason.what.as_str().into());
    status.goodbye_pid = reason.pid.map(i64::from);
    status.goodbye_comm = reason.comm.as_deref().map(Text::from);
}

pub(crate) struct Usage {
    /// Resident memory of this process.
    pub memory_bytes: Option<i64>,
    /// CPU time of this process.
    pub cpu_ns: i64,
}

/// What this process uses.
pub(crate) fn usage() -> Usage {
    let mut time = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: `time` is a valid, writable timespec.
    unsafe { libc::clock_gettime(libc::CLOCK_PROCESS_CPUTIME_ID, &mut time) };
    // SAFETY: sysconf has no preconditions.
    let page_bytes = unsafe { libc::sysconf(libc::_SC_PAGESIZE) };
    let pages = std::fs::read_to_string("/proc/self/statm")
        .ok()
        .and_then(|statm| statm.split_ascii_whitespace().nth(1)?.parse::<i64>().ok());
    Usage {
        memory_bytes: pages.map(|pages| pages * page_bytes),
        cpu_ns: time.tv_sec * 1_000_000_000 + time.tv_nsec,
    }
}
