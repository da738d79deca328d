//! A stemcell for Warden, with the files and the fields of those that are published.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use super::{agent, make_root, release};
use crate::support::{
    NAMESPACE, Place, Tier, USERNS_OF_A_USER, in_tiers, run_tool, sha1_of, unpacked,
};

/// Makes the stemcell. `sha1` is the digest of its root file system; `None` for the right one.
fn stemcell(place: &Place, name: &str, version: &str, sha1: Option<&str>) -> PathBuf {
    let root = place.world.path("root");
    if !root.exists() {
        make_root(&root);
        lay_out(&root);
    }
    let directory = place.world.path(&format!("{name}-files"));
    std::fs::create_dir(&directory).unwrap();
    let image = directory.join("image");
    let flags = [
        "-czf",
        image.to_str().unwrap(),
        "-C",
        root.to_str().unwrap(),
        ".",
    ];
    run_tool("tar", &flags);
    let sha1 = sha1.map_or_else(|| sha1_of(&image), str::to_owned);
    let manifest = format!(
        "---\n\
         name: bosh-warden-boshlite-ubuntu-jammy\n\
         version: '{version}'\n\
         bosh_protocol: '1'\n\
         api_version: 3\n\
         sha1: {sha1}\n\
         operating_system: ubuntu-jammy\n\
         stemcell_formats:\n\
         - warden-tar\n\
         cloud_properties:\n\
         \x20 name: bosh-warden-boshlite-ubuntu-jammy\n\
         \x20 version: '{version}'\n\
         \x20 infrastructure: warden\n\
         \x20 hypervisor: boshlite\n\
         \x20 disk: 5120\n\
         \x20 disk_format: files\n\
         \x20 container_format: bare\n\
         \x20 os_type: linux\n\
         \x20 os_distro: ubuntu\n\
         \x20 architecture: x86_64\n\
         \x20 root_device_name: \"/dev/sda1\"\n"
    );
    let packages = "Desired=Unknown/Install/Remove/Purge/Hold\n\
                    ||/ Name           Version       Architecture Description\n\
                    ii  bash           5.1-6ubuntu1  amd64        GNU Bourne Again SHell\n";
    for (file, content) in [
        ("stemcell.MF", manifest.as_str()),
        ("packages.txt", packages),
        ("dev_tools_file_list.txt", "/usr/bin/gcc\n"),
        ("sbom.spdx.json", "{\"spdxVersion\": \"SPDX-2.3\"}\n"),
        ("sbom.cdx.json", "{\"bomFormat\": \"CycloneDX\"}\n"),
    ] {
        std::fs::write(directory.join(file), content).unwrap();
    }
    let stemcell = place.world.path(name);
    let mut flags = vec![
        "-czf",
        stemcell.to_str().unwrap(),
        "-C",
        directory.to_str().unwrap(),
    ];
    // The builder packs the directory's entries.
    flags.extend([
        "dev_tools_file_list.txt",
        "image",
        "packages.txt",
        "sbom.cdx.json",
        "sbom.spdx.json",
        "stemcell.MF",
    ]);
    run_tool("tar", &flags);
    stemcell
}

/// The directories that the stemcell builder leaves below /var/vcap, with their modes.
fn lay_out(root: &Path) {
    let vcap = root.join("var/vcap");
    for directory in ["bosh/bin", "bosh/log", "monit", "micro_bosh/data/cache"] {
        std::fs::create_dir_all(vcap.join(directory)).unwrap();
    }
    let etc = vcap.join("bosh/etc");
    for (file, content) in [
        ("operating_system", "ubuntu"),
        (
            "stemcell_git_sha1",
            "0000000000000000000000000000000000000000",
        ),
        ("dev_tools_file_list", "/usr/bin/gcc\n"),
        ("static_libraries_list", ""),
    ] {
        std::fs::write(etc.join(file), content).unwrap();
    }
    std::fs::write(vcap.join("bosh/agent.json"), "{}\n").unwrap();
    std::fs::create_dir_all(root.join("var/tmp")).unwrap();
    for (path, mode) in [("var/vcap/bosh", 0o700), ("var/tmp", 0o770)] {
        std::fs::set_permissions(root.join(path), PermissionsExt::from_mode(mode)).unwrap();
    }
    std::fs::write(root.join("etc/shadow"), "root:*:19000:0:99999:7:::\n").unwrap();
    std::fs::set_permissions(root.join("etc/shadow"), PermissionsExt::from_mode(0o000)).unwrap();
}

mod bodies {
    use super::*;

    pub(super) fn warden_stemcell_is_used_as_published(tier: Tier) {
        let Some(place) = Place::new(tier) else {
            return;
        };
        let name = "bosh-stemcell-1.406-warden-boshlite-ubuntu-jammy.tgz";
        let image = stemcell(&place, name, "1.406", None);
        let release = release(&place);
        agent(&place, &image, "out")
            .arg(&release)
            .run()
            .succeeds()
            .says("Compiling with stemcell ubuntu-jammy/1.406\n");
        let result = place.world.path("out/demo-1.10-ubuntu-jammy-1.406.tgz");
        let (_scratch, app) = unpacked(&result, "app");
        assert_eq!(app["marker"], "100644 image\n");
        assert_eq!(app["version"], "100644 1.406");
    }

    pub(super) fn stemcell_that_disagrees_with_itself_is_refused(tier: Tier) {
        let Some(place) = Place::new(tier) else {
            return;
        };
        let release = release(&place);
        let damaged = stemcell(&place, "damaged.tgz", "1.406", Some(&"0".repeat(40)));
        let other = stemcell(&place, "other.tgz", "1.407", None);
        agent(&place, &damaged, "out")
            .arg(&release)
            .run()
            .refuses_the_input()
            .says("expected the sha1 digest 0000");
        agent(&place, &other, "out")
            .arg(&release)
            .run()
            .blames_the_machine()
            .says("ubuntu-jammy/1.407")
            .says("1.406");
    }
}

in_tiers!(warden_stemcell_is_used_as_published: NAMESPACE USERNS_OF_A_USER);
in_tiers!(stemcell_that_disagrees_with_itself_is_refused: NAMESPACE);
