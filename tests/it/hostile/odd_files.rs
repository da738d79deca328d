//! Scripts with files of extreme sizes, with attributes that have a meaning for the kernel, and with marks that make the kernel ask them
//! before a process opens a file.

use std::path::PathBuf;
use std::time::Duration;

use nix::sys::signal::Signal;

use super::file_handles::InMemory;
use crate::support::{
    Agent, LANDLOCK, LANDLOCK_OF_ROOT, NAMESPACE, NONE, Place, ReleaseBuilder, Tier,
    USERNS_OF_ROOT, in_tiers, require_tools, wait_for,
};

in_tiers!(file_of_the_largest_size_reaches_dependents: NAMESPACE USERNS_OF_ROOT LANDLOCK NONE);
in_tiers!(attributes_of_overlays_hide_no_file: NAMESPACE USERNS_OF_ROOT LANDLOCK NONE);
in_tiers!(unanswered_permission_marks_end_with_the_script: NAMESPACE LANDLOCK_OF_ROOT NONE);

const LIMIT: Duration = Duration::from_secs(60);

/// One second of grace, and the rest for a slow machine.
const SOON: Duration = Duration::from_secs(15);

/// A place whose base and work directories are in memory.
struct MemoryPlace {
    place: Place,
    memory: PathBuf,
    _mounted: InMemory,
}

impl MemoryPlace {
    fn new(tier: Tier) -> Option<Self> {
        if !require_tools(&["mount", "python3", "truncate"]) {
            return None;
        }
        let place = Place::new(tier)?;
        let memory = place.world.path("memory");
        let mounted = InMemory::mount(&memory, tier.who);
        Some(Self {
            place,
            memory,
            _mounted: mounted,
        })
    }

    fn agent(&self) -> Agent {
        let flag = self.place.tier.flag;
        let agent = self.place.agent_as(flag, &self.memory.join("vcap"));
        agent.arg("--work-dir").arg(self.memory.join("work"))
    }
}

/// Sets attributes of files below the current directory.
const ATTRIBUTES: &str = "python3 - <<'END'\nimport os\nfor path, name, value in [('d', 'overlay.redirect', b'/../../../etc'), \
    ('.', 'overlay.redirect', b'/../other'), ('e', 'overlay.opaque', b'y'), ('.', 'overlay.opaque', b'y'), ('d/file', 'overlay.metacopy', b''), \
    ('d/file', 'overlay.redirect', b'/etc/shadow'), ('d/file', 'x', b'1')]:\n  for kind in ['user.', 'trusted.']:\n    \
    try: os.setxattr(path, kind + name, value)\n    except OSError as error: print(error)\nEND\n";

/// Marks the file system of the install target, and answers no question of the kernel.
const MARK: &str = "python3 - <<'END'\nimport ctypes, os, time\nc = ctypes.CDLL(None, use_errno=True)\n\
    c.fanotify_mark.argtypes = [ctypes.c_int, ctypes.c_uint, ctypes.c_uint64, ctypes.c_int, ctypes.c_char_p]\n\
    group = c.fanotify_init(4, 0)\n\
    marked = c.fanotify_mark(group, 0x101, 0x30000, -100, os.environ['BOSH_INSTALL_TARGET'].encode())\n\
    assert marked == 0, os.strerror(ctypes.get_errno())\n\
    open(os.environ['FACTS'] + '/started', 'w').close()\ntime.sleep(1000)\nEND\n";

mod bodies {
    use super::*;

    pub(super) fn file_of_the_largest_size_reaches_dependents(tier: Tier) {
        let Some(place) = MemoryPlace::new(tier) else {
            return;
        };
        let release = ReleaseBuilder::new("demo", "1.10")
            .package("app", &[], "truncate -s 9223372036854775807 $BOSH_INSTALL_TARGET/file")
            .package(
                "late",
                &["app"],
                "stat -L -c %s $(dirname $BOSH_INSTALL_TARGET)/app/file > $BOSH_INSTALL_TARGET/size",
            );
        let tarball = place.place.release(&release);
        place.agent().arg(tarball).run().succeeds();
        assert_eq!(
            place.place.file("late", "size"),
            "100644 9223372036854775807\n"
        );
    }

    pub(super) fn attributes_of_overlays_hide_no_file(tier: Tier) {
        let Some(place) = MemoryPlace::new(tier) else {
            return;
        };
        let script = format!(
            "set -e; cd $BOSH_INSTALL_TARGET/; mkdir d e; echo d > d/file; echo e > e/file; {ATTRIBUTES}"
        );
        let look = "cd $(dirname $BOSH_INSTALL_TARGET)/app/; for file in $(find . -type f | sort); do echo $file; cat $file; done \
                    > $BOSH_INSTALL_TARGET/seen";
        let release = ReleaseBuilder::new("demo", "1.10")
            .package("app", &[], &script)
            .package("other", &[], "echo other > $BOSH_INSTALL_TARGET/file")
            .package("late", &["app", "other"], look);
        let tarball = place.place.release(&release);
        place.agent().arg(tarball).run().succeeds();
        assert_eq!(
            place.place.file("late", "seen"),
            "100644 ./d/file\nd\n./e/file\ne\n"
        );
        assert_eq!(place.place.file("app", "d/file"), "100644 d\n");
    }

    pub(super) fn unanswered_permission_marks_end_with_the_script(tier: Tier) {
        let Some(place) = MemoryPlace::new(tier) else {
            return;
        };
        let other = "while [ ! -e $FACTS/started ]; do sleep 0.01; done; \
                     while true; do echo > $BOSH_INSTALL_TARGET/file; cat $BOSH_INSTALL_TARGET/file; done";
        let release = ReleaseBuilder::new("demo", "1.10")
            .package("app", &[], MARK)
            .package("other", &[], other);
        let tarball = place.place.release(&release);
        let agent = place.agent().args(&["--jobs", "2", "--grace", "1"]);
        let agent = agent.args(&["--second-run", "never"]);
        let running = agent.arg(tarball).start();
        wait_for("the mark", LIMIT, || {
            let is_marked = place.place.world.path("facts/started").exists();
            is_marked.then_some(()).ok_or_else(|| running.stderr())
        });
        running.signal(Signal::SIGTERM);
        running.end_within(SOON).ends_with(143);
    }
}
