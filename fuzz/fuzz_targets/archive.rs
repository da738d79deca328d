//! Unpacks any bytes as an archive. This must not panic, hang, need much memory, or change anything outside the destination.
#![no_main]

use std::path::Path;

use bosh_agent::archive::{Decoder, unpack};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let scratch = tempfile::tempdir_in("/dev/shm").expect("a directory in memory");
    let (inside, outside) = (
        scratch.path().join("inside"),
        scratch.path().join("outside"),
    );
    for directory in [&inside, &outside] {
        std::fs::create_dir(directory).expect("a new directory");
    }
    std::fs::write(outside.join("file"), "untouched").expect("a new file");
    if let Ok(mut decoder) = Decoder::new(data)
        && unpack(&mut decoder, &inside).is_ok()
    {
        let _ = decoder.finish();
    }
    assert_untouched(scratch.path());
});

fn assert_untouched(scratch: &Path) {
    let names = |path: &Path| -> Vec<String> {
        let mut names: Vec<String> = std::fs::read_dir(path)
            .expect("it was created above")
            .map(|entry| {
                entry
                    .expect("it can be read")
                    .file_name()
                    .to_string_lossy()
                    .into_owned()
            })
            .collect();
        names.sort();
        names
    };
    assert_eq!(names(scratch), ["inside", "outside"]);
    assert_eq!(names(&scratch.join("outside")), ["file"]);
    let text = std::fs::read(scratch.join("outside/file")).expect("it was created above");
    assert_eq!(text, b"untouched");
}
