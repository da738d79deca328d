//! Sealing a tree and checking its record: many small files, and few large ones. `cargo bench --bench seal`.
#![expect(clippy::print_stdout, reason = "a benchmark prints its figures")]
#![expect(clippy::unwrap_used, reason = "a benchmark that fails has no result")]

use std::path::Path;
use std::time::{Duration, Instant};

use bosh_agent::compile::Store;
use bosh_agent::fs::{self, Record};
use bosh_agent::release::Name;

const ROUNDS: usize = 7;

fn main() {
    println!("medians of {ROUNDS}, ms");
    println!("                       seal and record   record   check");
    measure("20,000 files of 1 KB", 20_000, 1 << 10);
    measure("50 files of 10 MB", 50, 10 << 20);
}

fn measure(what: &str, files: usize, size: usize) {
    let scratch = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let store = Store::new(&scratch.path().join("store"));
    let name = Name::parse("lib").unwrap();
    let mut times = [(); 3].map(|()| Vec::new());
    for round in 0..ROUNDS {
        let tree = scratch.path().join(format!("tree-{round}"));
        make(&tree, files, size);
        let start = Instant::now();
        let installed = store.seal(&name, &tree).unwrap();
        times[0].push(start.elapsed());
        let start = Instant::now();
        let record = Record::of(&installed.tree()).unwrap();
        times[1].push(start.elapsed());
        drop(record);
        let start = Instant::now();
        store.check(&installed).unwrap();
        times[2].push(start.elapsed());
        store.remove(&installed).unwrap();
    }
    let [seal, record, check] = times.map(|mut times| median(&mut times));
    println!("{what:21}  {seal:15.1}   {record:6.1}   {check:5.1}");
}

/// Creates a tree with up to 100 files in each directory.
fn make(tree: &Path, files: usize, size: usize) {
    let content = vec![b'x'; size];
    for number in 0..files {
        let directory = tree.join(format!("directory-{}", number / 100));
        if number % 100 == 0 {
            fs::create_dir_all(&directory).unwrap();
        }
        fs::write(&directory.join(format!("file-{number}")), &content).unwrap();
    }
}

fn median(times: &mut [Duration]) -> f64 {
    times.sort();
    times[times.len() / 2].as_secs_f64() * 1000.0
}
