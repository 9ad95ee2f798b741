//! Netlink messages: requests are built, replies taken apart. Pure.
//!
//! A message is a header of 16 bytes, a fixed part that its kind defines, and
//! attributes: length, kind, value, each padded to 4 bytes. Numbers are the
//! machine's own unless a field is said to be in network order.

/// Bytes of `struct nlmsghdr`.
const HEADER: usize = 16;
/// Bytes of `struct nlattr`.
const ATTRIBUTE: usize = 4;
/// Flags in the kind of an attribute: nested, network order.
const KIND: u16 = 0x3fff;
const NESTED: u16 = 0x8000;

/// `NLM_F_*` of requests.
pub mod flag {
    /// Every request.
    pub const REQUEST: u16 = 0x1;
    /// Answer with success or an error, always.
    pub const ACK: u16 = 0x4;
    /// The whole list.
    pub const DUMP: u16 = 0x300;
    /// The list changed while it was read (in replies).
    pub const INTERRUPTED: u16 = 0x10;
    /// Instead of what is there.
    pub const REPLACE: u16 = 0x100;
    /// Not if it is there.
    pub const EXCLUSIVE: u16 = 0x200;
    /// If it is not there.
    pub const CREATE: u16 = 0x400;
}

fn padded(length: usize) -> usize {
    length.next_multiple_of(4)
}

/// A request, growing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    bytes: Vec<u8>,
}

impl Request {
    /// A request of this kind; [`flag::REQUEST`] is added.
    #[must_use]
    pub fn new(kind: u16, flags: u16) -> Request {
        let mut bytes = vec![0; HEADER];
        bytes[4..6].copy_from_slice(&kind.to_ne_bytes());
        bytes[6..8].copy_from_slice(&(flags | flag::REQUEST).to_ne_bytes());
        Request { bytes }
    }

    /// Appends a fixed part.
    #[must_use]
    pub fn fixed(mut self, part: &[u8]) -> Request {
        self.bytes.extend_from_slice(part);
        self.pad();
        self
    }

    /// Appends an attribute.
    #[must_use]
    pub fn attribute(mut self, kind: u16, value: &[u8]) -> Request {
        self.head(kind, ATTRIBUTE + value.len());
        self.bytes.extend_from_slice(value);
        self.pad();
        self
    }

    /// An attribute that holds a number of 32 bits.
    #[must_use]
    pub fn number(self, kind: u16, value: u32) -> Request {
        self.attribute(kind, &value.to_ne_bytes())
    }

    /// An attribute that holds text, with the NUL that the kernel wants.
    #[must_use]
    pub fn text(self, kind: u16, value: &str) -> Request {
        let mut bytes = value.as_bytes().to_vec();
        bytes.push(0);
        self.attribute(kind, &bytes)
    }

    /// An attribute that holds what `fill` appends.
    #[must_use]
    pub fn nested(mut self, kind: u16, fill: impl FnOnce(Request) -> Request) -> Request {
        let start = self.bytes.len();
        self.head(kind | NESTED, 0);
        let mut filled = fill(self);
        // An attribute is no longer than 65535 bytes; ours are far below.
        let length = u16::try_from(filled.bytes.len() - start).unwrap_or(u16::MAX);
        filled.bytes[start..start + 2].copy_from_slice(&length.to_ne_bytes());
        filled
    }

    fn head(&mut self, kind: u16, length: usize) {
        let length = u16::try_from(length).unwrap_or(u16::MAX);
        self.bytes.extend_from_slice(&length.to_ne_bytes());
        self.bytes.extend_from_slice(&kind.to_ne_bytes());
    }

    fn pad(&mut self) {
        self.bytes.resize(padded(self.bytes.len()), 0);
    }

    /// The bytes to send.
    #[must_use]
    pub fn finish(mut self, sequence: u32, flags: u16) -> Vec<u8> {
        let length = u32::try_from(self.bytes.len()).unwrap_or(u32::MAX);
        self.bytes[..4].copy_from_slice(&length.to_ne_bytes());
        let all = u16::from_ne_bytes([self.bytes[6], self.bytes[7]]) | flags;
        self.bytes[6..8].copy_from_slice(&all.to_ne_bytes());
        self.bytes[8..12].copy_from_slice(&sequence.to_ne_bytes());
        self.bytes
    }
}

/// One message of a reply.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Message<'a> {
    /// `nlmsg_type`.
    pub kind: u16,
    /// `nlmsg_flags`.
    pub flags: u16,
    /// Of the request that it answers.
    pub sequence: u32,
    /// Fixed part and attributes.
    pub body: &'a [u8],
}

impl<'a> Message<'a> {
    /// The attributes behind a fixed part of `length` bytes.
    #[must_use]
    pub fn attributes(&self, length: usize) -> Attributes<'a> {
        Attributes(self.body.get(padded(length)..).unwrap_or_default())
    }
}

/// The messages of what was received; a cut-off one ends it.
#[derive(Debug, Clone)]
pub struct Messages<'a>(pub &'a [u8]);

impl<'a> Iterator for Messages<'a> {
    type Item = Message<'a>;

    fn next(&mut self) -> Option<Message<'a>> {
        let length = number(self.0, 0)? as usize;
        let body = self.0.get(HEADER..length)?;
        let (kind, flags) = (half(self.0, 4)?, half(self.0, 6)?);
        let sequence = number(self.0, 8)?;
        self.0 = self.0.get(padded(length)..).unwrap_or_default();
        Some(Message { kind, flags, sequence, body })
    }
}

/// Kinds (without flags) and values; a cut-off one ends it.
#[derive(Debug, Clone)]
pub struct Attributes<'a>(pub &'a [u8]);

impl<'a> Attributes<'a> {
    /// The value of the first attribute of this kind.
    #[must_use]
    pub fn get(&self, kind: u16) -> Option<&'a [u8]> {
        self.clone().find(|(has, _)| *has == kind).map(|(_, value)| value)
    }
}

impl<'a> Iterator for Attributes<'a> {
    type Item = (u16, &'a [u8]);

    fn next(&mut self) -> Option<(u16, &'a [u8])> {
        let length = usize::from(half(self.0, 0)?);
        let value = self.0.get(ATTRIBUTE..length)?;
        let kind = half(self.0, 2)? & KIND;
        self.0 = self.0.get(padded(length)..).unwrap_or_default();
        Some((kind, value))
    }
}

/// The number of 16 bits at an offset.
#[must_use]
pub fn half(bytes: &[u8], at: usize) -> Option<u16> {
    let bytes = bytes.get(at..)?.first_chunk()?;
    Some(u16::from_ne_bytes(*bytes))
}

/// The number of 32 bits at an offset.
#[must_use]
pub fn number(bytes: &[u8], at: usize) -> Option<u32> {
    let bytes = bytes.get(at..)?.first_chunk()?;
    Some(u32::from_ne_bytes(*bytes))
}

/// The number of 64 bits at an offset.
#[must_use]
pub fn long(bytes: &[u8], at: usize) -> Option<u64> {
    let bytes = bytes.get(at..)?.first_chunk()?;
    Some(u64::from_ne_bytes(*bytes))
}

/// Text up to its NUL.
#[must_use]
pub fn text(bytes: &[u8]) -> String {
    let end = bytes.iter().position(|b| *b == 0).unwrap_or(bytes.len());
    String::from_utf8_lossy(&bytes[..end]).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_built_is_read_back() {
        let request = Request::new(16, flag::CREATE)
            .fixed(&[1, 2, 3])
            .text(3, "veth0")
            .nested(18, |inner| inner.text(1, "veth").number(2, 7))
            .attribute(9, &[])
            .number(4, 1500);
        let bytes = request.finish(42, flag::ACK);
        assert_eq!(bytes.len() % 4, 0);
        let messages: Vec<_> = Messages(&bytes).collect();
        assert_eq!(messages.len(), 1);
        let message = messages[0];
        assert_eq!((message.kind, message.sequence), (16, 42));
        assert_eq!(message.flags, flag::REQUEST | flag::CREATE | flag::ACK);
        let all = message.attributes(3);
        let kinds: Vec<u16> = all.clone().map(|(kind, _)| kind).collect();
        assert_eq!(kinds, [3, 18, 9, 4]);
        assert_eq!(text(all.get(3).unwrap()), "veth0");
        assert_eq!(number(all.get(4).unwrap(), 0), Some(1500));
        assert_eq!(all.get(5), None);
        let inner = Attributes(all.get(18).unwrap());
        assert_eq!(
            (text(inner.get(1).unwrap()), inner.get(2).map(<[u8]>::len)),
            ("veth".into(), Some(4))
        );
    }

    #[test]
    fn rubbish_ends_the_reading() {
        let whole = Request::new(1, 0).number(1, 1).finish(1, 0);
        for length in 0..whole.len() {
            assert_eq!(Messages(&whole[..length]).count(), 0, "{length}");
        }
        let two: Vec<u8> = whole.iter().chain(&whole).copied().collect();
        assert_eq!(Messages(&two).count(), 2);
        assert_eq!(Messages(&two[..two.len() - 1]).count(), 1);
        // A length of 0 would never move on.
        assert_eq!(Messages(&[0; 64]).count(), 0);
        assert_eq!(Attributes(&[0; 64]).count(), 0);
        assert_eq!(Attributes(&[3, 0, 1, 0, 9]).count(), 0);
    }
}
