//! Takes over a changed configuration while the server runs: at a SIGHUP, and when a file has changed.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use anyhow::bail;
use arc_swap::ArcSwap;
use tokio::signal::unix::Signal;
use tokio::time::{MissedTickBehavior, interval};

use super::load::{Configuration, Fixed, Rules};
use super::sources::Sources;
use crate::server_metrics;

/// The interval between two looks at the files. Polling works on every file system, and with files
/// that are replaced through links, as in a Kubernetes ConfigMap.
const INTERVAL: Duration = Duration::from_millis(250);

/// The outcome of the last reload, for the admin API.
#[derive(Clone, Debug)]
pub(crate) struct Reloads(Arc<ArcSwap<Reloaded>>);

#[derive(Clone, Debug)]
pub(crate) struct Reloaded {
    /// When the configuration in force was read.
    pub(crate) since: SystemTime,
    /// Why a later configuration was refused.
    pub(crate) refused: Option<String>,
}

impl Reloads {
    pub(crate) fn last(&self) -> Arc<Reloaded> {
        self.0.load_full()
    }
}

/// Watches the configuration.
pub(crate) struct Reloader {
    file: Option<PathBuf>,
    fixed: Fixed,
    /// The files as they were last read, even if they were refused.
    read: Sources,
    apply: Box<dyn Fn(Rules) + Send>,
    reloads: Reloads,
}

impl Reloader {
    /// `apply` puts changed rules into force.
    pub(crate) fn new(
        file: Option<&Path>,
        fixed: Fixed,
        read: Sources,
        apply: impl Fn(Rules) + Send + 'static,
    ) -> Self {
        let reloaded = Reloaded {
            since: SystemTime::now(),
            refused: None,
        };
        Self {
            file: file.map(Path::to_owned),
            fixed,
            read,
            apply: Box::new(apply),
            reloads: Reloads(Arc::new(ArcSwap::from_pointee(reloaded))),
        }
    }

    pub(crate) fn reloads(&self) -> Reloads {
        self.reloads.clone()
    }

    /// Reloads at each signal and each change of a file, for ever.
    pub(crate) async fn watch(mut self, mut hangup: Signal) {
        let mut ticks = interval(INTERVAL);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut seen = self.read.clone();
        loop {
            tokio::select! {
                _ = hangup.recv() => {
                    self.reload();
                    seen = self.read.clone();
                }
                _ = ticks.tick() => {
                    let now = self.read.again();
                    // A file that has changed since the last look may be half written.
                    if now == seen && now != self.read {
                        self.reload();
                        seen = self.read.clone();
                    } else {
                        seen = now;
                    }
                }
            }
        }
    }

    fn reload(&mut self) {
        let mut reloaded = Reloaded::clone(&self.reloads.last());
        match self.load() {
            Ok(()) => {
                tracing::info!("the configuration was read again");
                server_metrics::reloaded("taken");
                reloaded.since = SystemTime::now();
                reloaded.refused = None;
            }
            Err(error) => {
                let reason = format!("{error:#}");
                tracing::error!(
                    reason,
                    "the configuration was refused: the old one stays in force"
                );
                server_metrics::reloaded("refused");
                reloaded.refused = Some(reason);
            }
        }
        self.reloads.0.store(Arc::new(reloaded));
    }

    fn load(&mut self) -> anyhow::Result<()> {
        self.read = Sources::default();
        let loaded = Configuration::load(self.file.as_deref(), &mut self.read);
        let Configuration { fixed, rules } = loaded?;
        let differences = self.fixed.differences(&fixed);
        if !differences.is_empty() {
            bail!("restart to change {}", differences.join(" and "));
        }
        if fixed.log_format != self.fixed.log_format {
            tracing::warn!("a new log.format needs a restart; all other changes are taken over");
        }
        (self.apply)(rules);
        Ok(())
    }
}
