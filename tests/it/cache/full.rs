//! Caches on full disks.

use super::shared::Scene;
use crate::support::{Agent, require_root, require_tools};

/// Two runs of an agent that has a small file system at `small`.
fn twice(scene: &Scene, options: &str) -> Agent {
    let world = &scene.cached.world;
    let small = world.path("small");
    std::fs::create_dir_all(&small).unwrap();
    let script = format!(
        "mount -t tmpfs -o mode=755,{options} small {} && \"$@\" && \"$@\"",
        small.display()
    );
    let words = ["unshare", "--mount", "sh", "-c", &script, "sh"];
    let agent = Agent::wrapped(&world.path("printed"), &words);
    let agent = world.flags(agent).arg("--output-directory");
    agent.arg(world.out())
}

#[test]
fn full_disk_of_a_cache_costs_one_warning_in_each_run() {
    if !require_root() || !require_tools(&["unshare", "mount"]) {
        return;
    }
    let scene = Scene::new();
    let world = &scene.cached.world;
    let (small, shared) = (world.path("small/cache"), world.path("shared"));
    for options in [
        "nr_inodes=1",
        "nr_inodes=9",
        "size=4k",
        "size=16k",
        "size=36k",
    ] {
        for flags in [
            &[("--cache-dir", &small)][..],
            &[("--cache-to", &small)],
            &[("--cache-from", &small), ("--cache-to", &small)],
            &[("--cache-dir", &small), ("--cache-from", &shared)],
        ] {
            let agent = flags
                .iter()
                .fold(twice(&scene, options), |agent, (flag, directory)| {
                    agent.arg(flag).arg(directory)
                });
            let (_, ran) = scene.run(agent.without_report());
            let ran = ran.succeeds();
            let case = format!("{options} {flags:?}: {}", ran.stderr);
            assert_eq!(ran.stderr.matches("Warning: ").count(), 2, "{case}");
            assert_eq!(scene.cached.result(), scene.result, "{case}");
        }
    }
}
