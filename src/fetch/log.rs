//! What people read in the sandbox' `stderr`: lines in glog's form, as Mesos' fetcher
//! writes them.

use std::io::Write;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::wire::http::civil;

/// Writes an informative line.
pub(super) fn info(text: &str) {
    write('I', text);
}

/// Writes a warning.
pub(super) fn warning(text: &str) {
    write('W', text);
}

/// Writes an error.
pub(super) fn error(text: &str) {
    write('E', text);
}

fn write(level: char, text: &str) {
    write_to(&mut std::io::stderr(), level, text);
}

/// Writes a line with the severity `level` to somebody else's `stderr`.
pub(super) fn write_to(out: &mut dyn Write, level: char, text: &str) {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    // One write, so that lines of several processes do not mix. A full disk must not
    // end a fetch that can still say so to the agent.
    let _ = out.write_all(line(level, now, text).as_bytes());
}

/// A line, its time in UTC.
fn line(level: char, since_epoch: Duration, text: &str) -> String {
    let seconds = since_epoch.as_secs();
    let (_, month, day) = civil(seconds / 86_400);
    let of_day = seconds % 86_400;
    format!(
        "{level}{:02}{day:02} {:02}:{:02}:{:02}.{:06} {} fetcher] {text}\n",
        month + 1,
        of_day / 3600,
        of_day / 60 % 60,
        of_day % 60,
        since_epoch.subsec_micros(),
        std::process::id(),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_look_like_glogs() {
        let line = line('I', Duration::new(1_795_215_249, 123_456_789), "Fetched");
        assert!(line.starts_with("I1120 22:54:09.123456 "), "{line}");
        assert!(line.ends_with(" fetcher] Fetched\n"), "{line}");
    }
}
