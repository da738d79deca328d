//! Flags of `compile`: where compiled releases go and how they are compressed.

use std::path::PathBuf;

use clap::Args;

use super::compilation::ScriptFlags;
use crate::cli::values;
use crate::offline::{DocumentOptions, DocumentPath, SbomFormat};
use crate::supply_chain::DEFAULT_BUILDER;

#[derive(Debug, Args)]
#[command(next_help_heading = "Results")]
pub(in crate::cli) struct ResultFlags {
    /// Write the results to this directory [default: the directory of each tarball]
    #[arg(long, value_name = "DIR")]
    pub output_directory: Option<PathBuf>,

    /// Write a report of the run to this JSON file, also after a failure
    #[arg(long, value_name = "FILE.json", value_parser = values::report_file, conflicts_with_all = ["check", "dry_run", "print_output_names", "shell"])]
    pub report: Option<PathBuf>,

    /// Write a page with a timeline of the packages to this HTML file, also after a failure
    #[arg(long, value_name = "FILE.html", value_parser = values::timings_file, conflicts_with_all = ["check", "dry_run", "print_output_names", "shell"])]
    pub timings: Option<PathBuf>,

    /// Write a software bill of materials of each result: its packages with their versions, digests and
    /// licenses, and the stemcell. FORMAT is `cyclonedx` or `spdx`. PATH is a file that ends in `.json` or,
    /// with several results, a directory that ends in `/` (can be repeated)
    #[arg(long, value_name = "FORMAT=PATH", value_parser = values::sbom, conflicts_with_all = ["check", "dry_run", "print_output_names", "shell"])]
    pub sbom: Vec<(SbomFormat, DocumentPath)>,

    /// Write the provenance of each result as an in-toto statement with a SLSA predicate. It names the
    /// sources, and the agent, stemcell and options that were used. PATH is as in --sbom
    #[arg(long, value_name = "PATH", value_parser = values::document, conflicts_with_all = ["check", "dry_run", "print_output_names", "shell"])]
    pub provenance: Option<DocumentPath>,

    /// URI of the build platform in the provenance, such as that of your CI system
    #[arg(long, value_name = "URI", default_value = DEFAULT_BUILDER, value_parser = values::uri, requires = "provenance")]
    pub builder_id: String,

    /// Compile everything twice, and compare the packages file by file. If a package differs, the exit
    /// code is 1. Implies --reproducible
    #[arg(long, conflicts_with_all = ["check", "dry_run", "print_output_names", "shell", "shell_on_failure"])]
    pub verify_rebuild: bool,

    #[command(flatten)]
    pub packing: PackingFlags,
}

// Flags that affect the bytes of compiled packages. `compile-package` has them, too.
#[derive(Debug, Args)]
#[command(next_help_heading = "Results")]
pub(in crate::cli) struct PackingFlags {
    /// Make compiled packages independent of the time of the run. Each package gets a source date: the
    /// newest time in its source. Installed files with a later time are packed with the source date, and
    /// scripts get it as SOURCE_DATE_EPOCH. If you set SOURCE_DATE_EPOCH
    /// yourself, in the environment of bosh-agent or with --env, packages are compiled as with this flag,
    /// but the date in this variable is the source date of all packages
    #[arg(long)]
    pub reproducible: bool,

    /// Gzip level of compiled packages: 1 is fastest, 9 is smallest
    #[arg(long, value_name = "1..9", default_value_t = 6, value_parser = values::number_in::<u32>(1..=9))]
    pub compression_level: u32,
}

impl ResultFlags {
    /// Whether the bytes of compiled packages must not depend on the time of the run.
    pub(in crate::cli) fn is_reproducible(&self) -> bool {
        self.packing.reproducible || self.verify_rebuild
    }

    /// The documents about the results.
    pub(in crate::cli) fn documents(&self, scripts: &ScriptFlags) -> DocumentOptions {
        DocumentOptions {
            sboms: self.sbom.clone(),
            provenance: self.provenance.clone(),
            builder: self.builder_id.clone(),
            variables: scripts.env.iter().map(|it| it.name.clone()).collect(),
        }
    }
}
