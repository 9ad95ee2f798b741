//! Names of signals.

use nix::sys::signal::Signal;

/// The real-time signals without the two that C libraries have for themselves.
const FIRST_REALTIME: i32 = 34;
const LAST_REALTIME: i32 = 64;
/// How far a name may be from those.
const FARTHEST: i32 = 15;

/// The number of a signal that is given by number or name, `SIGQUIT`, `quit` or
/// `SIGRTMIN+3`; `None` if there is none.
#[must_use]
pub fn number(text: &str) -> Option<i32> {
    let text = text.trim().to_ascii_uppercase();
    if let Ok(number) = text.parse() {
        return Some(number).filter(|number| (1..=LAST_REALTIME).contains(number));
    }
    let name = text.strip_prefix("SIG").unwrap_or(&text);
    if let Some(rest) = name.strip_prefix("RTMIN") {
        return offset(rest, '+').map(|offset| FIRST_REALTIME + offset);
    }
    if let Some(rest) = name.strip_prefix("RTMAX") {
        return offset(rest, '-').map(|offset| LAST_REALTIME - offset);
    }
    format!("SIG{name}").parse::<Signal>().ok().map(|signal| signal as i32)
}

fn offset(text: &str, sign: char) -> Option<i32> {
    if text.is_empty() {
        return Some(0);
    }
    text.strip_prefix(sign)?.parse().ok().filter(|offset| (0..=FARTHEST).contains(offset))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_numbers() {
        for (text, wanted) in [
            ("SIGQUIT", Some(libc::SIGQUIT)),
            ("quit", Some(libc::SIGQUIT)),
            ("10", Some(libc::SIGUSR1)),
            ("SIGRTMIN+3", Some(37)),
            ("RTMAX", Some(64)),
            ("SIGRTMAX-2", Some(62)),
            ("", None),
            ("0", None),
            ("65", None),
            ("SIGRTMIN-1", None),
            ("SIGRTMIN+99", None),
            ("SIGNAL", None),
        ] {
            assert_eq!(number(text), wanted, "{text}");
        }
    }
}
