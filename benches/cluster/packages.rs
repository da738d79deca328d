//! The packages of the benchmark: the same in each run.

use std::path::PathBuf;
use std::time::Duration;

use crate::support::{ReleaseBuilder, World};

const RELEASES: usize = 30;

/// The packages of each release.
const PACKAGES: usize = 50;

/// The layers of each release: a package depends on packages of the layer before its own.
const LAYERS: usize = 5;

/// The size of a source in bytes, which cannot be compressed.
const SOURCE: usize = 20_000;

pub(crate) fn count() -> usize {
    RELEASES * PACKAGES
}

/// Writes the releases.
pub(crate) fn write(world: &World) -> Vec<PathBuf> {
    let releases = (0..RELEASES).map(|release| {
        let mut builder = ReleaseBuilder::new(&format!("release-{release}"), "1");
        for package in 0..PACKAGES {
            let number = release * PACKAGES + package;
            let dependencies = dependencies(package).into_iter();
            let dependencies: Vec<String> = dependencies
                .map(|it| name(release * PACKAGES + it))
                .collect();
            let dependencies: Vec<&str> = dependencies.iter().map(String::as_str).collect();
            let mut chance = Chance::of(number);
            let source: Vec<u8> = (0..SOURCE).map(|_| chance.draw(256) as u8).collect();
            builder = builder
                .package(&name(number), &dependencies, "true")
                .of_version(&format!("{number:040x}"))
                .file("source", 0o644, &source);
        }
        let names: Vec<String> = (0..PACKAGES)
            .map(|it| name(release * PACKAGES + it))
            .collect();
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        let builder = builder.job("job", &names);
        world.release(&format!("release-{release}.tgz"), &builder)
    });
    releases.collect()
}

fn name(number: usize) -> String {
    format!("package-{number}")
}

/// The packages of its release on which a package depends: one or two of the layer before.
fn dependencies(package: usize) -> Vec<usize> {
    let width = PACKAGES / LAYERS;
    if package < width {
        return Vec::new();
    }
    let (layer, place) = (package / width, package % width);
    let start = (layer - 1) * width;
    let mut found = vec![start + place, start + (place * 3 + layer) % width];
    found.dedup();
    found
}

/// How long a package is compiled: 0.2 to 1 s.
pub(crate) fn time_of(name: &str) -> Duration {
    let number = name.rsplit('-').next().and_then(|it| it.parse().ok());
    let chance = Chance::of(number.unwrap_or_default()).draw(800);
    Duration::from_millis(200 + chance)
}

/// A time in seconds that no order of the packages can beat on these machines.
pub(crate) fn bound(machines: usize) -> f64 {
    let mut ends = vec![0.0_f64; count()];
    let mut total = 0.0;
    for number in 0..count() {
        let first = number / PACKAGES * PACKAGES;
        let dependencies = dependencies(number - first).into_iter();
        let start = dependencies.map(|it| ends[first + it]).fold(0.0, f64::max);
        let time = time_of(&name(number)).as_secs_f64();
        ends[number] = start + time;
        total += time;
    }
    let longest = ends.into_iter().fold(0.0, f64::max);
    longest.max(total / machines as f64)
}

/// Numbers that look random.
struct Chance(u64);

impl Chance {
    fn of(number: usize) -> Self {
        let mut this = Self((number as u64 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
        for _ in 0..4 {
            this.draw(2);
        }
        this
    }

    fn draw(&mut self, below: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % below
    }
}
