//! The tasks for Concourse and the action for GitHub, run with their own scripts.

use std::os::unix::fs::MetadataExt;

use serde_json::Value;

use super::*;
use crate::common::require_tools;

/// The description of a task or an action, as JSON.
#[track_caller]
fn description(path: &str) -> Value {
    const TO_JSON: &str =
        "require 'yaml'; require 'json'; puts JSON.generate(YAML.load_file(ARGV.fetch(0)))";
    let mut ruby = Command::new("ruby");
    ruby.args(["-e", TO_JSON])
        .arg(inputs::repository().join(path));
    let outcome = run(&mut ruby, SHORT);
    outcome.expect_code(0, path);
    serde_json::from_str(&outcome.stdout).unwrap()
}

fn names_of(list: &Value) -> Vec<&str> {
    let list = list.as_array().unwrap().iter();
    list.map(|it| it["name"].as_str().or(it["path"].as_str()).unwrap())
        .collect()
}

/// A build of a task: the directories that Concourse creates, with the release.
struct Build {
    directory: TempDir,
    task: Value,
}

impl Build {
    #[track_caller]
    fn of(task: &str, inputs: &Inputs) -> Self {
        let build = Self {
            directory: tempfile::tempdir().unwrap(),
            task: description(task),
        };
        assert_eq!(build.task["platform"], "linux");
        assert_eq!(build.task["run"]["path"], "/bin/bash");
        for kind in ["inputs", "outputs", "caches"] {
            if build.task[kind].is_array() {
                for name in names_of(&build.task[kind]) {
                    fs::create_dir(build.path(name)).unwrap();
                }
            }
        }
        fs::copy(&inputs.release, build.path("release/example-1.tgz")).unwrap();
        build
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// Runs the task's command line without privileges, with these variables.
    #[track_caller]
    fn run(&self, label: &str, image: &str, variables: &str) -> Outcome {
        let arguments = self.task["run"]["args"].as_array().unwrap();
        let [options, script] = &arguments[..] else {
            panic!("{arguments:?}");
        };
        let script = format!(
            "export {variables}\nset {}\n{}",
            options.as_str().unwrap().trim_end_matches('c'),
            script.as_str().unwrap()
        );
        let outcome = concourse::run_task(label, image, self.directory.path(), &script, LONG);
        outcome.expect_code(0, label);
        outcome
    }
}

fn concourse_is_possible() -> bool {
    let missing = concourse::is_missing();
    if let Some(reason) = &missing {
        skip(reason);
    }
    missing.is_none()
}

#[test]
fn task_compiles_like_the_community_s_task() {
    let Some(inputs) = a_release().filter(|_| concourse_is_possible()) else {
        return;
    };
    let build = Build::of("ci/tasks/bosh-agent-compile.yml", &inputs);
    assert_eq!(names_of(&build.task["outputs"]), ["compiled-release"]);
    let required = build.task["inputs"].as_array().unwrap().iter();
    let required: Vec<_> = required.filter(|it| it["optional"] != true).collect();
    assert_eq!(required.len(), 1);
    assert_eq!(required[0]["name"], "release");
    let outcome = build.run("task", AGENT_IMAGE, "ATC=1");
    let compiled = build.path("compiled-release");
    let output = only_new_file(&compiled, &[], &inputs, &outcome);
    check(&output, &inputs);
}

#[test]
fn cached_task_compiles_each_package_once() {
    let Some(inputs) = a_release().filter(|_| concourse_is_possible()) else {
        return;
    };
    let task = "ci/tasks/bosh-agent-compile-cached.yml";
    let first = Build::of(task, &inputs);
    assert_eq!(
        names_of(&first.task["outputs"]),
        ["compiled-release", "report"]
    );
    assert_eq!(names_of(&first.task["caches"]), ["cache"]);
    let second = Build::of(task, &inputs);
    for (build, is_cached) in [(&first, false), (&second, true)] {
        // The images of the community do not have this agent, which is then an input.
        let agent = build.path("bosh-agent/bosh-agent-0-linux-amd64");
        fs::copy(&inputs.dist, agent).unwrap();
        if is_cached {
            fs::remove_dir(build.path("cache")).unwrap();
            fs::rename(first.path("cache"), build.path("cache")).unwrap();
        }
        let flags = "FLAGS='--keep-going --jobs=1'";
        let outcome = build.run("cached-task", STEMCELL_IMAGE, flags);
        takes(&outcome, &["landlock; "]);
        let compiled = build.path("compiled-release");
        let output = only_new_file(&compiled, &[], &inputs, &outcome);
        check(&output, &inputs);
        let report = fs::read(build.path("report/report.json")).unwrap();
        let report: Value = serde_json::from_slice(&report).unwrap();
        assert_eq!(report["jobs"], 1);
        let packages = report["packages"].as_array().unwrap();
        assert!(!packages.is_empty());
        for package in packages {
            assert_eq!(package["cached"], is_cached, "{outcome}");
        }
        let page = fs::read_to_string(build.path("report/timings.html")).unwrap();
        assert!(page.starts_with("<!DOCTYPE html>"), "{page}");
    }
}

#[test]
fn github_action_compiles_with_a_downloaded_agent() {
    let Some(inputs) = a_release().filter(|_| require_tools(&["curl", "python3"])) else {
        return;
    };
    let place = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let path = |name: &str| place.path().join(name);
    fs::create_dir_all(path("work/releases")).unwrap();
    fs::copy(&inputs.release, path("work/releases/X.tgz")).unwrap();
    let published = path("server/owner/bosh-agent/releases/download/v1.2.3");
    fs::create_dir_all(&published).unwrap();
    let name = format!("bosh-agent-1.2.3-linux-{}", architecture());
    fs::copy(&inputs.dist, published.join(&name)).unwrap();
    let sum = run(
        Command::new("sha256sum").arg(&name).current_dir(&published),
        SHORT,
    );
    fs::write(published.join(format!("{name}.sha256")), &sum.stdout).unwrap();
    let action = action_environment(&description("action.yml"));
    let outcome = run_action(place.path(), &action, "1.2.3");
    outcome.expect_code(0, "the action");
    let output = path("work/compiled-releases").join(&inputs.compiled_name);
    check(&output, &inputs);
    let outputs = fs::read_to_string(path("outputs")).unwrap();
    assert!(outputs.contains(output.to_str().unwrap()), "{outputs}");
    assert!(path("work/report.json").exists(), "{outcome}");
    assert_ne!(names(&path("work/cache")), [""; 0]);
    let owner = fs::metadata(&output).unwrap().uid();
    assert_eq!(owner, nix::unistd::geteuid().as_raw());

    fs::write(published.join(&name), "damaged").unwrap();
    let outcome = run_action(place.path(), &action, "1.2.3");
    outcome.expect_code(1, "the action with a damaged agent");
    assert!(outcome.stdout.contains("::error::"), "{outcome}");
}

fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "aarch64" => "arm64",
        _ => "amd64",
    }
}

/// The variables of the action's only step, with the values of inputs in a workflow.
#[track_caller]
fn action_environment(action: &Value) -> Vec<(String, String)> {
    let given = [
        ("releases", "releases/*.tgz"),
        ("stemcell-image", STEMCELL_IMAGE),
        ("version", "1.2.3"),
        ("cache-directory", "cache"),
        ("report", "report.json"),
        ("flags", "--keep-going"),
    ];
    let steps = action["runs"]["steps"].as_array().unwrap();
    assert_eq!(steps.len(), 1, "{action:#}");
    assert_eq!(
        steps[0]["run"], "\"$GITHUB_ACTION_PATH/ci/github/compile\"",
        "{action:#}"
    );
    let variables = steps[0]["env"].as_object().unwrap().iter();
    variables
        .map(|(variable, expression)| {
            let expression = expression.as_str().unwrap();
            if expression == "${{ github.action_repository }}" {
                return (variable.clone(), "owner/bosh-agent".to_owned());
            }
            let input = expression
                .strip_prefix("${{ inputs.")
                .and_then(|it| it.strip_suffix(" }}"))
                .unwrap();
            let default = &action["inputs"][input];
            assert!(default.is_object(), "{input} is not declared");
            let given = given.iter().find(|(name, _)| *name == input);
            let value = given.map_or_else(
                || default["default"].as_str().unwrap().to_owned(),
                |(_, value)| (*value).to_owned(),
            );
            (variable.clone(), value)
        })
        .collect()
}

/// Runs the action's script in the directory `work`, with a server that has the published files.
#[track_caller]
fn run_action(place: &Path, environment: &[(String, String)], version: &str) -> Outcome {
    // The server chooses a free port, prints it, and ends with the script.
    const SERVE: &str = r#"
import functools, http.server, os, subprocess, sys, threading
class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_):
        pass
handler = functools.partial(Quiet, directory=sys.argv[1])
server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
threading.Thread(target=server.serve_forever, daemon=True).start()
environment = dict(os.environ, GITHUB_SERVER_URL=f"http://127.0.0.1:{server.server_port}")
sys.exit(subprocess.run(sys.argv[2:], env=environment, check=False).returncode)
"#;
    let mut command = Command::new("python3");
    command
        .args(["-c", SERVE])
        .arg(place.join("server"))
        .arg(inputs::repository().join("ci/github/compile"))
        .envs(environment.iter().map(|(name, value)| (name, value)))
        .env("BOSH_AGENT_VERSION", version)
        // As in the steps of a composite action.
        .env("GITHUB_ACTION_REPOSITORY", "")
        .env("GITHUB_OUTPUT", place.join("outputs"))
        .env("RUNNER_TEMP", place)
        .current_dir(place.join("work"));
    run(&mut command, LONG)
}

#[test]
fn image_has_labels() {
    if inputs::require().is_none() {
        return;
    }
    let labels = [
        "inspect",
        "--format",
        "{{json .Config.Labels}}",
        AGENT_IMAGE,
    ];
    let labels = docker(&labels, SHORT).stdout;
    let labels: Value = serde_json::from_str(&labels).unwrap();
    let label = |name: &str| &labels[format!("org.opencontainers.image.{name}")];
    assert_eq!(label("title"), "bosh-agent");
    assert_eq!(label("licenses"), "Apache-2.0");
    assert_eq!(label("base.name"), STEMCELL_IMAGE);
}

/// The blocks of a page that have this language.
fn blocks(page: &str, language: &str) -> Vec<String> {
    let text = fs::read_to_string(inputs::repository().join(page)).unwrap();
    let start = format!("```{language}\n");
    let blocks = text.split(&start).skip(1);
    blocks
        .map(|block| block.split("```").next().unwrap().to_owned())
        .collect()
}

#[test]
fn command_of_the_guide_compiles_in_a_container() {
    let Some(inputs) = a_release() else {
        return;
    };
    let blocks = blocks("docs/ci.md", "sh");
    let command = blocks.iter().find(|it| it.starts_with("docker run"));
    let command = command.expect("a command of docker in docs/ci.md");
    let image = "ghcr.io/cloudfoundry/ubuntu-noble-stemcell:latest";
    assert!(command.contains(image), "{command}");
    let place = releases_with(&inputs.release, "release.tgz");
    fs::copy(&inputs.dist, place.path().join("bosh-agent")).unwrap();
    let outcome = run(
        Command::new("bash")
            .args(["-ec", &command.replace(image, STEMCELL_IMAGE)])
            .current_dir(place.path()),
        LONG,
    );
    outcome.expect_code(0, command);
    check(
        &place.path().join("compiled").join(&inputs.compiled_name),
        &inputs,
    );
}

#[test]
fn examples_of_the_guide_use_inputs_and_tasks_that_exist() {
    if !require_tools(&["ruby"]) {
        return;
    }
    let examples = blocks("docs/ci.md", "yaml");
    let [pipeline, workflow] = &examples[..] else {
        panic!("{} examples", examples.len());
    };
    let parsed = |text: &str| {
        let file = tempfile::NamedTempFile::new().unwrap();
        fs::write(file.path(), text).unwrap();
        description(file.path().to_str().unwrap())
    };
    let plan = &parsed(pipeline)["jobs"][0]["plan"];
    let plan = plan.as_array().unwrap();
    let task = plan.iter().find(|it| it["task"] == "compile").unwrap();
    let file = task["file"].as_str().unwrap();
    let file = file.strip_prefix("bosh-agent-source/").unwrap();
    let task_parameters = &description(file)["params"];
    for name in task["params"].as_object().unwrap().keys() {
        assert!(task_parameters[name].is_string(), "{name} in {file}");
    }
    let steps = &parsed(workflow)["jobs"]["compile"]["steps"];
    let steps = steps.as_array().unwrap();
    let step = steps.iter().find(|it| it["id"] == "compile").unwrap();
    let action = description("action.yml");
    for name in step["with"].as_object().unwrap().keys() {
        assert!(action["inputs"][name].is_object(), "{name} in action.yml");
    }
    let page = fs::read_to_string(inputs::repository().join("docs/ci.md")).unwrap();
    for name in action["inputs"].as_object().unwrap().keys() {
        assert!(
            page.contains(&format!("| `{name}` |")),
            "{name} in docs/ci.md"
        );
    }
}
