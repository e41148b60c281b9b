//! What follows of each record alone: its row, and the detections on single events that match it.
//!
//! ```text
//! records, a chunk ─┬─► decode ─► match ─┐
//!                   └─► decode ─► match ─┴─► in their order: rows, matches
//! ```
//! A chunk is small enough to be in the processor's caches from one stage to the next, and its shares are read side by side.

use std::collections::BTreeSet;

use arrow::array::{AsArray, RecordBatch};
use arrow::datatypes::SchemaRef;
use dogwatch_schemas::Fingerprint;
use dogwatch_schemas::decode::SchemaError;

use super::matcher::{Found, Matcher};
use super::{EVENT_TYPE, EngineError, MARK};
use crate::decode::{Decoded, Decoder, InputRecord};
use crate::detect::{DetectionSet, Routes, Unjudged};
use crate::parallel::{cores, side_by_side};

/// Records of a share: with fewer each costs a detection more, with more they leave the caches between the stages. On two
/// cores steps of 8,192 took a tenth less CPU time than steps of 2,048 and of 65,536 (100 detections, events of 790 bytes).
const SHARE_ROWS: usize = if cfg!(test) { 8 } else { 4096 };
/// Most shares: the sources do not keep up with more.
const SHARES_MAX: usize = 4;

/// Reads records: to rows of the columns that detections ask for, and what these find.
pub(crate) struct Reader {
    /// One for each share.
    decoders: Vec<Decoder>,
    matcher: Matcher,
}

/// Records that were read.
pub(crate) struct Read {
    pub decoded: Decoded,
    /// By row of the batch, then by detection; also in rows that turn out to be repeats.
    pub found: Vec<Found>,
    /// As `found`.
    pub unjudged: Vec<Unjudged>,
}

impl Reader {
    /// Compiles a set's detections; `events` is the schema of the table, `columns` those that are decoded.
    pub fn new(
        set: &DetectionSet,
        events: &SchemaRef,
        columns: &BTreeSet<&str>,
    ) -> Result<Self, SchemaError> {
        let decoders = (0..cores().min(SHARES_MAX)).map(|_| Decoder::new(set.table(), columns));
        Ok(Self {
            decoders: decoders.collect::<Result<_, _>>()?,
            matcher: Matcher::new(set, events),
        })
    }

    /// Makes a writer's schema known.
    pub fn register(&mut self, schema: &str) -> Result<Fingerprint, SchemaError> {
        let (first, others) = self
            .decoders
            .split_first_mut()
            .expect("there is a decoder for every core");
        for decoder in others {
            decoder.register(schema)?;
        }
        first.register(schema)
    }

    /// The fingerprint of the record's schema, when it is framed and its schema not known.
    pub fn unknown_schema(&self, record: &InputRecord) -> Option<Fingerprint> {
        self.decoders[0].unknown_schema(record)
    }

    /// How many records are best read at once.
    pub fn chunk_rows(&self) -> usize {
        SHARE_ROWS * self.decoders.len()
    }

    /// Reads records; what came of them is in their order.
    pub fn read(
        &mut self,
        set: &DetectionSet,
        mut records: Vec<InputRecord>,
    ) -> Result<Vec<Read>, EngineError> {
        let shares = records
            .len()
            .div_ceil(SHARE_ROWS)
            .clamp(1, self.decoders.len());
        let each = records.len().div_ceil(shares);
        // From the end, so that each is moved once.
        let mut cut: Vec<Vec<InputRecord>> = (1..shares)
            .rev()
            .map(|share| records.split_off((share * each).min(records.len())))
            .collect();
        cut.push(records);
        let (matcher, decoders) = (&self.matcher, self.decoders.iter_mut());
        let results = side_by_side(decoders.zip(cut.into_iter().rev()), |(decoder, share)| {
            read_share(set, matcher, decoder, share)
        });
        let mut all = Vec::with_capacity(shares);
        for result in results {
            all.extend(result?);
        }
        Ok(all)
    }
}

/// Reads one share, to one batch or to as many as it takes.
fn read_share(
    set: &DetectionSet,
    matcher: &Matcher,
    decoder: &mut Decoder,
    mut records: Vec<InputRecord>,
) -> Result<Vec<Read>, EngineError> {
    let mut all = Vec::new();
    while !records.is_empty() {
        let mut decoded = decoder.decode(records)?;
        records = std::mem::take(&mut decoded.rest);
        let (found, unjudged) = find(set, matcher, &decoded.batch)?;
        all.push(Read {
            decoded,
            found,
            unjudged,
        });
    }
    Ok(all)
}

/// What detections on single events find in a batch.
fn find(
    set: &DetectionSet,
    matcher: &Matcher,
    batch: &RecordBatch,
) -> Result<(Vec<Found>, Vec<Unjudged>), EngineError> {
    let event_types = batch.column(batch.schema_ref().index_of(EVENT_TYPE)?);
    let event_types = event_types.as_string_view();
    let events = (0..batch.num_rows() as u32)
        .filter(|row| event_types.value(*row as usize) != MARK)
        .collect();
    Ok(matcher.run(set, batch, &Routes::new(event_types, events))?)
}
