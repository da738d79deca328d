//! The stemcell image without Docker (`--stemcell-image`), in all its forms: the packages are those of a container of this image. With
//! `BOSH_AGENT_SOAK`, the packages are those of the example release.

use super::*;
use crate::common::{
    Agent, NAMESPACE, Place, Tier, USER, USERNS_OF_A_USER, Who, oci_layout, run_tool,
};

/// The second stemcell: the same files with another version.
const OTHER_VERSION: &str = "1.407";

/// All forms of an image: a stemcell for Warden, a root file system, a file of docker save, an OCI layout and its archive, a directory.
const FORMS: [&str; 6] = [
    "stemcell.tgz",
    "root.tar",
    "saved.tar",
    "layout",
    "layout.tar",
    "root",
];

/// The stemcell image in a directory: the [`FORMS`] and, of another version, `other`.
fn forms() -> PathBuf {
    once("stemcell-forms", |directory| {
        let path = |name: &str| directory.join(name);
        let text = |name: &str| path(name).display().to_string();
        let container = Container::new("export");
        let created = docker(
            &["create", "--name", container.name(), STEMCELL_IMAGE],
            LONG,
        );
        created.expect_code(0, "docker create");
        let exported = docker(&["export", "-o", &text("root.tar"), container.name()], LONG);
        exported.expect_code(0, "docker export");
        let saved = docker(&["save", "-o", &text("saved.tar"), STEMCELL_IMAGE], LONG);
        saved.expect_code(0, "docker save");
        fs::create_dir(path("root")).unwrap();
        let flags = [
            "--numeric-owner",
            "-xpf",
            &text("root.tar"),
            "-C",
            &text("root"),
        ];
        run_tool("tar", &flags);
        let etc = path("upper/var/vcap/bosh/etc");
        fs::create_dir_all(&etc).unwrap();
        fs::write(etc.join("stemcell_version"), OTHER_VERSION).unwrap();
        run_tool(
            "tar",
            &[
                "-cf",
                &text("upper.tar"),
                "-C",
                &text("upper"),
                "var/vcap/bosh/etc/stemcell_version",
            ],
        );
        oci_layout(&path("layout"), &[path("root.tar")]);
        oci_layout(&path("other"), &[path("root.tar"), path("upper.tar")]);
        run_tool(
            "tar",
            &["-cf", &text("layout.tar"), "-C", &text("layout"), "."],
        );
        pack_stemcell(directory);
        for file in ["stemcell.tgz", "root.tar", "saved.tar", "layout.tar"] {
            fs::set_permissions(path(file), fs::Permissions::from_mode(0o644)).unwrap();
        }
    })
}

/// Makes `stemcell.tgz` of `root.tar`, with the files that a stemcell for Warden has. As in published ones, its `image` is compressed.
fn pack_stemcell(directory: &Path) {
    const SCRIPT: &str = r#"
        set -euo pipefail
        cd "$1" && mkdir stemcell
        gzip -1 -c root.tar >stemcell/image
        cat >stemcell/stemcell.MF <<END
name: bosh-warden-boshlite-ubuntu-noble
version: '${2##*/}'
bosh_protocol: '1'
api_version: 3
sha1: $(sha1sum <stemcell/image | cut -d' ' -f1)
operating_system: ${2%/*}
stemcell_formats: [warden-tar]
cloud_properties: {infrastructure: warden}
END
        touch stemcell/packages.txt stemcell/dev_tools_file_list.txt
        tar -cf stemcell.tgz --use-compress-program='gzip -1' -C stemcell .
        rm -r stemcell
    "#;
    let arguments = [
        "-c".as_ref(),
        SCRIPT.as_ref(),
        "bash".as_ref(),
        directory.as_os_str(),
        SLUG.as_ref(),
    ];
    run_tool("bash", &arguments);
}

fn agent(place: &Place, images: &[PathBuf]) -> Agent {
    let directory = |name: &str| place.world.path(name);
    let agent = place
        .bare()
        .args(&["compile", "--isolation", place.tier.flag]);
    let agent = images.iter().fold(agent, |agent, image| {
        agent.arg("--stemcell-image").arg(image)
    });
    agent
        .arg("--image-dir")
        .arg(directory("images"))
        .arg("--logs-dir")
        .arg(directory("logs"))
        .arg("--work-dir")
        .arg(directory("work"))
        .arg("--output-directory")
        .arg(place.world.out())
        .within(LONG)
}

/// Compiles in each form of the image, and compares the packages with those of a container.
fn same_packages_as_in_a_container(tier: Tier, names: &[&str]) {
    let (Some(inputs), Some(place)) = (a_release(), Place::new(tier)) else {
        return;
    };
    let forms = forms();
    let release = place.world.path("release.tgz");
    fs::copy(&inputs.release, &release).unwrap();
    fs::set_permissions(&release, fs::Permissions::from_mode(0o644)).unwrap();
    let expected = compile_with(&inputs, "for-comparison", &[], &["landlock; "]);
    for name in names {
        let start = Instant::now();
        let image = match tier.who {
            Who::Root => forms.join(name),
            _ => own_copy(&place, &forms.join(name)),
        };
        agent(&place, std::slice::from_ref(&image))
            .arg(&release)
            .run()
            .succeeds()
            .says(&format!("Compiling with stemcell {SLUG}\n"))
            .says(&format!("Isolation: {}", tier.name));
        let output = place.world.out().join(&inputs.compiled_name);
        check(&output, &inputs);
        same_contents(&format!("stemcell-{name}"), &expected.output, &output);
        eprintln!("{name} with {}: {:.1?}", tier.name, start.elapsed());
        fs::remove_file(output).unwrap();
        // A later form is not to use what an earlier one has unpacked.
        fs::remove_dir_all(place.world.path("images")).unwrap_or_default();
        if tier.who != Who::Root {
            run_tool("rm", &["-rf".as_ref(), image.as_os_str()]);
        }
    }
}

/// A copy of an image that belongs to the user who compiles: the image may be in a directory that only root can reach, and a root file system
/// that is a directory must belong to the user.
fn own_copy(place: &Place, image: &Path) -> PathBuf {
    let copy = place
        .world
        .path(image.file_name().unwrap().to_str().unwrap());
    run_tool("cp", &["-a".as_ref(), image.as_os_str(), copy.as_os_str()]);
    let owner = format!("{USER}:{USER}");
    let arguments = ["-hR".as_ref(), owner.as_ref(), copy.as_os_str()];
    run_tool("chown", &arguments);
    copy
}

#[test]
fn root_gets_the_packages_of_a_container_in_each_form() {
    same_packages_as_in_a_container(NAMESPACE, &FORMS);
}

#[test]
fn ordinary_user_gets_the_packages_of_a_container_in_each_form() {
    let names: &[&str] = match is_soak() {
        true => &FORMS,
        false => &["saved.tar", "root"],
    };
    same_packages_as_in_a_container(USERNS_OF_A_USER, names);
}

#[test]
fn two_stemcells_give_two_results() {
    let (Some(inputs), Some(place)) = (a_release(), Place::new(NAMESPACE)) else {
        return;
    };
    let forms = forms();
    let images = ["layout", "other"].map(|name| forms.join(name));
    let ran = agent(&place, &images).arg(&inputs.release).run().succeeds();
    let ran = ran.says(&format!("Stemcell 1 of 2: {SLUG}\n"));
    let other = inputs
        .compiled_name
        .replace("1.406.tgz", &format!("{OTHER_VERSION}.tgz"));
    let outputs = [inputs.compiled_name.as_str(), &other].map(|name| place.world.out().join(name));
    let lines = outputs.each_ref().map(|it| format!("{}\n", it.display()));
    assert_eq!(ran.stdout, lines.concat());
    check(&outputs[0], &inputs);
    same_contents("two-stemcells", &outputs[0], &outputs[1]);
}
