//! The daemon as a whole: the built program on a compilation VM, real servers, and a Director that plays its side to the letter.
//! See `integration/README.md`.
#![expect(
    clippy::disallowed_methods,
    clippy::print_stderr,
    clippy::unwrap_used,
    reason = "these tests start servers from outside the agent, and a test may fail loudly"
)]

#[path = "../tests/support/mod.rs"]
mod common;

#[allow(dead_code, reason = "other tests use more of it")]
mod support {
    pub(crate) mod blobstore;
    pub(crate) mod certificates;
    pub(crate) mod director;
    pub(crate) mod docker;
    pub(crate) mod faults;
    pub(crate) use crate::common::go_release;
    pub(crate) mod inputs;
    pub(crate) mod nats;
    pub(crate) mod nginx;
    pub(crate) mod programs;
    pub(crate) mod source_release;
    pub(crate) mod vm;
}

mod compilation_vm {
    mod blob_faults;
    mod containers;
    mod conversation;
    mod go_release;
    mod load;
    mod outages;
    mod requests;
    mod scene;
    mod stops;
}
