//! What depends on the order of the log: which of the rows that were read are new, at which time of their host, and with what lost.

use super::reader::Read;
use super::taken::{Columns, Taken};
use super::{Engine, EngineError, MARK, StepOutput, cut};
use crate::decode::{InputRecord, RejectError};
use crate::detect::{Unjudged, project};
use crate::hosts::{Heard, Moment, Place};
use crate::window::Shown;

/// Longest identity of a host or run, bytes: each is stored for every host.
const IDENTITY_BYTES_MAX: usize = 256;
/// Longest name of a host, bytes; more is cut.
const NAME_BYTES_MAX: usize = 256;
/// Longest identity of a boot, bytes; more is cut.
const BOOT_BYTES_MAX: usize = 64;
/// Rows of this type say that the clock was stepped.
const CLOCK_STEP: &str = "clock_step";

impl Engine {
    /// Adds rows that were read to those taken: which of them detections may see, each with its place in time and what its
    /// sensor said is lost so far.
    pub(super) fn admit(&mut self, read: Read, taken: &mut Taken) -> Result<(), EngineError> {
        let before = taken.records.len() as u32;
        let Read {
            decoded,
            found,
            unjudged,
        } = read;
        let columns = Columns::of(&decoded)?;
        let (admitted, output) = (&mut taken.admitted, &mut taken.output);
        let mut last_second = None;
        for (index, record) in decoded.records.iter().enumerate() {
            let row = before + index as u32;
            let Some(moment) = self.place(record, &columns, index, row, output) else {
                continue;
            };
            admitted.progress.note(row, moment.slot, moment.high_after);
            let second = (record.log(), self.hosts.second(record.log()));
            if last_second.replace(second) != Some(second) {
                admitted.seconds.note(row, second.0, second.1);
            }
            if columns.event_type.value(index) == MARK {
                output.counts.marks += 1;
                let losses = columns.losses(index);
                self.hosts
                    .note_losses(record.log(), row, moment.time, losses);
                continue;
            }
            output.counts.events += 1;
            output.counts.clock_replaced += u64::from(moment.clock_replaced);
            admitted.shown.push(Shown { row, moment });
            admitted.holes.push(self.hosts.holes(record.log()));
            if self.windows.any_of_fleet() {
                let moment = self.hosts.fleet_moment(record.log(), record.offset);
                admitted.fleet.push(moment);
            }
        }
        let found = found.into_iter().filter_map(|(detection, found)| {
            let row = before + found.row;
            admitted.place(row)?;
            Some((detection, found.at_row(row)))
        });
        taken.found.extend(found);
        let unjudged = unjudged.into_iter().filter_map(|unjudged| {
            let row = before + unjudged.row;
            admitted.place(row)?;
            Some(Unjudged { row, ..unjudged })
        });
        taken.unjudged.extend(unjudged);
        let heard = |record: &InputRecord| !self.muted(record);
        let letters = decoded.dead_letters.into_iter();
        output
            .dead_letters
            .extend(letters.filter(|letter| heard(&letter.record)));
        let unknown = decoded.unknown_schemas.into_iter();
        output
            .unknown_schemas
            .extend(unknown.filter(|(_, record)| heard(record)));
        if !self.windows.is_empty() {
            taken
                .batches
                .push(project(&decoded.batch, &self.window_columns)?);
        }
        taken.columns.push((before, columns));
        taken.records.extend(decoded.records);
        Ok(())
    }

    /// The place of a row in its host's time; none for a record that cannot be used or was in the log before, which is counted.
    fn place(
        &mut self,
        record: &InputRecord,
        columns: &Columns,
        index: usize,
        row: u32,
        output: &mut StepOutput,
    ) -> Option<Moment> {
        let host_id = columns.host_id.value(index);
        let sensor_run = columns.sensor_run.value(index);
        if let Some(error) = refusal(record, host_id, sensor_run) {
            self.reject(record, error, output);
            return None;
        }
        self.end_replay(record, row);
        let heard = Heard {
            log: record.log(),
            offset: record.offset,
            row,
            host_id,
            sensor_run,
            seq: columns.seq.value(index),
            ts: columns.ts.value(index),
            ingest_ts: record.ingest_ts_ns,
            clock_step: columns.event_type.value(index) == CLOCK_STEP,
        };
        let moment = match self.hosts.take(&heard) {
            Place::Repeated => {
                output.counts.repeated += 1;
                return None;
            }
            Place::New {
                missing,
                moment,
                begins,
            } => {
                output.counts.missing += missing;
                if begins {
                    // Rare enough to be decoded whole; what cannot be is told elsewhere.
                    let event = self.decoders[0].decode(record);
                    let boot = event.as_ref().map_or("", |event| &event.boot_id);
                    let boot = cut(boot, BOOT_BYTES_MAX);
                    self.hosts.note_boot(record.log(), boot);
                }
                moment
            }
        };
        let host_name = cut(columns.host_name.value(index), NAME_BYTES_MAX);
        self.hosts.note_name(record.log(), host_name);
        Some(moment)
    }
}

/// Why a record cannot be used, by who it says it is of.
fn refusal(record: &InputRecord, host_id: &str, sensor_run: &str) -> Option<RejectError> {
    if *record.key != *host_id.as_bytes() {
        let key = String::from_utf8_lossy(&record.key).into_owned();
        return Some(RejectError::KeyDisagrees {
            host_id: host_id.to_owned(),
            key,
        });
    }
    let long = host_id.len().max(sensor_run.len()) > IDENTITY_BYTES_MAX;
    long.then_some(RejectError::IdentityTooLong)
}
