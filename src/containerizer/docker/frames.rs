//! What the engine's streams are made of: frames of two outputs, and the time at
//! the beginning of each line of a log. Pure.

/// Longest frame that is believed.
const LONGEST: usize = 1 << 20;
/// A longer line is several pieces of this size, each with its time.
const PIECE: usize = 16 << 10;
const HEAD: usize = 8;

/// Which output a frame belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stream {
    Out,
    Err,
}

impl Stream {
    /// As an index: output first.
    pub(super) fn index(self) -> usize {
        match self {
            Stream::Out => 0,
            Stream::Err => 1,
        }
    }
}

/// Cuts a body into frames: a head of eight bytes with kind and length, then the
/// bytes. The log of a terminal has no heads: there a frame is a line, or a piece of one,
/// behind its time.
#[derive(Debug, Default)]
pub(super) struct Decoder {
    buffer: Vec<u8>,
    bare: bool,
}

impl Decoder {
    /// Of the log of a terminal, if it is one.
    pub(super) fn of_log(terminal: bool) -> Decoder {
        Decoder { buffer: Vec::new(), bare: terminal }
    }

    pub(super) fn feed(&mut self, bytes: &[u8]) {
        self.buffer.extend_from_slice(bytes);
    }

    /// The next whole frame.
    ///
    /// # Errors
    /// The bytes are no frames, for example because the container has a terminal.
    pub(super) fn next(&mut self) -> Result<Option<(Stream, Vec<u8>)>, String> {
        if self.bare {
            return Ok(self.line().map(|line| (Stream::Out, line)));
        }
        let Some(head) = self.buffer.first_chunk::<HEAD>() else { return Ok(None) };
        let stream = match head[0] {
            0 | 1 => Stream::Out,
            // 3 is the engine's own complaint.
            2 | 3 => Stream::Err,
            other => return Err(format!("a frame of the unknown kind {other}")),
        };
        let length = u32::from_be_bytes([head[4], head[5], head[6], head[7]]) as usize;
        if length > LONGEST {
            return Err(format!("a frame of {length} bytes, expected at most {LONGEST}"));
        }
        if self.buffer.len() < HEAD + length {
            return Ok(None);
        }
        let payload = self.buffer[HEAD..HEAD + length].to_vec();
        self.buffer.drain(..HEAD + length);
        Ok(Some((stream, payload)))
    }

    fn line(&mut self) -> Option<Vec<u8>> {
        let begin = self.buffer.iter().position(|byte| *byte == b' ')? + 1;
        let text = &self.buffer[begin..];
        let end = text.iter().take(PIECE).position(|byte| *byte == b'\n').map(|at| at + 1);
        let end = end.or((text.len() >= PIECE).then_some(PIECE))?;
        Some(self.buffer.drain(..begin + end).collect())
    }

    /// What is left when there is no more: of a terminal, a last line without an end.
    pub(super) fn rest(&mut self) -> Option<Vec<u8>> {
        (self.bare && !self.buffer.is_empty()).then(|| std::mem::take(&mut self.buffer))
    }
}

/// Splits `2026-11-25T18:35:28.759062336Z text` into nanoseconds since 1970 and
/// the text.
pub(super) fn stamped(line: &[u8]) -> Option<(u64, &[u8])> {
    let space = line.iter().position(|byte| *byte == b' ')?;
    let time = nanoseconds(std::str::from_utf8(&line[..space]).ok()?)?;
    Some((time, &line[space + 1..]))
}

/// A time as the engine writes it, always in UTC, in nanoseconds since 1970.
/// `None` if it is none, or before 1970: the engine's "never" is the year 1.
pub(super) fn nanoseconds(text: &str) -> Option<u64> {
    let (date, time) = text.strip_suffix('Z')?.split_once('T')?;
    let mut date = date.split('-').map(str::parse::<u64>);
    let (year, month, day) = (date.next()?.ok()?, date.next()?.ok()?, date.next()?.ok()?);
    let (clock, fraction) = time.split_once('.').unwrap_or((time, ""));
    let mut clock = clock.split(':').map(str::parse::<u64>);
    let (hour, minute, second) = (clock.next()?.ok()?, clock.next()?.ok()?, clock.next()?.ok()?);
    if year < 1970 || !(1..=12).contains(&month) || !(1..=31).contains(&day) {
        return None;
    }
    let nanos: u64 = format!("{fraction:0<9}").get(..9)?.parse().ok()?;
    // Days of the civil calendar, counted from March so that leap days come last.
    let (year, month) = if month > 2 { (year, month - 3) } else { (year - 1, month + 9) };
    let days = year * 365 + year / 4 - year / 100 + year / 400 + (month * 153 + 2) / 5 + day;
    let days = days.checked_sub(719_469)?;
    let seconds = days * 86_400 + hour * 3600 + minute * 60 + second;
    seconds.checked_mul(1_000_000_000)?.checked_add(nanos)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(kind: u8, text: &[u8]) -> Vec<u8> {
        let mut bytes = vec![kind, 0, 0, 0];
        bytes.extend_from_slice(&u32::try_from(text.len()).unwrap().to_be_bytes());
        bytes.extend_from_slice(text);
        bytes
    }

    #[test]
    fn frames_survive_any_chunking() {
        let mut bytes = frame(1, b"out");
        bytes.extend(frame(2, b""));
        bytes.extend(frame(2, b"err"));
        for size in 1..bytes.len() {
            let mut decoder = Decoder::default();
            let mut seen = Vec::new();
            for chunk in bytes.chunks(size) {
                decoder.feed(chunk);
                while let Some(frame) = decoder.next().unwrap() {
                    seen.push(frame);
                }
            }
            let wanted = [(Stream::Out, "out"), (Stream::Err, ""), (Stream::Err, "err")];
            let wanted = wanted.map(|(stream, text)| (stream, text.as_bytes().to_vec()));
            assert_eq!(seen, wanted, "chunks of {size}");
        }
    }

    #[test]
    fn what_is_no_frame_is_refused() {
        for bytes in [&b"hello world"[..], &frame(1, b"")[..4], &[1, 0, 0, 0, 255, 0, 0, 0]] {
            let mut decoder = Decoder::default();
            decoder.feed(bytes);
            let next = decoder.next();
            assert!(next.is_err() || matches!(next, Ok(None)), "{bytes:?}: {next:?}");
        }
        let mut decoder = Decoder::default();
        decoder.feed(b"hello world");
        assert!(decoder.next().unwrap_err().contains("unknown kind 104"));
    }

    #[test]
    fn the_log_of_a_terminal_is_cut_into_lines_and_their_pieces() {
        const TIME: &str = "1970-01-01T00:00:01.000000000Z";
        let long = "x".repeat(PIECE);
        let lines = ["$ echo hi there\r\n", "\r\n", &long, "y\r\n", &long, "\n", "$ exi"];
        let bytes: String = lines.iter().map(|line| format!("{TIME} {line}")).collect();
        for size in [1, 7, 30, 31, 32, 1000, PIECE, bytes.len()] {
            let mut decoder = Decoder::of_log(true);
            let mut seen = Vec::new();
            for chunk in bytes.as_bytes().chunks(size) {
                decoder.feed(chunk);
                while let Some((Stream::Out, line)) = decoder.next().unwrap() {
                    seen.push(line);
                }
            }
            seen.extend(decoder.rest());
            let seen: Vec<&[u8]> = seen.iter().map(|line| stamped(line).unwrap().1).collect();
            assert!(seen == lines.map(str::as_bytes), "chunks of {size}");
            assert_eq!(decoder.rest(), None);
        }
        let mut decoder = Decoder::of_log(false);
        decoder.feed(&[1, 0]);
        assert_eq!(decoder.rest(), None);
    }

    #[test]
    fn times() {
        for (text, wanted) in [
            ("1970-01-01T00:00:00Z", Some(0)),
            ("2000-02-29T12:00:00.5Z", Some(951_825_600_500_000_000)),
            ("2026-11-25T18:35:28.759062336Z", Some(1_795_631_728_759_062_336)),
            ("2026-03-01T00:00:00.000000001Z", Some(1_772_323_200_000_000_001)),
            ("0001-01-01T00:00:00Z", None),
            ("2026-11-25T18:35:28+01:00", None),
            ("", None),
        ] {
            assert_eq!(nanoseconds(text), wanted, "{text}");
        }
        let (time, text) = stamped(b"1970-01-01T00:00:01Z a b\n").unwrap();
        assert_eq!((time, text), (1_000_000_000, &b"a b\n"[..]));
        assert_eq!(stamped(b"no time here"), None);
    }
}
