//! Decompression of a file, by what it begins with.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};

use super::UnpackError;

/// Memory that a decompressor may ask for, in KiB: `xz -9` needs 64 MiB, a hostile
/// header could ask for 4 GiB.
const XZ_MEMORY_KIB: u32 = 512 << 10;

/// A compression.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Filter {
    Gzip,
    Bzip2,
    Xz,
    Zstd,
}

/// The compression of a file, and its first bytes.
pub(super) fn sniff(file: &mut File, magic: &mut [u8; 6]) -> io::Result<Option<Filter>> {
    let mut have = 0;
    while have < magic.len() {
        match file.read(&mut magic[have..])? {
            0 => break,
            n => have += n,
        }
    }
    let rows: [(&[u8], Filter); 4] = [
        (&[0x1f, 0x8b], Filter::Gzip),
        (b"BZh", Filter::Bzip2),
        (&[0xfd, b'7', b'z', b'X', b'Z', 0], Filter::Xz),
        (&[0x28, 0xb5, 0x2f, 0xfd], Filter::Zstd),
    ];
    Ok(rows.iter().find(|(start, _)| magic.starts_with(start)).map(|(_, filter)| *filter))
}

/// The content of a compressed file, all of its members.
pub(super) fn open(file: File, filter: Filter) -> Result<Box<dyn Read>, UnpackError> {
    let reader = BufReader::with_capacity(128 << 10, file);
    Ok(match filter {
        Filter::Gzip => Box::new(flate2::bufread::MultiGzDecoder::new(reader)),
        Filter::Bzip2 => Box::new(bzip2::bufread::MultiBzDecoder::new(reader)),
        Filter::Xz => Box::new(lzma_rust2::XzReader::new_mem_limit(reader, true, XZ_MEMORY_KIB)),
        Filter::Zstd => Box::new(Frames::new(reader)),
    })
}

/// All frames of a zstd stream; the decoder stops after one.
pub struct Frames<R: BufRead> {
    decoder: Option<Decoder<R>>,
    rest: Option<R>,
}

type Decoder<R> = ruzstd::decoding::StreamingDecoder<R, ruzstd::decoding::FrameDecoder>;

impl<R: BufRead> Frames<R> {
    /// Of a stream that is at the start of a frame, or at its end.
    pub fn new(reader: R) -> Frames<R> {
        Frames { decoder: None, rest: Some(reader) }
    }
}

impl<R: BufRead> Read for Frames<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            if let Some(decoder) = &mut self.decoder {
                match decoder.read(buffer)? {
                    0 if buffer.is_empty() => return Ok(0),
                    0 => self.rest = self.decoder.take().map(Decoder::<R>::into_inner),
                    n => return Ok(n),
                }
            }
            let Some(mut reader) = self.rest.take() else { return Ok(0) };
            if reader.fill_buf()?.is_empty() {
                return Ok(0);
            }
            let decoder = Decoder::<R>::new(reader);
            let broken = |error| io::Error::new(io::ErrorKind::InvalidData, format!("{error}"));
            self.decoder = Some(decoder.map_err(broken)?);
        }
    }
}
