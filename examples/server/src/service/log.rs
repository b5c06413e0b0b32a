//! The log, on standard error.

use std::backtrace::{Backtrace, BacktraceStatus};
use std::io::stderr;
use std::panic;

use tracing_subscriber::filter::Targets;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{Layer, Registry, fmt, reload};

use crate::configuration::LogFormat;

/// The log, whose filter can be changed while it runs.
#[derive(Clone, Debug)]
pub(super) struct Log {
    filter: reload::Handle<Targets, Registry>,
}

impl Log {
    /// Starts the log. It also logs panics, so that every line of the process has the same format.
    pub(super) fn start(format: LogFormat, filter: &Targets) -> anyhow::Result<Self> {
        let (filter, handle) = reload::Layer::new(filter.clone());
        let lines = fmt::layer().with_writer(stderr);
        let lines = match format {
            LogFormat::Text => lines.with_ansi(false).boxed(),
            LogFormat::Json => lines.json().boxed(),
        };
        Registry::default().with(filter).with(lines).try_init()?;
        panic::set_hook(Box::new(log_panic));
        Ok(Self { filter: handle })
    }

    pub(super) fn set_filter(&self, filter: &Targets) {
        // It fails only if the subscriber is dropped, and the global one never is.
        let _ = self.filter.reload(filter.clone());
    }
}

fn log_panic(panic: &panic::PanicHookInfo<'_>) {
    let payload = panic.payload();
    let text = payload.downcast_ref::<&str>().copied();
    let text = text.or_else(|| payload.downcast_ref::<String>().map(String::as_str));
    let location = panic.location().map(tracing::field::display);
    // Captured only if RUST_BACKTRACE is set.
    let backtrace = Backtrace::capture();
    let is_captured = backtrace.status() == BacktraceStatus::Captured;
    let backtrace = is_captured.then(|| tracing::field::display(backtrace));
    let text = text.unwrap_or("a value that is not a string");
    tracing::error!(panic = text, location, backtrace, "a task panicked");
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::sync::{Arc, Mutex, PoisonError};

    use super::*;

    #[derive(Clone, Default)]
    struct Buffer(Arc<Mutex<Vec<u8>>>);

    impl Write for Buffer {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            let mut buffer = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            buffer.write(bytes)
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn panic_is_a_json_line() {
        let buffer = Buffer::default();
        let writer = buffer.clone();
        let lines = fmt::layer().json().with_writer(move || writer.clone());
        let subscriber = Registry::default().with(lines);
        let hook = panic::take_hook();
        panic::set_hook(Box::new(log_panic));
        let caught = tracing::subscriber::with_default(subscriber, || {
            let text = panic::catch_unwind(|| panic!("of a text"));
            let formatted = panic::catch_unwind(|| panic!("of {}", "a format"));
            let value = panic::catch_unwind(|| panic::panic_any(7));
            [text.is_err(), formatted.is_err(), value.is_err()]
        });
        panic::set_hook(hook);
        assert_eq!(caught, [true; 3]);
        let log = buffer.0.lock().expect("no writer panics").clone();
        let log = String::from_utf8(log).expect("it is UTF-8");
        let lines = log.lines().map(serde_json::from_str);
        let lines: Vec<serde_json::Value> = lines.collect::<Result<_, _>>().expect("it is JSON");
        let fields = |name| lines.iter().map(move |line| &line["fields"][name]);
        let texts: Vec<_> = fields("panic").collect();
        assert_eq!(
            texts,
            ["of a text", "of a format", "a value that is not a string"]
        );
        assert!(fields("location").all(|place| place.to_string().contains("log.rs:")));
    }
}
