//! Reloads the configuration while the server runs: at a SIGHUP, and when a file has changed.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use anyhow::bail;
use arc_swap::ArcSwap;
use tokio::signal::unix::Signal;
use tokio::time::{MissedTickBehavior, interval};

use super::load::{Configuration, FixedSettings, ReloadableSettings};
use super::sources::Sources;
use crate::server_metrics;

/// The interval at which the files are polled. Polling works on every file system, and with files
/// that are replaced by symbolic links, as in a Kubernetes ConfigMap.
const INTERVAL: Duration = Duration::from_millis(250);

/// The outcome of the last reload. Clones share it.
#[derive(Clone, Debug)]
pub(crate) struct ReloadStatus(Arc<ArcSwap<LastReload>>);

#[derive(Clone, Debug)]
pub(crate) struct LastReload {
    /// When the configuration in force was read.
    pub(crate) since: SystemTime,
    /// The reason why a later configuration was refused.
    pub(crate) refused: Option<String>,
}

impl ReloadStatus {
    pub(crate) fn last(&self) -> Arc<LastReload> {
        self.0.load_full()
    }
}

/// Watches the files of the configuration, and reloads them.
pub(crate) struct Reloader {
    file: Option<PathBuf>,
    fixed: FixedSettings,
    /// The files as they were last loaded, even if their configuration was refused.
    sources: Sources,
    apply: Box<dyn Fn(ReloadableSettings) + Send>,
    status: ReloadStatus,
}

impl Reloader {
    /// Makes a reloader, which calls `apply` to put changed settings into force.
    pub(crate) fn new(
        file: Option<&Path>,
        fixed: FixedSettings,
        sources: Sources,
        apply: impl Fn(ReloadableSettings) + Send + 'static,
    ) -> Self {
        let last = LastReload {
            since: SystemTime::now(),
            refused: None,
        };
        Self {
            file: file.map(Path::to_owned),
            fixed,
            sources,
            apply: Box::new(apply),
            status: ReloadStatus(Arc::new(ArcSwap::from_pointee(last))),
        }
    }

    /// Returns the outcome of the last reload.
    pub(crate) fn status(&self) -> ReloadStatus {
        self.status.clone()
    }

    /// Reloads at each `hangup` signal and each change of a file, forever.
    pub(crate) async fn watch(mut self, mut hangup: Signal) {
        let mut ticks = interval(INTERVAL);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut seen = self.sources.clone();
        loop {
            tokio::select! {
                _ = hangup.recv() => {
                    self.reload();
                    seen = self.sources.clone();
                }
                _ = ticks.tick() => {
                    let now = self.sources.read_again();
                    // A file that has changed since the last poll may be incomplete.
                    if now == seen && now != self.sources {
                        self.reload();
                        seen = self.sources.clone();
                    } else {
                        seen = now;
                    }
                }
            }
        }
    }

    fn reload(&mut self) {
        let mut last = LastReload::clone(&self.status.last());
        match self.load() {
            Ok(()) => {
                tracing::info!("the configuration was read again");
                server_metrics::record_reload("taken");
                last.since = SystemTime::now();
                last.refused = None;
            }
            Err(error) => {
                let reason = format!("{error:#}");
                tracing::error!(
                    reason,
                    "the configuration was refused: the previous one stays in force"
                );
                server_metrics::record_reload("refused");
                last.refused = Some(reason);
            }
        }
        self.status.0.store(Arc::new(last));
    }

    fn load(&mut self) -> anyhow::Result<()> {
        self.sources = Sources::default();
        let loaded = Configuration::load(self.file.as_deref(), &mut self.sources);
        let Configuration { fixed, reloadable } = loaded?;
        let differences = self.fixed.differences(&fixed);
        if !differences.is_empty() {
            bail!("restart to change {}", differences.join(" and "));
        }
        if fixed.log_format != self.fixed.log_format {
            tracing::warn!("a change of log.format needs a restart; other changes are in force");
        }
        (self.apply)(reloadable);
        Ok(())
    }
}
