//! Unpacking an image: the space that it uses, other owners, runs that are killed, and machines that refuse something.

use std::fs::File;
use std::os::unix::fs::{MetadataExt, chown};
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::time::Duration;

use nix::mount::{MntFlags, umount2};
use nix::sys::signal::Signal;

use super::{agent, agent_of, make_root, pack, release, save};
use crate::support::{
    NAMESPACE, Place, ReleaseBuilder, Tier, USERNS_OF_A_USER, Who, in_tiers, oci_layout, require,
    require_tools, run_tool, unpacked, wait_for,
};

/// A user without a range in /etc/subuid, who has a namespace with a single user.
const USERNS_OF_ONE_USER: Tier = Tier {
    who: Who::UserWithoutRange,
    flag: "userns",
    name: "userns",
};

/// A file of this size in MiB that cannot be compressed, and that has other content each time.
fn write_random(path: &Path, size: u64) {
    use std::io::Read;
    let mut random = File::open("/dev/urandom").unwrap().take(size << 20);
    let mut file = File::create(path).unwrap();
    std::io::copy(&mut random, &mut file).unwrap();
}

/// The names in the user's directory for images.
fn stored(place: &Place) -> Vec<String> {
    let Ok(directories) = std::fs::read_dir(place.world.path("images")) else {
        return Vec::new();
    };
    let mut names = Vec::new();
    for directory in directories {
        for entry in std::fs::read_dir(directory.unwrap().path()).unwrap() {
            names.push(entry.unwrap().file_name().into_string().unwrap());
        }
    }
    names.sort();
    names
}

/// The path of a support script.
fn script(name: &str) -> PathBuf {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    root.join("tests/support").join(name)
}

mod bodies {
    use super::*;

    pub(super) fn only_space_that_files_use_counts(tier: Tier) {
        let Some(place) = Place::new(tier) else {
            return;
        };
        let root = place.world.path("root");
        make_root(&root);
        let hole = File::create(root.join("etc/hole")).unwrap();
        hole.set_len(1 << 30).unwrap();
        let layer = |name: &str, directory: &Path| {
            let archive = place.world.path(name);
            let flags = ["--sparse", "-cf", archive.to_str().unwrap(), "-C"];
            run_tool(
                "tar",
                &[&flags[..], &[directory.to_str().unwrap(), "."]].concat(),
            );
            archive
        };
        let upper = |name: &str, file: &str| {
            let directory = place.world.path(&format!("upper-{name}"));
            std::fs::create_dir_all(directory.join("etc")).unwrap();
            write_random(&directory.join("etc").join(file), 16);
            layer(&format!("{name}.tar"), &directory)
        };
        let mut layers = vec![layer("root.tar", &root)];
        for number in 0..5 {
            layers.push(upper(&format!("same-{number}"), "same"));
        }
        let fitting = oci_layout(&place.world.path("fitting"), &layers);
        for number in 0..5 {
            layers.push(upper(&format!("other-{number}"), &number.to_string()));
        }
        let large = oci_layout(&place.world.path("large"), &layers);
        // The memory for the images is freed with the mount namespace.
        let images = place.world.path("images");
        std::fs::create_dir(&images).unwrap();
        let mount = format!(
            "mount -t tmpfs -o size=72m tmpfs {0} && \"$@\"; code=$?; ls {0}/v1-0 >&2; exit $code",
            images.display()
        );
        let mount = place.world.write("mount.sh", mount);
        let program = format!("unshare --mount sh {}", mount.display());
        let release = release(&place);
        let compile = |image: &Path| {
            let bare = place.bare_through(&program);
            agent_of(bare, &place, image, "out").arg(&release).run()
        };
        compile(&fitting).succeeds();
        let ran = compile(&large).blames_the_machine();
        let ran = ran.says("has files of more than").says("--image-dir");
        // What was listed last has only a lock.
        let last = ran.stderr.trim_end().lines().last().unwrap();
        assert!(last.ends_with(".lock"), "{}", ran.stderr);
        assert!(!ran.stderr.contains("unpacking-"), "{}", ran.stderr);
    }

    pub(super) fn killed_run_leaves_one_unfinished_image(tier: Tier) {
        let Some(place) = Place::new(tier) else {
            return;
        };
        let (root, packed) = (place.world.path("root"), place.world.path("root.tar"));
        make_root(&root);
        write_random(&root.join("etc/a-large-file"), 256);
        pack(&root, &packed);
        let saved = save(&root, &place.world.path("saved"));
        let release = release(&place);
        for image in [&packed, &saved] {
            for _ in 0..2 {
                let before = stored(&place);
                let compiling = agent(&place, image, "out").arg(&release).without_report();
                let mut running = compiling.start();
                wait_for("files of the image", Duration::from_secs(60), || {
                    assert!(!running.has_ended(), "{}", running.stderr());
                    let has_begun = stored(&place)
                        .iter()
                        .any(|it| it.starts_with("unpacking-") && !before.contains(it));
                    has_begun.then_some(()).ok_or("none".to_owned())
                });
                running.signal(Signal::SIGKILL);
                running.end();
                let unfinished = stored(&place);
                let unfinished = unfinished.iter().filter(|it| it.starts_with("unpacking-"));
                assert_eq!(unfinished.count(), 1);
            }
            agent(&place, image, "out")
                .arg(&release)
                .run()
                .succeeds()
                .says("Unpacking stemcell image");
            std::fs::remove_dir_all(place.world.path("out")).unwrap();
        }
        let names = stored(&place);
        assert_eq!(names.len(), 4, "{names:?}");
        assert!(!names.iter().any(|it| it.starts_with("unpacking-")));
    }

    pub(super) fn image_is_used_where_pivot_root_is_refused(tier: Tier) {
        let Some(place) = Place::new(tier) else {
            return;
        };
        let (root, packed) = (place.world.path("root"), place.world.path("root.tar"));
        make_root(&root);
        pack(&root, &packed);
        let program = format!("python3 {}", script("without_pivot_root.py").display());
        let bare = place.bare_through(&program);
        agent_of(bare, &place, &packed, "out")
            .arg(release(&place))
            .run()
            .succeeds()
            .says(&format!("Isolation: {}", tier.name));
        let result = place.world.path("out/demo-1.10-ubuntu-jammy-1.406.tgz");
        let (_scratch, app) = unpacked(&result, "app");
        assert_eq!(app["marker"], "100644 image\n");
        assert_eq!(app["again"], "100644 image\n");
    }

    pub(super) fn user_without_a_range_gets_files_of_root(tier: Tier) {
        let Some(place) = Place::new(tier) else {
            return;
        };
        let (root, packed) = (place.world.path("root"), place.world.path("root.tar"));
        make_root(&root);
        std::fs::create_dir(root.join("etc/owned")).unwrap();
        std::fs::write(root.join("etc/owned/file"), "").unwrap();
        for name in ["etc/owned", "etc/owned/file", "etc/marker"] {
            chown(root.join(name), Some(1000), Some(1001)).unwrap();
        }
        pack(&root, &packed);
        let script = "cd $BOSH_INSTALL_TARGET; stat -c %u:%g /etc/owned /etc/owned/file /etc/marker > owners";
        let builder = ReleaseBuilder::new("demo", "1.10").package("app", &[], script);
        let release = place.world.release("release.tgz", &builder);
        agent(&place, &packed, "out").arg(&release).run().succeeds();
        let result = place.world.path("out/demo-1.10-ubuntu-jammy-1.406.tgz");
        let (_scratch, app) = unpacked(&result, "app");
        let expected = match tier.who {
            Who::UserWithoutRange => "0:0\n",
            _ => "1000:1001\n",
        };
        assert_eq!(app["owners"], format!("100644 {}", expected.repeat(3)));
        let directory = std::fs::read_dir(place.world.path("images"))
            .unwrap()
            .next();
        let owner = directory.unwrap().unwrap().metadata().unwrap().uid();
        assert_eq!(
            owner,
            if tier.who == Who::Root {
                0
            } else {
                crate::support::USER
            }
        );
    }

    pub(super) fn file_system_with_other_owners_is_named(tier: Tier) {
        let Some(place) = Place::new(tier) else {
            return;
        };
        let Some(_owning) = Owning::mount(&place) else {
            return;
        };
        let (root, packed) = (place.world.path("root"), place.world.path("root.tar"));
        make_root(&root);
        pack(&root, &packed);
        let ran = agent(&place, &packed, "out").arg(release(&place)).run();
        let images = place.world.path("images");
        ran.blames_the_machine()
            .says(&format!(
                "new directories in `{}` belong to another user",
                images.display()
            ))
            .says("Hint: the file system decides about owners")
            .does_not_say("remove `");
    }
}

in_tiers!(only_space_that_files_use_counts: NAMESPACE);
in_tiers!(killed_run_leaves_one_unfinished_image: NAMESPACE USERNS_OF_A_USER);
in_tiers!(image_is_used_where_pivot_root_is_refused: NAMESPACE);
in_tiers!(user_without_a_range_gets_files_of_root: NAMESPACE USERNS_OF_A_USER USERNS_OF_ONE_USER);
in_tiers!(file_system_with_other_owners_is_named: NAMESPACE);

/// A file system over the directory for images, whose files belong to another user.
struct Owning {
    server: Child,
    at: PathBuf,
}

impl Owning {
    fn mount(place: &Place) -> Option<Self> {
        let has_fuse = Path::new("/dev/fuse").exists();
        if !require_tools(&["python3"]) || !require(has_fuse, "FUSE") {
            return None;
        }
        let (at, ready) = (place.world.path("images"), place.world.path("facts/ready"));
        std::fs::create_dir(&at).unwrap();
        let mut command = Command::new("python3");
        command.arg(script("owning.py")).args([&at, &ready]);
        let server = command.spawn().unwrap();
        wait_for("the file system", Duration::from_secs(60), || {
            ready.exists().then_some(()).ok_or("not mounted".to_owned())
        });
        Some(Self { server, at })
    }
}

impl Drop for Owning {
    fn drop(&mut self) {
        let _ = umount2(&self.at, MntFlags::MNT_DETACH);
        let _ = self.server.kill();
        let _ = self.server.wait();
    }
}
