//! One release with different numbers of threads and jobs: the same bytes each time, and the same contents for independent readers.

use std::ffi::{OsStr, OsString};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use crate::support::{
    Agent, ReleaseBuilder, World, compiled_packages, extract, manifest_of, require_tools, run_tool,
    run_tool_with, sha1_of,
};

/// Threads (if enough CPUs are available) and jobs.
const COUNTS: [usize; 4] = [1, 2, 4, 8];

/// The maximum size of compiled packages, relative to GNU gzip.
const LARGER: f64 = 1.03;

/// Gives all files of a package the same time, as scripts create them at different times.
const SAME_TIMES: &str = "\nfind \"$BOSH_INSTALL_TARGET/\" -exec touch -h -d @1600000000 {} +\n";

/// Incompressible bytes, the same each time.
fn random(count: usize) -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    std::iter::repeat_with(|| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()
    })
    .flatten()
    .take(count)
    .collect()
}

/// Words with different frequencies.
fn text(count: usize) -> Vec<u8> {
    let mut text: Vec<u8> = random(count)
        .chunks(2)
        .flat_map(|pair| {
            let word = usize::from(pair[0]) * usize::from(pair[pair.len() - 1]) / 64;
            format!("word{word}{}", if word % 9 == 0 { "\n" } else { " " }).into_bytes()
        })
        .collect();
    text.truncate(count);
    text
}

/// All content that archives have to handle: some megabytes of real programs, texts, compressed data, empty files, hard links, long names,
/// holes.
fn release() -> ReleaseBuilder {
    let script = |commands: &str| format!("set -e\n{commands}{SAME_TIMES}");
    let mut release = ReleaseBuilder::new("demo", "1.10").package(
        "programs",
        &[],
        &script(
            "cp -a files \"$BOSH_INSTALL_TARGET/\"\n\
             ln \"$BOSH_INSTALL_TARGET/files/bash\" \"$BOSH_INSTALL_TARGET/a-shell\"\n\
             ln \"$BOSH_INSTALL_TARGET/files/bash\" \"$BOSH_INSTALL_TARGET/files/shell\"\n\
             ln -s files/bash \"$BOSH_INSTALL_TARGET/link\"",
        ),
    );
    for program in ["bash", "tar", "find", "ruby", "python3", "taskset"] {
        if let Some(path) = program_file(program) {
            let path_in_source = format!("files/{program}");
            release = release.file(&path_in_source, 0o755, &std::fs::read(path).unwrap());
        }
    }
    let deep = ["d".repeat(90), "e".repeat(90), "f".repeat(120)].join("/");
    release
        .package(
            "texts",
            &[],
            &script("cp text \"$BOSH_INSTALL_TARGET/\"\n: >\"$BOSH_INSTALL_TARGET/nothing\""),
        )
        .file("text", 0o644, &text(1_500_000))
        .package("random", &[], &script("mv random \"$BOSH_INSTALL_TARGET/\""))
        .file("random", 0o600, &random(2_000_003))
        .package("empty", &[], &script(":"))
        .package(
            "names",
            &["empty"],
            &script(&format!(
                "mkdir -p \"$BOSH_INSTALL_TARGET/{deep}\"\n\
                 cp -a short \"$BOSH_INSTALL_TARGET/{deep}/{long}\"\n\
                 ln \"$BOSH_INSTALL_TARGET/{deep}/{long}\" \"$BOSH_INSTALL_TARGET/{long}\"\n\
                 ln -s \"{deep}/{long}\" \"$BOSH_INSTALL_TARGET/to {long}\"",
                long = "long ü ".repeat(20),
            )),
        )
        .file("short", 0o640, b"short\n")
        .package(
            "holes",
            &["random"],
            &script(
                "for at in 1 5 9 13 17 21; do\n\
                 dd if=@packages@/random/random of=\"$BOSH_INSTALL_TARGET/holes\" bs=4096 count=3 seek=$((at * 256)) conv=notrunc\n\
                 done\n\
                 truncate -s 30000000 \"$BOSH_INSTALL_TARGET/holes\"",
            ),
        )
        .package(
            "all",
            &["programs", "texts", "names", "holes"],
            &script("(cd @packages@ && ls -L programs texts names holes) >\"$BOSH_INSTALL_TARGET/list\""),
        )
        .job("web", &["all"])
        .license()
}

/// The path of a program of this system.
fn program_file(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path)
        .map(|directory| directory.join(name))
        .find(|file| file.is_file())
}

/// The available CPUs.
fn cpus() -> Vec<usize> {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let list = status
        .lines()
        .find_map(|line| line.strip_prefix("Cpus_allowed_list:"))
        .unwrap();
    list.trim()
        .split(',')
        .flat_map(|range| {
            let (first, last) = range.split_once('-').unwrap_or((range, range));
            first.parse::<usize>().unwrap()..=last.parse().unwrap()
        })
        .collect()
}

/// Compiles the release on these CPUs only.
fn compiled(world: &World, tarball: &Path, cpus: &[usize], jobs: usize) -> PathBuf {
    let list: Vec<String> = cpus.iter().map(ToString::to_string).collect();
    let out = world.path(&format!("out-{}-{jobs}", cpus.len()));
    let agent = Agent::wrapped(
        &world.path("printed"),
        &["taskset", "-c", list.join(",").as_str()],
    );
    world
        .flags(agent)
        .args(&["--jobs", &jobs.to_string(), "--output-directory"])
        .arg(&out)
        .arg(tarball)
        .run()
        .succeeds();
    out.join("demo-1.10-ubuntu-noble-1.406.tgz")
}

#[test]
fn threads_and_jobs_do_not_change_the_result() {
    let tools = ["taskset", "tar", "gzip", "bsdtar", "go", "ruby", "python3"];
    if !require_tools(&tools) {
        return;
    }
    let world = World::new();
    let tarball = world.release("release.tgz", &release());
    let ours = cpus();
    let mut first: Option<(PathBuf, String)> = None;
    for threads in COUNTS.into_iter().filter(|threads| *threads <= ours.len()) {
        for jobs in COUNTS {
            let result = compiled(&world, &tarball, &ours[..threads], jobs);
            let sum = sha1_of(&result);
            match &first {
                None => first = Some((result, sum)),
                Some((other, wanted)) => {
                    assert_eq!(
                        &sum,
                        wanted,
                        "{threads} threads and {jobs} jobs give other bytes than one of each: {} and {}",
                        result.display(),
                        other.display()
                    );
                    std::fs::remove_file(result).unwrap();
                }
            }
        }
    }
    // One result is enough for the readers, as all have the same bytes.
    let (result, _) = first.unwrap();
    let checker = Path::new(env!("CARGO_MANIFEST_DIR")).join("integration/checker");
    run_tool(
        checker.join("read_everywhere").to_str().unwrap(),
        &[&result],
    );
    let arguments: [&OsStr; 4] = [
        result.as_os_str(),
        "--source".as_ref(),
        tarball.as_os_str(),
        "--stemcell=ubuntu-noble/1.406".as_ref(),
    ];
    let check = checker.join("check_release.rb").into_os_string();
    let words: Vec<OsString> = [check.as_os_str()]
        .into_iter()
        .chain(arguments)
        .map(OsStr::to_owned)
        .collect();
    run_tool("ruby", &words);
    compare_sizes(&world, &result);
}

/// Compiled packages are hardly larger than the same trees packed by GNU tar and gzip.
fn compare_sizes(world: &World, result: &Path) {
    let release = world.path("unpacked");
    extract(result, &release);
    let (mut ours, mut theirs) = (0, 0);
    for (name, _) in compiled_packages(&manifest_of(result)) {
        let blob = release.join(format!("compiled_packages/{name}.tgz"));
        let tree = world.path(&format!("trees/{name}"));
        extract(&blob, &tree);
        match name.as_str() {
            "programs" => assert_eq!(std::fs::metadata(tree.join("a-shell")).unwrap().nlink(), 3),
            "holes" => {
                let archive = run_tool_with("gzip", &["-dc".as_ref(), blob.as_os_str()], b"");
                assert!(archive.len() < 1_000_000, "holes are packed as zeros");
            }
            _ => {}
        }
        // Sizes cannot be compared here: GNU tar packs holes as zeros, and random data is incompressible.
        if matches!(name.as_str(), "holes" | "random") {
            continue;
        }
        ours += std::fs::metadata(&blob).unwrap().len();
        let packed = run_tool(
            "sh",
            &[
                "-c".as_ref(),
                "tar --sort=name -C \"$0\" -cf - . | gzip -6 | wc -c".as_ref(),
                tree.as_os_str(),
            ],
        );
        theirs += packed.trim().parse::<u64>().unwrap();
    }
    #[expect(clippy::cast_precision_loss, reason = "some megabytes")]
    let ratio = ours as f64 / theirs as f64;
    assert!(
        ratio <= LARGER,
        "{ours} bytes are {ratio:.3} times the {theirs} bytes of GNU tar and gzip"
    );
}
