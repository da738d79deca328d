//! The Go release: packages with the real Go toolchain that share its build cache.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;
use std::time::Duration;

use crate::support::{
    LANDLOCK, NAMESPACE, NONE, Outcome, Place, Ran, Tier, USER, USERNS_OF_A_USER, USERNS_OF_ROOT,
    Who, go_release, is_soak, require, require_tools, run_tool,
};

/// The time limit of the whole release on a busy machine.
const LONG: Duration = Duration::from_secs(900);

/// The names of releases in logs and results.
const RELEASE: &str = "go-tools-1.0.0";

/// The tiers except that of the first compile.
const OTHER_TIERS: [Tier; 4] = [USERNS_OF_ROOT, USERNS_OF_A_USER, LANDLOCK, NONE];

// One test, for all later compiles use the cache of the first and are compared with it.
#[test]
fn go_packages_share_a_build_cache_under_every_isolation() {
    let Some(first) = Run::new(NAMESPACE, None, &go_release::tarball()) else {
        return;
    };
    go_release::assert_shared(&first.compiled());
    assert!(
        go_release::most_at_once(&first.ran.stderr) > 1,
        "{}",
        first.ran.stderr
    );
    // Without `BOSH_AGENT_SOAK`, only the tier of a default container.
    let tiers: &[Tier] = if is_soak() { &OTHER_TIERS } else { &[LANDLOCK] };
    for &tier in tiers {
        if let Some(run) = Run::new(tier, Some(&first), &go_release::tarball()) {
            let compiled = run.compiled();
            assert!(
                compiled.is_empty(),
                "{tier:?}: not from the cache: {compiled:?}"
            );
            let stderr = &run.ran.stderr;
            let at_once = go_release::most_programs_at_once(stderr);
            assert!(tier.name == "none" || at_once > 1, "{tier:?}: {stderr}");
            same_packages(&first, &run, &[]);
        }
    }
    let changed = change_render(&go_release::tarball(), &first.place.world.path(""));
    if let Some(run) = Run::new(NAMESPACE, Some(&first), &changed) {
        let compiled: Vec<_> = run.compiled().into_keys().collect();
        assert_eq!(compiled, ["tools.example/cmd/render"]);
        same_packages(&first, &run, &["render/bin/render"]);
    }
}

/// Each tier fills a cache of its own. Only with `BOSH_AGENT_SOAK`.
#[test]
fn go_packages_compile_shared_code_once_in_every_tier() {
    if !is_soak() {
        return;
    }
    for tier in OTHER_TIERS {
        if let Some(run) = Run::new(tier, None, &go_release::tarball()) {
            go_release::assert_shared(&run.compiled());
        }
    }
}

/// Compares all packages, except files that must differ.
#[track_caller]
fn same_packages(first: &Run, second: &Run, different: &[&str]) {
    let tier = second.place.tier;
    let [first, second] = [first, second].map(|run| {
        let packages = &run.outcome().packages;
        let files = packages.iter().flat_map(|(package, files)| {
            files
                .iter()
                .map(move |(path, content)| (format!("{package}/{path}"), content))
        });
        files.collect::<BTreeMap<_, _>>()
    });
    assert!(first.keys().eq(second.keys()), "{tier:?}: other names");
    // Not `assert_eq`: a diff of whole toolchains is unreadable.
    let found: Vec<_> = first
        .iter()
        .filter(|(path, content)| second[*path] != **content)
        .map(|(path, _)| path)
        .collect();
    assert_eq!(found, different, "{tier:?}");
}

/// A compile of the release, with its logs and cache.
struct Run {
    place: Place,
    ran: Ran,
    outcome: OnceLock<Outcome>,
}

impl Run {
    /// Compiles the release with a copy of the cache of another run. `None` if this machine lacks the tier.
    fn new(tier: Tier, before: Option<&Self>, tarball: &Path) -> Option<Self> {
        if !require(tarball.is_file(), "the Go release (`make example`)")
            || !require_tools(&["gcc"])
        {
            return None;
        }
        let place = Place::new(tier)?.at_var_vcap();
        let cache = place.world.path("cache");
        match before {
            Some(before) => {
                run_tool(
                    "cp",
                    &[
                        "-a".as_ref(),
                        before.place.world.path("cache").as_os_str(),
                        cache.as_os_str(),
                    ],
                );
            }
            None => std::fs::create_dir(&cache).unwrap(),
        }
        if matches!(tier.who, Who::User) {
            run_tool(
                "chown",
                &["-R".as_ref(), USER.to_string().as_ref(), cache.as_os_str()],
            );
        }
        // The first run has no cache: the equal results of the others show that the cache changes nothing.
        let is_protected = tier.has_mounts() && before.is_some();
        let protection: &[&str] = if is_protected {
            &["--protect-host"]
        } else {
            &[]
        };
        let ran = place
            .agent()
            .args(protection)
            .within(LONG)
            .arg("--scratch-dir")
            .arg(&cache)
            .arg(tarball)
            .env("HOME", place.world.path("facts").to_str().unwrap())
            .run()
            .succeeds()
            .says(&format!("Isolation: {}", tier.name))
            .does_not_say("Warning");
        Some(Self {
            place,
            ran,
            outcome: OnceLock::new(),
        })
    }

    fn compiled(&self) -> BTreeMap<String, usize> {
        go_release::compiled(&self.place.world.path("logs").join(RELEASE), "log")
    }

    fn outcome(&self) -> &Outcome {
        self.outcome
            .get_or_init(|| Outcome::of(&self.place.world.result(RELEASE)))
    }
}

/// Makes a release in which the program `render` has another text.
fn change_render(tarball: &Path, directory: &Path) -> PathBuf {
    const SCRIPT: &str = r#"
        set -euo pipefail
        mkdir release source
        tar -C release -xf "$1"
        blob=release/packages/render.tgz
        old=$(sha256sum <$blob)
        tar -C source -xf $blob
        sed -i 's/there is no property/there is not any property/' source/tools/cmd/render/main.go
        tar -C source -czf $blob .
        new=$(sha256sum <$blob)
        sed -i "s/${old%% *}/${new%% *}/" release/release.MF
        grep -q "${new%% *}" release/release.MF
        tar -C release -cf changed.tgz .
        rm -r release source
    "#;
    let mut command = Command::new("bash");
    command
        .args(["-c", SCRIPT, "bash"])
        .arg(tarball)
        .current_dir(directory);
    crate::support::with_input(command, b"");
    directory.join("changed.tgz")
}
