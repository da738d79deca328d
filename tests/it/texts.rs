//! The texts that people read, as snapshots: help, usage errors, refusals, failures, warnings and
//! progress.
//!
//! Each snapshot in `tests/snapshots` is a page of runs: a title, the exit code, and the output. A
//! changed text fails these tests; `make texts` accepts it, and the diff is the review.

mod command_line;
mod inputs;
mod page;
mod places;
mod runs;
