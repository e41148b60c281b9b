//! Crashes at named points, for tests of recovery.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::ConfigError;

/// A crash at a named point, for tests of recovery: `DOGWATCH_FAULT=after_send_offsets:3`
/// strikes the third time the process comes there. Clones count together.
#[derive(Debug, Clone)]
pub struct Fault {
    point: FaultPoint,
    /// Times the point is passed unharmed.
    spared: u64,
    passed: Arc<AtomicU64>,
}

/// Where a [`Fault`] strikes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FaultPoint {
    /// `after_send_offsets:N` kills the process in its Nth transaction, with the offsets sent and not committed.
    AfterSendOffsets,
    /// `before_commit_checkpoint:N` kills it in the Nth step that holds a checkpoint, with all sent and not committed.
    BeforeCommitCheckpoint,
    /// `during_restore:N` kills it when it has read the Nth task's state and not yet taken it over.
    DuringRestore,
    /// `stop_in_transaction:N` stops it (SIGSTOP) in its Nth transaction, with the offsets sent and not committed.
    StopInTransaction,
}

impl Fault {
    pub(super) fn parse(text: &str) -> Result<Self, ConfigError> {
        let point = |name: &str| match name {
            "after_send_offsets" => Some(FaultPoint::AfterSendOffsets),
            "before_commit_checkpoint" => Some(FaultPoint::BeforeCommitCheckpoint),
            "during_restore" => Some(FaultPoint::DuringRestore),
            "stop_in_transaction" => Some(FaultPoint::StopInTransaction),
            _ => None,
        };
        let parsed = text.split_once(':').and_then(|(name, count)| {
            let spared = count.parse::<u64>().ok()?.checked_sub(1)?;
            Some((point(name)?, spared))
        });
        let Some((point, spared)) = parsed else {
            return Err(ConfigError::Value {
                key: "DOGWATCH_FAULT",
                expected: "after_send_offsets:N, before_commit_checkpoint:N, during_restore:N or stop_in_transaction:N with N from 1 (for tests only)",
                found: format!("{text:?}"),
            });
        };
        Ok(Self {
            point,
            spared,
            passed: Arc::default(),
        })
    }

    /// Counts that the process comes to `point`, and says whether the fault strikes now.
    pub fn strikes(&self, point: FaultPoint) -> bool {
        point == self.point && self.passed.fetch_add(1, Ordering::Relaxed) == self.spared
    }
}
