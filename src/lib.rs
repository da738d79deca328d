//! `bosh-agent`: compiles BOSH packages on the stemcell they will run on.
//!
//! Two front ends, offline and daemon, share one compile core. A module may use the modules below
//! it in this list, never those above:
//!
//! ```text
//! cli         arguments, wiring, exit codes; the only module that exits the process
//!  ├─ inspect   what a release holds, and what is wrong with it
//!  ├─ offline   releases in, compiled releases out
//!  └─ daemon    starts and stops the daemon: settings, message bus, agent
//!      ├─ transport  NATS and HTTPS: requests in, replies out
//!      └─ agent      handles a Director's requests: tasks, actions, compilation
//!       machine   the daemon's machine: settings, directories, vitals
//!       cluster   compiles packages on other machines
//!       compile   the core: compiles one package against its dependencies
//!       cache     compiled packages of earlier runs, found by a digest of all that affects them
//!       reapi     a client of the Remote Execution API; independent of BOSH
//!       blobs     fetches and stores blobs: blobstores, signed URLs
//!       sandbox   isolates packaging scripts; starts each in a child process, which owns the script's process tree
//!       process   starts processes, reads their output, stops them
//!       http      HTTP client: proxies, TLS, limits; independent of BOSH
//!       image     stemcell images: their layers, unpacked to a root file system
//!       archive   tar and its compressions; independent of BOSH
//!       tls       certificates, keys and cipher suites, for clients and servers
//!       config    paths below the base directory, environment, settings
//!       supply_chain  SBOMs and provenance, as JSON: pure
//!       package_job  one package to compile, and the report of it, as JSON: pure
//!       release   release.MF, names, digests, dependency graph, stemcell: pure, no I/O
//!       runtime   named tasks, signals, telemetry
//!       fs        `std::fs` with the path in the error
//!       diag      formats errors, sizes and times for people
//! ```
//!
//! `docs/architecture.md` has the details.
#![deny(unsafe_code)]

pub mod agent;
pub mod archive;
pub mod blobs;
pub mod cache;
pub mod cli;
pub(crate) mod cluster;
pub mod compile;
pub mod config;
pub mod daemon;
pub mod diag;
pub mod fs;
pub(crate) mod http;
pub mod image;
pub mod inspect;
pub mod machine;
pub mod offline;
pub mod package_job;
pub mod process;
pub(crate) mod reapi;
pub mod release;
pub mod runtime;
pub mod sandbox;
pub mod supply_chain;
#[cfg(test)]
mod texts;
pub mod tls;
pub mod transport;
