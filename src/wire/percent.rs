//! `%XX` escapes of paths, queries and process ids.

/// Replaces `%XX`. `None` if an escape is broken or the result is not UTF-8.
#[must_use]
pub fn percent_decode(text: &str) -> Option<String> {
    if !text.contains('%') {
        return Some(text.to_owned());
    }
    let mut out = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&byte, tail)) = rest.split_first() {
        rest = tail;
        if byte != b'%' {
            out.push(byte);
            continue;
        }
        let (digits, tail) = rest.split_at_checked(2)?;
        let digit = |b: u8| char::from(b).to_digit(16);
        let value = digit(digits[0])? * 16 + digit(digits[1])?;
        out.push(u8::try_from(value).ok()?);
        rest = tail;
    }
    String::from_utf8(out).ok()
}
