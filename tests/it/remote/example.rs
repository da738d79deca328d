//! The example release on a real server, with `BOSH_AGENT_SOAK`: the same contents as on this machine, and results that both kinds of runs
//! share.

use std::time::Duration;

use super::*;
use crate::support::{
    LANDLOCK_OF_ROOT, Place, Ran, example_release, is_soak, require, require_tools,
};

/// The packages of the release.
const PACKAGES: usize = 11;

/// The time limit of a run.
const LONG: Duration = Duration::from_mins(30);

/// A machine that is the stemcell, with the base directory at /var/vcap, which the scripts of the release name.
struct Machine(Place);

impl Machine {
    /// `None` if something is missing.
    fn new() -> Option<Self> {
        let place = Place::new(LANDLOCK_OF_ROOT)?.at_var_vcap();
        place
            .world
            .write("vcap/bosh/etc/stemcell_version", "1.406\n");
        Some(Self(place))
    }

    /// Compiles the release with these flags, and returns its result, too.
    fn run(&self, server: &Server, out: &str, flags: &[&str]) -> (Ran, PathBuf) {
        let out = self.0.world.path(out);
        let agent = self.0.bare().args(&["compile", "--isolation", "landlock"]);
        let ran = agent
            .args(&["--remote", &format!("grpc://127.0.0.1:{}", server.port())])
            .args(flags)
            .arg("--output-directory")
            .arg(&out)
            .arg(example_release())
            .within(LONG)
            .run()
            .succeeds();
        let mut files = std::fs::read_dir(out).unwrap();
        (ran, files.next().unwrap().unwrap().path())
    }
}

fn used(ran: &Ran) -> usize {
    ran.stderr
        .matches("Using the result of an earlier run for ")
        .count()
}

#[test]
fn example_release_has_the_same_contents_from_every_machine() {
    // Compiling the release takes minutes.
    if !is_soak() {
        return;
    }
    let has_release = example_release().is_file();
    if !require(has_release, "the example release (`make example`)")
        || !require_tools(&["gcc", "g++", "make"])
    {
        return;
    }
    let (Some(server), Some(other)) = (Server::start(), Server::start()) else {
        return;
    };
    let Some(machine) = Machine::new() else {
        return;
    };
    let caching = ["--remote-cache-only", "--remote-store", "--jobs", "1"];
    let (ran, here) = machine.run(&other, "here", &caching);
    ran.says(&format!("has the results of 0 of {PACKAGES} packages"))
        .says(&format!(
            "Stored the results of {PACKAGES} packages on the server"
        ));

    let (ran, elsewhere) = machine.run(&server, "elsewhere", &[]);
    assert_eq!(used(&ran), 0, "{}", ran.stderr);
    assert_eq!(Outcome::of(&elsewhere), Outcome::of(&here));

    // Nothing is executed again: neither what a machine of the server has compiled, nor what this machine has stored.
    for (server, first) in [(&server, &elsewhere), (&other, &here)] {
        for flags in [&[][..], &["--remote-cache-only"]] {
            let out = format!("again-{}-{}", server.port(), flags.len());
            let (ran, again) = machine.run(server, &out, flags);
            assert_eq!(used(&ran), PACKAGES, "{}", ran.stderr);
            ran.does_not_say("Finished compiling release");
            assert!(std::fs::read(again).unwrap() == std::fs::read(first).unwrap());
        }
    }
}
