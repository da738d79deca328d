//! The machine that has compiled a package, and its times, as the server reports them. Pure.

use std::time::Duration;

use crate::diag::printable_up_to;
use crate::reapi::{Timestamp, messages as api};

/// The maximum length of a machine's name, in characters. The rest is cut off.
const LONGEST_NAME: usize = 100;

/// The maximum time of a step. A longer one is implausible, and is ignored.
const LONGEST_STEP: Duration = Duration::from_secs(30 * 24 * 3600);

/// The machine that has compiled a package. Servers may omit any of these facts.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Machine {
    /// Its name; it may be empty.
    pub name: String,
    /// How long the action waited in the server's queue.
    pub queued: Option<Duration>,
    /// How long the machine fetched the inputs.
    pub fetching: Option<Duration>,
    /// How long the program ran.
    pub executing: Option<Duration>,
    /// How long the machine stored the result.
    pub storing: Option<Duration>,
}

impl Machine {
    pub(super) fn of(metadata: Option<&api::ExecutedActionMetadata>) -> Self {
        let Some(it) = metadata else {
            return Self::default();
        };
        let start = &it.worker_start_timestamp;
        Self {
            name: printable_up_to(LONGEST_NAME, &it.worker),
            queued: between(&it.queued_timestamp, start),
            fetching: between(
                &it.input_fetch_start_timestamp,
                &it.input_fetch_completed_timestamp,
            ),
            executing: between(
                &it.execution_start_timestamp,
                &it.execution_completed_timestamp,
            ),
            storing: between(
                &it.output_upload_start_timestamp,
                &it.output_upload_completed_timestamp,
            ),
        }
    }
}

/// The time from one timestamp to another; `None` if one is missing, if they are in the wrong order, or if the time is longer than
/// [`LONGEST_STEP`].
fn between(start: &Option<Timestamp>, end: &Option<Timestamp>) -> Option<Duration> {
    let nanoseconds =
        |it: &Timestamp| i128::from(it.seconds) * 1_000_000_000 + i128::from(it.nanos);
    let (start, end) = (nanoseconds(start.as_ref()?), nanoseconds(end.as_ref()?));
    let time = Duration::from_nanos(u64::try_from(end - start).ok()?);
    (time <= LONGEST_STEP).then_some(time)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_those_between_timestamps() {
        let at = |seconds, nanos| Some(Timestamp { seconds, nanos });
        let machine = Machine::of(Some(&api::ExecutedActionMetadata {
            worker: "worker\u{7}-1".to_owned(),
            queued_timestamp: at(1, 900_000_000),
            worker_start_timestamp: at(3, 400_000_000),
            // The clock was set back.
            input_fetch_start_timestamp: at(9, 0),
            input_fetch_completed_timestamp: at(4, 0),
            execution_start_timestamp: at(5, 0),
            execution_completed_timestamp: at(i64::MAX, 0),
            output_upload_start_timestamp: at(5, 0),
            ..Default::default()
        }));
        assert_eq!(machine.queued, Some(Duration::from_millis(1500)));
        assert_eq!(machine.fetching, None);
        assert_eq!(machine.executing, None);
        assert_eq!(machine.storing, None);
        assert!(!machine.name.contains('\u{7}'));
        assert_eq!(Machine::of(None), Machine::default());
    }
}
