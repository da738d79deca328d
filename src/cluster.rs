//! Compiles packages on the machines of a server of the Remote Execution API. Each package is one
//! *action*: a command with its inputs, which the server executes on one of its machines.
//!
//! ```text
//! schedule  which package is next, and what a failure stops
//!  ├─ plan       the packages (pure)
//!  ├─ ramp       how many packages are compiled concurrently at the start of a run (pure)
//!  ├─ tasks      builds a package, and before it the dependencies that the server has lost; downloads the results
//!  ├─ attempt    one package: uploads, executions, its result
//!  │   ├─ action     the messages and digests of a package's action (pure)
//!  │   ├─ retry      what follows from the end of an execution (pure)
//!  │   ├─ machine    what the server says about a machine (pure)
//!  │   ├─ check      compares a report with what was sent and received (pure)
//!  │   ├─ uploads    stores each blob once
//!  │   ├─ calls      repeats calls after temporary errors
//!  │   ├─ common     what all actions of a run have in common (pure)
//!  │   └─ error      why a package has no result
//!  ├─ lookup     searches results of earlier runs, without executions
//!  │   └─ storing    stores packages of this machine as results
//!  └─ files      the files of a compiled package
//!      └─ results    downloads a file and checks it
//! ```
//!
//! This module does not know releases, and prints nothing.

mod action;
mod attempt;
mod calls;
mod check;
mod common;
mod error;
mod files;
mod lookup;
mod machine;
mod plan;
mod ramp;
mod results;
mod retry;
mod schedule;
mod storing;
mod tasks;
mod uploads;

pub(crate) use attempt::{Built, Cluster};
pub(crate) use common::{Common, KnownFile};
pub(crate) use error::RemoteFailure;
pub(crate) use lookup::{LookedUp, SEARCH_LIMIT};
pub(crate) use machine::Machine;
pub(crate) use plan::{Plan, PlannedPackage, Supply};
pub(crate) use schedule::{ClusterCaller, ClusterEvent, Limits};
pub(crate) use storing::{LocalResult, Storing};
pub(crate) use tasks::Fetched;
