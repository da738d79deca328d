//! `bosh-agent`: compiles BOSH packages on the stemcell they will run on.
//!
//! One binary with two faces on one compile core. Each module may use what stands below it, never what stands above:
//!
//! ```text
//! cli         arguments, wiring, exit codes; the only place that ends the process
//!  ├─ offline   releases in, compiled releases out
//!  └─ daemon    settings, bus and agent brought together
//!      ├─ transport  NATS and HTTPS: requests in, replies out
//!      └─ agent      a Director's requests: tasks, actions, compile jobs
//!       machine   the machine that the daemon runs on: settings, directories, vitals
//!       compile   the core: one package, its direct dependencies, one packaging script, one compiled blob
//!       blobs     where blobs come from and go to: a store, signed URLs
//!       sandbox   what a packaging script may see, and the child that owns its process tree
//!       process   starts processes, reads their output, ends them
//!       http      requests: proxies, TLS, limits; knows no BOSH
//!       archive   tar and its compressions; knows no BOSH
//!       tls       certificates, keys and cipher suites, for clients and servers
//!       config    every path below the base directory, the environment
//!       release   release.MF, names, digests, dependency graph, stemcell: pure, no I/O
//!       runtime   named tasks, signals, telemetry
//!       fs        `std::fs` with the path in the error
//!       diag      errors, sizes and times as a person reads them
//! ```
//!
//! `docs/architecture.md` is the map.
#![deny(unsafe_code)]

pub mod agent;
pub mod archive;
pub mod blobs;
pub mod cli;
pub mod compile;
pub mod config;
pub mod daemon;
pub mod diag;
pub mod fs;
pub mod http;
pub mod machine;
pub mod offline;
pub mod process;
pub mod release;
pub mod runtime;
pub mod sandbox;
#[cfg(test)]
mod texts;
pub mod tls;
pub mod transport;
