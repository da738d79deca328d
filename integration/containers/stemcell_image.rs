//! The stemcell image without Docker (`--stemcell-image`), in all its forms: the packages are those of a container of this image.

use super::*;
use crate::common::{Agent, NAMESPACE, Place, Tier, USERNS_OF_A_USER, Who, oci_layout, run_tool};

/// The second stemcell: the same files with another version.
const OTHER_VERSION: &str = "1.407";

/// The stemcell image in a directory: `root.tar`, `saved.tar`, `layout`, `layout.tar`, `root` and, of another version, `other`.
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
        for file in ["root.tar", "saved.tar", "layout.tar"] {
            fs::set_permissions(path(file), fs::Permissions::from_mode(0o644)).unwrap();
        }
    })
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
            // The directory may be one that only root can reach.
            _ => {
                let copy = place.world.path(name);
                let from = forms.join(name);
                run_tool("cp", &["-r".as_ref(), from.as_os_str(), copy.as_os_str()]);
                copy
            }
        };
        agent(&place, &[image])
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
    }
}

#[test]
fn root_gets_the_packages_of_a_container_in_each_form() {
    let names = ["root.tar", "saved.tar", "layout", "layout.tar", "root"];
    same_packages_as_in_a_container(NAMESPACE, &names);
}

#[test]
fn ordinary_user_gets_the_packages_of_a_container_in_each_form() {
    let names: &[&str] = match is_soak() {
        true => &["root.tar", "saved.tar", "layout", "layout.tar"],
        false => &["saved.tar"],
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
