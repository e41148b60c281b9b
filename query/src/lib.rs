//! SQL over Dogwatch's tables: what a query may be, what it runs in, and what it reads.
//!
//! ```text
//! text ─► sql_file ─► check: one SELECT ─► session: tables, lists, functions, memory ─► plan
//!                       │ sentence with line and mend
//!
//! source ─► feed ─► rows: the columns that are read ─► scan ─► ask ─► rows that answer
//! ```
//! The stream processor builds its detections on the upper half, the console asks with both.
//! There is no file, no external table and no disk to be had from a query, and nothing that it could change.
//!
//! The modules below stand in one order, held by a test: each may use those above it, none those below it.

pub mod json;
pub mod memory;
pub mod sql_file;
pub mod tables;

pub mod aggregates;
pub mod falco;
pub mod functions;
pub mod held;
pub mod shared;

pub mod growth;
pub mod window;

pub mod lists;
pub mod simplify;

pub mod session;

pub mod check;

pub mod rows;

pub mod feed;
pub mod whole_topic;

pub mod schema_lookup;

pub mod follow;
mod scan;

pub mod ask;
