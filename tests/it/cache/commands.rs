//! `bosh-agent cache`.

use super::Cached;
use super::shared::{CONTROLS, assert_no_controls, change_entries};
use crate::support::{Agent, Ran};

#[track_caller]
fn command(cached: &Cached, arguments: &[&str], code: i32) -> Ran {
    let agent = Agent::bare(&cached.world.path("printed")).arg("cache");
    let agent = agent.args(arguments).arg("--cache-dir");
    let ran = agent.arg(cached.directory()).without_report().run();
    assert_eq!(ran.code, Some(code), "{}", ran.stderr);
    ran
}

#[test]
fn packages_are_listed_verified_and_pruned() {
    let cached = Cached::new();
    let empty = command(&cached, &["ls"], 0);
    let directory = cached.directory().display().to_string();
    assert_eq!(empty.stdout, format!("0 packages in {directory}: 0 B\n"));
    assert!(!cached.directory().exists(), "nothing is created");

    let release = cached.release("one\n");
    cached.run(cached.agent(), &release).1.succeeds();
    let listed = command(&cached, &["ls"], 0).stdout;
    let lines: Vec<&str> = listed.lines().collect();
    let names = lines.iter().map(|line| line.split(' ').next().unwrap());
    let names: Vec<&str> = names.collect();
    assert_eq!(names, ["package", "app", "lib", "mid", "other", "4"]);
    assert!(lines[1].contains(" ubuntu-noble/1.406 "), "{listed}");

    let json = command(&cached, &["ls", "--json"], 0).stdout;
    let json: serde_json::Value = serde_json::from_str(&json).unwrap();
    assert_eq!(json["directory"], directory);
    assert_eq!(json["packages"][1]["parts"]["name"], "lib");
    assert_eq!(json["packages"][1]["key"].as_str().unwrap().len(), 64);

    let good = command(&cached, &["verify"], 0).stdout;
    assert!(good.starts_with("4 packages good: "), "{good}");
    let pruned = command(&cached, &["prune", "--max-size=0"], 0).stdout;
    assert!(pruned.starts_with("Removed 4 packages and "), "{pruned}");
    assert!(pruned.ends_with("; 0 packages left: 0 B\n"), "{pruned}");
    assert_eq!(cached.run(cached.agent(), &release).0.len(), 4);
    let path = command(&cached, &["path"], 0).stdout;
    assert_eq!(path, format!("{directory}\n"));
}

#[test]
fn verification_names_damaged_files() {
    let cached = Cached::new();
    cached
        .run(cached.agent(), &cached.release("one\n"))
        .1
        .succeeds();
    let file = cached.contents().remove(0);
    let mut bytes = std::fs::read(&file).unwrap();
    bytes[0] ^= 1;
    std::fs::remove_file(&file).unwrap();
    std::fs::write(&file, bytes).unwrap();
    let ran = command(&cached, &["verify"], 3);
    ran.says(&format!(
        "Warning: the file of the cache `{}` was changed: its SHA-256 is wrong. It was set aside\n",
        file.display()
    ));
    let good = command(&cached, &["verify"], 0).stdout;
    assert!(good.starts_with("3 packages good: "), "{good}");
}

#[test]
fn foreign_entries_are_printed_without_control_characters() {
    let cached = Cached::new();
    let (_, ran) = cached.run(cached.agent(), &cached.release("one\n"));
    ran.succeeds();
    let cache = cached.directory();
    change_entries(&cache, |entry| entry["warnings"] = vec![CONTROLS].into());
    let printed = |arguments: &[&str], code| {
        let ran = command(&cached, arguments, code);
        assert_no_controls(&ran.stdout);
        assert_no_controls(&ran.stderr);
        ran
    };
    let json = printed(&["ls", "--json"], 0).stdout;
    let json: serde_json::Value = serde_json::from_str(&json).unwrap();
    assert_eq!(json["packages"][0]["warnings"][0], CONTROLS);
    // A member that this version does not know, and a file that is no entry.
    change_entries(&cache, |entry| entry[CONTROLS] = true.into());
    std::fs::write(cache.join("v1/entries/app").join(CONTROLS), b"").unwrap();
    printed(&["ls"], 3);
    let ran = printed(&["verify"], 3);
    ran.says("is not a file of this cache").says("a\\u{1b}[2J");
}

#[test]
fn maximum_size_is_kept_at_the_end_of_a_run() {
    let cached = Cached::new();
    let release = cached.release("one\n");
    let agent = cached.agent().arg("--cache-max-size=0");
    cached.run(agent, &release).1.succeeds();
    assert_eq!(cached.contents(), [] as [std::path::PathBuf; 0]);
    let agent = cached.agent().arg("--cache-max-size=1MiB");
    cached.run(agent, &release).1.succeeds();
    assert_eq!(cached.run(cached.agent(), &release).0, [""; 0]);
}

#[test]
fn command_without_a_directory_is_a_usage_error() {
    let cached = Cached::new();
    let agent = Agent::bare(&cached.world.path("printed")).args(&["cache", "ls"]);
    agent.without_report().run().ends_with(2).says(
        "Error: no cache is given\nHint: pass --cache-dir DIR, or set BOSH_AGENT_CACHE_DIR\n",
    );
}
