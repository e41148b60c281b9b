//! What is stored of both stages. Seconds that run are stored whole, panes of windows when something came to them.

use std::collections::BTreeSet;

use datafusion::common::Result;

use super::record::{Part, external};
use super::source::{Carried, Pending, parts};
use super::{Exchange, Fleet, Own, unknown};
use crate::checkpoint::{Renewal, State, StateRecord, take_below};
use crate::hosts::{FLEET, SECOND_NS};

/// What names of states begin with.
const PREFIX: &str = "fleet/";
/// What names of what is kept beside them begin with.
const REST: &str = "fleet-rest/";
/// Name of the states that a partition keeps.
const CARRIED: &str = "fleet-carried";
/// Name of how far each source is.
const CLOCK: &str = "clock";

/// A part as it is stored: holes before its payload.
fn value(part: &Part) -> Result<Vec<u8>> {
    let holes = serde_json::to_vec(&part.head.holes).map_err(external)?;
    let length = (holes.len() as u32).to_le_bytes();
    Ok([&length[..], &holes, &part.payload].concat())
}

fn parse(value: &[u8]) -> Option<(&[u8], &[u8])> {
    let (length, rest) = value.split_first_chunk()?;
    rest.split_at_checked(u32::from_le_bytes(*length) as usize)
}

fn record(key: &str, value: Vec<u8>) -> StateRecord {
    StateRecord {
        key: key.to_owned(),
        value: Some(value),
    }
}

/// What is stored now, and the names of all that is alive.
#[derive(Default)]
struct Stored {
    records: Vec<StateRecord>,
    names: BTreeSet<String>,
}

impl Stored {
    fn push(&mut self, record: StateRecord) {
        self.names.insert(record.key.clone());
        self.records.push(record);
    }
}

impl Own {
    /// What names of its states begin with, where they are merged.
    fn name(&self) -> String {
        format!("{}.{}", self.operators.state(), self.id)
    }

    /// What changed of its windows, and the pieces that are to be written anew.
    fn store(&mut self, renewal: &Renewal, stored: &mut Stored) -> Result<()> {
        let name = self.name();
        self.merge.rest.content = Some(self.content.clone());
        let rest = serde_json::to_vec(&self.merge.rest).map_err(external)?;
        stored.push(record(&format!("{REST}{name}"), rest));
        let merge = &mut self.merge;
        merge
            .pieces
            .retain(|pane, _| merge.panes.contains_key(pane));
        for (pane, states) in &merge.panes {
            let prefix = format!("{PREFIX}{name}/{pane}/");
            let pieces = merge.pieces.entry(*pane).or_default();
            let anew = renewal.below(&prefix).next().is_some();
            if !merge.changed.contains(pane) && !anew && !pieces.is_empty() {
                stored.names.extend(pieces.iter().cloned());
                continue;
            }
            pieces.clear();
            let own = parts(&self.operators.group, states.pieces(), Default::default())?;
            for (piece, part) in own.iter().enumerate() {
                let key = format!("{prefix}{piece}");
                pieces.insert(key.clone());
                stored.push(record(&key, value(part)?));
            }
        }
        merge.changed.clear();
        Ok(())
    }
}

impl Fleet {
    /// What a task, of a partition or of the fleet, remembers and was not stored as it is; names that are no longer are ended.
    pub fn store(&mut self, task: i32, renewal: &Renewal) -> Result<Vec<StateRecord>> {
        let mut stored = Stored::default();
        match task <= FLEET {
            true if !self.is_empty() => self.store_merged(task, renewal, &mut stored)?,
            false if !self.is_empty() => self.store_pending(task, &mut stored)?,
            _ => {}
        }
        let Stored { mut records, names } = stored;
        let before = self.stored.remove(&task);
        let before = before.into_iter().flatten();
        let over = before.filter(|name| !names.contains(name));
        records.extend(over.map(|key| StateRecord { key, value: None }));
        if !names.is_empty() {
            self.stored.insert(task, names);
        }
        Ok(records)
    }

    fn store_pending(&self, partition: i32, stored: &mut Stored) -> Result<()> {
        if let Some(carried) = self.carried.get(&partition) {
            let carried = serde_json::to_vec(carried).map_err(external)?;
            stored.push(record(CARRIED, carried));
        }
        let mut seen = BTreeSet::new();
        for own in &self.detections {
            let state = own.operators.state();
            if !seen.insert(state) {
                continue;
            }
            let pending = own
                .source
                .pending
                .range((partition, i64::MIN)..=(partition, i64::MAX));
            for ((_, second), pending) in pending {
                let time = second.saturating_mul(SECOND_NS);
                for (piece, part) in pending.parts(&own.operators.group)?.iter().enumerate() {
                    let key = format!("{PREFIX}{state}/{time}/{piece}");
                    stored.push(record(&key, value(part)?));
                }
            }
        }
        Ok(())
    }

    fn store_merged(&mut self, task: i32, renewal: &Renewal, stored: &mut Stored) -> Result<()> {
        if let Some(clock) = self.clocks.get(&task) {
            stored.push(record(CLOCK, clock.store().map_err(external)?));
        }
        let own = self.detections.iter_mut();
        for own in own.filter(|own| own.task == task) {
            own.store(renewal, stored)?;
        }
        Ok(())
    }

    /// Takes back what a partition had not flushed.
    ///
    /// # Errors
    /// When a piece cannot be read.
    pub fn restore(&mut self, partition: i32, state: &mut State) -> Result<()> {
        let mut names = BTreeSet::new();
        if let Some(carried) = state.remove(CARRIED) {
            names.insert(CARRIED.to_owned());
            if !self.is_empty() {
                let carried: Carried = serde_json::from_slice(&carried).map_err(external)?;
                let carried = carried.restored(&self.detections);
                self.carried.insert(partition, carried);
            }
        }
        let new = || Carried::amid(&self.detections);
        self.carried.entry(partition).or_insert_with(new);
        // What nobody here keeps any more was flushed by others, or never is.
        let kept = take_below(state, PREFIX);
        for (name, value) in kept {
            let mut parts = name.split('/');
            let (of, time) = (parts.next(), parts.next());
            let time = time.and_then(|time| time.parse::<i64>().ok());
            let (Some(of), Some(time), Some((holes, payload))) = (of, time, parse(&value)) else {
                return unknown(&name);
            };
            names.insert(format!("{PREFIX}{name}"));
            // Detections of one state have it from the same pieces.
            let own = self.detections.iter_mut();
            for own in own.filter(|own| own.operators.state() == of) {
                let second = (partition, time.div_euclid(SECOND_NS));
                let pending = own.source.pending.entry(second).or_default();
                let Pending {
                    states,
                    holes: own_holes,
                } = pending;
                own_holes.extend(&serde_json::from_slice(holes).map_err(external)?);
                if payload.is_empty() {
                    continue;
                }
                for piece in own.operators.read(payload)? {
                    states.push(&own.operators.group, &own.operators.bench, piece, u64::MAX)?;
                }
            }
        }
        self.stored.insert(partition, names);
        Ok(())
    }

    /// Takes back what all sources had flushed to a task of the fleet; nothing where it begins with its log.
    ///
    /// # Errors
    /// When a piece cannot be read.
    pub fn restore_merged(&mut self, (task, begins): (i32, bool), state: &mut State) -> Result<()> {
        self.forget_merged(task);
        self.stored.insert(task, state.keys().cloned().collect());
        let of_others = matches!(self.exchange, Exchange::Received(_));
        let clock = self.clock(task);
        if let Some(stored) = state.remove(CLOCK) {
            clock.restore(&stored).map_err(external)?;
            if of_others {
                clock.forget_gone();
            }
        }
        let watermark = clock.watermark();
        let own = self.detections.iter_mut();
        for own in own.filter(|own| own.task == task) {
            let name = own.name();
            match state.remove(&format!("{REST}{name}")) {
                Some(rest) => {
                    own.merge.rest = serde_json::from_slice(&rest).map_err(external)?;
                    let spoke = own.merge.rest.content.replace(own.content.clone());
                    let edited = spoke.is_some_and(|spoke| spoke != own.content);
                    own.merge.rest.edited |= edited;
                }
                // Windows that have begun are not whole.
                None => own.merge.rest.new = !begins,
            }
            for (rest, value) in take_below(state, &format!("{PREFIX}{name}/")) {
                let pane = rest.split('/').next();
                let pane = pane.and_then(|pane| pane.parse::<i64>().ok());
                let (Some(pane), Some((_, payload))) = (pane, parse(&value)) else {
                    return unknown(&rest);
                };
                for piece in own.operators.read(payload)? {
                    let states = own.merge.panes.entry(pane).or_default();
                    states.push(&own.operators.group, &own.operators.bench, piece, u64::MAX)?;
                }
                let pieces = own.merge.pieces.entry(pane).or_default();
                pieces.insert(format!("{PREFIX}{name}/{rest}"));
            }
            own.merge.reopen(own.operators.span, watermark);
        }
        Ok(())
    }
}
