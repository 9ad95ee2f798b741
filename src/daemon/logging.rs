//! Logging in glog's form, to stderr and to a file: what operators of Mesos grep.
//!
//! `I1120 22:46:36.123456 4711 agent/driver.rs:42] message key=value`: severity,
//! month and day, UTC time, pid, place, text. [`Logging`] also serves
//! `/logging/toggle`: verbosity 1 adds debug messages, from 2 on traces.
//! Called once by the programs; everybody else uses `tracing`.

use std::fmt;
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use thiserror::Error;
use tracing::level_filters::LevelFilter;
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::fmt::format::{FormatEvent, FormatFields, Writer};
use tracing_subscriber::fmt::{FmtContext, MakeWriter};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::registry::LookupSpan;
use tracing_subscriber::reload;

use super::flags::Flags;
use crate::wire::http::civil;

/// Why logging cannot be set up.
#[derive(Debug, Error)]
pub enum LoggingError {
    /// Not one of glog's levels.
    #[error(
        "'{0}' is not a valid logging level. Possible values for 'logging_level' flag are: 'INFO', 'WARNING', 'ERROR'"
    )]
    Level(String),
    /// The file in `--log_dir`.
    #[error("failed to open log file {path}")]
    File {
        /// The file.
        path: PathBuf,
        /// The system's words.
        source: io::Error,
    },
    /// Somebody did this before.
    #[error("logging is already set up")]
    Twice,
}

type Reload = Arc<dyn Fn(LevelFilter) + Send + Sync>;

/// The running logger.
#[derive(Clone)]
pub struct Logging {
    base: LevelFilter,
    reload: Reload,
    verbosity: Arc<AtomicU64>,
    /// Tells the end of one toggle from that of a later one.
    toggles: Arc<AtomicU64>,
    sink: Sink,
}

impl fmt::Debug for Logging {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Logging").field("base", &self.base).finish_non_exhaustive()
    }
}

impl Logging {
    /// Sets up logging as the flags `quiet`, `log_dir` and `logging_level` say.
    /// `program` names the file: `<log_dir>/<program>.INFO`.
    ///
    /// # Errors
    /// [`LoggingError`]
    pub fn start(program: &str, flags: &Flags) -> Result<Logging, LoggingError> {
        let name = flags.text("logging_level").unwrap_or("INFO");
        let base = match name {
            "INFO" => LevelFilter::INFO,
            "WARNING" => LevelFilter::WARN,
            "ERROR" => LevelFilter::ERROR,
            other => return Err(LoggingError::Level(other.to_owned())),
        };
        let path = flags.text("log_dir").map(|dir| file_name(Path::new(dir), program));
        let sink = Sink::open(!flags.bool("quiet"), path)?;
        let (filter, handle) = reload::Layer::new(base);
        let lines = tracing_subscriber::fmt::layer()
            .event_format(Glog)
            .with_ansi(false)
            .with_writer(sink.clone());
        let subscriber = tracing_subscriber::registry().with(filter).with(lines);
        tracing::subscriber::set_global_default(subscriber).map_err(|_| LoggingError::Twice)?;
        let reload = Arc::new(move |level| {
            // Fails only when the subscriber is gone, and it is global.
            let _ = handle.reload(level);
        });
        Ok(Logging::with(base, reload, sink))
    }

    fn with(base: LevelFilter, reload: Reload, sink: Sink) -> Logging {
        Logging { base, reload, verbosity: Arc::default(), toggles: Arc::default(), sink }
    }

    /// A logger that writes nowhere, for tests of what surrounds it.
    #[must_use]
    pub fn silent() -> Logging {
        let sink = Sink { stderr: false, file: Arc::default(), path: None };
        Logging::with(LevelFilter::INFO, Arc::new(|_| ()), sink)
    }

    /// The file, for the daemons to attach to `/files`.
    #[must_use]
    pub fn file(&self) -> Option<&Path> {
        self.sink.path.as_deref()
    }

    /// Verbosity beyond the flags: 0, 1 (debug), 2 and more (trace).
    #[must_use]
    pub fn verbosity(&self) -> u64 {
        self.verbosity.load(Ordering::Relaxed)
    }

    /// Sets the verbosity and takes it back after `duration`. Must be called
    /// inside a tokio runtime.
    pub fn toggle(&self, verbosity: u64, duration: Duration) {
        let mine = self.toggles.fetch_add(1, Ordering::Relaxed) + 1;
        self.set(verbosity);
        if verbosity == 0 {
            return;
        }
        let logging = self.clone();
        tokio::spawn(async move {
            tokio::time::sleep(duration).await;
            if logging.toggles.load(Ordering::Relaxed) == mine {
                logging.set(0);
            }
        });
    }

    fn set(&self, verbosity: u64) {
        self.verbosity.store(verbosity, Ordering::Relaxed);
        (self.reload)(match verbosity {
            0 => self.base,
            1 => LevelFilter::DEBUG,
            _ => LevelFilter::TRACE,
        });
    }

    /// Opens the file again, after a log rotation moved it away.
    ///
    /// # Errors
    /// [`LoggingError::File`]; lines go on into the old file then.
    pub fn reopen(&self) -> Result<(), LoggingError> {
        self.sink.reopen()
    }
}

fn file_name(dir: &Path, program: &str) -> PathBuf {
    dir.join(format!("{program}.INFO"))
}

/// Where lines go: each one whole, with one write.
#[derive(Clone)]
struct Sink {
    stderr: bool,
    file: Arc<Mutex<Option<File>>>,
    path: Option<PathBuf>,
}

impl Sink {
    fn open(stderr: bool, path: Option<PathBuf>) -> Result<Sink, LoggingError> {
        let sink = Sink { stderr, file: Arc::default(), path };
        sink.reopen()?;
        Ok(sink)
    }

    fn reopen(&self) -> Result<(), LoggingError> {
        let Some(path) = &self.path else { return Ok(()) };
        let open = || {
            if let Some(dir) = path.parent() {
                std::fs::create_dir_all(dir)?;
            }
            OpenOptions::new().create(true).append(true).open(path)
        };
        let file = open().map_err(|source| LoggingError::File { path: path.clone(), source })?;
        *self.file.lock().unwrap_or_else(PoisonError::into_inner) = Some(file);
        Ok(())
    }
}

impl Write for Sink {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        if self.stderr {
            // A closed stderr must not stop the file.
            let _ = io::stderr().lock().write_all(line);
        }
        if let Some(file) = &mut *self.file.lock().unwrap_or_else(PoisonError::into_inner) {
            file.write_all(line)?;
        }
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl MakeWriter<'_> for Sink {
    type Writer = Sink;

    fn make_writer(&self) -> Sink {
        self.clone()
    }
}

struct Glog;

impl<S, N> FormatEvent<S, N> for Glog
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(
        &self,
        context: &FmtContext<'_, S, N>,
        mut out: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let place = event.metadata();
        let file = place.file().unwrap_or("?");
        let file = file.rsplit_once("src/").map_or(file, |(_, short)| short);
        write!(
            out,
            "{} {} {file}:{}] ",
            prefix(*place.level(), since),
            std::process::id(),
            place.line().unwrap_or(0)
        )?;
        if let Some(scope) = context.event_scope() {
            for span in scope.from_root() {
                write!(out, "{}: ", span.name())?;
            }
        }
        context.field_format().format_fields(out.by_ref(), event)?;
        writeln!(out)
    }
}

/// Severity, date and time.
fn prefix(level: Level, since_epoch: Duration) -> String {
    let letter = match level {
        Level::ERROR => 'E',
        Level::WARN => 'W',
        Level::INFO => 'I',
        // glog's verbose messages are of severity INFO; a letter of their own helps.
        Level::DEBUG => 'D',
        Level::TRACE => 'T',
    };
    let seconds = since_epoch.as_secs();
    let (_, month, day) = civil(seconds / 86_400);
    let of_day = seconds % 86_400;
    format!(
        "{letter}{:02}{day:02} {:02}:{:02}:{:02}.{:06}",
        month + 1,
        of_day / 3600,
        of_day / 60 % 60,
        of_day % 60,
        since_epoch.subsec_micros()
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_begin_as_glogs_do() {
        let at = Duration::new(1_795_215_249, 123_456_789);
        assert_eq!(prefix(Level::INFO, at), "I1120 22:54:09.123456");
        assert_eq!(prefix(Level::WARN, Duration::ZERO), "W0101 00:00:00.000000");
    }

    #[tokio::test(start_paused = true)]
    async fn verbosity_is_taken_back() {
        let logging = Logging::silent();
        let tick = |seconds| tokio::time::sleep(Duration::from_secs(seconds));
        logging.toggle(2, Duration::from_secs(10));
        tick(5).await;
        logging.toggle(1, Duration::from_secs(10));
        assert_eq!(logging.verbosity(), 1);
        tick(6).await;
        assert_eq!(logging.verbosity(), 1, "the first toggle is over, the second is not");
        tick(5).await;
        assert_eq!(logging.verbosity(), 0);
    }
}
