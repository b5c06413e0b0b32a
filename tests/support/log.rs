//! Records what this process logs, one line for each event.
//!
//! Call [`record`] at the start of a test. The log is shared by all tests of the process, so search
//! it for a text that is unique to the test, such as its scope.

use std::fmt::{Debug, Write};
use std::sync::{Mutex, Once};

use tracing::field::Field;
use tracing::{Event, Subscriber};
use tracing_subscriber::layer::{Context, SubscriberExt};

static LOG: Mutex<Vec<String>> = Mutex::new(Vec::new());

struct Recorder;

impl<S: Subscriber> tracing_subscriber::Layer<S> for Recorder {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        let mut line = event.metadata().level().to_string();
        event.record(&mut |field: &Field, value: &dyn Debug| {
            write!(line, " {field}={value:?}").unwrap();
        });
        LOG.lock().unwrap().push(line);
    }
}

/// Starts recording for the whole process, so that no thread's events are missed.
pub(crate) fn record() {
    static RECORDING: Once = Once::new();
    RECORDING.call_once(|| {
        let subscriber = tracing_subscriber::registry().with(Recorder);
        tracing::subscriber::set_global_default(subscriber).unwrap();
    });
}

/// Returns the lines logged so far that contain `part`.
pub(crate) fn logged(part: &str) -> Vec<String> {
    let log = LOG.lock().unwrap();
    let lines = log.iter().filter(|line| line.contains(part));
    lines.cloned().collect()
}
