//! Single requests: replies, refusals, and their texts.

mod compiles;
mod others;

use std::fs;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::scene::{
    Scene, certificate, director, file_in, is_possible, nats_machine, small_release, source,
    source_of_script, spec,
};
use crate::common::{ReleaseBuilder, wait_for};
use crate::support::blobstore::Blobstore;
use crate::support::certificates::{AGENT, BOOTSTRAP};
use crate::support::director::compile_stage::{CompiledPackages, order, result};
use crate::support::director::monitor::Monitor;
use crate::support::director::reply::is_uuid;
use crate::support::director::{Failure, PROMPT, manual_network};
use crate::support::nats::{NatsServer, connect};
use crate::support::vm::{HostVm, LIMIT};

const NOTHING: CompiledPackages = CompiledPackages::new();

/// A release of one package that installs one file.
const SMALL: &str = "echo done > $BOSH_INSTALL_TARGET/done";
