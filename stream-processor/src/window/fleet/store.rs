//! What is stored of both stages: whole, at each checkpoint.

use std::collections::BTreeSet;

use datafusion::common::Result;

use super::record::{Part, external};
use super::source::{Pending, parts};
use super::{Fleet, unknown};
use crate::checkpoint::{State, StateRecord, take_below};
use crate::hosts::{FLEET, SECOND_NS};

/// What names of states begin with.
const PREFIX: &str = "fleet/";
/// What names of what is kept beside them begin with.
const REST: &str = "fleet-rest/";
/// Class of what came before a detection was there.
const NOT_LOADED: &str = "not_loaded";
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

impl Fleet {
    /// What a partition, or the fleet, remembers; names that are no longer are ended.
    pub fn store(&mut self, partition: i32) -> Result<Vec<StateRecord>> {
        if self.is_empty() {
            return Ok(Vec::new());
        }
        let mut records = match partition {
            FLEET => self.store_merged()?,
            _ => self.store_pending(partition)?,
        };
        let names: BTreeSet<String> = records.iter().map(|record| record.key.clone()).collect();
        let before = self.stored.insert(partition, names.clone());
        let over = before
            .into_iter()
            .flatten()
            .filter(|name| !names.contains(name));
        records.extend(over.map(|key| StateRecord { key, value: None }));
        Ok(records)
    }

    fn store_pending(&self, partition: i32) -> Result<Vec<StateRecord>> {
        let mut records = Vec::new();
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
                    records.push(StateRecord {
                        key: format!("{PREFIX}{state}/{time}/{piece}"),
                        value: Some(value(part)?),
                    });
                }
            }
        }
        Ok(records)
    }

    fn store_merged(&self) -> Result<Vec<StateRecord>> {
        let mut records = vec![StateRecord {
            key: CLOCK.to_owned(),
            value: Some(self.clock.store().map_err(external)?),
        }];
        for own in &self.detections {
            let (group, state) = (&own.operators.group, own.operators.state());
            let rest = serde_json::to_vec(&own.merge.rest).map_err(external)?;
            records.push(StateRecord {
                key: format!("{REST}{state}.{}", own.id),
                value: Some(rest),
            });
            for (pane, states) in &own.merge.panes {
                let parts = parts(group, states.pieces(), Default::default())?;
                for (piece, part) in parts.iter().enumerate() {
                    records.push(StateRecord {
                        key: format!("{PREFIX}{state}.{}/{pane}/{piece}", own.id),
                        value: Some(value(part)?),
                    });
                }
            }
        }
        Ok(records)
    }

    /// Takes back what a partition had not flushed.
    ///
    /// # Errors
    /// When a piece cannot be read.
    pub fn restore(&mut self, partition: i32, state: &mut State) -> Result<()> {
        let mut names = BTreeSet::new();
        for own in &mut self.detections {
            let prefix = format!("{PREFIX}{}/", own.operators.state());
            // Detections of one state have it from the same pieces.
            let kept: Vec<(String, Vec<u8>)> = state
                .range(prefix.clone()..)
                .take_while(|(name, _)| name.starts_with(&prefix))
                .map(|(name, value)| (name.clone(), value.clone()))
                .collect();
            for (name, value) in kept {
                let time = name[prefix.len()..].split('/').next();
                let Some(time) = time.and_then(|time| time.parse::<i64>().ok()) else {
                    return unknown(&name);
                };
                let second = (partition, time.div_euclid(SECOND_NS));
                let pending = own.source.pending.entry(second).or_default();
                let Some((holes, payload)) = parse(&value) else {
                    return unknown(&name);
                };
                let holes = serde_json::from_slice(holes).map_err(external)?;
                let Pending {
                    states,
                    holes: own_holes,
                } = pending;
                own_holes.extend(&holes);
                if !payload.is_empty() {
                    for piece in own.operators.read(payload)? {
                        states.push(&own.operators.group, &own.operators.bench, piece)?;
                    }
                }
                names.insert(name);
            }
        }
        names.iter().for_each(|name| drop(state.remove(name)));
        self.stored.insert(partition, names);
        Ok(())
    }

    /// Takes back what all sources had flushed.
    ///
    /// # Errors
    /// When a piece cannot be read.
    pub fn restore_merged(&mut self, state: &mut State) -> Result<()> {
        self.forget_merged();
        self.stored.insert(FLEET, state.keys().cloned().collect());
        if let Some(clock) = state.remove(CLOCK) {
            self.clock.restore(&clock).map_err(external)?;
        }
        let watermark = self.clock.watermark();
        for own in &mut self.detections {
            let name = format!("{}.{}", own.operators.state(), own.id);
            match state.remove(&format!("{REST}{name}")) {
                Some(rest) => own.merge.rest = serde_json::from_slice(&rest).map_err(external)?,
                // It is new: windows that have begun are not whole.
                None => own.merge.rest.holes.note(
                    i64::MIN,
                    self.clock.latest(),
                    [(NOT_LOADED.into(), 1)].into(),
                ),
            }
            for (rest, value) in take_below(state, &format!("{PREFIX}{name}/")) {
                let pane = rest.split('/').next();
                let pane = pane.and_then(|pane| pane.parse::<i64>().ok());
                let (Some(pane), Some((_, payload))) = (pane, parse(&value)) else {
                    return unknown(&rest);
                };
                for piece in own.operators.read(payload)? {
                    let states = own.merge.panes.entry(pane).or_default();
                    states.push(&own.operators.group, &own.operators.bench, piece)?;
                }
            }
            own.merge.reopen(own.operators.span, watermark);
        }
        Ok(())
    }
}
