//! Tar archives as layers come in: ustar, GNU and pax, read once from the front. Pure
//! but for reading.
//!
//! Our own, since layers need what the crate `tar` does not give: values of extended
//! attributes with line feeds in them, numbers of pax that go beyond the header's, and a
//! limit on what names may weigh.

use std::ffi::OsStr;
use std::io::{self, Read};
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

use tar::{EntryType, Header};

/// Largest name or set of pax records in bytes, and most pieces of a sparse file.
const LARGEST_RECORDS: u64 = 1 << 20;
const MOST_PIECES: usize = 65_536;
const BLOCK: u64 = 512;

/// What an entry is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    File,
    Directory,
    Symlink,
    HardLink,
    Device { major: u32, minor: u32, block: bool },
    Pipe,
}

/// The head of an entry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Entry {
    pub kind: Kind,
    /// As it is in the archive.
    pub path: PathBuf,
    /// Of links.
    pub target: PathBuf,
    /// Size of a file in bytes, holes included.
    pub size: u64,
    pub uid: u32,
    pub gid: u32,
    pub mode: u32,
    pub time: (i64, u32),
    pub xattrs: Vec<(Vec<u8>, Vec<u8>)>,
    /// Where the pieces of a sparse file go, and how long they are; `None`: it is whole.
    pub pieces: Option<Vec<(u64, u64)>>,
}

/// Reads one archive.
pub(super) struct Reader<R> {
    inner: R,
    /// Content of the current entry that is not read yet, and what follows it up to the
    /// next block.
    left: u64,
    padding: u64,
}

/// What extension entries said of the next one.
#[derive(Default)]
struct Extensions {
    path: Option<Vec<u8>>,
    target: Option<Vec<u8>>,
    size: Option<u64>,
    uid: Option<u64>,
    gid: Option<u64>,
    time: Option<(i64, u32)>,
    xattrs: Vec<(Vec<u8>, Vec<u8>)>,
    /// `GNU.sparse.major`, `.realsize`, `.name`.
    sparse: Option<u64>,
    real_size: Option<u64>,
    sparse_name: Option<Vec<u8>>,
}

fn bad(text: impl Into<String>) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, text.into())
}

fn path(bytes: &[u8]) -> io::Result<PathBuf> {
    if bytes.contains(&0) {
        return Err(bad("a name contains NUL"));
    }
    Ok(OsStr::from_bytes(bytes).into())
}

impl<R: Read> Reader<R> {
    pub fn new(inner: R) -> Reader<R> {
        Reader { inner, left: 0, padding: 0 }
    }

    /// What is behind the archive.
    pub fn into_inner(self) -> R {
        self.inner
    }

    /// The next entry, `None` at the end. What was not read of the one before is passed.
    pub fn next(&mut self) -> io::Result<Option<Entry>> {
        let mut extensions = Extensions::default();
        loop {
            self.pass()?;
            let Some(header) = self.header()? else {
                return Ok(None);
            };
            let size = header.entry_size().map_err(|_| bad("a size is no number"))?;
            match header.entry_type() {
                EntryType::XHeader => {
                    let bytes = self.records(size)?;
                    extensions.read(&bytes)?;
                }
                EntryType::GNULongName => extensions.path = Some(self.name(size)?),
                EntryType::GNULongLink => extensions.target = Some(self.name(size)?),
                // Of no meaning for single files.
                EntryType::XGlobalHeader => self.begin(size),
                kind => return self.entry(&header, kind, size, extensions).map(Some),
            }
        }
    }

    /// Reads content of the current entry; 0 at its end.
    pub fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let most = usize::try_from(self.left).unwrap_or(usize::MAX).min(buffer.len());
        if most == 0 {
            return Ok(0);
        }
        loop {
            match self.inner.read(&mut buffer[..most]) {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(count) => {
                    self.left -= count as u64;
                    return Ok(count);
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    }

    fn begin(&mut self, size: u64) {
        self.left = size;
        self.padding = (BLOCK - size % BLOCK) % BLOCK;
    }

    fn pass(&mut self) -> io::Result<()> {
        let all = self.left.checked_add(self.padding).ok_or_else(|| bad("a size is too large"))?;
        if all > 0 {
            let passed = io::copy(&mut (&mut self.inner).take(all), &mut io::sink())?;
            if passed < all {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
        (self.left, self.padding) = (0, 0);
        Ok(())
    }

    /// The next header; `None` for a block of zeros and where the archive ends without.
    fn header(&mut self) -> io::Result<Option<Header>> {
        let mut block = [0; BLOCK as usize];
        let mut have = 0;
        while have < block.len() {
            match self.inner.read(&mut block[have..]) {
                Ok(0) if have == 0 => return Ok(None),
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(count) => have += count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        if block.iter().all(|byte| *byte == 0) {
            return Ok(None);
        }
        let sum: u32 = block[..148].iter().chain(&block[156..]).map(|byte| u32::from(*byte)).sum();
        let header = Header::from_byte_slice(&block);
        if header.cksum().ok() != Some(sum + 8 * u32::from(b' ')) {
            return Err(bad("this is no tar archive, or it is damaged"));
        }
        Ok(Some(header.clone()))
    }

    fn records(&mut self, size: u64) -> io::Result<Vec<u8>> {
        if size > LARGEST_RECORDS {
            return Err(bad(format!(
                "a name or its records have more than {LARGEST_RECORDS} bytes"
            )));
        }
        self.begin(size);
        let mut bytes = vec![0; usize::try_from(size).unwrap_or(0)];
        let mut have = 0;
        while have < bytes.len() {
            have += self.read(&mut bytes[have..])?;
        }
        Ok(bytes)
    }

    fn name(&mut self, size: u64) -> io::Result<Vec<u8>> {
        let mut bytes = self.records(size)?;
        if bytes.last() == Some(&0) {
            bytes.pop();
        }
        Ok(bytes)
    }

    fn entry(
        &mut self,
        header: &Header,
        kind: EntryType,
        size: u64,
        with: Extensions,
    ) -> io::Result<Entry> {
        let number = |what: &str| bad(format!("{what} is no number"));
        let size = with.size.unwrap_or(size);
        self.begin(size);
        let name = with.sparse_name.as_ref().or(with.path.as_ref());
        let name = name.map_or_else(|| header.path_bytes().into_owned(), Clone::clone);
        let target = with.target.clone().or_else(|| header.link_name_bytes().map(Into::into));
        let slashed = name.ends_with(b"/");
        let kind = match kind {
            // Before POSIX a directory was a file with a slash at the end.
            EntryType::Regular if slashed => Kind::Directory,
            EntryType::Regular | EntryType::Continuous | EntryType::GNUSparse => Kind::File,
            EntryType::Directory => Kind::Directory,
            EntryType::Symlink => Kind::Symlink,
            EntryType::Link => Kind::HardLink,
            EntryType::Fifo => Kind::Pipe,
            EntryType::Char | EntryType::Block => {
                let part = |part: io::Result<Option<u32>>| {
                    part.ok().flatten().ok_or_else(|| number("a device"))
                };
                let (major, minor) = (part(header.device_major())?, part(header.device_minor())?);
                Kind::Device { major, minor, block: header.entry_type() == EntryType::Block }
            }
            other => return Err(bad(format!("entries of type {other:?} are not known"))),
        };
        if kind != Kind::File {
            // Links may tell the size of what they lead to; nothing follows them.
            let follows = matches!(kind, Kind::Directory) && size > 0;
            self.begin(if follows { size } else { 0 });
        }
        let id = |wide: Option<u64>, own: io::Result<u64>| {
            let id = wide.map_or(own, Ok).map_err(|_| number("an owner"))?;
            u32::try_from(id).map_err(|_| bad(format!("there is no owner {id}")))
        };
        let time = match with.time {
            Some(time) => time,
            None => (header.mtime().ok().and_then(|s| i64::try_from(s).ok()).unwrap_or(0), 0),
        };
        let mut entry = Entry {
            kind,
            path: path(&name)?,
            target: path(target.as_deref().unwrap_or_default())?,
            size,
            uid: id(with.uid, header.uid())?,
            gid: id(with.gid, header.gid())?,
            mode: header.mode().map_err(|_| number("a mode"))? & 0o7777,
            time,
            xattrs: with.xattrs,
            pieces: None,
        };
        if header.entry_type() == EntryType::GNUSparse {
            self.old_sparse(header, &mut entry)?;
        } else if let Some(major) = with.sparse {
            let real_size = with.real_size;
            self.new_sparse(major, real_size, &mut entry)?;
        }
        Ok(entry)
    }

    /// The map of a sparse file in GNU's headers.
    fn old_sparse(&mut self, header: &Header, entry: &mut Entry) -> io::Result<()> {
        let gnu = header.as_gnu().ok_or_else(|| bad("a sparse file without its map"))?;
        let number = |_| bad("the map of a sparse file is damaged");
        entry.size = gnu.real_size().map_err(number)?;
        let mut pieces = Vec::new();
        let mut take = |map: &[tar::GnuSparseHeader]| -> io::Result<()> {
            for piece in map.iter().filter(|piece| !piece.is_empty()) {
                pieces.push((piece.offset().map_err(number)?, piece.length().map_err(number)?));
            }
            Ok(())
        };
        take(&gnu.sparse)?;
        let mut more = gnu.is_extended();
        let mut count = gnu.sparse.len();
        while more {
            // These blocks are not part of the content's size.
            let mut extended = tar::GnuExtSparseHeader::new();
            self.inner.read_exact(extended.as_mut_bytes())?;
            take(&extended.sparse)?;
            count += extended.sparse.len();
            if count > MOST_PIECES {
                return Err(bad("a sparse file has too many pieces"));
            }
            more = extended.is_extended();
        }
        self.fits(entry, pieces)
    }

    /// The map of a sparse file in front of its content, as GNU's tar puts it with pax.
    fn new_sparse(&mut self, major: u64, size: Option<u64>, entry: &mut Entry) -> io::Result<()> {
        if major != 1 {
            return Err(bad("sparse files of this old form of pax are not known"));
        }
        entry.size = size.ok_or_else(|| bad("a sparse file without its size"))?;
        let mut read = 0;
        let count = self.decimal(&mut read)?;
        if count > MOST_PIECES as u64 {
            return Err(bad("a sparse file has too many pieces"));
        }
        let mut pieces = Vec::new();
        for _ in 0..count {
            pieces.push((self.decimal(&mut read)?, self.decimal(&mut read)?));
        }
        let mut rest = vec![0; ((BLOCK - read % BLOCK) % BLOCK) as usize];
        let mut have = 0;
        while have < rest.len() {
            match self.read(&mut rest[have..])? {
                0 => return Err(bad("the map of a sparse file does not end")),
                n => have += n,
            }
        }
        self.fits(entry, pieces)
    }

    /// A number on a line of its own.
    fn decimal(&mut self, read: &mut u64) -> io::Result<u64> {
        let mut value = 0_u64;
        for _ in 0..=20 {
            let mut byte = [0];
            if self.read(&mut byte)? == 0 {
                break;
            }
            *read += 1;
            match byte[0] {
                b'\n' => return Ok(value),
                digit @ b'0'..=b'9' => {
                    let digit = u64::from(digit - b'0');
                    value = value
                        .checked_mul(10)
                        .and_then(|v| v.checked_add(digit))
                        .ok_or_else(|| bad("the map of a sparse file is damaged"))?;
                }
                _ => break,
            }
        }
        Err(bad("the map of a sparse file is damaged"))
    }

    /// Pieces follow each other, end within the file, and are as long as the content.
    fn fits(&self, entry: &mut Entry, pieces: Vec<(u64, u64)>) -> io::Result<()> {
        let (mut end, mut sum) = (0_u64, 0_u64);
        for (offset, length) in &pieces {
            let next = offset.checked_add(*length).filter(|next| *next <= entry.size);
            end = match next {
                Some(next) if *offset >= end => next,
                _ => return Err(bad("the map of a sparse file is damaged")),
            };
            sum += length;
        }
        if sum != self.left {
            return Err(bad("the map of a sparse file is not that of its content"));
        }
        entry.pieces = Some(pieces);
        Ok(())
    }
}

impl Extensions {
    /// `length key=value\n`, where the length counts itself.
    fn read(&mut self, mut bytes: &[u8]) -> io::Result<()> {
        let damaged = || bad("pax records are damaged");
        while !bytes.is_empty() && bytes[0] != 0 {
            let space = bytes.iter().take(20).position(|b| *b == b' ').ok_or_else(damaged)?;
            let text = std::str::from_utf8(&bytes[..space]).map_err(|_| damaged())?;
            let length: usize = text.parse().map_err(|_| damaged())?;
            let record = bytes.get(space + 1..length).ok_or_else(damaged)?;
            let record = record.strip_suffix(b"\n").ok_or_else(damaged)?;
            let equals = record.iter().position(|b| *b == b'=').ok_or_else(damaged)?;
            self.take(&record[..equals], &record[equals + 1..])?;
            bytes = &bytes[length..];
        }
        Ok(())
    }

    fn take(&mut self, key: &[u8], value: &[u8]) -> io::Result<()> {
        let text = || std::str::from_utf8(value).unwrap_or_default();
        let number = || {
            let key = String::from_utf8_lossy(key);
            text().parse::<u64>().map_err(|_| bad(format!("'{}' is no {key}", text())))
        };
        match key {
            b"path" => self.path = Some(value.to_owned()),
            b"linkpath" => self.target = Some(value.to_owned()),
            b"size" => self.size = Some(number()?),
            b"uid" => self.uid = Some(number()?),
            b"gid" => self.gid = Some(number()?),
            b"mtime" => self.time = Some(moment(text())),
            b"GNU.sparse.major" => self.sparse = Some(number()?),
            b"GNU.sparse.realsize" => self.real_size = Some(number()?),
            b"GNU.sparse.name" => self.sparse_name = Some(value.to_owned()),
            b"GNU.sparse.map" | b"GNU.sparse.numblocks" => self.sparse = Some(0),
            _ => {
                if let Some(name) = key.strip_prefix(b"SCHILY.xattr.") {
                    self.xattrs.push((name.to_owned(), value.to_owned()));
                }
            }
        }
        Ok(())
    }
}

/// Seconds with a fraction, as pax writes times; one that makes no sense is 1970.
fn moment(text: &str) -> (i64, u32) {
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    let seconds: i64 = whole.parse().unwrap_or(0);
    let digits: String = fraction.chars().chain("000000000".chars()).take(9).collect();
    let nanoseconds: u32 = digits.parse().unwrap_or(0);
    if whole.starts_with('-') && nanoseconds > 0 {
        return (seconds.saturating_sub(1), 1_000_000_000 - nanoseconds);
    }
    (seconds, nanoseconds)
}

/// Where the files of an archive are in it, and what its links lead to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Member {
    /// From here, so many bytes.
    File {
        at: u64,
        size: u64,
    },
    Link(PathBuf),
}

/// Goes over the heads of an archive that is not compressed.
pub(super) fn index(
    file: &std::fs::File,
) -> io::Result<std::collections::BTreeMap<PathBuf, Member>> {
    use std::io::{Seek, SeekFrom};
    let mut members = std::collections::BTreeMap::new();
    let mut file = file;
    let length = file.metadata()?.len();
    file.seek(SeekFrom::Start(0))?;
    // Without a buffer: what is read is read from the file's own position.
    let mut reader = Reader::new(file);
    while let Some(entry) = reader.next()? {
        let at = file.stream_position()?;
        let member = match entry.kind {
            Kind::File if entry.pieces.is_none() => Some(Member::File { at, size: entry.size }),
            Kind::Symlink | Kind::HardLink => Some(Member::Link(entry.target)),
            _ => None,
        };
        if let Some(member) = member {
            members.insert(entry.path, member);
        }
        if members.len() > MOST_PIECES {
            return Err(bad(format!("it has more than {MOST_PIECES} files")));
        }
        let next = reader.left.checked_add(reader.padding).and_then(|n| at.checked_add(n));
        let next = next.filter(|next| *next <= length).ok_or(io::ErrorKind::UnexpectedEof)?;
        file.seek(SeekFrom::Start(next))?;
        (reader.left, reader.padding) = (0, 0);
    }
    Ok(members)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header(name: &str, kind: EntryType, size: u64) -> Vec<u8> {
        let mut header = Header::new_gnu();
        header.as_mut_bytes()[..name.len()].copy_from_slice(name.as_bytes());
        header.set_entry_type(kind);
        header.set_size(size);
        header.set_mode(0o4755);
        header.set_uid(7);
        header.set_gid(8);
        header.set_mtime(99);
        header.set_device_major(1).expect("GNU");
        header.set_device_minor(3).expect("GNU");
        header.set_cksum();
        header.as_bytes().to_vec()
    }

    fn entry(name: &str, kind: EntryType, content: &[u8]) -> Vec<u8> {
        let mut bytes = header(name, kind, content.len() as u64);
        bytes.extend_from_slice(content);
        bytes.resize(bytes.len().next_multiple_of(512), 0);
        bytes
    }

    fn record(key: &str, value: &[u8]) -> Vec<u8> {
        let rest = key.len() + value.len() + 3;
        let length = (1..9).find(|n| (rest + n).to_string().len() == *n).map_or(0, |n| rest + n);
        [format!("{length} {key}=").as_bytes(), value, b"\n"].concat()
    }

    fn read(bytes: &[u8]) -> Result<Vec<(Entry, Vec<u8>)>, String> {
        let mut reader = Reader::new(bytes);
        let mut entries = Vec::new();
        while let Some(entry) = reader.next().map_err(|e| e.to_string())? {
            let (mut content, mut buffer) = (Vec::new(), [0; 100]);
            loop {
                match reader.read(&mut buffer).map_err(|e| e.to_string())? {
                    0 => break,
                    n => content.extend_from_slice(&buffer[..n]),
                }
            }
            entries.push((entry, content));
        }
        Ok(entries)
    }

    #[test]
    fn pax_says_more_than_headers() {
        let records = [
            record("path", &[b"a/"[..].to_vec(), vec![b'x'; 300]].concat()),
            record("size", b"3"),
            record("uid", b"3000000"),
            record("mtime", b"-1.25"),
            record("SCHILY.xattr.security.capability", b"\x01\n=\n\x00"),
            record("comment", b"no"),
        ]
        .concat();
        let bytes = [
            entry("pax", EntryType::XHeader, &records),
            entry("short", EntryType::Regular, b"abc"),
            entry("plain", EntryType::Regular, b""),
            vec![0; 1024],
        ]
        .concat();
        let entries = read(&bytes).expect("an archive");
        let (first, content) = &entries[0];
        assert_eq!((first.path.as_os_str().len(), first.uid, first.gid), (302, 3_000_000, 8));
        assert_eq!((first.time, first.mode), ((-2, 750_000_000), 0o4755));
        assert_eq!(first.xattrs, [(b"security.capability".to_vec(), b"\x01\n=\n\x00".to_vec())]);
        assert_eq!(content, b"abc");
        assert_eq!((entries[1].0.uid, entries[1].0.time), (7, (99, 0)));
    }

    #[test]
    fn kinds_and_long_names() {
        let long = "l".repeat(200);
        let bytes = [
            entry("x", EntryType::GNULongName, format!("{long}\0").as_bytes()),
            entry("y", EntryType::GNULongLink, b"target\0"),
            entry("z", EntryType::Symlink, b""),
            entry("old/", EntryType::Regular, b""),
            entry("dev", EntryType::Char, b""),
            entry("p", EntryType::Fifo, b""),
        ]
        .concat();
        let entries = read(&bytes).expect("no end is an end");
        assert_eq!(entries[0].0.path.as_os_str().len(), 200);
        assert_eq!(
            (entries[0].0.kind, entries[0].0.target.to_str()),
            (Kind::Symlink, Some("target"))
        );
        let kinds: Vec<Kind> = entries[1..].iter().map(|(entry, _)| entry.kind).collect();
        let device = Kind::Device { major: 1, minor: 3, block: false };
        assert_eq!(kinds, [Kind::Directory, device, Kind::Pipe]);
    }

    #[test]
    fn sparse_files_have_holes() {
        let pax = [
            record("GNU.sparse.major", b"1"),
            record("GNU.sparse.minor", b"0"),
            record("GNU.sparse.name", b"real"),
            record("GNU.sparse.realsize", b"10000"),
        ]
        .concat();
        let map = |text: &str, content: &str| {
            let mut bytes = text.as_bytes().to_vec();
            bytes.resize(512, 0);
            bytes.extend_from_slice(content.as_bytes());
            bytes
        };
        let archive = |content: &[u8]| {
            let file = entry("GNUSparseFile.1/real", EntryType::Regular, content);
            [entry("pax", EntryType::XHeader, &pax), file].concat()
        };
        let bytes = archive(&map("2\n0\n3\n9000\n2\n", "abcde"));
        let (entry, content) = read(&bytes).expect("an archive").remove(0);
        assert_eq!((entry.path.to_str(), entry.size), (Some("real"), 10_000));
        assert_eq!(entry.pieces, Some(vec![(0, 3), (9000, 2)]));
        assert_eq!(content, b"abcde");
        for damaged in ["2\n5\n3\n4\n2\n", "1\n9999\n5\n", "1\n0\n9\n", "x\n", "99999999\n", ""] {
            let error = read(&archive(&map(damaged, "abcde"))).expect_err(damaged);
            assert!(error.contains("sparse file"), "{damaged}: {error}");
        }
    }

    #[test]
    fn damage_is_found() {
        let whole = entry("a", EntryType::Regular, b"abc");
        let mut sum = whole.clone();
        sum[0] = b'b';
        let huge = header("n", EntryType::GNULongName, 1 << 30);
        let odd = entry("a", EntryType::XHeader, b"5 a=\n99 b=c\n");
        let rows: [(&[u8], &str); 6] = [
            (&sum, "no tar archive"),
            (b"short", "failed to fill whole buffer"),
            (&whole[..513], "unexpected end of file"),
            (&huge, "more than 1048576 bytes"),
            (&odd, "pax records are damaged"),
            (&entry("v", EntryType::new(b'V'), b""), "not known"),
        ];
        for (bytes, expected) in rows {
            let error = read(bytes).expect_err(expected);
            let eof = expected.contains("fill") && error.contains("end of file");
            assert!(error.contains(expected) || eof, "{expected}: {error}");
        }
    }
}
