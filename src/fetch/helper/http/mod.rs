//! Downloads over HTTP. What broke in the middle is taken up where it broke, if the
//! server can tell that it is still the same.

use std::time::Duration;

use super::sink::Sink;
use super::{FetchFailure, log};
use crate::fetch::message::{Job, Validators};
pub(super) use crate::wire::blocking::HttpError;
use crate::wire::blocking::{Body, Environment, Head, REDIRECTS, Url, get};

/// Times that a broken download is taken up again.
const RESUMES: u32 = 5;
/// Pause before that.
const PAUSE: Duration = Duration::from_millis(500);

/// What the content of an answer is known by.
fn validators(head: &Head) -> Validators {
    let owned = |name| head.header(name).map(str::to_owned);
    Validators { etag: owned("etag"), modified: owned("last-modified"), mode: None }
}

/// What came of a download.
pub(super) enum Outcome {
    /// It is what was known.
    Unchanged,
    /// It is all there, and known by these.
    Complete(Validators),
}

/// Downloads `url` into `sink`, unless it is what `known` tells.
pub(super) fn download(
    job: &Job,
    url: &str,
    sink: &mut Sink,
    known: Option<&Validators>,
) -> Result<Outcome, FetchFailure> {
    let mut client = Client {
        url: Url::parse(url)?,
        environment: Environment::new(&job.environment, job.stall_secs),
        known: known.filter(|known| !known.is_empty()),
        seen: Validators::default(),
    };
    let mut left = RESUMES;
    loop {
        match client.attempt(sink) {
            Err(FetchFailure::Http(error))
                if error.is_passing() && sink.written() > 0 && left > 0 =>
            {
                left -= 1;
                let (at, why) = (sink.written(), kernel::chain(&error));
                log::warning(&format!("After {at} bytes {why}; going on from there"));
                std::thread::sleep(PAUSE);
            }
            other => return other,
        }
    }
}

struct Client<'a> {
    url: Url,
    environment: Environment<'a>,
    known: Option<&'a Validators>,
    /// Of the answer that is in the sink.
    seen: Validators,
}

impl Client<'_> {
    fn attempt(&mut self, sink: &mut Sink) -> Result<Outcome, FetchFailure> {
        // Without a strong validator nobody could tell whether the rest belongs to it.
        let strong = self.seen.etag.as_ref().filter(|tag| !tag.starts_with("W/"));
        let anchor = strong.or(self.seen.modified.as_ref()).cloned();
        if sink.written() > 0 && anchor.is_none() {
            sink.restart()?;
        }
        let offset = sink.written();
        let (head, mut body) = self.follow(offset, anchor.as_deref())?;
        match head.status {
            304 if self.known.is_some() && offset == 0 => return Ok(Outcome::Unchanged),
            206 if offset > 0 && head.range_start() == Some(offset) => {}
            200 => {
                if offset > 0 {
                    sink.restart()?;
                }
                sink.begin(body.length())?;
                self.seen = validators(&head);
            }
            status => return Err(HttpError::Status { status }.into()),
        }
        let mut buffer = vec![0; 64 << 10];
        loop {
            match body.read(&mut buffer)? {
                0 => return Ok(Outcome::Complete(self.seen.clone())),
                count => sink.put(&buffer[..count])?,
            }
        }
    }

    /// Asks, and asks elsewhere as long as the answer is a redirect.
    fn follow(&mut self, offset: u64, anchor: Option<&str>) -> Result<(Head, Body), FetchFailure> {
        let mut url = self.url.clone();
        for _ in 0..=REDIRECTS {
            let mut headers = Vec::new();
            if let (1.., Some(anchor)) = (offset, anchor) {
                headers.push(("Range", format!("bytes={offset}-")));
                headers.push(("If-Range", anchor.to_owned()));
            } else if let Some(known) = self.known {
                headers.extend(known.etag.clone().map(|tag| ("If-None-Match", tag)));
                headers.extend(known.modified.clone().map(|at| ("If-Modified-Since", at)));
            }
            let (head, body) = get(&url, &self.environment, &headers)?;
            match (head.status, head.header("location")) {
                (301 | 302 | 303 | 307 | 308, Some(location)) => url = url.join(location)?,
                _ => return Ok((head, body)),
            }
        }
        Err(HttpError::Redirects.into())
    }
}

#[cfg(test)]
mod tests;
