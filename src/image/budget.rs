//! Limits how much of the free space the files of an image use. No I/O.

/// What a file needs in addition to its content, in bytes: its inode, its name, and the rest of its last block.
const FILE: u64 = 4096;

/// The space that the files of an image may use.
#[derive(Debug)]
pub(super) struct Budget {
    /// The free space that remains for other programs, in bytes.
    reserve: u64,
    /// How much may be used in total, in bytes.
    limit: u64,
    /// How much can still be written if none of the written files is removed again, in bytes.
    left: u64,
}

impl Budget {
    /// A budget of nine tenths of the free space, in bytes.
    pub(super) fn new(free: u64) -> Self {
        let reserve = free / 10;
        let limit = free - reserve;
        Self {
            reserve,
            limit,
            left: limit,
        }
    }

    /// How much may be used in total, in bytes.
    pub(super) fn limit(&self) -> u64 {
        self.limit
    }

    /// Takes the space for a file with this many bytes of data. Returns whether the file fits. `free` returns the free space, in bytes. It
    /// is called only if the file does not fit in addition to all earlier ones: later layers may have replaced some of them.
    pub(super) fn take<E>(
        &mut self,
        bytes: u64,
        free: impl FnOnce() -> Result<u64, E>,
    ) -> Result<bool, E> {
        let needed = bytes.saturating_add(FILE);
        if needed > self.left {
            self.left = free()?.saturating_sub(self.reserve);
        }
        let fits = needed <= self.left;
        self.left = self.left.saturating_sub(needed);
        Ok(fits)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn take(budget: &mut Budget, bytes: u64, free: Option<u64>) -> bool {
        budget.take(bytes, || free.ok_or("not asked")).unwrap()
    }

    #[test]
    fn free_space_is_asked_for_only_if_the_budget_is_used_up() {
        let mut budget = Budget::new(1_000_000);
        assert_eq!(budget.limit(), 900_000);
        assert!(take(&mut budget, 400_000, None));
        assert!(take(&mut budget, 400_000, None));
        // Nothing was removed.
        assert!(!take(&mut budget, 400_000, Some(200_000)));
    }

    #[test]
    fn replaced_files_do_not_count() {
        let mut budget = Budget::new(1_000_000);
        for _ in 0..2 {
            assert!(take(&mut budget, 400_000, None));
        }
        for _ in 0..10 {
            assert!(take(&mut budget, 400_000, Some(600_000)));
        }
        assert!(!take(&mut budget, 600_000, Some(600_000)));
    }

    #[test]
    fn numbers_do_not_overflow() {
        let mut budget = Budget::new(u64::MAX);
        assert!(take(&mut budget, 1, None));
        assert!(!take(&mut budget, u64::MAX, Some(u64::MAX)));
        let mut full = Budget::new(0);
        assert!(!take(&mut full, 0, Some(0)));
    }
}
