//! Parses any bytes as the report of a script's sandbox, which a script that escapes from its sandbox could write. This must not panic,
//! and a valid report must be the same after it is written and parsed again.
#![no_main]

use bosh_agent::sandbox::Report;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let Ok(report) = serde_json::from_slice::<Report>(data) else {
        return;
    };
    // The texts of messages.
    let status = match &report {
        Report::Ended(end) => Some(end.status),
        Report::Lost { status } => Some(*status),
        Report::Failed(error) => {
            assert!(error.to_string().starts_with("failed to "));
            let _ = error.is_no_space();
            None
        }
    };
    if let Some(status) = status {
        let shown = status.to_string();
        assert_eq!(status.is_success(), shown == "exited with 0", "{shown}");
        let _ = status.signal();
    }
    let line = serde_json::to_vec(&report).expect("a report can be written");
    assert!(!line.contains(&b'\n'));
    let again: Report = serde_json::from_slice(&line).expect("a report can be read");
    assert_eq!(again, report);
});
