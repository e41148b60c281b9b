//! The memory that queries run in: one pool for all of them, and no disk beside it.
//!
//! Plans run side by side and share the pool. One that finds it too small runs once more by itself, so that what it can
//! do does not depend on its neighbours: what then fails is its own.

use std::fmt;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, PoisonError, RwLock};

use datafusion::common::{DataFusionError, Result, resources_err};
use datafusion::execution::disk_manager::{DiskManagerBuilder, DiskManagerMode};
use datafusion::execution::memory_pool::{MemoryLimit, MemoryPool, MemoryReservation};
use datafusion::execution::runtime_env::{RuntimeEnv, RuntimeEnvBuilder};

/// Bytes of the pool until the configuration says otherwise: what loading takes, too.
pub const BYTES_MAX: usize = 1 << 30;

/// The pool, and the surroundings that every session makes of it.
#[derive(Debug, Clone)]
pub struct Memory {
    pool: Arc<Pool>,
    environment: Arc<RuntimeEnv>,
    /// Held shared by plans that run side by side, alone by one that runs by itself.
    turn: Arc<RwLock<()>>,
}

impl Memory {
    /// A pool of so many bytes.
    ///
    /// # Errors
    /// When the surroundings cannot be made.
    pub fn new(bytes_max: usize) -> Result<Self> {
        let pool = Arc::new(Pool {
            used: AtomicUsize::new(0),
            bytes_max: AtomicUsize::new(bytes_max),
        });
        let environment = RuntimeEnvBuilder::new()
            .with_memory_pool(Arc::clone(&pool) as _)
            .with_disk_manager_builder(
                DiskManagerBuilder::default().with_mode(DiskManagerMode::Disabled),
            )
            .build_arc()?;
        Ok(Self {
            pool,
            environment,
            turn: Arc::default(),
        })
    }

    /// Sets the pool's size; what is reserved stays.
    pub fn limit(&self, bytes_max: usize) {
        self.pool.bytes_max.store(bytes_max, Ordering::Relaxed);
    }

    /// What sessions are built on.
    pub fn environment(&self) -> Arc<RuntimeEnv> {
        Arc::clone(&self.environment)
    }

    /// Runs a plan beside others; where memory was short, once more by itself.
    pub fn run<T>(&self, run: impl Fn() -> Result<T>) -> Result<T> {
        let beside = {
            let _turn = self.turn.read().unwrap_or_else(PoisonError::into_inner);
            run()
        };
        match beside {
            Err(error) if is_short(&error) => {
                let _alone = self.turn.write().unwrap_or_else(PoisonError::into_inner);
                run()
            }
            other => other,
        }
    }
}

/// Whether memory was short.
pub fn is_short(error: &DataFusionError) -> bool {
    matches!(error.find_root(), DataFusionError::ResourcesExhausted(_))
}

/// First come, first served, up to a size that the configuration may still set.
#[derive(Debug)]
struct Pool {
    used: AtomicUsize,
    bytes_max: AtomicUsize,
}

impl fmt::Display for Pool {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let bytes_max = self.bytes_max.load(Ordering::Relaxed);
        write!(formatter, "dogwatch(of {bytes_max} bytes)")
    }
}

impl MemoryPool for Pool {
    fn name(&self) -> &str {
        "dogwatch"
    }

    fn grow(&self, _: &MemoryReservation, additional: usize) {
        self.used.fetch_add(additional, Ordering::Relaxed);
    }

    fn shrink(&self, _: &MemoryReservation, shrink: usize) {
        self.used.fetch_sub(shrink, Ordering::Relaxed);
    }

    fn try_grow(&self, reservation: &MemoryReservation, additional: usize) -> Result<()> {
        let bytes_max = self.bytes_max.load(Ordering::Relaxed);
        let fits = |used: usize| {
            used.checked_add(additional)
                .filter(|used| *used <= bytes_max)
        };
        match self
            .used
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, fits)
        {
            Ok(_) => Ok(()),
            Err(used) => resources_err!(
                "{} asked for {additional} bytes where {used} of {bytes_max} are taken",
                reservation.consumer().name()
            ),
        }
    }

    fn reserved(&self) -> usize {
        self.used.load(Ordering::Relaxed)
    }

    fn memory_limit(&self) -> MemoryLimit {
        MemoryLimit::Finite(self.bytes_max.load(Ordering::Relaxed))
    }
}

#[cfg(test)]
mod tests {
    use datafusion::execution::memory_pool::MemoryConsumer;

    use super::*;

    #[test]
    fn the_pool_gives_what_it_has_and_takes_it_back() {
        let memory = Memory::new(100).expect("a pool");
        let pool = memory.environment().memory_pool.clone();
        let first = MemoryConsumer::new("first").register(&pool);
        let second = MemoryConsumer::new("second").register(&pool);
        first.try_grow(60).expect("room");
        let error = second.try_grow(41).expect_err("no room");
        assert!(is_short(&error), "{error}");
        memory.limit(101);
        second.try_grow(41).expect("room");
        drop(first);
        assert_eq!(pool.reserved(), 41);
    }

    #[test]
    fn a_plan_that_found_too_little_runs_again_by_itself() {
        let memory = Memory::new(100).expect("a pool");
        let runs = std::cell::Cell::new(0);
        let short = memory.run(|| -> Result<()> {
            runs.set(runs.get() + 1);
            resources_err!("short")
        });
        assert!(short.is_err());
        assert_eq!(runs.get(), 2);
    }
}
