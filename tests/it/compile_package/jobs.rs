//! A package that a file describes.

use serde_json::{Value, json};

use crate::support::one_package::{OnePackage, file_in};
use crate::support::{NAMESPACE, NONE, Place, Ran, STEMCELL, Tier, sha1_of};

/// Two directories: `DIR/inputs` with the inputs, and `out`.
fn place(tier: Tier) -> Option<(Place, OnePackage)> {
    let place = Place::new(tier)?;
    let lib = OnePackage::new(&place, "lib", "echo lib > $BOSH_INSTALL_TARGET/lib.txt");
    let lib = lib.compiled(&place);
    let script = "cat @packages@/lib/lib.txt > $BOSH_INSTALL_TARGET/app; echo $FLAG >> $BOSH_INSTALL_TARGET/app";
    let package = OnePackage::new(&place, "app", script).depends_on("lib", &lib);
    Some((place, package))
}

/// The job of a package, with paths relative to the directory of its source.
fn job(place: &Place, package: &OnePackage) -> Value {
    json!({
        "name": "app",
        "version": "1.10",
        "source": package.source.file_name().unwrap().to_str().unwrap(),
        "dependencies": [{"name": "lib", "version": "1.10", "blob": "../compiled/lib.tgz"}],
        "stemcell": STEMCELL,
        "script_user": "root",
        "settings": {
            "base_directory": place.world.base(),
            "isolation": place.tier.flag,
            "reproducible": true,
            "variables": {"FLAG": "set"},
        },
    })
}

fn run(place: &Place, package: &OnePackage, job: &Value) -> Ran {
    let file = package.source.with_file_name("job.json");
    std::fs::write(&file, job.to_string()).unwrap();
    let agent = place.bare().args(&["compile-package", "--job"]).arg(file);
    package.written(agent).run()
}

#[test]
fn job_and_flags_give_the_same_package() {
    let Some((place, package)) = place(NAMESPACE) else {
        return;
    };
    let flags = ["--env", "FLAG=set", "--reproducible"];
    let ran = package.agent(&place).args(&flags).run();
    let by_flags = package.checked(ran, 0);
    let sum = sha1_of(&package.output());
    std::fs::remove_file(package.output()).unwrap();
    let by_job = package.checked(run(&place, &package, &job(&place, &package)), 0);
    assert_eq!(sha1_of(&package.output()), sum);
    assert_eq!(file_in(&package.output(), "app"), "lib\nset\n");
    for field in [
        "name",
        "version",
        "stemcell",
        "source",
        "dependencies",
        "compiled",
    ] {
        assert_eq!(by_flags[field], by_job[field]);
    }
}

#[test]
fn wrong_jobs_have_exit_code_3() {
    let Some((place, package)) = place(NAMESPACE) else {
        return;
    };
    let mut unknown = job(&place, &package);
    unknown["settings"]["speed"] = json!(11);
    let mut relative = job(&place, &package);
    relative["settings"]["base_directory"] = json!("vcap");
    for (job, reason) in [
        (unknown, "unknown field `speed`"),
        (
            relative,
            "the base directory `vcap` is not an absolute path",
        ),
        (json!([]), "invalid job `"),
    ] {
        let ran = run(&place, &package, &job);
        assert!(ran.stderr.contains(reason), "{}", ran.stderr);
        assert_eq!((ran.code, ran.stdout.as_str()), (Some(3), ""));
    }
}

#[test]
fn job_for_another_user_fails_on_this_machine() {
    let Some((place, package)) = place(NONE) else {
        return;
    };
    let mut job = job(&place, &package);
    job["script_user"] = json!("ordinary");
    let ran = run(&place, &package, &job);
    assert!(
        ran.stderr
            .contains("Error: the job file requires that the script runs as an ordinary user"),
        "{}",
        ran.stderr
    );
    assert_eq!(package.checked(ran, 4)["failure_kind"], "machine");
}
