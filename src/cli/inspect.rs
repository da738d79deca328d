//! `bosh-agent inspect FILE.tgz`: what a release holds, and what is wrong with it.

use std::ffi::OsString;
use std::path::PathBuf;

use clap::{FromArgMatches, Parser};

use super::compile_flags::stemcell;
use super::{DONE, FAILED, MACHINE, USAGE, print, print_error};
use crate::diag::{Chain, printable};
use crate::inspect::{Request, inspect, json, table};
use crate::release::Slug;

/// Shows what a source or compiled release holds, verifies all digests, and reports what a Director, the
/// BOSH CLI or an agent would refuse or silently handle wrongly.
///
/// Nothing is written, uploaded or downloaded. The exit code is 1 if the release has a problem, 2 if the
/// command line or the path is wrong, and 4 if a file cannot be read. docs/inspect.md explains all problems and notes.
#[derive(Debug, Parser)]
#[command(
    name = "bosh-agent inspect",
    args_override_self = true,
    max_term_width = 110,
    disable_version_flag = true
)]
pub(super) struct InspectCommand {
    /// Source or compiled release to inspect
    #[arg(value_name = "FILE.tgz")]
    tarball: PathBuf,

    /// Print JSON, as described in docs/inspect.schema.json
    #[arg(long)]
    json: bool,

    /// Also report whether a Director would use the compiled packages on this stemcell, with and without
    /// `exported_from: OS/VERSION` in a deployment manifest
    #[arg(long, value_name = "OS/VERSION", value_parser = stemcell)]
    stemcell: Option<Slug>,

    /// Also report whether the compiled release comes from this source release
    #[arg(long, value_name = "RELEASE.tgz")]
    source: Option<PathBuf>,
}

/// Parses the arguments after `inspect`. The error is a text for the user. Its second part is true if the text is the help.
pub(super) fn parse(arguments: &[OsString]) -> Result<InspectCommand, (String, bool)> {
    let command = <InspectCommand as clap::CommandFactory>::command();
    let with_name = std::iter::once(OsString::from("bosh-agent inspect")).chain(arguments.to_vec());
    let matches = command.try_get_matches_from(with_name);
    matches
        .and_then(|matches| InspectCommand::from_arg_matches(&matches))
        .map_err(|error| (error.to_string(), !error.use_stderr()))
}

pub(super) fn main(command: InspectCommand) -> u8 {
    let request = Request {
        tarball: command.tarball,
        stemcell: command.stemcell,
        source: command.source,
    };
    let inspection = match inspect(request) {
        Ok(inspection) => inspection,
        Err(error) => {
            print_error(&format!("Error: {}", printable(&Chain(&error))));
            return if error.is_wrong_path() {
                USAGE
            } else {
                MACHINE
            };
        }
    };
    let text = match command.json {
        true => json(&inspection),
        false => table(&inspection),
    };
    match print(&text) {
        DONE if inspection.is_good() => DONE,
        DONE => FAILED,
        failed => failed,
    }
}
