//! What the windows of a task of the fleet hold, and how keys go where there is no room for them.

use std::collections::BTreeMap;

use arrow::array::RecordBatch;
use datafusion::common::{HashMap, HashSet, Result};

use super::source::KEYS_OVER_CAP;
use super::{Fleet, Own, pane_end};
use crate::hosts::FLEET;
use crate::window::group::FIXED_COLUMNS;
use crate::window::piece::row_bytes;
use crate::window::room::{FIRED_PART, Held, KEY_BESIDE, going};
use crate::window::shard::key_hashes;

/// What a mark of a window that has fired takes beside the text of its keys.
const MARK_BYTES: usize = 128;

impl Fleet {
    /// Bytes that came to the tasks of the fleet since this was asked, at most.
    pub fn came(&mut self) -> Vec<(i32, u64)> {
        let own = self.detections.iter_mut().map(|own| {
            let panes = own.merge.panes.values_mut();
            (own.task, panes.map(|states| states.take_came()).sum())
        });
        own.filter(|(_, bytes)| *bytes > 0).collect()
    }

    /// Bytes that the windows of a task of the fleet hold, of so many that it may; nothing of a partition, whose seconds have a
    /// bound of their own.
    pub fn held(&self, task: i32, bytes_max: u64) -> u64 {
        self.keys(task) + self.fired(task, bytes_max)
    }

    fn keys(&self, task: i32) -> u64 {
        self.of_task(task).map(Own::held).sum()
    }

    /// Bytes of what has fired, as far as they count: no key that goes makes them fewer, so they leave the keys the rest.
    fn fired(&self, task: i32, bytes_max: u64) -> u64 {
        let all: u64 = self.of_task(task).map(Own::fired).sum();
        all.min(bytes_max / FIRED_PART)
    }

    fn of_task(&self, task: i32) -> impl Iterator<Item = &Own> {
        let own = self.detections.iter();
        own.filter(move |own| task <= FLEET && own.task == task)
    }

    /// Takes keys out until the windows of a task hold so many bytes, of `bytes_max` that it may: of each detection the same part
    /// of what it has.
    ///
    /// # Errors
    /// When states cannot be taken apart.
    pub fn shed(&mut self, task: i32, bytes: u64, bytes_max: u64) -> Result<()> {
        let all = self.keys(task);
        let left = bytes.saturating_sub(self.fired(task, bytes_max));
        if all <= left {
            return Ok(());
        }
        let own = self.detections.iter_mut().filter(|own| own.task == task);
        for own in own {
            let kept = u128::from(own.held()) * u128::from(left) / u128::from(all).max(1);
            own.shed(kept as u64)?;
        }
        Ok(())
    }
}

impl Own {
    fn held(&self) -> u64 {
        let panes = self.merge.panes.values();
        panes.map(super::states::States::bytes).sum()
    }

    fn fired(&self) -> u64 {
        let fired = self.merge.rest.fired.values().flatten();
        fired
            .map(|(keys, _)| (keys.len() + MARK_BYTES) as u64)
            .sum()
    }

    fn shed(&mut self, bytes: u64) -> Result<()> {
        let group = &self.operators.group;
        let keys_end = FIXED_COLUMNS + group.keys;
        let mut keys: HashMap<(i64, u64), (u64, u64)> = HashMap::new();
        for (pane, states) in &self.merge.panes {
            for piece in states.pieces() {
                let hashes = key_hashes(piece, keys_end)?;
                for ((row, hash), bytes) in hashes.into_iter().enumerate().zip(row_bytes(piece)) {
                    let key = keys.entry((*pane, hash)).or_default();
                    key.0 += group.rows_in(&piece.slice(row, 1));
                    key.1 += (bytes + KEY_BESIDE) as u64;
                }
            }
        }
        let keys = keys.into_iter();
        let keys = keys.map(|((pane, hash), (rows, bytes))| Held {
            pane,
            hash,
            rows,
            bytes,
        });
        let mut by_pane: BTreeMap<i64, HashSet<u64>> = BTreeMap::new();
        for key in going(keys.collect(), bytes) {
            by_pane.entry(key.pane).or_default().insert(key.hash);
        }
        for (pane, hashes) in by_pane {
            let Some(states) = self.merge.panes.get_mut(&pane) else {
                continue;
            };
            let stays = |piece: &RecordBatch| {
                let all = key_hashes(piece, keys_end)?.into_iter();
                Ok(all.map(|hash| !hashes.contains(&hash)).collect())
            };
            let rows = states.retain(group, stays)?;
            self.merge.changed.insert(pane);
            let lost = [(
                KEYS_OVER_CAP.into(),
                i64::try_from(rows).unwrap_or(i64::MAX),
            )]
            .into();
            let end = pane_end(pane, self.operators.span);
            self.merge.rest.holes.note(pane, end, lost);
        }
        Ok(())
    }
}
