//! A page of runs, which becomes one snapshot.

use std::fmt::Write;

use crate::support::{Ran, ReleaseBuilder, World};

/// The lines of every run, which only the page `progress` has.
const MILESTONES: [&str; 10] = [
    "Compiling with stemcell ",
    "Reading BOSH Release Manifest from tarball ",
    "Release ",
    "Extracting packages",
    "Isolation: none",
    "Logs of packaging scripts are kept in ",
    "Starting packages compilation",
    "Compiling package ",
    "Finished ",
    "Archiving compiled BOSH Release ",
];

/// The output of several runs, with everything that differs between runs replaced.
#[derive(Debug, Default)]
pub(super) struct Page {
    text: String,
    keeps_milestones: bool,
}

impl Page {
    pub(super) fn with_milestones() -> Self {
        Self {
            text: String::new(),
            keeps_milestones: true,
        }
    }

    pub(super) fn add(&mut self, title: &str, world: &World, ran: &Ran) {
        let root = world.path("");
        let root = root.to_str().unwrap().trim_end_matches('/');
        write!(self.text, "# {title}\n[exit {}]\n", ran.code.unwrap()).unwrap();
        for line in ran.stdout.replace(root, "[WORLD]").lines() {
            writeln!(self.text, "stdout: {line}").unwrap();
        }
        for line in ran.stderr.replace(root, "[WORLD]").lines() {
            let is_milestone = MILESTONES.iter().any(|start| line.starts_with(start));
            if self.keeps_milestones || !is_milestone {
                writeln!(self.text, "{line}").unwrap();
            }
        }
        self.text.push('\n');
    }

    /// Compiles a release in its own world.
    pub(super) fn compile(&mut self, title: &str, release: &ReleaseBuilder) {
        let world = World::new();
        let tarball = world.release("release.tgz", release);
        self.add(title, &world, &world.compile(&[&tarball]));
    }

    /// Compiles bytes in their own world.
    pub(super) fn compile_bytes(&mut self, title: &str, bytes: &[u8]) {
        let world = World::new();
        let tarball = world.write("release.tgz", bytes);
        self.add(title, &world, &world.compile(&[&tarball]));
    }

    #[track_caller]
    pub(super) fn is(self, name: &str) {
        let mut settings = insta::Settings::clone_current();
        settings.set_snapshot_path("../../snapshots");
        settings.set_prepend_module_to_snapshot(false);
        settings.set_omit_expression(true);
        for (found, shown) in [
            (r"\b[0-9a-f]{128}\b", "[SHA512]"),
            (r"\b[0-9a-f]{64}\b", "[SHA256]"),
            (r"\b[0-9a-f]{40}\b", "[SHA1]"),
            (r"\b\d+\.\ds\b", "[TIME]"),
            (r"\b\d+\.\d ([KMGT]iB)\b", "[SIZE] $1"),
            (r"kill -KILL \d+", "kill -KILL [PID]"),
            (r"(line \d+:) +\d+ [A-Z].*", "$1 [PID] [SIGNAL]"),
            // The kernel function is not readable everywhere.
            (
                r"(\| +)\d+ (.*) \(state (.), runs for ([^,)]+)(?:, in the kernel function \w+)?\)",
                "$1[PID] $2 (state $3, runs for $4)",
            ),
            (r"process \d+ on \S+", "process [PID] on [HOST]"),
            (
                r"\.bosh-agent-(work|out)-[A-Za-z0-9_]+(?:-[0-9a-f]{8})?",
                ".bosh-agent-$1-[ID]",
            ),
            (
                r"bosh-agent \d+\.\d+\.\d+ \(.*\) \S+",
                "bosh-agent [VERSION] ([COMMIT]) [TARGET]",
            ),
            (r"stdout: \d+\.\d+\.\d+\n", "stdout: [VERSION]\n"),
        ] {
            settings.add_filter(found, shown);
        }
        settings.bind(|| insta::assert_snapshot!(name, self.text));
    }
}
