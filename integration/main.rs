//! Whole systems: the daemon with a Director, its two transports, blobstores, and containers of a stemcell-like image. See
//! `integration/README.md`.

#![expect(
    clippy::disallowed_methods,
    clippy::print_stderr,
    clippy::unwrap_used,
    reason = "these tests start servers from outside the agent, and a test may fail loudly"
)]

#[path = "../tests/support/mod.rs"]
mod common;

mod support {
    pub(crate) mod blobstore;
    pub(crate) mod browser;
    pub(crate) mod certificates;
    pub(crate) mod concourse;
    pub(crate) mod director;
    pub(crate) mod docker;
    pub(crate) mod faults;
    pub(crate) mod inputs;
    pub(crate) mod lying_nats;
    pub(crate) mod malformed;
    pub(crate) mod nats;
    pub(crate) mod network;
    pub(crate) mod nginx;
    pub(crate) mod numbers;
    pub(crate) mod proxy;
    pub(crate) mod release;
    pub(crate) mod source_release;
    pub(crate) mod vm;
}

mod blobs;
mod containers;
mod https;
mod nats;
mod timings;

mod compilation_vm {
    mod blob_faults;
    mod containers;
    mod conversation;
    mod endurance;
    mod go_release;
    mod load;
    mod lying_bus;
    mod malformed;
    mod outages;
    mod requests;
    mod scene;
    mod small_packages;
    mod stops;
}
