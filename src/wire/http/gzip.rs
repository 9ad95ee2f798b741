//! gzip of bodies: responses from [`THRESHOLD`] bytes on, requests up to a limit.

use std::io::{Read, Write};

use bytes::Bytes;
use flate2::Compression;
use flate2::read::MultiGzDecoder;
use flate2::write::GzEncoder;

use super::BodyError;

/// Smaller responses are sent as they are (libprocess' number).
pub(super) const THRESHOLD: usize = 1024;
/// From here on compressing leaves the async threads alone.
const LARGE: usize = 64 << 10;

/// `body` compressed, or `None` if that failed or did not make it smaller.
pub(super) async fn deflate(body: Bytes) -> Option<Bytes> {
    if body.len() < LARGE {
        return compress(&body);
    }
    tokio::task::spawn_blocking(move || compress(&body)).await.ok().flatten()
}

fn compress(body: &[u8]) -> Option<Bytes> {
    let mut encoder = GzEncoder::new(Vec::with_capacity(body.len() / 4), Compression::fast());
    encoder.write_all(body).ok()?;
    encoder.finish().ok().filter(|out| out.len() < body.len()).map(Bytes::from)
}

/// The inflated body; refuses to make more than `limit` bytes of it.
pub(super) fn inflate(body: &[u8], limit: usize) -> Result<Bytes, BodyError> {
    let mut out = Vec::new();
    let most = u64::try_from(limit).unwrap_or(u64::MAX).saturating_add(1);
    MultiGzDecoder::new(body)
        .take(most)
        .read_to_end(&mut out)
        .map_err(|e| BodyError::Gzip(e.to_string()))?;
    if out.len() > limit {
        return Err(BodyError::TooLarge(limit));
    }
    Ok(out.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn bodies_survive_and_bombs_do_not() {
        for size in [2000, LARGE + 1] {
            let body = Bytes::from(b"mesos".repeat(size / 5));
            let packed = deflate(body.clone()).await.expect("compressible");
            assert!(packed.len() < body.len() / 10);
            assert_eq!(inflate(&packed, size).expect("our own gzip"), body);
            assert_eq!(inflate(&packed, body.len() - 1), Err(BodyError::TooLarge(body.len() - 1)));
            assert!(matches!(inflate(&packed[..40], size), Err(BodyError::Gzip(_))));
        }
        assert!(matches!(inflate(b"not gzip", 100), Err(BodyError::Gzip(_))));
    }
}
