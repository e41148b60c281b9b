//! Turns what enters into events: keeps the tables of processes and containers, and joins every record with them.
//!
//! ```text
//! Fork 1201 -> 1202          table: 1202 is a child of 1201, same program, same stage
//! Exec 1202 /bin/sh -c id    table: 1202 executes sh   event: execve, its process, parent, container, stage
//! Open 1202 /etc/shadow      event: openat, with all of that again
//! ```
//! A pure state machine: no clock, no files, no threads. The same input gives the same events, live and replayed.

mod image;
mod join;
mod places;
mod rows;

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use dogwatch_ebpf::record::{Exec, Header, Identity, Record};
use dogwatch_schemas::Text;
use dogwatch_schemas::proc_key;
use dogwatch_schemas::records::{self, Event};

use crate::clock::{Clock, Reading};
use crate::container::{Container, short};
use crate::fact::{Fact, Host, Input, Running};
use crate::process::stage::{Arrival, on_arrival};
use crate::process::{Id, InnerIds, Process, ProcessTable, Stage};
use crate::redact::Redactor;
use crate::text::text;
use crate::users::Users;
use image::Arguments;
use places::Places;

/// What comes out: rows for topics.
#[derive(Debug)]
pub(crate) enum Row {
    /// For `dogwatch.events`.
    Event(Box<Event>),
    /// For `dogwatch.containers`.
    Container(Box<records::Container>),
}

/// Bounds and rules of the tracker.
#[derive(Debug, Clone)]
pub(crate) struct TrackOptions {
    pub processes_max: usize,
    pub keep_after_exit: Duration,
    pub clock_step_min: Duration,
    pub metadata_queue_events: usize,
    /// False: events never wait for what is known of their container.
    pub patient: bool,
    pub redactor: Redactor,
}

/// See the module's description.
#[derive(Debug)]
pub(crate) struct Tracker {
    host: Host,
    clock: Clock,
    redactor: Redactor,
    table: ProcessTable,
    places: Places,
    users: HashMap<Option<Text>, Users>,
}

/// A process left its container.
struct Departure {
    from: Text,
    to: Option<Text>,
}

impl Tracker {
    /// A tracker that knows nothing yet.
    pub fn new(host: Host, options: TrackOptions) -> Self {
        Self {
            host,
            clock: Clock::new(options.clock_step_min),
            redactor: options.redactor,
            table: ProcessTable::new(options.processes_max, options.keep_after_exit),
            places: Places::new(options.metadata_queue_events, options.patient),
            users: HashMap::new(),
        }
    }

    /// Takes one input and appends what comes of it.
    pub fn step(&mut self, input: Input, out: &mut Vec<Row>) {
        match input {
            Input::Record(record) => self.record(record, out),
            Input::Fact(fact) => self.fact(fact, out),
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

    /// Processes forgotten early because the table was full, and events that did not wait because the queue was.
    pub fn overflows(&self) -> (u64, u64) {
        (self.table.evicted, self.places.overflowed)
    }

    /// Hands out what still waits; at the end.
    pub fn finish(&mut self, out: &mut Vec<Row>) {
        self.places.release_all(out);
    }

    /// A `mark` row: published up to now, lost so far by class.
    pub fn mark(&self, losses: &BTreeMap<Text, u64>) -> Event {
        let mut event = self.own_event("mark", "internal");
        event.evt_losses = Some(
            losses
                .iter()
                .map(|(class, count)| (class.clone(), *count as i64))
                .collect(),
        );
        event
    }

    fn fact(&mut self, fact: Fact, out: &mut Vec<Row>) {
        match fact {
            Fact::Clock(reading) => self.tick(reading, out),
            Fact::Cgroup { id, path } => self.places.found(id, &path),
            Fact::Running(running) => self.running(&running, out),
            Fact::Container(container) => self.container(*container, out),
            Fact::Users { container, users } => {
                self.users.insert(container, users);
            }
            // These count losses; the pipeline reads them.
            Fact::Counters(_) | Fact::Unparsed(_) => {}
        }
    }

    fn tick(&mut self, reading: Reading, out: &mut Vec<Row>) {
        let step = self.clock.take(reading);
        self.table.reap(reading.boot_ns);
        if let Some(moved_ns) = step {
            let mut event = self.own_event("clock_step", "system");
            event.evt_args = Some(BTreeMap::from([(
                "moved_ns".into(),
                moved_ns.to_string().into(),
            )]));
            out.push(Row::Event(Box::new(event)));
        }
    }

    fn container(&mut self, container: Container, out: &mut Vec<Row>) {
        let id = container.id.clone();
        if let Some((action, news)) = self.places.learn(container) {
            self.tell_container(&id, action, news, out);
        }
        self.places.release(&id, out);
    }

    /// The in-band row of a container, and its record where something changed.
    fn tell_container(&self, id: &Text, action: &'static str, news: bool, out: &mut Vec<Row>) {
        let Some(container) = self.places.container(id) else {
            return;
        };
        let mut event = self.own_event("container", "container");
        event.evt_args = Some(BTreeMap::from([
            ("action".into(), action.into()),
            ("metadata_source".into(), container.source.clone()),
        ]));
        rows::set_container(&mut event, container);
        out.push(Row::Event(Box::new(event)));
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
            self.redactor.redact(list);
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
                    &child,
                    out,
                );
            }
            Record::Exit { header, .. } => {
                self.touch(&header, out);
                self.push(&header, &record, out);
                self.table
                    .exit(Id::new(header.pid, header.start_ns), header.boot_ns);
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
                if !made && let Some(container) = self.places.removed(id, &path) {
                    self.tell_container(&container, "stop", true, out);
                    self.places.forget(&container, out);
                    self.users.remove(&Some(container));
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
            Record::Namespace {
                ref header, mnt_ns, ..
            } => {
                self.touch(header, out);
                if let Some(process) = self.table.find_mut(Id::new(header.pid, header.start_ns)) {
                    process.mnt_ns = Some(mnt_ns);
                }
                self.push(header, &record, out);
            }
            Record::Open { ref header, .. }
            | Record::Connect { ref header, .. }
            | Record::ExecFailed { ref header, .. } => {
                self.touch(header, out);
                self.push(header, &record, out);
            }
        }
    }

    /// Brings the process of a record up to date; returns true when it was not known before.
    fn touch(&mut self, header: &Header, out: &mut Vec<Row>) -> bool {
        let id = Id::new(header.pid, header.start_ns);
        let known = match self.table.find_mut(id) {
            Some(process) => {
                (process.uid, process.gid, process.start_ns) =
                    (header.uid, header.gid, header.start_ns);
                process.vpid = Some(header.vpid);
                Some(process.cgroup_id)
            }
            None => None,
        };
        match known {
            Some(cgroup_id) if cgroup_id != header.cgroup_id => {
                self.relocate(id, header.cgroup_id, header, None, out)
            }
            Some(_) => {}
            None => self.adopt(id, header),
        }
        known.is_none()
    }

    /// Takes in a process whose fork was not seen. In a container it counts as brought in: better an alert than silence.
    fn adopt(&mut self, id: Id, header: &Header) {
        let key = self.key(id);
        let mut process = Process::new(
            id,
            key,
            header.start_ns,
            header.uid,
            header.gid,
            header.cgroup_id,
        );
        process.vpid = Some(header.vpid);
        process.container = self.places.container_of(header.cgroup_id);
        process.stage = if process.container.is_some() {
            Stage::Exec
        } else {
            Stage::Host
        };
        self.table.insert(process);
    }

    fn key(&self, id: Id) -> Text {
        proc_key(
            &self.host.host_id,
            &self.host.boot_id,
            id.pid,
            id.start_ticks,
        )
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
        let container = self.places.container_of(cgroup_id);
        let Some(process) = self.table.find_mut(id) else {
            return;
        };
        process.cgroup_id = cgroup_id;
        if let Some(departure) = depart(process, container) {
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
        let to = departure.to.as_deref().map_or_else(|| "host".into(), short);
        let mut arguments =
            BTreeMap::from([("from".into(), short(&departure.from)), ("to".into(), to)]);
        arguments.extend(by.map(|key| ("by".into(), key)));
        event.evt_args = Some(arguments);
        self.send(event, id, out);
    }

    #[allow(clippy::too_many_arguments, reason = "the parts of one fork record")]
    fn fork(
        &mut self,
        header: &Header,
        id: Id,
        vpid: u32,
        start_ns: u64,
        cgroup_id: u64,
        identity: &Identity,
        out: &mut Vec<Row>,
    ) {
        let caller = Id::new(header.pid, header.start_ns);
        if self.table.find(id).is_none() {
            let container = self.places.container_of(cgroup_id);
            let key = self.key(id);
            let Some(parent) = self.table.find(caller) else {
                return;
            };
            let mut child = parent.child(id, key, start_ns, cgroup_id);
            child.vpid = Some(vpid);
            set_identity(&mut child, identity, header);
            child.parent = Some(Id::new(identity.parent_pid, identity.parent_start_ns));
            let departure = depart(&mut child, container);
            self.table.insert(child);
            if let Some(departure) = departure {
                self.push_departure(id, header, &departure, None, out);
            }
        } else if let Some(child) = self.table.find_mut(id) {
            // Found by the scan, too: the record knows the start to the nanosecond.
            child.start_ns = start_ns;
        }
        let mut event = self.event(header, "clone", "process", "sched_process_fork");
        event.evt_rawres = Some(i64::from(id.pid));
        event.evt_args = Some(BTreeMap::from([
            ("child_pid".into(), id.pid.to_string().into()),
            ("child_vpid".into(), vpid.to_string().into()),
            ("child_key".into(), self.key(id)),
        ]));
        self.send(event, caller, out);
    }

    fn exec(&mut self, exec: &Exec, out: &mut Vec<Row>) {
        let header = &exec.header;
        let adopted = self.touch(header, out);
        let id = Id::new(header.pid, header.start_ns);
        let mut escaped = false;
        let Arguments { raw, mut program } =
            image::arguments(&exec.argv, &self.redactor, &mut escaped);
        program.truncated |= exec.argv_bytes as usize > exec.argv.len();
        program.exepath = Some(text(&exec.path, &mut escaped));
        program.cwd = Some(text(&exec.cwd, &mut escaped));
        let stage = self.stage_at_exec(id, &exec.identity, adopted, &raw);
        if let Some(process) = self.table.find_mut(id) {
            set_identity(process, &exec.identity, header);
            process.escaped = escaped;
            process.program = Some(program);
            process.stage = stage;
            if process.parent.is_none() && exec.identity.parent_pid != 0 {
                process.parent = Some(Id::new(
                    exec.identity.parent_pid,
                    exec.identity.parent_start_ns,
                ));
            }
            if stage == Stage::Entrypoint
                && let Some(container) = process.container.clone()
            {
                self.places.entrypoint_seen(&container);
            }
        }
        let Some(process) = self.table.find(id) else {
            return;
        };
        let mut event = self.event(header, "execve", "process", "sched_process_exec");
        let known = process
            .container
            .as_ref()
            .and_then(|container| self.places.container(container));
        let from = image::origin(
            exec,
            process.container.is_some(),
            self.in_host_mntns(process),
            known,
        );
        rows::set_exec(&mut event, exec, from);
        self.send(event, id, out);
    }

    /// A process keeps its stage when it executes, unless it was just brought into its container.
    fn stage_at_exec(
        &self,
        id: Id,
        identity: &Identity,
        adopted: bool,
        arguments: &[Text],
    ) -> Stage {
        let Some(process) = self.table.find(id) else {
            return Stage::Host;
        };
        let Some(container) = &process.container else {
            return process.stage;
        };
        if adopted {
            let parent = self
                .table
                .find(Id::new(identity.parent_pid, identity.parent_start_ns));
            if let Some(parent) =
                parent.filter(|parent| parent.container.as_ref() == Some(container))
            {
                return parent.stage;
            }
        } else if process.stage != Stage::Runtime {
            return process.stage;
        }
        let inner_init = process.vpid == Some(1) && identity.pid_ns != self.host.pid_ns;
        self.arrival_stage(
            container,
            id.pid,
            inner_init,
            identity.mnt_ns,
            identity.pid_ns,
            arguments,
        )
    }

    fn arrival_stage(
        &self,
        container: &Text,
        pid: u32,
        init_of_pidns: bool,
        mnt_ns: u32,
        pid_ns: u32,
        arguments: &[Text],
    ) -> Stage {
        let known = self.places.container(container);
        on_arrival(&Arrival {
            in_host_mntns: mnt_ns == self.host.mnt_ns,
            init_of_pidns,
            init_of_container: known.and_then(|known| known.init_pid) == Some(pid),
            entrypoint_seen: self.places.has_entrypoint(container),
            shares_host_pidns: pid_ns == self.host.pid_ns,
            arguments,
            healthcheck: known.and_then(|known| known.healthcheck.as_deref()),
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
        let Arguments { raw, mut program } =
            image::arguments(&running.argv, &self.redactor, &mut escaped);
        program.exepath = running
            .exe
            .as_deref()
            .map(|exe| text(image::without_deleted(exe), &mut escaped));
        program.cwd = running.cwd.as_deref().map(|cwd| text(cwd, &mut escaped));
        let start_ns = running.start_ticks * 10_000_000;
        let mut process = Process::new(
            id,
            self.key(id),
            start_ns,
            running.uid,
            running.gid,
            running.cgroup_id,
        );
        image::set_running(&mut process, running, &mut escaped);
        process.parent = self
            .table
            .with_pid(running.parent_pid)
            .map(|parent| parent.id);
        process.container = self.places.container_of(running.cgroup_id);
        process.stage = self.stage_of_running(&process, running, &raw);
        process.program = Some(program);
        process.escaped = escaped;
        if process.stage == Stage::Entrypoint
            && let Some(container) = &process.container
        {
            self.places.entrypoint_seen(container);
        }
        self.table.insert(process);
        let mut event = self.own_event("running", "process");
        event.evt_backend = "scan".into();
        rows::set_scanned_stdio(&mut event, &running.stdio);
        self.send(event, id, out);
    }

    fn stage_of_running(&self, process: &Process, running: &Running, arguments: &[Text]) -> Stage {
        let Some(container) = &process.container else {
            return Stage::Host;
        };
        let parent = process.parent.and_then(|id| self.table.find(id));
        if let Some(parent) = parent.filter(|parent| parent.container.as_ref() == Some(container)) {
            return parent.stage;
        }
        let pid_ns = running.pid_ns.unwrap_or(self.host.pid_ns);
        let init = running.vpid == 1 && pid_ns != self.host.pid_ns;
        self.arrival_stage(
            container,
            running.pid,
            init,
            running.mnt_ns.unwrap_or_default(),
            pid_ns,
            arguments,
        )
    }

    fn in_host_mntns(&self, process: &Process) -> bool {
        process.mnt_ns == Some(self.host.mnt_ns)
    }

    /// An event about nothing but the sensor's own knowledge, now.
    fn own_event(&self, evt_type: &'static str, category: &'static str) -> Event {
        let boot_ns = self.clock.boot_ns();
        rows::base(
            &self.host,
            boot_ns,
            self.clock.wall_ns(boot_ns),
            evt_type,
            category,
        )
    }

    fn event(
        &self,
        header: &Header,
        evt_type: &'static str,
        category: &'static str,
        hook: &'static str,
    ) -> Event {
        let wall_ns = self.clock.wall_ns(header.boot_ns);
        let mut event = rows::base(&self.host, header.boot_ns, wall_ns, evt_type, category);
        rows::set_header(&mut event, header, hook);
        event
    }

    /// Sends the event of a record that changes nothing in the tables.
    fn push(&mut self, header: &Header, record: &Record, out: &mut Vec<Row>) {
        let (evt_type, category, hook) = rows::call(record);
        let mut event = self.event(header, evt_type, category, hook);
        rows::set_record(&mut event, record);
        self.send(event, Id::new(header.pid, header.start_ns), out);
    }

    /// Joins an event with its process and container, and sends it, now or when its container is known.
    fn send(&mut self, mut event: Event, id: Id, out: &mut Vec<Row>) {
        let Some(process) = self.table.find(id) else {
            // The table is full: what the record itself says goes out.
            event.proc_key = self.key(id);
            out.push(Row::Event(Box::new(event)));
            return;
        };
        join::set_process(&mut event, process, &self.host, &self.clock);
        join::set_lineage(&mut event, process, &self.table, &self.clock);
        join::set_users(&mut event, process, &self.users);
        event.container_nested_id = self.places.nested(process.cgroup_id).map(|id| short(id));
        let container = process.container.clone();
        self.places
            .send(event, container, process.origin.as_ref(), out);
    }
}

/// Sets a process's container; `Some` when it left the one it was in.
fn depart(process: &mut Process, to: Option<Text>) -> Option<Departure> {
    let from = std::mem::replace(&mut process.container, to.clone());
    if from == to {
        return None;
    }
    let runtime = process.stage == Stage::Runtime;
    match (&from, &to) {
        // Coming home, or going on from the host: it keeps what it was.
        (None, Some(home)) if process.origin.as_ref() == Some(home) => process.origin = None,
        (None, Some(_)) if process.origin.is_some() => {}
        // Brought in from outside: what it does before it executes inside is the runtime's.
        (None, _) => process.stage = Stage::Runtime,
        (Some(_), None) if runtime => process.stage = Stage::Host,
        (Some(_), Some(_)) if runtime => {}
        (Some(left), _) => {
            process.origin.get_or_insert_with(|| left.clone());
            return Some(Departure {
                from: left.clone(),
                to,
            });
        }
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
