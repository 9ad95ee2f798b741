//! When a log file is full, and the names of full ones. Pure.

/// What Mesos reads at once, and the least a file must hold: one page.
pub const PAGE: u64 = 4096;

/// What to do with the bytes that wait.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// Begin a new file.
    Rotate,
    /// Write that many, at least one.
    Write(u64),
}

/// The next step for a file that has `size` bytes and may have `max`, while `waiting`
/// (more than 0) are in the pipe.
///
/// No file ever exceeds `max`. As in Mesos, what waits goes into a new file if a page
/// of it does not fit: so a line that was written in one piece usually stays whole.
#[must_use]
pub fn step(size: u64, waiting: u64, max: u64) -> Step {
    let max = max.max(PAGE);
    let room = max.saturating_sub(size);
    if room < waiting.min(PAGE) { Step::Rotate } else { Step::Write(waiting.min(room)) }
}

/// The name of an old file as logrotate numbers them: `stdout.1` is the newest.
#[must_use]
pub fn numbered(name: &str, number: u32) -> String {
    match number {
        0 => name.to_owned(),
        number => format!("{name}.{number}"),
    }
}

/// The renames that make room for a new file and keep `keep` old ones; with none kept
/// the file just goes. A chain that has a hole, because somebody was killed while
/// renaming, is only moved up to there, which closes it.
pub fn renames(name: &str, keep: u32, exists: impl Fn(&str) -> bool) -> Vec<(String, String)> {
    let free = (1..=keep).find(|number| !exists(&numbered(name, *number)));
    let moved = (0..free.unwrap_or(keep)).rev();
    moved.map(|number| (numbered(name, number), numbered(name, number + 1))).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn steps() {
        // size, waiting, max
        let rows = [
            (0, 10, 8192, Step::Write(10)),
            (8190, 2, 8192, Step::Write(2)),
            (8190, 3, 8192, Step::Rotate),
            (8192, 1, 8192, Step::Rotate),
            (0, 65536, 8192, Step::Write(8192)),
            (1000, 65536, 8192, Step::Write(7192)),
            (4097, 65536, 8192, Step::Rotate),
            // A smaller cap after a restart.
            (9000, 1, 8192, Step::Rotate),
            // Never below a page, or nothing would ever fit.
            (0, 65536, 1, Step::Write(4096)),
        ];
        for (size, waiting, max, expected) in rows {
            assert_eq!(step(size, waiting, max), expected, "{size} {waiting} {max}");
        }
    }

    #[test]
    fn names_are_logrotates() {
        let pairs = |keep, there: &[u32]| -> Vec<String> {
            let exists = |name: &str| there.iter().any(|n| numbered("stdout", *n) == name);
            let all = renames("stdout", keep, exists);
            all.iter().map(|(from, to)| format!("{from}>{to}")).collect()
        };
        let all = ["stdout.2>stdout.3", "stdout.1>stdout.2", "stdout>stdout.1"];
        assert_eq!(pairs(3, &[1, 2, 3]), all);
        assert_eq!(pairs(3, &[1, 2]), all);
        assert_eq!(pairs(3, &[1, 3]), all[1..]);
        assert_eq!(pairs(3, &[]), all[2..]);
        assert_eq!(pairs(1, &[1]), all[2..]);
        assert!(pairs(0, &[]).is_empty());
    }

    proptest! {
        #[test]
        fn files_stay_below_the_cap_and_all_is_written(
            max in PAGE..100_000,
            writes in proptest::collection::vec(1u64..70_000, 1..50),
        ) {
            let (mut size, mut total, mut stored) = (0, 0, 0);
            for write in writes {
                total += write;
                let mut waiting = write;
                while waiting > 0 {
                    match step(size, waiting, max) {
                        Step::Rotate => {
                            prop_assert!(size > 0, "an empty file is never rotated");
                            size = 0;
                        }
                        Step::Write(n) => {
                            prop_assert!(n > 0 && n <= waiting);
                            (size, waiting, stored) = (size + n, waiting - n, stored + n);
                            prop_assert!(size <= max);
                        }
                    }
                }
            }
            prop_assert_eq!(total, stored);
        }
    }
}
