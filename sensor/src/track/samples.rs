//! Rows of samples: what was read of containers and processes, joined with what is known of them.

use std::collections::{BTreeMap, HashMap};

use dogwatch_ebpf::calls::numbers;
use dogwatch_ebpf::record::SocketAddresses;
use dogwatch_schemas::Text;
use dogwatch_schemas::errno;
use dogwatch_schemas::records::{ContainerSample, Event, IoSample, ProcessSample, SyscallSample};

use super::rows::{Ends, set_ends};
use super::{Row, Tracker, text};
use crate::busiest::{Candidate, OF_ALL_MAX, Rest, busiest};
use crate::container::Place;
use crate::fact::{
    FailedCall, FailedRound, FileUsage, FilesRest, FilesRound, ProcessUsage, SocketEnds,
    files_weight,
};
use crate::process::Id;
use crate::sample::calls::{ByClass, is_counted};
use crate::text::cut;

/// Bytes of `proc_exepath`.
const EXEPATH_BYTES_MAX: usize = 256;
/// Bytes of `fd_name`.
const FD_NAME_BYTES_MAX: usize = 512;

/// Columns that tell whose row it is and when it was read; the same in all tables of samples.
macro_rules! set_head {
    ($sample:ident, $tracker:ident, $evt_type:literal) => {
        let host = &$tracker.host;
        $sample.host_id = host.host_id.clone();
        $sample.host_name = host.host_name.clone();
        $sample.host_tags = host.host_tags.clone();
        $sample.boot_id = host.boot_id.clone();
        $sample.sensor_run = host.sensor_run.clone();
        $sample.ts = $tracker.clock.wall_ns($sample.boot_ts as u64);
        $sample.evt_type = $evt_type.into();
    };
}

/// Columns of the container, as an event in it has them.
macro_rules! set_place {
    ($sample:ident, $event:ident) => {
        $sample.container_id = $event.container_id;
        $sample.container_full_id = $event.container_full_id;
        $sample.container_name = $event.container_name;
        $sample.container_type = $event.container_type;
        $sample.container_image = $event.container_image;
        $sample.container_image_repository = $event.container_image_repository;
        $sample.container_image_tag = $event.container_image_tag;
        $sample.container_sandbox = $event.container_sandbox;
        $sample.k8s_pod_name = $event.k8s_pod_name;
        $sample.k8s_ns_name = $event.k8s_ns_name;
    };
}

/// A mark of a table: each is of a type of its own, with these columns in common.
macro_rules! mark {
    ($record:ident, $self:ident, $boot_ns:ident, $losses:ident) => {{
        let mut mark = $record {
            boot_ts: $boot_ns as i64,
            container_id: "host".into(),
            evt_losses: Some(counts($losses)),
            ..$record::default()
        };
        set_head!(mark, $self, "mark");
        mark
    }};
}

/// Columns of the process, where the table knows it.
macro_rules! set_process {
    ($sample:ident, $tracker:ident, $id:ident, $comm:expr) => {
        let process = $tracker.table.find($id);
        $sample.proc_key = process.map_or_else(|| $tracker.key($id), |process| process.key.clone());
        $sample.proc_name = process.and_then(|process| process.comm.clone());
        if $sample.proc_name.is_none() {
            $sample.proc_name = Some(text(&$comm, &mut false));
        }
        if let Some(process) = process {
            let program = process.program.as_ref();
            let path = program.and_then(|program| program.exepath.as_ref());
            $sample.proc_exepath = path.map(|path| cut(path, EXEPATH_BYTES_MAX));
            $sample.proc_stage = process.stage.map(|stage| stage.name().into());
            $sample.user_host_uid = Some(i64::from(process.uid));
        }
    };
}

/// Failed calls of a round by class.
#[derive(Debug, Default)]
pub(super) struct FailedSums {
    of_containers: HashMap<Place, ByClass>,
    of_all: ByClass,
}

impl FailedSums {
    fn add(&mut self, place: &Place, failed: &FailedCall) {
        if !is_counted(failed.errno) {
            return;
        }
        let class = numbers::class(&failed.call) as usize;
        let of_container = self.of_containers.entry(place.clone()).or_default();
        of_container[class] += failed.count as i64;
        self.of_all[class] += failed.count as i64;
    }

    /// Those of a container; of the host all there are.
    fn of(&self, place: &Place) -> ByClass {
        match place {
            Place::Host => self.of_all,
            place => self.of_containers.get(place).copied().unwrap_or_default(),
        }
    }
}

impl Tracker {
    /// What a container used, or the host.
    pub(super) fn container_sample(&self, mut sample: Box<ContainerSample>, out: &mut Vec<Row>) {
        let place = match sample.container_full_id.take() {
            Some(id) => Place::Container(id),
            None => Place::Host,
        };
        set_head!(sample, self, "sample");
        let columns = self.columns_of(&place);
        set_place!(sample, columns);
        // As of all that is added: nothing is known of an interval that is not known.
        let failed = self.failed.as_ref();
        let failed = failed.filter(|_| sample.sample_interval_ns.is_some());
        let of = |class: usize| failed.map(|sums| sums.of(&place)[class]);
        sample.calls_failed_file = of(0);
        sample.calls_failed_net = of(1);
        sample.calls_failed_memory = of(2);
        sample.calls_failed_other = of(3);
        out.push(Row::ContainerSample(sample));
    }

    /// What some processes used. Of one that the table does not know, the row has what `/proc` told.
    pub(super) fn process_samples(&self, usages: Vec<ProcessUsage>, out: &mut Vec<Row>) {
        for ProcessUsage {
            start_ticks,
            comm,
            mut sample,
        } in usages
        {
            let id = Id {
                pid: sample.proc_pid as u32,
                start_ticks,
            };
            set_head!(sample, self, "sample");
            set_process!(sample, self, id, comm);
            let known = self.table.find(id);
            let place = known.map_or(Place::Unknown, |process| process.place.clone());
            let columns = self.columns_of(&place);
            set_place!(sample, columns);
            out.push(Row::ProcessSample(Box::new(sample)));
        }
    }

    /// Which calls failed: the rows of the most frequent ones, and one of the rest of each container.
    pub(super) fn failed_calls(&mut self, round: FailedRound, out: &mut Vec<Row>) {
        let mut sums = FailedSums::default();
        let candidates = round.calls.into_iter().map(|failed| {
            let id = Id {
                pid: failed.pid,
                start_ticks: failed.start_ticks,
            };
            let place = self.place_of_process(id, failed.cgroup_id);
            sums.add(&place, &failed);
            Candidate {
                place,
                weight: failed.count,
                row: failed,
            }
        });
        let (sent, rests) = busiest(candidates.collect(), OF_ALL_MAX);
        let new = |place: &Place| {
            let mut sample = SyscallSample {
                boot_ts: round.boot_ns as i64,
                sample_interval_ns: Some(round.interval_ns as i64),
                ..SyscallSample::default()
            };
            set_head!(sample, self, "sample");
            let columns = self.columns_of(place);
            set_place!(sample, columns);
            sample
        };
        for Candidate { place, row, .. } in sent {
            let mut sample = new(&place);
            self.set_failed(&mut sample, &row);
            out.push(Row::SyscallSample(Box::new(sample)));
        }
        for Rest { place, rows } in rests {
            let mut sample = new(&place);
            sample.evt_type = "rest".into();
            sample.call_failed = Some(rows.iter().map(|row| row.count as i64).sum());
            sample.rows_left_out = Some(rows.len() as i64);
            out.push(Row::SyscallSample(Box::new(sample)));
        }
        self.failed = Some(sums);
    }

    /// Where a process is, or where it was seen where the table does not know it.
    fn place_of_process(&self, id: Id, cgroup_id: u64) -> Place {
        let process = self.table.find(id);
        process.map_or_else(
            || self.places.place_of(cgroup_id),
            |process| process.place.clone(),
        )
    }

    /// What processes have open: the rows of the busiest, and one of the rest of each container.
    pub(super) fn open_files(&self, round: FilesRound, out: &mut Vec<Row>) {
        let candidates = round.files.into_iter().map(|usage| {
            let id = Id {
                pid: usage.pid,
                start_ticks: usage.start_ticks,
            };
            Candidate {
                place: self.place_of_process(id, usage.cgroup_id),
                weight: files_weight(usage.sample.fd_backlog, usage.bytes_through()),
                row: usage,
            }
        });
        let (sent, rests) = busiest(candidates.collect(), OF_ALL_MAX);
        let mut sums: BTreeMap<Place, FilesRest> = BTreeMap::new();
        for rest in &round.rests {
            let place = self.places.place_of(rest.cgroup_id);
            sums.entry(place).or_default().plus(rest);
        }
        for Rest { place, rows } in rests {
            let sum = sums.entry(place).or_default();
            rows.iter().for_each(|usage| sum.add(usage.bytes_through()));
        }
        let finished = |mut sample: IoSample, place: &Place| {
            sample.boot_ts = round.boot_ns as i64;
            sample.sample_interval_ns = round.interval_ns.map(|interval_ns| interval_ns as i64);
            set_head!(sample, self, "sample");
            let columns = self.columns_of(place);
            set_place!(sample, columns);
            Box::new(sample)
        };
        for Candidate { place, row, .. } in sent {
            let sample = finished(self.of_open_file(row), &place);
            out.push(Row::IoSample(sample));
        }
        for (place, rest) in sums {
            // In a first round nothing is known of any row.
            let known = |sum: i64| round.interval_ns.map(|_| sum);
            let sample = IoSample {
                fd_forward_bytes: known(rest.forward_bytes),
                fd_rx_bytes: known(rest.rx_bytes),
                fd_tx_bytes: known(rest.tx_bytes),
                rows_left_out: Some(rest.rows as i64),
                fds_left_out: Some(rest.left as i64),
                ..IoSample::default()
            };
            let mut sample = finished(sample, &place);
            sample.evt_type = "rest".into();
            out.push(Row::IoSample(sample));
        }
    }

    fn of_open_file(&self, usage: FileUsage) -> IoSample {
        let id = Id {
            pid: usage.pid,
            start_ticks: usage.start_ticks,
        };
        let mut sample = *usage.sample;
        sample.proc_pid = i64::from(usage.pid);
        set_process!(sample, self, id, usage.comm);
        if let Some(path) = usage.path {
            let path = text(&path, &mut false);
            sample.fd_name = Some(cut(&path, FD_NAME_BYTES_MAX));
        }
        if let Some(ends) = usage.ends {
            set_socket(&mut sample, &ends);
        }
        sample
    }

    fn set_failed(&self, sample: &mut SyscallSample, failed: &FailedCall) {
        let id = Id {
            pid: failed.pid,
            start_ticks: failed.start_ticks,
        };
        sample.proc_pid = i64::from(failed.pid);
        set_process!(sample, self, id, failed.comm);
        sample.call_class = Some(numbers::class(&failed.call).name().into());
        sample.call_name = Some(failed.call.clone());
        sample.call_entry = Some(failed.entry.clone());
        sample.call_errno = Some(errno::name(failed.errno).into());
        sample.call_failed = Some(failed.count as i64);
    }

    fn columns_of(&self, place: &Place) -> Event {
        let mut event = Event::default();
        self.places.set_place(&mut event, place);
        event
    }

    /// A mark of `container_samples`: all of it up to this time has been told, or is among the losses.
    pub fn container_mark(&self, boot_ns: u64, losses: &BTreeMap<Text, u64>) -> ContainerSample {
        mark!(ContainerSample, self, boot_ns, losses)
    }

    /// A mark of `process_samples`.
    pub fn process_mark(&self, boot_ns: u64, losses: &BTreeMap<Text, u64>) -> ProcessSample {
        mark!(ProcessSample, self, boot_ns, losses)
    }

    /// A mark of `io_samples`.
    pub fn io_mark(&self, boot_ns: u64, losses: &BTreeMap<Text, u64>) -> IoSample {
        mark!(IoSample, self, boot_ns, losses)
    }

    /// A mark of `syscall_samples`.
    pub fn syscall_mark(&self, boot_ns: u64, losses: &BTreeMap<Text, u64>) -> SyscallSample {
        mark!(SyscallSample, self, boot_ns, losses)
    }
}

/// Columns of a socket, as an event on it has them.
fn set_socket(sample: &mut IoSample, ends: &SocketEnds) {
    let socket = SocketAddresses {
        family: ends.family,
        socket_type: ends.socket_type,
        protocol: ends.protocol,
        local_port: ends.local_port,
        remote_port: ends.remote_port,
        local: ends.local,
        remote: ends.remote,
        unix_path: Vec::new(),
    };
    let ends = Ends {
        socket: &socket,
        peer: None,
        asked: None,
        is_server: ends.is_server,
    };
    let mut event = Event::default();
    set_ends(&mut event, &ends, &mut false);
    sample.fd_type = event.fd_type;
    sample.fd_name = event.fd_name;
    // Who waits for whom is known of TCP alone.
    let is_bound_alone = socket.remote_port == 0 && sample.fd_state.as_deref() != Some("listen");
    let is_server = event
        .fd_is_server
        .map(|is_server| is_server && !is_bound_alone);
    sample.fd_is_server = sample.fd_state.as_ref().and(is_server);
    sample.fd_l4proto = event.fd_l4proto;
    (sample.fd_lip, sample.fd_lport) = (event.fd_lip, event.fd_lport);
    (sample.fd_rip, sample.fd_rport) = (event.fd_rip, event.fd_rport);
}

fn counts(losses: &BTreeMap<Text, u64>) -> BTreeMap<Text, i64> {
    let losses = losses.iter();
    losses
        .map(|(class, count)| (class.clone(), *count as i64))
        .collect()
}
