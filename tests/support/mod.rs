//! Shared by the tests of the built program: makes releases, runs the program with a time limit, reads its results. Archives are written
//! and read by the system's tools, so that a bug of the program cannot hide itself.

#![allow(
    dead_code,
    unused_imports,
    unused_macros,
    reason = "every test file takes from here what it needs"
)]

mod agent;
mod attacks;
pub(crate) mod build_server;
mod daemon;
pub(crate) mod go_release;
mod hanging;
mod head;
mod namespace;
mod oci;
pub(crate) mod one_package;
mod outcome;
mod play;
mod release;
pub(crate) mod report;
mod schema;
mod shared;
mod terminal;
mod tiers;
mod tools;
mod ustar;
mod world;

pub(crate) use agent::{Agent, Ran, Running, copied_agent, limit_of_open_files, processes_below};
pub(crate) use attacks::{ATTACKS, Site, attacks, packages};
pub(crate) use daemon::Daemon;
pub(crate) use hanging::Hanging;
pub(crate) use head::read_head;
pub(crate) use namespace::NamespaceWorld;
pub(crate) use oci::{oci_architecture, oci_layout};
pub(crate) use outcome::{
    Listed, Outcome, compiled_packages, contents, extract, list, manifest_of, mode_of, pack,
    sha1_of, unpacked,
};
pub(crate) use play::{Play, in_isolations, listed};
pub(crate) use release::{Compression, Digest, ReleaseBuilder};
pub(crate) use schema::differences;
pub(crate) use shared::{example_release, for_this_form, is_soak, once};
pub(crate) use terminal::OnTerminal;
pub(crate) use tiers::{
    LANDLOCK, LANDLOCK_OF_A_USER, LANDLOCK_OF_ROOT, NAMESPACE, NONE, NONE_OF_A_USER, Place, Tier,
    USER, USERNS_OF_A_USER, USERNS_OF_ROOT, Who, in_tiers, mount_at_var_vcap,
};
pub(crate) use tools::{
    free_port, require, require_landlock, require_landlock_scopes, require_root, require_tools,
    run_tool, run_tool_with, skip, wait_for, wait_until, with_input,
};
pub(crate) use ustar::{Kind, Member, archive};
pub(crate) use world::{STEMCELL, World, directory_outside_tmp, snapshot};
