//! The machine on which the daemon runs: its settings (from the cloud and the Director), its
//! directories, its applied spec (the state that a Director wants), its vitals (load, memory and
//! disks), and its users and host names.
//!
//! ```text
//! sources        where settings come from: files, metadata services, disks
//! settings       loads the settings and saves them for the next start
//! bootstrap      creates directories, removes leftovers of a killed agent
//! data           the data directory, and whether it may be used
//! instance       the applied spec, and the reply to `get_state`
//! network        the machine's address, if the settings do not contain it
//! vitals         load, memory and disks; heartbeats
//! trusted_certs  installs CA certificates for the whole machine
//! accounts       users of `bosh ssh`
//! dns            host names of other instances
//! program        runs programs of the machine
//! ```

pub(crate) mod accounts;
pub mod bootstrap;
pub mod data;
pub(crate) mod dns;
pub mod instance;
pub mod network;
pub(crate) mod program;
pub mod settings;
pub mod sources;
pub mod trusted_certs;
pub mod vitals;
