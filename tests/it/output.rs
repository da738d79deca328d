//! The format of compiled releases, exact where readers depend on it.

mod manifest;
mod other_members;
mod packages;

use std::path::{Path, PathBuf};

use crate::support::{
    Agent, Compression, Kind, Listed, Member, ReleaseBuilder, World, archive, compiled_packages,
    list, manifest_of, mode_of, require_root, require_tools, run_tool, sha1_of,
};

/// The compiled package of a result, extracted to a file.
fn blob_of(world: &World, result: &Path, package: &str) -> PathBuf {
    let release = world.path("unpacked");
    crate::support::extract(result, &release);
    release.join(format!("compiled_packages/{package}.tgz"))
}

/// Packs the files of a script, and lists the package.
fn packed(script: &str) -> (World, PathBuf, Vec<Listed>) {
    let world = World::new();
    let result = world.compiled(&ReleaseBuilder::of_script(script));
    let blob = blob_of(&world, &result, "app");
    let entries = list(&blob);
    (world, blob, entries)
}

fn names(entries: &[Listed]) -> Vec<&str> {
    entries.iter().map(|entry| entry.name.as_str()).collect()
}

#[track_caller]
fn entry<'a>(entries: &'a [Listed], name: &str) -> &'a Listed {
    entries
        .iter()
        .find(|entry| entry.name == name)
        .unwrap_or_else(|| panic!("{name} is not among {:?}", names(entries)))
}

#[test]
fn entries_have_canonical_names_the_times_and_modes_of_the_go_agent_and_the_owners_of_their_source()
{
    let world = World::new();
    let mut members = ReleaseBuilder::demo().members();
    for member in &mut members {
        member.mode = match member.name.as_str() {
            "release.MF" => 0o640,
            "jobs/" => 0o700,
            "packages/" => 0o750,
            "LICENSE" => 0o400,
            _ => member.mode,
        };
        if member.name == "packages/" {
            member.owner = (77, 78);
            member.names = ("pack", "packs");
        }
    }
    let tarball = world.write("release.tgz", Compression::Gzip.apply(&archive(&members)));
    world.compile(&[&tarball]).succeeds();
    let entries = list(&world.result("demo-1.10"));
    let found: Vec<String> = entries
        .iter()
        .map(|entry| {
            format!(
                "{} {} {} {}",
                entry.mode, entry.owner, entry.names, entry.name
            )
        })
        .collect();
    assert_eq!(
        found,
        [
            "-rw-r----- 1001/1002 builder/builders ./release.MF",
            "drwx------ 1001/1002 builder/builders ./jobs/",
            "-rw-r--r-- 1001/1002 builder/builders ./jobs/web.tgz",
            "drwxr-x--- 77/78 pack/packs ./compiled_packages/",
            "-rw-r--r-- 77/78 pack/packs ./compiled_packages/lib.tgz",
            "-rw-r--r-- 77/78 pack/packs ./compiled_packages/app.tgz",
            "-rw-r--r-- 1001/1002 builder/builders ./license.tgz",
            "-rw-r--r-- 1001/1002 builder/builders ./LICENSE",
        ]
    );
    for entry in &entries {
        assert_eq!(entry.time, "1970-01-01 00:00:00", "{}", entry.name);
    }
}

#[test]
fn result_has_a_directory_of_packages() {
    let world = World::new();
    let mut members = ReleaseBuilder::demo().members();
    members.retain(|member| member.kind == Kind::File);
    let tarball = world.write("release.tgz", archive(&members));
    world.compile(&[&tarball]).succeeds();
    let entries = list(&world.result("demo-1.10"));
    let directory = entry(&entries, "./compiled_packages/");
    assert_eq!(directory.mode, "drwxr-xr-x");
    assert_eq!(directory.owner, "0/0");
    assert!(names(&entries).iter().all(|name| *name != "./jobs/"));
}
