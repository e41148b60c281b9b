//! Drops alerts that were already shown.
//!
//! Delivery inside one process and from a broker is at least once, and what is said under an alert's id does not depend on
//! how often it was sent, so a repeat is recognised by its id, and by which word on the alert it is. The memory is bounded: two generations of ids, the older one
//! forgotten when the younger is full.
//!
//! ```text
//! id ──► in younger or older? ──yes──► repeat
//!                 └─no─► younger (full: becomes the older, a new one begins) ──► new
//! ```

use std::collections::HashSet;

use dogwatch_schemas::Text;

/// Remembers at least the last `generation_ids` alert ids and at most twice as many.
#[derive(Debug)]
pub struct Repeats {
    generation_ids: usize,
    younger: HashSet<Text>,
    older: HashSet<Text>,
}

impl Repeats {
    /// Makes an empty memory that holds between `generation_ids` and twice `generation_ids` ids.
    pub fn new(generation_ids: usize) -> Self {
        Self {
            generation_ids,
            younger: HashSet::new(),
            older: HashSet::new(),
        }
    }

    /// Notes `alert_id` and says whether it was not among the remembered ones.
    pub fn first_time(&mut self, alert_id: &Text) -> bool {
        if self.younger.contains(alert_id) || self.older.contains(alert_id) {
            return false;
        }
        if self.younger.len() >= self.generation_ids {
            self.older = std::mem::take(&mut self.younger);
        }
        self.younger.insert(alert_id.clone());
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(number: usize) -> Text {
        format!("{number:032x}").into()
    }

    #[test]
    fn repeat_is_dropped() {
        let mut repeats = Repeats::new(4);
        assert!(repeats.first_time(&id(1)));
        assert!(!repeats.first_time(&id(1)));
        assert!(repeats.first_time(&id(2)));
    }

    #[test]
    fn last_generation_is_always_remembered_and_memory_stays_bounded() {
        let mut repeats = Repeats::new(100);
        for number in 0..10_000 {
            assert!(repeats.first_time(&id(number)));
            assert!(repeats.younger.len() + repeats.older.len() <= 200);
            assert!(!repeats.first_time(&id(number.saturating_sub(99))));
        }
    }
}
