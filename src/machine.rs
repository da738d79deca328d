//! The machine that the daemon runs on: its settings, its directories, its state and how it is doing.
//!
//! ```text
//! sources    where settings come from: a file, a metadata service
//! settings   loading them, whichever source has them first, and keeping them
//! bootstrap  the directories that a stemcell does not bring
//! instance   what a Director has applied, and what `get_state` reports of it
//! network    the address of a machine whose settings have none
//! vitals     load, memory and disks; heartbeats
//! trusted_certs  authorities that the whole machine trusts
//! ```

pub mod bootstrap;
pub mod instance;
pub mod network;
pub mod settings;
pub mod sources;
pub mod trusted_certs;
pub mod vitals;
