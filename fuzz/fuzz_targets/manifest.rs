//! Parses any bytes as a manifest. This must not panic or hang, and a valid manifest must be the same after it is written and parsed again.
#![no_main]

use bosh_agent::release::Manifest;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let Ok(manifest) = Manifest::parse(data) else {
        return;
    };
    // Source packages are not written, and a missing commit hash is written as the Director's default.
    let expected = Manifest {
        packages: Vec::new(),
        compiled_packages: manifest
            .compiled_packages
            .clone()
            .filter(|packages| !packages.is_empty()),
        commit_hash: Some(
            manifest
                .commit_hash
                .clone()
                .unwrap_or_else(|| "unknown".to_owned()),
        ),
        jobs: manifest.jobs.clone(),
        ..manifest.clone()
    };
    let written = manifest.to_yaml();
    assert_eq!(
        Manifest::parse(written.as_bytes()).as_ref(),
        Ok(&expected),
        "{written}"
    );
});
