//! Requests to compile packages, passed to an agent without a socket: their results and leftovers.
use std::path::PathBuf;
use std::sync::Mutex;
use std::time::Duration;

use crate::support::{Play, in_isolations, listed, processes_below, run_tool, sha1_of, wait_for};
use bosh_agent::sandbox::Isolation;
use serde_json::{Value, json};

const LIMIT: Duration = Duration::from_secs(60);

fn message_of_cancel(package: &str) -> String {
    format!(" result: Compiling package {package}: the compilation was canceled")
}

in_isolations!(canceled_request_ends_at_once_and_leaves_no_files: Namespace Landlock None);
in_isolations!(failed_request_leaves_only_reusable_dependencies: Namespace Userns Landlock None);
in_isolations!(requests_share_the_scratch_of_a_dependency: Namespace Userns Landlock None);
in_isolations!(isolated_script_finds_no_secret_of_the_agent: Namespace Landlock);
in_isolations!(scratch_is_private_to_dependents_and_outlives_the_agent: Namespace Userns Landlock);
in_isolations!(changed_installed_package_does_not_affect_later_requests: Namespace Userns Landlock None);

/// A script that prints the number of files in a scratch directory, and adds one.
fn counting(play: &Play, name: &str) -> String {
    let scratch = play.world.base().join("data").join(name);
    format!(
        "set -e\nls {0} | wc -l >$BOSH_INSTALL_TARGET/found\n>{0}/$BOSH_PACKAGE_NAME-$(ls {0} | wc -l)",
        scratch.display()
    )
}

impl Play {
    /// The number that a package found in a scratch directory, and the package as a dependency of later requests.
    async fn found(&self, order: &Value) -> (String, Value) {
        let task = self.order(order).await;
        let end = self.end(&task).await;
        let result = &end["value"]["result"];
        let id = result["blobstore_id"].as_str();
        let id = id.unwrap_or_else(|| panic!("{end}"));
        let blob = self.world.path("store").join(id);
        let arguments = ["-xOf".as_ref(), blob.as_os_str(), "./found".as_ref()];
        let found = run_tool("tar", &arguments).trim().to_owned();
        let dependency = json!({"k": {
            "name": order[2], "version": "1.1", "blobstore_id": id, "sha1": result["sha1"],
        }});
        (found, dependency)
    }
}

mod bodies {
    use super::*;

    pub(super) async fn canceled_request_ends_at_once_and_leaves_no_files(play: Play) {
        let long = play.source(
            "long",
            "(setsid sleep 1000 &)\ntrap '' TERM\nsleep 1000",
            json!({}),
        );
        let short = play.source("short", "echo x >$BOSH_INSTALL_TARGET/file", json!({}));
        let first = play.order(&long).await;
        play.phase(&first, "packaging").await;
        let second = play.order(&short).await;
        play.phase(&second, "queued").await;
        for (task, package) in [(&second, "short"), (&first, "long")] {
            assert_eq!(
                play.ask("cancel_task", json!([task])).await,
                json!({"value": "canceled"})
            );
            let message = play.failure(task).await;
            assert!(message.ends_with(&message_of_cancel(package)), "{message}");
        }
        assert_eq!(processes_below(&play.world.base()), [] as [&str; 0]);
        assert_eq!(play.left(), [] as [PathBuf; 0]);
        // The next request succeeds.
        let third = play.order(&short).await;
        let result = play.end(&third).await["value"]["result"].clone();
        assert!(
            play.world
                .path("store")
                .join(result["blobstore_id"].as_str().unwrap())
                .exists()
        );
        assert_eq!(
            play.left().len(),
            1,
            "what it installed is kept for its dependents"
        );

        // As when the agent stops.
        let last = play.order(&long).await;
        play.phase(&last, "packaging").await;
        assert!(play.here().stop(LIMIT).await);
        assert_eq!(processes_below(&play.world.base()), [] as [&str; 0]);
        let message = play.failure(&last).await;
        let stopped = "Compiling package long: the agent was stopped";
        assert!(message.ends_with(stopped), "{message}");
        let hidden = listed(play.world.base().join("data"));
        assert!(
            hidden
                .iter()
                .all(|path| !path.to_str().unwrap().contains(".bosh-agent-")),
            "{hidden:?}"
        );
    }

    pub(super) async fn failed_request_leaves_only_reusable_dependencies(play: Play) {
        let dependency = play.source("lib", "echo lib >$BOSH_INSTALL_TARGET/file", json!({}));
        let lib = play.order(&dependency).await;
        let lib = play.end(&lib).await["value"]["result"].clone();
        let dependencies = |digest: &Value| json!({"k": {"name": "lib", "version": "1.1", "blobstore_id": lib["blobstore_id"], "sha1": digest}});
        assert_eq!(play.left().len(), 1);

        // A dependency that is not an archive, with the right digest.
        let broken = play.world.path("store/broken");
        std::fs::write(&broken, b"this is not an archive").unwrap();
        let deps = json!({"k": {"name": "lib", "version": "1", "blobstore_id": "broken", "sha1": sha1_of(&broken)}});
        let task = play.order(&play.source("app", "true", deps)).await;
        let message = play.failure(&task).await;
        assert!(
            message.contains("Compiling package app: Installing dependent package: 'lib': "),
            "{message}"
        );
        assert_eq!(play.left().len(), 1);

        // A failing script, and its error.
        let script = "cat ${BOSH_INSTALL_TARGET%/*}/lib/file\nexit 3";
        let task = play
            .order(&play.source("app", script, dependencies(&lib["sha1"])))
            .await;
        let message = play.failure(&task).await;
        assert!(
            message.contains("Command exited with 3; Stdout: lib\n, Stderr: + cat "),
            "{message}"
        );
        assert_eq!(play.left().len(), 1);

        // A result that cannot be stored: the store is no longer a directory when the script has ended.
        let store = play.world.path("store");
        let script = format!(
            "rm -r {0}\n>{0}\necho x >$BOSH_INSTALL_TARGET/file",
            store.display()
        );
        let task = play.order(&play.source("app", &script, json!({}))).await;
        let message = play.failure(&task).await;
        assert!(
            message.contains("Compiling package app: Uploading compiled package: "),
            "{message}"
        );
        assert_eq!(play.left().len(), 1);
        assert!(play.stop().await);
    }

    pub(super) async fn requests_share_the_scratch_of_a_dependency(play: Play) {
        let script = counting(&play, "golang");
        let golang = play.source("golang", &script, json!({}));
        let (found, dependency) = play.found(&golang).await;
        assert_eq!(found, "0");
        let app = play.source("app", &script, dependency);
        assert_eq!(play.found(&app).await.0, "1");
        assert_eq!(play.found(&app).await.0, "2");
        assert!(play.stop().await);
    }

    pub(super) async fn isolated_script_finds_no_secret_of_the_agent(play: Play) {
        let base = play.world.base();
        for path in [
            "bosh/settings.json",
            "bosh/etc/blobstore-dav.json",
            "bosh/etc/stemcell_version",
        ] {
            std::fs::create_dir_all(base.join("bosh/etc")).unwrap();
            std::fs::write(base.join(path), "hunter2").unwrap();
        }
        std::fs::create_dir_all(play.world.path("keys")).unwrap();
        for path in ["agent.json", "keys/key.pem"] {
            play.world.write(path, "hunter2");
        }
        let look = format!(
            "grep -rsl hunter2 {}/bosh {} >$BOSH_INSTALL_TARGET/found; true",
            base.display(),
            ["agent.json", "keys"]
                .map(|path| play.world.path(path).display().to_string())
                .join(" "),
        );
        let app = play.source("app", &look, json!({}));
        let seen = base.join("bosh/etc/stemcell_version");
        assert_eq!(play.found(&app).await.0, seen.to_str().unwrap());
        // A file that is replaced while the agent runs stays hidden: a mount over the old file would not cover the new one.
        let replacing = format!(
            ">{0}/started; until [ -e {0}/go ]; do sleep 0.1; done; {look}",
            base.join("data/app").display()
        );
        let app = play.source("app", &replacing, json!({}));
        let task = play.order(&app).await;
        let shared = base.join("data/.bosh-agent-scratch/app");
        wait_for("the script's start", LIMIT, || {
            if shared.join("started").exists() {
                Ok(())
            } else {
                Err("it has not started".to_owned())
            }
        });
        std::fs::write(base.join("bosh/new"), "hunter2").unwrap();
        std::fs::rename(base.join("bosh/new"), base.join("bosh/settings.json")).unwrap();
        std::fs::write(shared.join("go"), "").unwrap();
        let end = play.end(&task).await;
        let id = end["value"]["result"]["blobstore_id"]
            .as_str()
            .unwrap_or_else(|| panic!("{end}"));
        let blob = play.world.path("store").join(id);
        let arguments = ["-xOf".as_ref(), blob.as_os_str(), "./found".as_ref()];
        assert_eq!(run_tool("tar", &arguments).trim(), seen.to_str().unwrap());
        assert!(play.stop().await);
    }

    pub(super) async fn scratch_is_private_to_dependents_and_outlives_the_agent(play: Play) {
        let script = counting(&play, "golang");
        let golang = play.source("golang", &script, json!({}));
        let (_, dependency) = play.found(&golang).await;
        let data = play.world.base().join("data");
        let look = format!(
            "cat {}/golang/* >/dev/null 2>&1; echo $? >$BOSH_INSTALL_TARGET/found",
            data.display()
        );
        let other = play.source("other", &look, json!({}));
        assert_eq!(play.found(&other).await.0, "1", "it can be read");
        let play = play.restart().await;
        let kept = listed(data.join(".bosh-agent-scratch"));
        assert_eq!(kept, [data.join(".bosh-agent-scratch/golang")]);
        let app = play.source("app", &script, dependency);
        assert_eq!(play.found(&app).await.0, "1");
        assert!(play.stop().await);
    }

    pub(super) async fn changed_installed_package_does_not_affect_later_requests(play: Play) {
        // Each test is a process.
        let log = play.world.path("log");
        tracing_subscriber::fmt()
            .with_ansi(false)
            .with_writer(Mutex::new(std::fs::File::create(&log).unwrap()))
            .init();
        let lib = play.source("lib", "echo good >$BOSH_INSTALL_TARGET/found", json!({}));
        let (_, dependency) = play.found(&lib).await;
        let [tree] = play.left().try_into().unwrap();
        // In namespaces, the script's tree covers the base directory, and an empty one covers the work directory.
        let evil = format!(
            "cd $BOSH_INSTALL_TARGET\numount -l {0}\numount -l {1}\ntouch -r {2}/found time\necho evil >{2}/found\n\
         touch -r time {2}/found\necho done >found\n",
            play.world.base().display(),
            tree.ancestors().nth(3).unwrap().display(),
            tree.display(),
        );
        let evil = play.source("evil", &evil, json!({}));
        assert_eq!(play.found(&evil).await.0, "done");
        if std::fs::read_to_string(tree.join("found")).unwrap() == "good\n" {
            // The script cannot reach it, so another program does.
            std::fs::write(tree.join("found"), "evil\n").unwrap();
        }
        let copy = "cp ${BOSH_INSTALL_TARGET%/*}/lib/found $BOSH_INSTALL_TARGET/";
        let app = play.source("app", copy, dependency);
        assert_eq!(play.found(&app).await.0, "good");
        assert!(!tree.exists());
        let message = "an installed package was changed; fetching it again";
        if play.isolation().is_none() {
            assert!(play.log().contains(message), "{}", play.log());
            assert!(play.stop().await);
            return;
        }
        let log = std::fs::read_to_string(log).unwrap();
        let line = log
            .lines()
            .find(|line| line.contains(message))
            .unwrap_or_else(|| panic!("{log}"));
        for part in [" dependency=lib ", "`found`", "evil"] {
            assert!(line.contains(part), "{line}");
        }
        assert!(play.stop().await);
    }
}
