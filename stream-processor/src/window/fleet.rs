//! Windows over all hosts together, in two stages with the records of the exchange between them.
//!
//! ```text
//! rows ─► source: late? partial states ─► one record a second of its ingest ─► merge: by window and key ─► words
//!         (a task's own)                  keys, states, W, holes               closes when all sources' W has passed
//! ```
//! Stage one knows its own log alone, and stage two the records of stage one alone: here both are in one process, and what
//! goes between them is encoded and read all the same ([`Exchange`]). A record that comes again is dropped by its number; one
//! that never came is a hole. The closes are a function of all logs together, however their records are mixed.
//! All of a detection goes to one partition of the exchange, by the hash of its state: so what it orders, limits, folds and
//! throttles is of all its windows.
//!
//! | name of what is stored | of | what it is |
//! | --- | --- | --- |
//! | `fleet/STATE/TIME/PIECE` | a task | what the second that runs holds up to now: a part of a record |
//! | `fleet-carried` | a task | the states that it keeps, and the first second that is whole of each |
//! | `clock` | the fleet | how far each source is |
//! | `fleet/STATE/PANE/PIECE` | the fleet | states of a pane: a part of a record |
//! | `fleet-rest/STATE.ID` | the fleet | what has fired, and holes |
//!
//! Names of the fleet begin with `TABLE:` where the table is another one than events.

use std::collections::{BTreeMap, BTreeSet};

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use datafusion::common::{Result, exec_err};
use dogwatch_schemas::Text;
use dogwatch_schemas::topics::Topic;

use super::conditions::Conditions;
use super::group::{Group, Open, plan_of};
use super::piece::decode;
use super::plans::Workbench;
use super::{Rows, Shown, WindowOutput, Word};
use crate::detect::window::{WindowSpec, floor_to};
use crate::detect::{DetectionSet, Unjudged, error_text, guarded};
use crate::hosts::{FLEET, FleetMoment, Losses, SECOND_NS, Tick, fleet_slot};
use crate::parallel::side_by_side;

mod clock;
pub(super) mod evidence;
mod exchange;
mod merge;
mod record;
mod room;
mod source;
mod states;
mod store;

pub(crate) use evidence::FirstRow;
pub(crate) use exchange::Received;
pub use exchange::{Exchange, Flushed};

use clock::{Accepted, Clock, Missing};
use merge::{Keys, Merge, Touched};
pub(crate) use record::topic_of;
use record::{Envelope, Flush, Part, STATES};
use source::{Carried, Numbers, Source};

/// Class of rows that came after their source had passed their windows.
const LATE_ROWS: &str = "late_rows";
/// Class of rows that no state could be made of.
const NOT_COMPUTED: &str = "not_computed";
/// Class of seconds that a source sent no record of.
const SECONDS_MISSING: &str = "seconds_missing";
/// Class of parts whose payload nobody here can read.
const UNREAD_PARTS: &str = "unread_parts";
/// Class of what came before a detection was there, at a source or where its windows are finished.
const NOT_LOADED: &str = "not_loaded";
/// Class of seconds whose source spread detections over another number of partitions of the exchange than others did.
const EXCHANGE_RESIZED: &str = "exchange_resized";

/// The rows and seconds of a batch in the time of all hosts.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct FleetRows<'a> {
    /// One for each shown row; none where no detection is of the fleet.
    pub moments: &'a [FleetMoment],
    /// The seconds that ended in the batch, by row.
    pub ticks: &'a [Tick],
    /// For each of them, whether what it says was said before.
    pub muted: &'a [bool],
}

/// Bytes of a first row in an alert, but for its texts.
const ROW_BYTES: usize = 64;

/// What a window of the fleet says beside its result.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct FleetTold {
    /// How many hosts have rows in it.
    pub host_count: i64,
    /// The names of some of them, the least.
    pub hosts: Vec<Text>,
    /// Its first rows, by time, host, run and number.
    pub rows: Vec<FirstRow>,
    /// What is known to be lost in it.
    pub losses: Losses,
}

impl FleetTold {
    /// Bytes of it in an alert, about.
    pub fn bytes(&self) -> usize {
        let of_row =
            |row: &FirstRow| ROW_BYTES + row.host_id.len() + row.sensor_run.len() + row.said.len();
        let rows: usize = self.rows.iter().map(of_row).sum();
        rows + self.hosts.iter().map(|host| host.len() + 2).sum::<usize>()
    }
}

/// Reads rows as they are kept.
pub(super) fn parse_rows(texts: &[String]) -> Vec<FirstRow> {
    texts
        .iter()
        .filter_map(|text| evidence::parse(text))
        .collect()
}

/// How a detection's windows lie in time.
#[derive(Debug, Clone, Copy)]
struct Span {
    spec: WindowSpec,
    size_ns: i64,
    slide_ns: i64,
    delay_ns: i64,
}

impl Span {
    /// The windows over a time, the earliest first.
    fn starts(self, time: i64) -> impl Iterator<Item = i64> {
        self.spec.starts(time)
    }

    /// Whether a window is over when all hosts are so far.
    fn closed_at(self, start: i64, watermark: i64) -> bool {
        start.saturating_add(self.size_ns + self.delay_ns) <= watermark
    }

    /// How many of the windows over a time are over, the earliest.
    fn closed(self, time: i64, watermark: i64) -> i64 {
        let first = floor_to(time, self.slide_ns) + self.slide_ns - self.size_ns;
        let passed = watermark.saturating_sub(first + self.size_ns + self.delay_ns);
        match passed {
            passed if passed < 0 => 0,
            passed => (passed / self.slide_ns + 1).min(self.spec.panes()),
        }
    }

    /// Which of the windows over a pane begins at a time.
    fn place(self, pane: i64, start: i64) -> i64 {
        (start - (pane + self.slide_ns - self.size_ns)) / self.slide_ns
    }

    /// What comes before no open window holds.
    fn first_open(self, watermark: i64) -> i64 {
        watermark.saturating_sub(self.size_ns + self.delay_ns)
    }
}

/// The end of a pane.
fn pane_end(pane: i64, span: Span) -> i64 {
    pane.saturating_add(span.slide_ns)
}

/// What states of a detection are made and finished with.
struct Operators {
    group: Group,
    bench: Workbench,
    span: Span,
    keys: Keys,
}

impl Operators {
    /// Whether windows speak as soon as their counts reach the detection's numbers.
    fn fires(&self) -> bool {
        !self.group.early.is_idle()
    }

    fn state(&self) -> &str {
        &self.group.members[0].state
    }

    /// States as a record or a checkpoint has them.
    fn read(&self, payload: &[u8]) -> Result<Vec<RecordBatch>> {
        let mut states = Vec::new();
        for batch in decode(payload)? {
            states.extend(self.group.known(&batch)?.states);
        }
        Ok(states)
    }
}

/// A detection of the fleet.
struct Own {
    /// Its place in the set.
    detection: usize,
    /// The task that finishes its windows.
    task: i32,
    /// Its name and content.
    id: String,
    content: Text,
    operators: Operators,
    source: Source,
    merge: Merge,
}

/// All windows over all hosts of an engine: of one table.
pub(super) struct Fleet {
    detections: Vec<Own>,
    exchange: Exchange,
    /// The topic whose partitions are its sources.
    topic: Topic,
    expected: Vec<i32>,
    /// How far the sources are, as each task of the fleet knows it.
    clocks: BTreeMap<i32, Clock>,
    /// The states that each partition keeps.
    carried: BTreeMap<i32, Carried>,
    /// Names of what is stored, by task.
    stored: BTreeMap<i32, BTreeSet<String>>,
}

impl Fleet {
    /// Takes the detections of a set that are of the fleet.
    ///
    /// # Errors
    /// When their operators cannot be made.
    pub fn new(
        set: &DetectionSet,
        known: &Conditions,
        events: &SchemaRef,
        (keys_max, second_bytes, exchange): (usize, u64, Exchange),
    ) -> Result<Self> {
        let mut detections = Vec::new();
        for (detection, own) in set.iter().enumerate() {
            let Some(plan) = own.plan.windowed().filter(|plan| plan.fleet) else {
                continue;
            };
            let bench = Workbench::new(set.memory())?;
            let group = Group::new(&bench, set, &[detection], known, events, keys_max)?;
            let keys = Keys::new(&group.phases.state_schema(), group.keys)?;
            let span = Span {
                spec: plan.spec,
                size_ns: plan.spec.size_ns,
                slide_ns: plan.spec.slide_ns,
                delay_ns: plan.delay_ns,
            };
            detections.push(Own {
                detection,
                task: exchange.task_of(&group.members[0].state),
                id: own.id.clone(),
                content: own.content_hash.as_str().into(),
                operators: Operators {
                    group,
                    bench,
                    span,
                    keys,
                },
                source: Source::new(second_bytes),
                merge: Merge::default(),
            });
        }
        Ok(Self {
            detections,
            exchange,
            topic: set.table().topic(),
            expected: Vec::new(),
            clocks: BTreeMap::new(),
            carried: BTreeMap::new(),
            stored: BTreeMap::new(),
        })
    }

    /// Names the sources whose time is waited for; others join with their first record.
    pub fn expect(&mut self, sources: &[i32]) {
        self.expected = sources.to_vec();
        let clocks = self.clocks.values_mut();
        clocks.for_each(|clock| clock.expect(sources));
    }

    fn clock(&mut self, task: i32) -> &mut Clock {
        self.clocks.entry(task).or_insert_with(|| {
            let mut clock = Clock::default();
            clock.expect(&self.expected);
            clock
        })
    }

    /// Says that a partition is seen from the beginning of its log on.
    pub fn begin(&mut self, partition: i32) {
        let carried = self.carried.entry(partition).or_default();
        carried.begin(&self.detections);
    }

    /// Says that what was in a partition's log until now was passed over.
    pub fn begin_amid(&mut self, partition: i32) {
        let carried = Carried::amid(&self.detections);
        self.carried.insert(partition, carried);
    }

    pub fn is_empty(&self) -> bool {
        self.detections.is_empty()
    }

    /// Takes the next rows, in so many shares side by side; `matched` says for each condition which of them it is true for.
    pub fn step(
        &mut self,
        set: &DetectionSet,
        rows: &Rows<'_>,
        (matched, shares): (&[Vec<bool>], usize),
    ) -> Result<WindowOutput> {
        let mut all = WindowOutput::default();
        if self.is_empty() {
            return Ok(all);
        }
        let each = self.detections.len().div_ceil(shares).max(1);
        let absorb = |share: &mut [Own]| -> Result<WindowOutput> {
            let mut output = WindowOutput::default();
            for own in share {
                output.append(own.absorb(set, rows, matched)?);
            }
            Ok(output)
        };
        for output in side_by_side(self.detections.chunks_mut(each), absorb) {
            all.append(output?);
        }
        for (tick, muted) in rows.fleet.ticks.iter().zip(rows.fleet.muted) {
            let records = self.flush(tick, *muted)?;
            match self.exchange {
                Exchange::Inside => {
                    for record in records {
                        let record = Received::read(tick.row, FLEET, false, &record.value)?;
                        self.receive(set, &record, &mut all);
                    }
                }
                Exchange::Sent(_) if !muted => all.exchange.extend(records),
                Exchange::Sent(_) | Exchange::Received(_) => {}
            }
        }
        Ok(all)
    }

    /// Ends a bounded input: the seconds that run are flushed, and every window closes.
    pub fn finish(
        &mut self,
        set: &DetectionSet,
        ticks: &[Tick],
        row: u32,
        output: &mut WindowOutput,
    ) -> Result<()> {
        for tick in ticks {
            for record in self.flush(tick, false)? {
                let record = Received::read(row, FLEET, false, &record.value)?;
                self.receive(set, &record, output);
            }
        }
        self.close(set, (FLEET, row), i64::MAX, output);
        self.forget_merged(FLEET);
        Ok(())
    }

    /// Stage one: the records of a second that is over, at least one for each partition of the exchange.
    fn flush(&mut self, tick: &Tick, muted: bool) -> Result<Vec<Flushed>> {
        let carried = self.carried.entry(tick.partition).or_insert_with(|| {
            let mut carried = Carried::default();
            carried.begin(&self.detections);
            carried
        });
        let states = carried.whole_in(tick.number);
        if !muted {
            carried.pass(tick.number);
        }
        let mut sent = BTreeSet::new();
        let mut parts: BTreeMap<i32, Vec<Part>> = BTreeMap::new();
        for Own {
            operators,
            source,
            task,
            ..
        } in &mut self.detections
        {
            let own = source.flush(&operators.group, &operators.bench, tick)?;
            // Detections of one state keep the same: it goes once.
            if sent.insert(operators.state().to_owned()) {
                parts.entry(*task).or_default().extend(own);
            }
        }
        let envelope = Envelope {
            topic: self.topic,
            tick,
            partitions: self.exchange.partitions(),
            carried: &states,
        };
        let mut records = Vec::new();
        for number in 0..envelope.partitions {
            let own = parts.remove(&(FLEET - number)).unwrap_or_default();
            for record in Flush::all(&envelope, own) {
                records.push(Flushed {
                    source: (self.topic, tick.partition),
                    partition: number,
                    value: record.encode()?,
                });
            }
        }
        Ok(records)
    }

    /// Stage two: takes a record, and says what follows of it.
    pub fn receive(&mut self, set: &DetectionSet, record: &Received, output: &mut WindowOutput) {
        let Received {
            row,
            task,
            muted,
            ref flush,
        } = *record;
        if self.is_empty() {
            return;
        }
        let clock = self.clock(task);
        let (before, latest) = (clock.watermark(), clock.latest());
        let (known_to, missing) = match clock.accept(&flush.head) {
            Accepted::Repeated => return,
            Accepted::Next { before, missing } => (before.known_to, missing),
        };
        let resized =
            clock.disagrees(&flush.head) || flush.head.partitions != self.exchange.partitions();
        for own in self.detections.iter_mut().filter(|own| own.task == task) {
            if !own.merge.hears(muted, latest) {
                continue;
            }
            own.note_holes(flush, known_to, missing, resized);
            let words = guarded(|| own.take(set, flush, before));
            if words.is_err() {
                own.note_unread(flush);
            }
            own.tell(words, row, output);
        }
        let after = self.clock(task).watermark();
        self.close(set, (task, row), after, output);
        if after > i64::MIN {
            output.fleet_times.push((row, task, after));
        }
    }

    fn close(
        &mut self,
        set: &DetectionSet,
        (task, row): (i32, u32),
        watermark: i64,
        output: &mut WindowOutput,
    ) {
        for own in self.detections.iter_mut().filter(|own| own.task == task) {
            let losses = own.merge.rest.holes.clone();
            let mut words = own.merge.close(&own.operators, set, watermark);
            for word in words.iter_mut().flatten() {
                if let Some(told) = &mut word.fleet {
                    told.losses = losses.between(word.start, word.end);
                }
            }
            own.tell(words, row, output);
        }
    }

    /// How far all sources are, as a task of the fleet knows it.
    pub fn watermark(&self, task: i32) -> i64 {
        let clock = self.clocks.get(&task);
        clock.map_or(i64::MIN, Clock::watermark)
    }

    /// For each source that is waited for the end of its last second, nanoseconds, if it was heard of.
    pub fn heard(&self, task: i32) -> BTreeMap<i32, Option<i64>> {
        let nobody = || self.expected.iter().map(|source| (*source, None)).collect();
        self.clocks.get(&task).map_or_else(nobody, Clock::heard)
    }

    /// Forgets what a partition has not flushed, or what all sources have flushed to a task of the fleet.
    pub fn forget(&mut self, task: i32) {
        if task <= FLEET {
            return self.forget_merged(task);
        }
        let own = self.detections.iter_mut();
        own.for_each(|own| own.source.forget(task));
        self.carried.remove(&task);
        self.stored.remove(&task);
    }

    fn forget_merged(&mut self, task: i32) {
        let own = self.detections.iter_mut();
        let own = own.filter(|own| own.task == task);
        own.for_each(|own| own.merge = Merge::default());
        self.clocks.remove(&task);
        self.stored.remove(&task);
    }

    /// Whether windows are open, or a second waits to be flushed.
    pub fn waits(&self) -> bool {
        let mut own = self.detections.iter();
        own.any(|own| own.merge.waits() || !own.source.pending.is_empty())
    }

    /// Open panes, keys in them, bytes of their states.
    pub fn size(&self) -> (u64, u64, u64) {
        let pending = |own: &'_ Own| {
            own.source
                .pending
                .values()
                .map(|own| own.states.size())
                .collect()
        };
        let panes = |own: &'_ Own| own.merge.panes.values().map(states::States::size).collect();
        let sizes = self.detections.iter().flat_map(|own| {
            let (pending, panes): (Vec<_>, Vec<_>) = (pending(own), panes(own));
            pending.into_iter().chain(panes)
        });
        sizes.fold((0, 0, 0), |sum, (keys, bytes)| {
            (sum.0 + 1, sum.1 + keys, sum.2 + bytes)
        })
    }

    /// The hash of what the state of a detection is of.
    pub fn state_of(&self, detection: usize) -> Option<&str> {
        let mut own = self.detections.iter();
        let own = own.find(|own| own.detection == detection)?;
        Some(own.operators.state())
    }
}

impl Own {
    /// Stage one: adds rows to what their seconds hold.
    fn absorb(
        &mut self,
        set: &DetectionSet,
        rows: &Rows<'_>,
        matched: &[Vec<bool>],
    ) -> Result<WindowOutput> {
        let Operators {
            group, bench, span, ..
        } = &self.operators;
        let span = *span;
        let plan = plan_of(set, self.detection);
        let predicate = group.predicate();
        let mut numbers = Numbers::default();
        let (mut shown, mut moments) = (Vec::new(), Vec::new());
        let (mut included, mut late) = (Vec::new(), Vec::new());
        let all = rows.shown.iter().zip(rows.fleet.moments);
        for (own, moment) in all.filter(|(own, _)| matched[predicate][own.row as usize]) {
            let closed = span.closed(own.moment.time, moment.watermark);
            if closed > 0 {
                late.push((shown.len(), closed));
            }
            if closed < plan.spec.panes() {
                included.push(shown.len());
            }
            let mut own = *own;
            own.moment.slot = numbers.of((moment.partition, moment.second), closed);
            own.moment.high = moment.watermark;
            shown.push(own);
            moments.push(*moment);
        }
        let own = Rows {
            shown: &shown,
            fleet: FleetRows {
                moments: &moments,
                ..FleetRows::default()
            },
            ..*rows
        };
        let mut output = WindowOutput::default();
        for (place, closed) in late {
            let Shown { row, moment } = shown[place];
            let over = span.starts(moment.time).take(closed as usize);
            let over: Vec<Open> = over
                .map(|start| (start + span.size_ns, start, span.spec))
                .collect();
            group.note_late(set, &own, place, (matched, &over), &mut output)?;
            if output.late.contains_key(&row) {
                let second = (moments[place].partition, moments[place].second);
                let at = (moment.time, moment.time);
                self.source.note_hole(second, at, LATE_ROWS, 1);
            }
        }
        let included = (matched, included.as_slice());
        let (states, failed) = group.states_of_rows(bench, set, &own, included, &mut output)?;
        for row in failed {
            let place = shown.partition_point(|own| own.row < row);
            let second = (moments[place].partition, moments[place].second);
            let time = shown[place].moment.time;
            self.source.note_hole(second, (time, time), NOT_COMPUTED, 1);
        }
        for states in &states {
            self.source.push(group, bench, span, &numbers, states)?;
        }
        Ok(output)
    }

    /// Notes what is known to be missing in a second and before it; all of the source was known up to a time.
    fn note_holes(
        &mut self,
        flush: &Flush,
        known_to: i64,
        missing: Option<Missing>,
        resized: bool,
    ) {
        let (delay_ns, head) = (self.operators.span.delay_ns, &flush.head);
        let holes = &mut self.merge.rest.holes;
        if let Some(missing) = missing {
            let from = missing.known_to.saturating_sub(delay_ns);
            let lost = [(SECONDS_MISSING.into(), missing.seconds)].into();
            holes.note(from, missing.to, lost);
        }
        if head.place > 0 {
            return;
        }
        holes.extend(&head.holes);
        let end = head.number.saturating_add(1).saturating_mul(SECOND_NS);
        let from = known_to.saturating_sub(delay_ns);
        if !head
            .carried
            .iter()
            .any(|state| state == self.operators.state())
        {
            holes.note(from, end, [(NOT_LOADED.into(), 1)].into());
        }
        if resized {
            holes.note(from, end, [(EXCHANGE_RESIZED.into(), 1)].into());
        }
    }

    /// Notes that states of a second cannot be read.
    fn note_unread(&mut self, flush: &Flush) {
        let end = flush.head.number.saturating_add(1);
        let from = flush.head.watermark;
        let from = from.saturating_sub(self.operators.span.delay_ns);
        let lost = [(UNREAD_PARTS.into(), 1)].into();
        let holes = &mut self.merge.rest.holes;
        holes.note(from, end.saturating_mul(SECOND_NS), lost);
    }

    /// Stage two: takes its parts of a record; returns what has reached its numbers by them.
    fn take(&mut self, set: &DetectionSet, flush: &Flush, watermark: i64) -> Result<Vec<Word>> {
        let mut touched = Touched::default();
        for (head, payload) in flush.parts() {
            if head.state != self.operators.state() {
                continue;
            }
            self.merge.rest.holes.extend(&head.holes);
            if head.payload != STATES {
                self.note_unread(flush);
                continue;
            }
            if payload.is_empty() {
                continue;
            }
            for states in self.operators.read(payload)? {
                self.merge
                    .take(&self.operators, &states, watermark, &mut touched)?;
            }
        }
        let mut words = self
            .merge
            .cross(&self.operators, set, &self.content, &touched)?;
        for word in &mut words {
            if let Some(told) = &mut word.fleet {
                told.losses = self.merge.rest.holes.between(word.start, word.end);
            }
        }
        Ok(words)
    }

    /// Says words, or why there are none.
    fn tell(&self, words: Result<Vec<Word>>, row: u32, output: &mut WindowOutput) {
        let words = words.unwrap_or_else(|error| {
            output.unjudged.push(Unjudged {
                detection: self.detection,
                row,
                error: error_text(&error),
            });
            Vec::new()
        });
        output.words.extend(words.into_iter().map(|word| Word {
            row,
            slot: fleet_slot(self.task),
            ..word
        }));
    }
}

/// Refuses a name that is none of ours.
fn unknown(name: &str) -> Result<()> {
    exec_err!("the state of the fleet has a piece of an unknown name: {name}")
}
