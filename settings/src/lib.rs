//! Where the settings of our programs come from, and the refusal of those that do not exist.
//!
//! ```text
//! defaults ◄─ file ◄─ environment (DOGWATCH_KAFKA__PARTITIONS = kafka.partitions) ◄─ flags      later ones win
//! ```
//! What settings there are is read from the commented files of the programs, `sensor.toml` and `processor.toml`, which tests
//! hold equal to the defaults: so every program knows the settings of the others, and one environment serves all.
//!
//! In the environment there is more than what people put there. Kubernetes tells every pod of its services, Docker of its
//! links, by variables whose names begin with ours when a service is called `dogwatch-…`. These and the settings of other
//! programs are passed over. A variable that was meant for us and is misspelt is refused, with the nearest name.
//!
//! What values mean is the program's to say: this crate knows names, places and precedence.
//!
//! The modules below stand in one order, held by a test: each may use those above it, none those below it.

pub mod keys;

pub mod environment;

mod words;

mod sources;

mod show;

pub use keys::{Program, nearest_word};
pub use show::{print, show};
pub use sources::{Flag, Settings, SettingsError, tell_unknown};
pub use words::{filter_fault, word};
