//! `--stemcell-image`: scripts run in the root file system of an image, not in that of this machine.

mod several;
mod stemcell;
mod unpacking;

use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use crate::support::{
    Agent, LANDLOCK_OF_ROOT, NAMESPACE, NONE, Place, ReleaseBuilder, Tier, USERNS_OF_A_USER,
    in_tiers, oci_architecture, oci_layout, run_tool, snapshot, unpacked,
};

/// The programs of the image, which are those of this machine.
const PROGRAMS: [&str; 8] = ["bash", "cat", "chown", "ls", "mkdir", "rm", "stat", "true"];

/// Makes a small root file system, in which `bin` and `lib` are links, as in current distributions.
fn make_root(root: &Path) {
    for directory in [
        "usr/bin",
        "usr/lib",
        "usr/lib64",
        "etc",
        "tmp",
        "var/vcap/bosh/etc",
    ] {
        std::fs::create_dir_all(root.join(directory)).unwrap();
    }
    for directory in ["bin", "lib", "lib64"] {
        symlink(format!("/usr/{directory}"), root.join(directory)).unwrap();
    }
    for program in PROGRAMS {
        let file = ["/usr/bin", "/bin"].map(|it| Path::new(it).join(program));
        let file = file.iter().find(|it| it.is_file()).unwrap();
        copy(file, &root.join("usr/bin").join(program));
        for word in run_tool("ldd", &[file]).split_whitespace() {
            if word.starts_with('/') {
                let below = word.trim_start_matches("/usr").trim_start_matches('/');
                copy(Path::new(word), &root.join("usr").join(below));
            }
        }
    }
    let write = |name: &str, text: &str| std::fs::write(root.join(name), text).unwrap();
    write("etc/os-release", "ID=ubuntu\nVERSION_CODENAME=jammy\n");
    write("etc/marker", "image\n");
    write("var/vcap/bosh/etc/stemcell_version", "1.406");
    std::fs::set_permissions(root.join("tmp"), PermissionsExt::from_mode(0o1777)).unwrap();
}

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to.parent().unwrap()).unwrap();
    std::fs::copy(from, to).unwrap();
}

/// Packs a root file system, with owners.
fn pack(root: &Path, archive: &Path) {
    let flags = [
        "-cf",
        archive.to_str().unwrap(),
        "-C",
        root.to_str().unwrap(),
        ".",
    ];
    run_tool("tar", &flags);
}

/// A file of `docker save` with two layers: the second one has no marker.
fn save(root: &Path, directory: &Path) -> PathBuf {
    std::fs::create_dir(directory).unwrap();
    pack(root, &directory.join("one.tar"));
    let upper = directory.join("upper/etc");
    std::fs::create_dir_all(&upper).unwrap();
    std::fs::write(upper.join(".wh.marker"), "").unwrap();
    pack(&directory.join("upper"), &directory.join("two.tar"));
    let digest = |name: &str| run_tool("sha256sum", &[directory.join(name)])[..64].to_owned();
    let architecture = oci_architecture();
    let config = format!(
        r#"{{"architecture":"{architecture}","os":"linux","rootfs":{{"diff_ids":["sha256:{}","sha256:{}"]}}}}"#,
        digest("one.tar"),
        digest("two.tar")
    );
    std::fs::write(directory.join("config"), config).unwrap();
    let name = format!("{}.json", digest("config"));
    std::fs::rename(directory.join("config"), directory.join(&name)).unwrap();
    let manifest = format!(r#"[{{"Config":"{name}","Layers":["one.tar","two.tar"]}}]"#);
    std::fs::write(directory.join("manifest.json"), manifest).unwrap();
    let saved = directory.with_extension("tar");
    let names = [name.as_str(), "one.tar", "two.tar", "manifest.json"];
    let mut flags = vec![
        "-cf",
        saved.to_str().unwrap(),
        "-C",
        directory.to_str().unwrap(),
    ];
    flags.extend(names);
    run_tool("tar", &flags);
    saved
}

fn agent(place: &Place, image: &Path, out: &str) -> Agent {
    agent_of(place.bare(), place, image, out)
}

/// The same, started in another way.
fn agent_of(bare: Agent, place: &Place, image: &Path, out: &str) -> Agent {
    let directory = |name: &str| place.world.path(name);
    bare.args(&[
        "compile",
        "--isolation",
        place.tier.flag,
        "--stemcell-image",
    ])
    .arg(image)
    .arg("--image-dir")
    .arg(directory("images"))
    .arg("--logs-dir")
    .arg(directory("logs"))
    .arg("--work-dir")
    .arg(directory("work"))
    .arg("--output-directory")
    .arg(directory(out))
}

/// A release whose second package finds no changes that the first one has made outside its own directories.
fn release(place: &Place) -> PathBuf {
    let here = place.world.path("printed");
    let lib = "set -e; cd $BOSH_INSTALL_TARGET; cat /etc/marker > marker || echo none > marker; echo changed > /etc/marker; \
               ls / > root; echo x > /new; rm -r /usr/lib64"
        .to_owned();
    let app = format!(
        "set -e; cd $BOSH_INSTALL_TARGET; cat /var/vcap/packages/lib/marker > marker; \
         if ! cat /etc/marker > again; then echo none > again; fi; ls /usr/lib64 > /dev/null; \
         if [ -e /new ] || [ -e {} ] || ls -d /.bosh-agent-host-*; then exit 1; fi; echo > /dev/null; ls /proc/self > /dev/null; \
         cat /var/vcap/bosh/etc/stemcell_version > version; stat -c %u /usr/bin/true > owner; echo $PATH > path",
        here.display()
    );
    let builder = ReleaseBuilder::new("demo", "1.10")
        .package("lib", &[], &lib)
        .package("app", &["lib"], &app);
    place.world.release("release.tgz", &builder)
}

mod bodies {
    use super::*;

    pub(super) fn all_kinds_of_images_give_the_same_packages(tier: Tier) {
        let Some(place) = Place::new(tier) else {
            return;
        };
        let (root, packed) = (place.world.path("root"), place.world.path("root.tar"));
        make_root(&root);
        pack(&root, &packed);
        let release = release(&place);
        let saved = save(&root, &place.world.path("saved"));
        let layout = oci_layout(&place.world.path("layout"), std::slice::from_ref(&packed));
        let packed_layout = place.world.path("layout.tar");
        pack(&layout, &packed_layout);
        let before = snapshot(&root);
        let images = [
            (&packed, "image\n"),
            (&root, "image\n"),
            (&saved, "none\n"),
            (&layout, "image\n"),
            (&packed_layout, "image\n"),
        ];
        for (image, marker) in images {
            // A user cannot change the files of another one, not even in a copy.
            if image == &root && tier.name == "userns" {
                continue;
            }
            let out = format!("out-{}", image.file_name().unwrap().display());
            agent(&place, image, &out)
                .arg(&release)
                .run()
                .succeeds()
                .says("Compiling with stemcell ubuntu-jammy/1.406\n")
                .says(&format!("Isolation: {}", tier.name));
            let result = place
                .world
                .path(&out)
                .join("demo-1.10-ubuntu-jammy-1.406.tgz");
            let (_scratch, app) = unpacked(&result, "app");
            assert_eq!(app["marker"], format!("100644 {marker}"));
            assert_eq!(app["again"], format!("100644 {marker}"));
            assert_eq!(app["version"], "100644 1.406");
            assert_eq!(app["owner"], "100644 0\n");
            assert!(
                app["path"].starts_with("100644 /usr/local/sbin:"),
                "{}",
                app["path"]
            );
        }
        assert_eq!(snapshot(&root), before);
        agent(&place, &packed, "again")
            .arg(&release)
            .run()
            .succeeds()
            .does_not_say("Unpacking");
    }

    pub(super) fn links_of_an_image_do_not_lead_to_the_host(tier: Tier) {
        let Some(place) = Place::new(tier) else {
            return;
        };
        let release = release(&place);
        let victim = place.world.path("victim");
        std::fs::create_dir(&victim).unwrap();
        for name in ["hosts", "resolv.conf"] {
            std::fs::write(victim.join(name), "of the host").unwrap();
        }
        let shared = Path::new("/dev/shm").join(format!("victim-{}", std::process::id()));
        std::fs::create_dir(&shared).unwrap();
        let before = (snapshot(&victim), snapshot(&shared));
        let targets = [
            format!("/.bosh-agent-host{}", victim.display()),
            format!("/proc/1/root{}", victim.display()),
            format!(
                "/proc/self/cwd/../../../../../../../../../..{}",
                victim.display()
            ),
            format!("/../../../../../../..{}", victim.display()),
            shared.display().to_string(),
        ];
        // Where a link leads does not depend on its name: each target once, and each name once.
        let names = ["etc", "tmp", "var", "var/vcap", "etc/hosts"];
        let of_first = names.iter().map(|name| (0, *name));
        let others = names.iter().skip(1).enumerate();
        let others = others.map(|(number, name)| (number + 1, *name));
        for (number, name) in of_first.chain(others) {
            let target = &targets[number];
            let root = place
                .world
                .path(&format!("root-{number}-{}", name.replace('/', "-")));
            make_root(&root);
            let link = root.join(name);
            if link.is_dir() {
                std::fs::remove_dir_all(&link).unwrap();
            }
            let file = if name == "etc/hosts" { "/hosts" } else { "" };
            symlink(format!("{target}{file}"), link).unwrap();
            let packed = root.with_extension("tar");
            pack(&root, &packed);
            std::fs::remove_dir_all(&root).unwrap();
            // Whether the script starts depends on the link.
            agent(&place, &packed, "out")
                .arg("--stemcell=ubuntu-jammy/1.406")
                .arg(&release)
                .run();
            assert_eq!(
                (snapshot(&victim), snapshot(&shared)),
                before,
                "{name} -> {target}"
            );
        }
        std::fs::remove_dir(&shared).unwrap();
    }

    pub(super) fn variables_of_the_machine_are_not_those_of_the_image(tier: Tier) {
        let Some(place) = Place::new(tier) else {
            return;
        };
        let (root, packed) = (place.world.path("root"), place.world.path("root.tar"));
        make_root(&root);
        pack(&root, &packed);
        let script =
            "cd $BOSH_INSTALL_TARGET; echo $HOME:${TMPDIR-unset}:${TEMP-unset} > variables";
        let builder = ReleaseBuilder::new("demo", "1.10").package("app", &[], script);
        let release = place.world.release("release.tgz", &builder);
        let temporary = place.world.path("temporary");
        std::fs::create_dir(&temporary).unwrap();
        let result = |out: &str| {
            let directory = place.world.path(out);
            let (_scratch, app) =
                unpacked(&directory.join("demo-1.10-ubuntu-jammy-1.406.tgz"), "app");
            app["variables"].clone()
        };
        agent(&place, &packed, "out")
            .env("TMPDIR", temporary.to_str().unwrap())
            .env("TEMP", "/none")
            .arg(&release)
            .run()
            .succeeds();
        assert_eq!(result("out"), "100644 /root:unset:unset\n");
        agent(&place, &packed, "named")
            .env("TMPDIR", temporary.to_str().unwrap())
            .env("TEMP", "/none")
            .args(&[
                "--env",
                "TMPDIR=/var/tmp",
                "--env",
                "TEMP",
                "--env",
                "HOME=/tmp",
            ])
            .arg(&release)
            .run()
            .succeeds();
        assert_eq!(result("named"), "100644 /tmp:/var/tmp:/none\n");
    }

    pub(super) fn links_that_lead_nowhere_are_replaced(tier: Tier) {
        let Some(place) = Place::new(tier) else {
            return;
        };
        let (root, packed) = (place.world.path("root"), place.world.path("root.tar"));
        make_root(&root);
        std::fs::remove_dir(root.join("tmp")).unwrap();
        // As debootstrap makes it in a container.
        symlink("/proc", root.join("proc")).unwrap();
        symlink("/run/tmp", root.join("tmp")).unwrap();
        pack(&root, &packed);
        agent(&place, &packed, "out")
            .arg(release(&place))
            .run()
            .succeeds();
        // Only scripts see the directories.
        let images = place.world.path("images");
        for name in ["proc", "tmp"] {
            let pattern = format!("*/root/{name}");
            let arguments: [&std::ffi::OsStr; 5] = [
                images.as_os_str(),
                "-type".as_ref(),
                "l".as_ref(),
                "-path".as_ref(),
                pattern.as_ref(),
            ];
            let found = run_tool("find", &arguments);
            assert_eq!(found.lines().count(), 1, "{name}: {found}");
        }
    }

    pub(super) fn tier_without_namespaces_is_refused(tier: Tier) {
        let Some(place) = Place::new(tier) else {
            return;
        };
        let image = place.world.write("image.tar", "not an image");
        let release = release(&place);
        agent(&place, &image, "out")
            .arg(&release)
            .run()
            .blames_the_machine()
            .says("Error: --stemcell-image requires namespaces\n");
    }

    pub(super) fn image_that_is_none_is_refused(tier: Tier) {
        let Some(place) = Place::new(tier) else {
            return;
        };
        let release = release(&place);
        agent(&place, &release, "out")
            .arg(&release)
            .run()
            .refuses_the_input()
            .says("is not a stemcell image")
            .says("neither a stemcell");
        let unpacked = place.world.path("unpacked");
        std::fs::create_dir(&unpacked).unwrap();
        for name in ["stemcell.MF", "image"] {
            std::fs::write(unpacked.join(name), "").unwrap();
        }
        agent(&place, &unpacked, "out")
            .arg(&release)
            .run()
            .refuses_the_input()
            .says("is the directory of an unpacked stemcell")
            .says("Hint: pass the stemcell itself");
    }

    pub(super) fn package_of_another_image_is_not_taken_from_the_cache(tier: Tier) {
        let Some(place) = Place::new(tier) else {
            return;
        };
        let (root, one, two) = (
            place.world.path("root"),
            place.world.path("one.tar"),
            place.world.path("two.tar"),
        );
        make_root(&root);
        pack(&root, &one);
        std::fs::write(root.join("etc/other"), "").unwrap();
        pack(&root, &two);
        let release = release(&place);
        let cached = |image: &Path, out: &str| {
            agent(&place, image, out)
                .arg("--cache-dir")
                .arg(place.world.path("cache"))
                .arg(&release)
                .run()
                .succeeds()
        };
        cached(&one, "out-1").does_not_say("from the cache");
        cached(&two, "out-2").does_not_say("from the cache");
        cached(&one, "out-3").says("from the cache");
        cached(&root, "out-4").says("Warning: the cache is not used");
    }
}

in_tiers!(all_kinds_of_images_give_the_same_packages: NAMESPACE USERNS_OF_A_USER);
in_tiers!(links_of_an_image_do_not_lead_to_the_host: NAMESPACE);
in_tiers!(variables_of_the_machine_are_not_those_of_the_image: NAMESPACE);
in_tiers!(links_that_lead_nowhere_are_replaced: NAMESPACE USERNS_OF_A_USER);
in_tiers!(tier_without_namespaces_is_refused: LANDLOCK_OF_ROOT NONE);
in_tiers!(image_that_is_none_is_refused: NAMESPACE);
in_tiers!(package_of_another_image_is_not_taken_from_the_cache: NAMESPACE);
