//! Rows of samples: what was read of containers and processes, joined with what is known of them.

use std::collections::BTreeMap;

use dogwatch_schemas::Text;
use dogwatch_schemas::records::{ContainerSample, Event, ProcessSample};

use super::{Row, Tracker, text};
use crate::container::Place;
use crate::fact::ProcessUsage;
use crate::process::Id;
use crate::text::cut;

/// Bytes of `proc_exepath`.
const EXEPATH_BYTES_MAX: usize = 256;

/// Columns that tell whose row it is and when it was read; the same in both tables.
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
            let process = self.table.find(id);
            sample.proc_key = process.map_or_else(|| self.key(id), |process| process.key.clone());
            sample.proc_name = process.and_then(|process| process.comm.clone());
            if sample.proc_name.is_none() {
                sample.proc_name = Some(text(&comm, &mut false));
            }
            if let Some(process) = process {
                let program = process.program.as_ref();
                let path = program.and_then(|program| program.exepath.as_ref());
                sample.proc_exepath = path.map(|path| cut(path, EXEPATH_BYTES_MAX));
                sample.proc_stage = process.stage.map(|stage| stage.name().into());
                sample.user_host_uid = Some(i64::from(process.uid));
            }
            let place = process.map_or(Place::Unknown, |process| process.place.clone());
            let columns = self.columns_of(&place);
            set_place!(sample, columns);
            out.push(Row::ProcessSample(Box::new(sample)));
        }
    }

    fn columns_of(&self, place: &Place) -> Event {
        let mut event = Event::default();
        self.places.set_place(&mut event, place);
        event
    }

    /// A mark of `container_samples`: all of it up to this time has been told, or is among the losses.
    pub fn container_mark(&self, boot_ns: u64, losses: &BTreeMap<Text, u64>) -> ContainerSample {
        let mut mark = ContainerSample {
            boot_ts: boot_ns as i64,
            container_id: "host".into(),
            evt_losses: Some(counts(losses)),
            ..ContainerSample::default()
        };
        set_head!(mark, self, "mark");
        mark
    }

    /// A mark of `process_samples`.
    pub fn process_mark(&self, boot_ns: u64, losses: &BTreeMap<Text, u64>) -> ProcessSample {
        let mut mark = ProcessSample {
            boot_ts: boot_ns as i64,
            container_id: "host".into(),
            evt_losses: Some(counts(losses)),
            ..ProcessSample::default()
        };
        set_head!(mark, self, "mark");
        mark
    }
}

fn counts(losses: &BTreeMap<Text, u64>) -> BTreeMap<Text, i64> {
    let losses = losses.iter();
    losses
        .map(|(class, count)| (class.clone(), *count as i64))
        .collect()
}
