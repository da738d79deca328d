//! The geometry of a timeline: which packages share a row, and where its axis has ticks.

/// Steps between ticks, in seconds.
const STEPS: [f64; 20] = [
    0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 15.0, 30.0, 60.0, 120.0, 300.0, 600.0,
    900.0, 1800.0, 3600.0, 7200.0,
];

/// The maximum number of steps of an axis.
const MOST_STEPS: f64 = 8.0;

/// The overlap of two intervals that is ignored, in seconds, because times are rounded to milliseconds.
const ROUNDING: f64 = 0.002;

/// Puts intervals, each with its start and end, into as few rows as possible without overlaps. Of several free rows, the one that is free
/// for the longest has the most room for a name. Returns the indexes of the intervals of each row, in the order of their starts.
pub(super) fn assign_rows(intervals: &[(f64, f64)]) -> Vec<Vec<usize>> {
    let mut order: Vec<usize> = (0..intervals.len()).collect();
    order.sort_by(|one, other| intervals[*one].0.total_cmp(&intervals[*other].0));
    let mut rows: Vec<(f64, Vec<usize>)> = Vec::new();
    for index in order {
        let (start, end) = intervals[index];
        let free = rows.iter_mut();
        let free = free.filter(|(until, _)| *until <= start + ROUNDING);
        match free.min_by(|(one, _), (other, _)| one.total_cmp(other)) {
            Some((until, row)) => {
                *until = end;
                row.push(index);
            }
            None => rows.push((end, vec![index])),
        }
    }
    rows.into_iter().map(|(_, row)| row).collect()
}

/// The ticks of an axis from 0 to `end`, in seconds.
pub(super) fn ticks(end: f64) -> Vec<f64> {
    let fits = |step: &f64| end / step <= MOST_STEPS;
    let longest = STEPS[STEPS.len() - 1];
    let step = STEPS
        .into_iter()
        .find(fits)
        .unwrap_or_else(|| (end / MOST_STEPS / longest).ceil() * longest);
    let mut ticks = Vec::new();
    // Multiply instead of adding up, because sums would be inexact.
    while let tick = ticks.len() as f64 * step
        && tick <= end
        && ticks.len() as f64 <= MOST_STEPS
    {
        ticks.push(tick);
    }
    ticks
}

/// The label of a tick: `0.2s`, `45s`, `1m30s`, `2h`.
pub(super) fn label(tick: f64) -> String {
    if tick > 0.0 && tick < 1.0 {
        return format!("{}s", (tick * 100.0).round() / 100.0);
    }
    if tick < 60.0 {
        return format!("{}s", (tick * 10.0).round() / 10.0);
    }
    let seconds = tick.round() as u64;
    let parts = [
        (seconds / 3600, "h"),
        (seconds % 3600 / 60, "m"),
        (seconds % 60, "s"),
    ];
    let parts = parts.iter().filter(|(count, _)| *count > 0);
    parts
        .map(|(count, unit)| format!("{count}{unit}"))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packages_share_a_row_if_they_do_not_overlap() {
        let intervals = [(0.0, 2.0), (0.5, 1.0), (2.0, 3.0), (1.0, 4.0), (2.5, 2.5)];
        assert_eq!(assign_rows(&intervals), [vec![0, 2], vec![1, 3], vec![4]]);
        assert!(assign_rows(&[]).is_empty());
    }

    #[test]
    fn axis_has_few_ticks_at_round_times() {
        assert_eq!(ticks(7.3), [0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0]);
        assert_eq!(ticks(0.0), [0.0]);
        for end in [0.07, 0.9, 59.0, 61.0, 400.0, 3599.0, 90_000.0, 1e7] {
            let ticks = ticks(end);
            assert!((2..=9).contains(&ticks.len()), "{end}: {ticks:?}");
            assert!(ticks.iter().all(|tick| *tick <= end), "{end}: {ticks:?}");
        }
        assert_eq!(
            [0.0, 0.05, 0.2, 5.0, 60.0, 90.0, 7200.0, 5400.0].map(label),
            ["0s", "0.05s", "0.2s", "5s", "1m", "1m30s", "2h", "1h30m"]
        );
    }
}
