//! One signal in: a cloneable handle that asks the pipeline to drain, commit and end.
//!
//! The pipeline looks at it between polls; nothing is interrupted in the middle.

use std::sync::{Arc, OnceLock};

/// Asks a running pipeline to end. Clones share one state.
#[derive(Debug, Clone, Default)]
pub struct Shutdown(Arc<OnceLock<String>>);

impl Shutdown {
    /// Makes a handle nobody has triggered yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Asks for the end; the first reason is kept.
    pub fn trigger(&self, reason: &str) {
        if self.0.set(reason.to_owned()).is_ok() {
            tracing::info!(reason, "shutting down");
        }
    }

    /// Says whether the end was asked for.
    pub fn triggered(&self) -> bool {
        self.0.get().is_some()
    }

    /// Says why the end was asked for.
    pub fn reason(&self) -> Option<&str> {
        self.0.get().map(String::as_str)
    }
}
