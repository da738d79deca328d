//! A client of the Remote Execution API (REAPI), a gRPC protocol for shared caches and for servers
//! that execute *actions* (commands with inputs) on other machines. A *blob* is a sequence of bytes
//! that the server stores under its digest.
//!
//! ```text
//! server        a server, its connections and its capabilities
//!  ├─ cas           blobs: lists missing ones, stores small ones, downloads
//!  ├─ upload        uploads of blobs, which continue after a failure
//!  ├─ action_cache  results of actions
//!  ├─ execution     executions of actions, and how a lost one continues
//!  │   └─ outcome       what a server reports about an execution (pure)
//!  ├─ connection    connections, which are opened again after they were closed
//!  │   └─ channel       an HTTP/2 connection for gRPC
//!  ├─ pauses        how long to wait before a call is retried (pure)
//!  ├─ digest        digests, small blobs, names of resources (pure)
//!  └─ error         why a call failed
//! ```
//!
//! This module does not know what the blobs and actions are for.

mod action_cache;
mod cas;
mod channel;
mod connection;
mod digest;
mod error;
mod execution;
mod outcome;
mod pauses;
mod server;
#[cfg(test)]
pub(crate) mod testing;
mod upload;

pub(crate) use bazel_remote_apis::build::bazel::remote::execution::v2 as messages;
pub(crate) use bazel_remote_apis::google::protobuf::Timestamp;

pub(crate) use cas::Parts;
pub(crate) use digest::{Blob, Digest};
pub(crate) use error::CallError;
pub(crate) use execution::{Event, Execution};
pub(crate) use outcome::{Outcome, Refusal, Stage};
pub(crate) use pauses::Pauses;
pub(crate) use server::{Capabilities, Server};
pub(crate) use tonic::Code;
pub(crate) use upload::Upload;
