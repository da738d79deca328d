//! The machine on which the daemon runs: its settings (from the cloud and the Director),
//! directories, applied spec (the state that a Director wants), and vitals (load, memory and
//! disks).
//!
//! ```text
//! sources        where settings come from: files, metadata services
//! settings       loads the settings and saves them for the next start
//! bootstrap      creates directories, removes leftovers of a killed agent
//! instance       the applied spec, and the reply to `get_state`
//! network        the machine's address, for networks whose settings contain no address
//! vitals         load, memory and disks; heartbeats
//! trusted_certs  installs CA certificates for the whole machine
//! accounts       users of `bosh ssh`
//! dns            names of other instances
//! program        runs programs of the machine
//! ```

pub(crate) mod accounts;
pub mod bootstrap;
pub(crate) mod dns;
pub mod instance;
pub mod network;
pub(crate) mod program;
pub mod settings;
pub mod sources;
pub mod trusted_certs;
pub mod vitals;
