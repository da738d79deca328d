//! Packing and unpacking compared with GNU tar and gzip, on a tree of real binaries, and digests. `cargo bench --bench archive`.
//!
//! Each round runs each variant once, so that other load on the machine affects all of them equally; the figures are medians.
#![expect(clippy::print_stdout, reason = "a benchmark prints its figures")]
#![expect(clippy::disallowed_methods, reason = "it compares with GNU tar")]
#![expect(clippy::unwrap_used, reason = "a benchmark that fails has no result")]

use std::fs::{self, File};
use std::io::BufWriter;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use bosh_agent::archive::{self, GzipWriter, SystemOwners};
use bosh_agent::release::digest::{Algorithm, Hasher, HashingWriter};

const ROUNDS: usize = 3;

/// The approximate size of the tree, in bytes.
const SIZE: u64 = 200 << 20;

/// The directories with binaries.
const SOURCES: [&str; 3] = ["/usr/lib/x86_64-linux-gnu", "/usr/lib", "/usr/bin"];

fn main() {
    let scratch = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let tree = scratch.path().join("tree");
    fs::create_dir(&tree).unwrap();
    let bytes = gather(&tree);
    println!("{} MB of binaries, medians of {ROUNDS}", bytes / 1_000_000);
    let ours = scratch.path().join("ours.tgz");
    let theirs = scratch.path().join("theirs.tgz");
    let mut times = [(); 4].map(|()| Vec::new());
    for round in 0..ROUNDS {
        times[0].push(timed(|| pack(&tree, &ours)));
        times[1].push(timed(|| {
            tar(&["-czf", text(&theirs), "-C", text(&tree), "."])
        }));
        let to = scratch.path().join(format!("ours-{round}"));
        fs::create_dir(&to).unwrap();
        times[2].push(timed(|| {
            archive::unpack_whole(File::open(&theirs).unwrap(), &to).unwrap();
        }));
        fs::remove_dir_all(&to).unwrap();
        let to = scratch.path().join(format!("theirs-{round}"));
        fs::create_dir(&to).unwrap();
        times[3].push(timed(|| tar(&["-xzf", text(&theirs), "-C", text(&to)])));
        fs::remove_dir_all(&to).unwrap();
    }
    let size = |path: &PathBuf| fs::metadata(path).unwrap().len();
    let [pack, gnu_pack, unpack, gnu_unpack] = times.map(median);
    let speed = |time: Duration| bytes as f64 / 1e6 / time.as_secs_f64();
    println!(
        "pack     {:6.0} MB/s   GNU tar and gzip {:6.0} MB/s   {:.1} times   size {:.3} of GNU's",
        speed(pack),
        speed(gnu_pack),
        gnu_pack.as_secs_f64() / pack.as_secs_f64(),
        size(&ours) as f64 / size(&theirs) as f64,
    );
    println!(
        "unpack   {:6.0} MB/s   GNU tar and gzip {:6.0} MB/s   {:.1} times",
        speed(unpack),
        speed(gnu_unpack),
        gnu_unpack.as_secs_f64() / unpack.as_secs_f64(),
    );
    digests();
}

/// Copies binaries, in the order of their names, up to the size of the tree.
fn gather(tree: &Path) -> u64 {
    let mut bytes = 0;
    for (number, source) in SOURCES.into_iter().enumerate() {
        let Ok(entries) = fs::read_dir(source) else {
            continue;
        };
        let mut paths: Vec<PathBuf> = entries.map(|entry| entry.unwrap().path()).collect();
        paths.sort();
        for path in paths {
            let metadata = fs::symlink_metadata(&path).unwrap();
            if bytes < SIZE && metadata.is_file() {
                let name = path.file_name().unwrap().to_string_lossy().into_owned();
                fs::copy(&path, tree.join(format!("{number}-{name}"))).unwrap();
                bytes += metadata.len();
            }
        }
    }
    bytes
}

/// Packs a tree like a compiled package: one gzip member of level 6, with two digests computed while it is written.
fn pack(tree: &Path, to: &Path) {
    let out = HashingWriter::new(
        BufWriter::new(File::create(to).unwrap()),
        Hasher::new(&[Algorithm::Sha1, Algorithm::Sha256]),
    );
    let mut gzip = GzipWriter::new(out, 6).unwrap();
    archive::pack(tree, &mut gzip, &mut SystemOwners::new(), None).unwrap();
    gzip.finish().unwrap();
}

fn tar(arguments: &[&str]) {
    assert!(
        Command::new("tar")
            .args(arguments)
            .status()
            .unwrap()
            .success()
    );
}

fn digests() {
    let content: Vec<u8> = (0..64_u32 << 20).map(|at| (at >> 3) as u8).collect();
    for algorithm in Algorithm::ALL {
        let mut hasher = Hasher::new(&[algorithm]);
        let time = timed(|| {
            content
                .chunks(128 * 1024)
                .for_each(|chunk| hasher.update(chunk))
        });
        assert!(hasher.finish().get(algorithm).is_some());
        let speed = content.len() as f64 / 1e6 / time.as_secs_f64();
        println!("{:6}   {speed:6.0} MB/s", algorithm.as_str());
    }
}

fn timed(work: impl FnOnce()) -> Duration {
    let start = Instant::now();
    work();
    start.elapsed()
}

fn median(mut times: Vec<Duration>) -> Duration {
    times.sort();
    times[times.len() / 2]
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}
