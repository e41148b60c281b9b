//! Turns what enters into events: keeps the tables of processes and containers, and joins every record with them.
//!
//! ```text
//! Fork 1201 -> 1202          table: 1202 is a child of 1201, same program, same stage
//! Exec 1202 /bin/sh -c id    table: 1202 executes sh   event: execve, its process, parent, container, stage
//! Open 1202 /etc/shadow      event: openat, with all of that again
//! ```
//! A pure state machine: no clock, no files, no threads. The same input gives the same events, live and replayed.

mod apart;
mod blocks;
mod calls;
mod counted;
mod credentials;
mod environment;
mod image;
mod join;
mod layer;
mod places;
mod row;
mod rows;
mod runs;
mod samples;
mod trees;

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use dogwatch_ebpf::calls::names;
use dogwatch_ebpf::record::{
    Called, Exec, Header, Identity, PLACE_CWD, PLACE_IDENTITY, Record, Value,
};
use dogwatch_schemas::Text;
use dogwatch_schemas::proc_key;
use dogwatch_schemas::records::{self, Event};

use crate::clock::{Clock, Reading};
use crate::container::{Container, Place, short};
use crate::fact::{Counted, Fact, Host, Input, Running};
use crate::loss::Class;
use crate::mounts::Mounts;
use crate::process::stage::{Arrival, Invocation, Script, on_arrival};
use crate::process::{Id, InnerIds, Process, ProcessTable, Stage, TableBounds};
use crate::redact::Redactor;
use crate::text::text;
use crate::users::Users;
use blocks::{Block, Blocks};
use counted::Failures;
use image::Arguments;
use places::Places;
pub(crate) use places::WaitingBounds;
use row::RunColumns;
pub(crate) use row::{EventRow, Row};
use samples::FailedSums;
use trees::Trees;

/// Bytes of users' names of all containers.
const USERS_BYTES_MAX: usize = 1 << 20;

/// Something that could not be kept, so that rows say less than they might.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Shortfall {
    /// How: [`Class::TableFull`] or [`Class::MetadataQueue`].
    pub class: Class,
    /// The type of the event that goes without, or that came when there was no room.
    pub evt_type: Text,
    pub count: u64,
}

/// Bounds and rules of the tracker.
#[derive(Debug, Clone)]
pub(crate) struct TrackOptions {
    pub table: TableBounds,
    pub waiting: WaitingBounds,
    pub clock_step_min: Duration,
    /// Names of the labels that every row of a container keeps.
    pub labels: Vec<Text>,
    pub redactor: Redactor,
}

/// See the module's description.
#[derive(Debug)]
pub(crate) struct Tracker {
    host: Host,
    run: RunColumns,
    clock: Clock,
    /// Wall time of the boot, as the blocks tell it.
    blocks_boot_ns: i64,
    redactor: Redactor,
    table: ProcessTable,
    blocks: Blocks,
    places: Places,
    users: HashMap<Option<Text>, Users>,
    /// The host's mounts, where they may be read.
    mounts: Mounts,
    /// Trees of mounts that containers changed.
    trees: Trees,
    failures: Failures,
    /// Failed calls of the round under way by class, of each container and of the whole host.
    failed: Option<FailedSums>,
    /// Processes given up that were told as a loss.
    evictions_told: u64,
    /// The newest record so far, nanoseconds since boot.
    newest_ns: u64,
}

/// A wall clock that has drifted by this much makes the starts of processes be told anew.
const DRIFT_MAX_NS: u64 = 1_000_000;

/// A process left its container.
struct Departure {
    from: Text,
    to: Place,
}

impl Tracker {
    /// A tracker that knows nothing yet.
    pub fn new(host: Host, options: TrackOptions) -> Self {
        let run = RunColumns::of(&host);
        Self {
            host,
            clock: Clock::new(options.clock_step_min),
            blocks_boot_ns: 0,
            redactor: options.redactor,
            table: ProcessTable::new(options.table),
            blocks: Blocks::new(blocks::BYTES_MAX),
            places: Places::new(options.waiting, run.clone(), options.labels),
            run,
            users: HashMap::new(),
            mounts: Mounts::default(),
            trees: Trees::default(),
            failures: Failures::default(),
            failed: None,
            evictions_told: 0,
            newest_ns: 0,
        }
    }

    /// Takes one input and appends what comes of it.
    pub fn step(&mut self, input: Input, out: &mut Vec<Row>) {
        if tells_of_surroundings(&input) {
            self.blocks.outdate();
        }
        match input {
            Input::Record(record) => {
                self.newest_ns = self.newest_ns.max(record.header().boot_ns);
                let (evt_type, ..) = rows::call(&record);
                self.record(record, out);
                self.tell_evictions(evt_type);
            }
            Input::Fact(fact) => self.fact(fact, out),
        }
    }

    fn tell_evictions(&mut self, evt_type: &str) {
        let count = self.table.living_evicted - self.evictions_told;
        if count > 0 {
            self.evictions_told = self.table.living_evicted;
            self.places.shortfalls.push(Shortfall {
                class: Class::TableFull,
                evt_type: evt_type.into(),
                count,
            });
        }
    }

    /// The clock in use.
    pub fn clock(&self) -> &Clock {
        &self.clock
    }

    /// Processes and containers known now.
    pub fn known(&self) -> (usize, usize) {
        (self.table.len(), self.places.containers())
    }

    /// Encoded blocks that had to go for others; see [`blocks`].
    pub fn blocks_evicted(&self) -> u64 {
        self.blocks.evicted
    }

    /// Takes what could not be kept since the last call.
    pub fn shortfalls(&mut self) -> Vec<Shortfall> {
        std::mem::take(&mut self.places.shortfalls)
    }

    /// Hands out what still waits; at the end.
    pub fn finish(&mut self, out: &mut Vec<Row>) {
        self.places.release_all(out);
    }

    /// A `mark` row: everything up to its time is published, or among the losses (so far, by class).
    ///
    /// Its time is before the clock's, which rows of the sensor's own may still bear, and before the oldest event that
    /// waits for its container.
    pub fn mark(&self, losses: &BTreeMap<Text, u64>) -> EventRow {
        let waiting_ns = self.places.oldest_waiting_ns().unwrap_or(u64::MAX);
        let boot_ns = self.clock.boot_ns().min(waiting_ns).saturating_sub(1);
        let mut event = self.own_event_at(boot_ns, "mark", "internal");
        event.evt_losses = Some(
            losses
                .iter()
                .map(|(class, count)| (class.clone(), *count as i64))
                .collect(),
        );
        EventRow::alone(&self.run, event)
    }

    fn fact(&mut self, fact: Fact, out: &mut Vec<Row>) {
        match fact {
            Fact::Clock(reading) => self.tick(reading, out),
            Fact::Cgroup { id, path } => self.places.found(id, &path),
            Fact::ContainerCgroup {
                path,
                name,
                runtime,
            } => self.places.tell(&path, &name, &runtime),
            Fact::CgroupGone { id } => self.cgroup_gone(id, out),
            Fact::Running(running) => {
                self.running(&running, out);
                self.tell_evictions("running");
            }
            Fact::Container(container) => self.container(*container, out),
            Fact::Users { container, users } => {
                self.users.insert(container, users);
                self.bound_users();
            }
            Fact::HostMounts(mounts) => {
                self.places.mounts_known = true;
                self.mounts = mounts;
            }
            Fact::Tree { mnt_ns, mounts } => self.trees.insert(mnt_ns, mounts),
            Fact::Limited {
                cgroup_id,
                kind,
                counted,
            } => self.limited(cgroup_id, kind, &counted, out),
            Fact::Folded {
                cgroup_id,
                fold,
                counted,
            } => self.folded(cgroup_id, fold, &counted, out),
            Fact::ContainerSample(sample) => self.container_sample(sample, out),
            Fact::ProcessSamples(samples) => self.process_samples(samples, out),
            Fact::FailedCalls(round) => self.failed_calls(round, out),
            Fact::OpenFiles(round) => self.open_files(round, out),
            Fact::Sampled(round) if round.ended_ns.is_some() => self.failed = None,
            // These count losses; the pipeline reads them. A round that did not come leaves the sums of the one under way.
            Fact::Sampled(_) | Fact::Counters(_) | Fact::Unparsed(_) | Fact::Before(_) => {}
        }
    }

    /// The container with the most bytes of names loses them first; the host's are bounded where they are read.
    fn bound_users(&mut self) {
        let bytes =
            |users: &HashMap<Option<Text>, Users>| users.values().map(Users::bytes).sum::<usize>();
        while bytes(&self.users) > USERS_BYTES_MAX {
            let containers = self
                .users
                .iter()
                .filter(|(container, _)| container.is_some());
            let largest = containers.max_by_key(|(_, users)| users.bytes());
            let Some(container) = largest.map(|(container, _)| container.clone()) else {
                return;
            };
            self.users.remove(&container);
        }
    }

    /// Calls that were more than a container may send.
    fn limited(&mut self, cgroup_id: u64, kind: Text, counted: &Counted, out: &mut Vec<Row>) {
        let mut event = self.own_event("rate_limited", "internal");
        event.evt_args = Some(BTreeMap::from([("kind".into(), kind)]));
        counted::set_counted(&mut event, counted, &self.clock);
        let place = self.places.place_of(cgroup_id);
        self.places.send(event, &place, None, out);
    }

    /// Repeats of a failed open, as a row like the first one's; without its columns where that is no longer kept.
    fn folded(&mut self, cgroup_id: u64, fold: u64, counted: &Counted, out: &mut Vec<Row>) {
        let Some(record) = self.failures.record(fold) else {
            let mut event = self.own_event("open", "file");
            event.evt_outcome = "failed".into();
            event.evt_failed = true;
            counted::set_counted(&mut event, counted, &self.clock);
            let place = self.places.place_of(cgroup_id);
            return self.places.send(event, &place, None, out);
        };
        let header = counted::header_now(record.header(), self.clock.boot_ns().max(self.newest_ns));
        let (evt_type, category, hook) = rows::call(record);
        let mut event = self.event(&header, evt_type, category, hook);
        counted::set_failure(&mut event, record, counted, &self.clock);
        self.send(event, Id::new(header.pid, header.start_ns), &header, out);
    }

    fn tick(&mut self, reading: Reading, out: &mut Vec<Row>) {
        let step = self.clock.take(reading);
        if self.clock.wall_ns(0).abs_diff(self.blocks_boot_ns) >= DRIFT_MAX_NS {
            self.blocks_boot_ns = self.clock.wall_ns(0);
            self.blocks.outdate();
        }
        self.table.reap(reading.boot_ns);
        self.places.release_overdue(reading.boot_ns, out);
        if let Some(moved_ns) = step {
            let mut event = self.own_event("clock_step", "system");
            event.evt_args = Some(BTreeMap::from([(
                "moved_ns".into(),
                moved_ns.to_string().into(),
            )]));
            self.push_own(event, out);
        }
    }

    fn container(&mut self, container: Container, out: &mut Vec<Row>) {
        let id = container.id.clone();
        if let Some((action, news)) = self.places.learn(container) {
            self.tell_container(&id, action, news, out);
        }
        self.places.release(&id, out);
    }

    /// A cgroup is gone; with its own cgroup a container has ended.
    fn cgroup_gone(&mut self, id: u64, out: &mut Vec<Row>) {
        if let Some(container) = self.places.removed(id) {
            self.tell_container(&container, "stop", true, out);
            self.places.forget(&container, out);
            self.users.remove(&Some(container));
        }
    }

    /// The in-band row of a container, and its record where something changed.
    fn tell_container(&self, id: &Text, action: &'static str, news: bool, out: &mut Vec<Row>) {
        let Some(container) = self.places.container(id) else {
            return;
        };
        let mut event = self.own_event("container", "container");
        event.evt_args = Some(BTreeMap::from([
            ("action".into(), action.into()),
            ("metadata_source".into(), container.metadata_source()),
        ]));
        rows::set_container(&mut event, container, &[]);
        self.push_own(event, out);
        if news {
            let mut record = container.record(if action == "stop" {
                "removed"
            } else {
                "running"
            });
            self.redact_record(&mut record);
            rows::set_record_host(
                &mut record,
                &self.host,
                self.clock.wall_ns(self.clock.boot_ns()),
            );
            out.push(Row::Container(Box::new(record)));
        }
    }

    fn redact_record(&self, record: &mut records::Container) {
        let lists = [
            &mut record.container_entrypoint,
            &mut record.container_command,
            &mut record.container_healthcheck,
        ];
        for list in lists.into_iter().flatten() {
            self.redactor.redact(None, list);
        }
    }

    fn record(&mut self, record: Record, out: &mut Vec<Row>) {
        match record {
            Record::Exec(exec) => self.exec(&exec, out),
            Record::Fork {
                header,
                child_pid,
                child_vpid,
                child_start_ns,
                child_cgroup_id,
                clone_flags,
                child,
            } => {
                self.touch(&header, out);
                let child_id = Id::new(child_pid, child_start_ns);
                self.fork(
                    &header,
                    child_id,
                    child_vpid,
                    child_start_ns,
                    child_cgroup_id,
                    clone_flags,
                    &child,
                    out,
                );
            }
            Record::Threads { header } => {
                self.touch(&header, out);
                self.push(&header, &record, out);
            }
            Record::Exit { header, .. } => {
                self.touch(&header, out);
                self.push(&header, &record, out);
                let id = Id::new(header.pid, header.start_ns);
                let process = self.table.find(id);
                let first = process.filter(|process| process.vpid == Some(1));
                if let Some(pid_ns) = first.and_then(|process| process.pid_ns) {
                    self.places.apart.ended(pid_ns);
                }
                self.table.exit(id, header.boot_ns);
                self.blocks.forget(id);
            }
            Record::Cgroup {
                ref header,
                made,
                id,
                ref path,
            } => {
                let path = text(path, &mut false);
                self.touch(header, out);
                if made {
                    self.places.made(id, &path);
                }
                self.push(header, &record, out);
                if !made {
                    self.cgroup_gone(id, out);
                }
            }
            Record::CgroupMove {
                ref header,
                pid,
                start_ns,
                to_id,
                ..
            } => {
                self.touch(header, out);
                let by = self
                    .table
                    .find(Id::new(header.pid, header.start_ns))
                    .map(|process| process.key.clone());
                self.relocate(Id::new(pid, start_ns), to_id, header, by, out);
            }
            Record::Called(ref called) => {
                self.touch(&called.header, out);
                self.take_effect(called);
                self.push(&called.header, &record, out);
            }
            Record::Open { ref header, .. } => {
                self.touch(header, out);
                self.failures.keep(&record);
                self.push(header, &record, out);
            }
        }
    }

    /// What a call made of its process.
    fn take_effect(&mut self, called: &Called) {
        let header = &called.header;
        let id = Id::new(header.pid, header.start_ns);
        if let Some(Value::Identity(identity)) = called.at(PLACE_IDENTITY) {
            self.table
                .update(id, |process| set_identity(process, identity, header));
        }
        if let Some(Value::Text(cwd)) = called.at(PLACE_CWD)
            && header.ret >= 0
        {
            let mut escaped = false;
            let cwd = text(cwd, &mut escaped);
            self.table.update(id, |process| {
                process.escaped |= escaped;
                let mut program = process.program.as_deref().cloned().unwrap_or_default();
                program.cwd = Some(cwd);
                process.program = Some(Arc::new(program));
            });
        }
    }

    /// Brings the process of a record up to date.
    fn touch(&mut self, header: &Header, out: &mut Vec<Row>) {
        let id = Id::new(header.pid, header.start_ns);
        if self.table.find(id).is_none() && !self.table.revive(id, self.key(id)) {
            // Its fork was not seen.
            let stranger = self.stranger(id, header);
            self.table.insert(stranger);
        }
        let current = self.table.find(id).is_some_and(|process| {
            process.hear();
            (process.uid, process.gid, process.start_ns, process.vpid)
                == (header.uid, header.gid, header.start_ns, Some(header.vpid))
        });
        if !current {
            self.table.update(id, |process| {
                (process.uid, process.gid) = (header.uid, header.gid);
                process.start_ns = header.start_ns;
                process.vpid = Some(header.vpid);
            });
        }
        self.relocate(id, header.cgroup_id, header, None, out);
    }

    /// A process as a record's common part shows it. What part of a container's life it belongs to is not known.
    fn stranger(&self, id: Id, header: &Header) -> Process {
        let mut process = Process::new(
            id,
            self.key(id),
            header.start_ns,
            header.uid,
            header.gid,
            header.cgroup_id,
            self.places.place_of(header.cgroup_id),
        );
        process.vpid = Some(header.vpid);
        process
    }

    fn key(&self, id: Id) -> Text {
        proc_key(
            &self.host.host_id,
            &self.host.boot_id,
            id.pid,
            id.start_ticks,
        )
    }

    /// Where a process is, by its cgroup and, where that is no container's, by its namespaces.
    fn place_in(&mut self, cgroup_id: u64, mnt_ns: Option<u32>, pid_ns: Option<u32>) -> Place {
        let by_cgroup = self.places.place_of(cgroup_id);
        let apart = &mut self.places.apart;
        apart.place(&self.host, by_cgroup, mnt_ns, pid_ns)
    }

    /// Puts a process into another cgroup; leaving its container is an event.
    fn relocate(
        &mut self,
        id: Id,
        cgroup_id: u64,
        header: &Header,
        by: Option<Text>,
        out: &mut Vec<Row>,
    ) {
        let namespaces = |process: &Process| (process.mnt_ns, process.pid_ns);
        let (mnt_ns, pid_ns) = self.table.find(id).map(namespaces).unwrap_or_default();
        let place = self.place_in(cgroup_id, mnt_ns, pid_ns);
        // Of a cgroup that was removed nothing is known any more: whoever is left in it is where it was.
        let same = |process: &Process| {
            process.cgroup_id == cgroup_id && (process.place == place || place == Place::Unknown)
        };
        if self.table.find(id).is_some_and(same)
            || (self.table.find(id).is_none() && !self.table.revive(id, self.key(id)))
        {
            return;
        }
        let departure = self.table.update(id, |process| {
            process.cgroup_id = cgroup_id;
            depart(process, place)
        });
        if let Some(departure) = departure.flatten() {
            self.push_departure(id, header, &departure, by, out);
        }
    }

    fn push_departure(
        &mut self,
        id: Id,
        header: &Header,
        departure: &Departure,
        by: Option<Text>,
        out: &mut Vec<Row>,
    ) {
        let mut event = self.event(header, "container_move", "container", "cgroup_attach_task");
        let mut arguments = BTreeMap::from([
            ("from".into(), short(&departure.from)),
            ("to".into(), departure.to.name()),
        ]);
        arguments.extend(by.map(|key| ("by".into(), key)));
        event.evt_args = Some(arguments);
        self.send(event, id, header, out);
    }

    #[allow(clippy::too_many_arguments, reason = "the parts of one fork record")]
    fn fork(
        &mut self,
        header: &Header,
        id: Id,
        vpid: u32,
        start_ns: u64,
        cgroup_id: u64,
        clone_flags: u64,
        identity: &Identity,
        out: &mut Vec<Row>,
    ) {
        let caller = Id::new(header.pid, header.start_ns);
        if self.table.find(id).is_some() {
            // Found by the scan, too: the record knows the start to the nanosecond.
            self.table.update(id, |child| child.start_ns = start_ns);
        } else {
            let place = self.place_in(cgroup_id, Some(identity.mnt_ns), Some(identity.pid_ns));
            let key = self.key(id);
            let mut child = match self.table.find(caller) {
                Some(parent) => parent.child(id, key, start_ns, cgroup_id),
                None => self
                    .stranger(caller, header)
                    .child(id, key, start_ns, cgroup_id),
            };
            child.vpid = Some(vpid);
            set_identity(&mut child, identity, header);
            child.parent = Some(Id::new(identity.parent_pid, identity.parent_start_ns));
            let departure = depart(&mut child, place);
            self.table.insert(child);
            if let Some(departure) = departure {
                self.push_departure(id, header, &departure, None, out);
            }
        }
        let mut event = self.event(header, "clone", "process", "sched_process_fork");
        event.evt_rawres = Some(i64::from(id.pid));
        let mut arguments = BTreeMap::from([
            ("child_pid".into(), id.pid.to_string().into()),
            ("child_vpid".into(), vpid.to_string().into()),
            ("child_key".into(), self.key(id)),
        ]);
        if clone_flags != 0 {
            // The lowest byte is the signal that the parent gets in the end.
            let flags = names::CLONE.flags(clone_flags & !0xff);
            arguments.insert("flags".into(), flags.into());
        }
        event.evt_args = Some(arguments);
        self.send(event, caller, header, out);
    }

    fn exec(&mut self, exec: &Exec, out: &mut Vec<Row>) {
        let header = &exec.header;
        self.touch(header, out);
        let id = Id::new(header.pid, header.start_ns);
        let mut escaped = false;
        let Arguments {
            raw,
            told,
            mut program,
        } = image::arguments(Some(&exec.path), &exec.argv, &self.redactor, &mut escaped);
        program.cut |= exec.argv_bytes as usize > exec.argv.len();
        program.exepath = Some(text(&exec.path, &mut escaped));
        program.cwd = Some(text(&exec.cwd, &mut escaped));
        let script = runs::script(exec, &raw);
        let cwd = program.cwd.clone().unwrap_or_default();
        let called = Invocation {
            arguments: &raw,
            script: script.as_ref().map(|(path, arguments)| Script {
                path,
                cwd: &cwd,
                arguments,
            }),
        };
        let stage = self.stage_at_exec(id, &exec.identity, called);
        self.table.update(id, |process| {
            process.escaped = escaped;
            set_identity(process, &exec.identity, header);
            process.program = Some(Arc::new(program));
            process.stage = stage;
            if process.parent.is_none() && exec.identity.parent_pid != 0 {
                process.parent = Some(Id::new(
                    exec.identity.parent_pid,
                    exec.identity.parent_start_ns,
                ));
            }
        });
        // Before it may leave: the namespaces are its container's from now on.
        let (mnt_ns, pid_ns) = (exec.identity.mnt_ns, exec.identity.pid_ns);
        self.place_in(header.cgroup_id, Some(mnt_ns), Some(pid_ns));
        let place = self.table.find(id).map_or_else(
            || self.places.place_of(header.cgroup_id),
            |process| process.place.clone(),
        );
        if stage == Some(Stage::Entrypoint)
            && let Some(container) = place.container()
        {
            self.places.entrypoint_seen(container);
        }
        let from = image::origin(
            exec,
            place.container().is_some(),
            Some(exec.identity.mnt_ns) == self.host.mnt_ns,
            place
                .container()
                .and_then(|container| self.places.container(container)),
        );
        let mut event = self.event(header, "execve", "process", "sched_process_exec");
        rows::set_exec(&mut event, exec, from);
        event.proc_runs = runs::of(exec, &told, &mut event.evt_escaped);
        image::set_arguments(&mut event, told);
        self.set_environment(&mut event, exec);
        self.send(event, id, header, out);
    }

    fn set_environment(&self, event: &mut Event, exec: &Exec) {
        let mut escaped = false;
        let (told, redacted) = environment::told(&exec.env, &self.redactor, &mut escaped);
        event.evt_escaped |= escaped;
        event.evt_redacted |= redacted;
        event.proc_env = Some(told);
        event.proc_env_cut = Some(exec.env_bytes as usize > exec.env.len());
    }

    /// A process keeps its stage when it executes, unless it was just brought into its container, or is not known.
    fn stage_at_exec(&self, id: Id, identity: &Identity, called: Invocation<'_>) -> Option<Stage> {
        let process = self.table.find(id)?;
        let Place::Container(container) = &process.place else {
            return process.stage;
        };
        let arrived = || {
            let shares_host_pidns = Some(identity.pid_ns) == self.host.pid_ns;
            self.arrival_stage(
                container,
                id.pid,
                process.vpid == Some(1) && !shares_host_pidns,
                Some(identity.mnt_ns),
                shares_host_pidns,
                called,
            )
        };
        match process.stage {
            Some(Stage::Runtime) => arrived(),
            Some(stage) => Some(stage),
            None => self.stage_of_stranger(process, identity, arrived()),
        }
    }

    /// The stage of a process of which nothing was heard before, as far as it is certain: its parent's, or that of an
    /// arrival where the parent is outside. A container's init takes in orphans of any stage, so it tells nothing.
    fn stage_of_stranger(
        &self,
        process: &Process,
        identity: &Identity,
        arrived: Option<Stage>,
    ) -> Option<Stage> {
        let parent_id = Id::new(identity.parent_pid, identity.parent_start_ns);
        match self.table.find(parent_id) {
            Some(parent) if parent.place == process.place && parent.vpid != Some(1) => parent.stage,
            Some(parent) if parent.place == Place::Host => arrived,
            _ => arrived.filter(|stage| *stage != Stage::Exec),
        }
    }

    fn arrival_stage(
        &self,
        container: &Text,
        pid: u32,
        init_of_pidns: bool,
        mnt_ns: Option<u32>,
        shares_host_pidns: bool,
        called: Invocation<'_>,
    ) -> Option<Stage> {
        let known = self.places.container(container);
        on_arrival(&Arrival {
            in_host_mntns: self.host.has_mount_namespace(mnt_ns),
            init_of_pidns,
            init_of_container: known.and_then(|known| known.init_pid) == Some(pid),
            entrypoint_seen: self.places.has_entrypoint(container),
            shares_pidns: shares_host_pidns || known.is_some_and(|known| known.joins_pidns),
            called,
            healthcheck: known.and_then(|known| known.healthcheck.as_deref()),
            probes: known.map_or(&[], |known| &known.probes),
        })
    }

    fn running(&mut self, running: &Running, out: &mut Vec<Row>) {
        let id = Id {
            pid: running.pid,
            start_ticks: running.start_ticks,
        };
        if self.table.find(id).is_some() {
            return;
        }
        let mut escaped = false;
        let exe = running.exe.as_deref().map(image::without_deleted);
        let Arguments {
            raw, mut program, ..
        } = image::arguments(exe, &running.argv, &self.redactor, &mut escaped);
        program.exepath = exe.map(|exe| text(exe, &mut escaped));
        program.cwd = running.cwd.as_deref().map(|cwd| text(cwd, &mut escaped));
        let start_ns = running.start_ticks * 10_000_000;
        let mut process = Process::new(
            id,
            self.key(id),
            start_ns,
            running.uid,
            running.gid,
            running.cgroup_id,
            self.place_in(running.cgroup_id, running.mnt_ns, running.pid_ns),
        );
        image::set_running(&mut process, running, &mut escaped);
        process.parent = self
            .table
            .with_pid(running.parent_pid)
            .map(|parent| parent.id);
        process.stage = self.stage_of_running(&process, running, &raw);
        process.program = Some(Arc::new(program));
        process.escaped = escaped;
        if process.stage == Some(Stage::Entrypoint)
            && let Some(container) = process.place.container()
        {
            self.places.entrypoint_seen(container);
        }
        self.table.insert(process);
        let mut event = self.own_event("running", "process");
        event.evt_backend = "scan".into();
        rows::set_scanned_stdio(&mut event, &running.stdio);
        // Whoever was just taken in is there.
        if let Some(process) = self.table.find(id) {
            self.join(&mut event, process);
            let (place, origin) = (process.place.clone(), process.origin.clone());
            self.places.send(event, &place, origin.as_ref(), out);
        }
    }

    fn stage_of_running(
        &self,
        process: &Process,
        running: &Running,
        arguments: &[Text],
    ) -> Option<Stage> {
        let Place::Container(container) = &process.place else {
            return process.stage;
        };
        let parent = process.parent.and_then(|id| self.table.find(id));
        if let Some(parent) = parent.filter(|parent| parent.place == process.place) {
            return parent.stage;
        }
        // A process in a pid namespace of its own has another id there, which everyone may see.
        let shares_host_pidns = match running.pid_ns {
            Some(pid_ns) => Some(pid_ns) == self.host.pid_ns,
            None => running.vpid == running.pid,
        };
        self.arrival_stage(
            container,
            running.pid,
            running.vpid == 1 && !shares_host_pidns,
            running.mnt_ns,
            shares_host_pidns,
            Invocation {
                arguments,
                script: None,
            },
        )
    }

    /// An event about nothing but the sensor's own knowledge, now, and after the records it follows.
    fn own_event(&self, evt_type: &'static str, category: &'static str) -> Box<Event> {
        self.own_event_at(self.clock.boot_ns().max(self.newest_ns), evt_type, category)
    }

    fn own_event_at(
        &self,
        boot_ns: u64,
        evt_type: &'static str,
        category: &'static str,
    ) -> Box<Event> {
        rows::base(boot_ns, self.clock.wall_ns(boot_ns), evt_type, category)
    }

    fn push_own(&self, event: Box<Event>, out: &mut Vec<Row>) {
        out.push(Row::Event(EventRow::alone(&self.run, event)));
    }

    fn event(
        &self,
        header: &Header,
        evt_type: &'static str,
        category: &'static str,
        hook: &'static str,
    ) -> Box<Event> {
        let wall_ns = self.clock.wall_ns(header.boot_ns);
        let mut event = rows::base(header.boot_ns, wall_ns, evt_type, category);
        rows::set_header(&mut event, header, hook);
        event
    }

    /// Sends the event of a record that changes nothing in the tables.
    fn push(&mut self, header: &Header, record: &Record, out: &mut Vec<Row>) {
        let (evt_type, category, hook) = rows::call(record);
        let mut event = self.event(header, evt_type, category, hook);
        rows::set_record(&mut event, record);
        let id = Id::new(header.pid, header.start_ns);
        self.set_reached(&mut event, record, id);
        self.send(event, id, header, out);
    }

    /// Where on the host the file of an open lies, by the tree of mounts it was reached in, and by its own file system.
    fn set_reached(&self, event: &mut Event, record: &Record, id: Id) {
        let Record::Open {
            mnt_ns,
            path,
            file,
            place,
            ..
        } = record
        else {
            return self.set_named(event, id);
        };
        if Some(*mnt_ns) == self.host.mnt_ns && path.starts_with(b"/") {
            event.fd_host_name = event.fd_name.clone();
            return;
        }
        if place.is_empty() {
            return;
        }
        let place = text(place, &mut event.evt_escaped);
        event.fd_host_name = self.mounts.path_of(file.dev, &place);
        let process = self.table.find(id);
        let contained = process
            .is_some_and(|process| process.place.container().is_some() || process.origin.is_some());
        if event.fd_host_name.is_some() && contained {
            event.fd_from = Some("mount".into());
        }
    }

    /// Where on the host a file lies that a call names by its path alone, below a mount that a container made.
    fn set_named(&self, event: &mut Event, id: Id) {
        if let Some(name) = event.fd_name.as_deref()
            && name.starts_with('/')
            && &*event.evt_category == "file"
        {
            let mnt_ns = self.table.find(id).and_then(|process| process.mnt_ns);
            event.fd_host_name = self.trees.on_host(mnt_ns, name, &self.mounts);
        }
    }

    /// Joins an event with its process and container, and sends it, now or when its container is known. Where the table
    /// does not have the process, its record says what it can.
    fn send(&mut self, mut event: Box<Event>, id: Id, header: &Header, out: &mut Vec<Row>) {
        let stranger;
        let (process, remembered) = match self.table.find(id) {
            Some(process) => (process, true),
            None => {
                stranger = self.stranger(id, header);
                (&stranger, false)
            }
        };
        let (place, origin) = (&process.place, process.origin.as_ref());
        let by_itself = rows::tells_in_full(&event) || self.places.is_awaited(place);
        if by_itself || !remembered {
            self.join(&mut event, process);
            let (place, origin) = (place.clone(), origin.cloned());
            self.places.send(event, &place, origin.as_ref(), out);
            return;
        }
        join::set_identity(&mut event, process);
        let in_host_mntns = self.host.has_mount_namespace(process.mnt_ns) == Some(true);
        self.places
            .set_host_name(&mut event, in_host_mntns, place, origin);
        let versions = join::versions(process, &self.table);
        let block = match self.blocks.find(id, versions) {
            Some(block) => block,
            None => {
                let made = self.block(process);
                let versions = join::versions(process, &self.table);
                self.blocks.keep(id, versions, made)
            }
        };
        let row = EventRow::of_process(&self.run, event, block);
        out.push(Row::Event(row));
    }

    /// Sets the columns of a process, but for its place.
    fn join(&self, event: &mut Event, process: &Process) {
        let limits = if rows::tells_in_full(event) {
            &join::IN_FULL
        } else {
            &join::IN_BRIEF
        };
        join::set_identity(event, process);
        join::set_process(event, process, limits, &self.host, &self.clock);
        join::set_lineage(event, process, limits, &self.table, &self.clock);
        join::set_users(event, process, &self.users);
        event.container_nested_id = self.places.nested(process.cgroup_id).map(|id| short(id));
    }

    /// Encodes what all rows in brief tell of a process.
    fn block(&self, process: &Process) -> Block {
        let mut event = rows::base(0, 0, "", "");
        self.join(&mut event, process);
        self.places.set_place(&mut event, &process.place);
        Block::of(&event)
    }
}

/// Whether an input may change what is told of processes that it does not name.
fn tells_of_surroundings(input: &Input) -> bool {
    match input {
        Input::Record(record) => matches!(record, Record::Cgroup { .. }),
        Input::Fact(fact) => {
            !matches!(fact, Fact::Clock(_) | Fact::Counters(_) | Fact::Unparsed(_))
        }
    }
}

/// Puts a process where it is now; `Some` when it left the container it was in.
fn depart(process: &mut Process, to: Place) -> Option<Departure> {
    let from = std::mem::replace(&mut process.place, to.clone());
    if from == to {
        return None;
    }
    let runtime = process.stage == Some(Stage::Runtime);
    match (from, &to) {
        // Coming home, or going on from elsewhere: it keeps what it was.
        (Place::Host | Place::Unknown, Place::Container(home))
            if process.origin.as_ref() == Some(home) =>
        {
            process.origin = None;
        }
        (Place::Host | Place::Unknown, Place::Container(_)) if process.origin.is_some() => {}
        // Brought in from outside: what it does before it executes inside is the runtime's.
        (Place::Host, Place::Container(_)) => process.stage = Some(Stage::Runtime),
        // What it is to a container was not seen.
        (Place::Host, Place::Unknown) if process.origin.is_none() => process.stage = None,
        (Place::Unknown, Place::Host) if process.origin.is_none() => {
            process.stage = Some(Stage::Host)
        }
        // Whether it has left is told once it is known where it went.
        (Place::Container(left), Place::Unknown) => {
            process.origin.get_or_insert(left);
        }
        (Place::Unknown, Place::Host) => {
            let from = process.origin.clone()?;
            return Some(Departure { from, to });
        }
        (Place::Container(_), Place::Host) if runtime => process.stage = Some(Stage::Host),
        (Place::Container(_), Place::Container(_)) if runtime => {}
        (Place::Container(left), _) => {
            process.origin.get_or_insert_with(|| left.clone());
            return Some(Departure { from: left, to });
        }
        (Place::Host | Place::Unknown, _) => {}
    }
    None
}

fn set_identity(process: &mut Process, identity: &Identity, header: &Header) {
    process.sid = Some(identity.sid);
    process.pgid = Some(identity.pgid);
    process.tty = Some(identity.tty);
    process.login_uid = Some(identity.loginuid).filter(|&uid| uid != u32::MAX);
    process.mnt_ns = Some(identity.mnt_ns);
    process.pid_ns = Some(identity.pid_ns);
    let mapped = identity.ns_uid != u32::MAX && identity.ns_gid != u32::MAX;
    process.inner_ids = mapped.then_some(InnerIds {
        uid: identity.ns_uid,
        gid: identity.ns_gid,
        host_uid: header.uid,
        host_gid: header.gid,
    });
    process.comm = Some(text(&identity.comm, &mut process.escaped));
}

#[cfg(test)]
mod tests;
