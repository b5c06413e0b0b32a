//! Takes over what has changed in the configuration while the server runs: when it is told to, and
//! when a file has changed.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use anyhow::bail;
use arc_swap::ArcSwap;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::time::{MissedTickBehavior, interval};

use crate::configuration::{Configuration, Fixed, Sources};
use crate::decide::Gate;
use crate::meter;

/// How often the files are looked at. Looking is what works on every file system, and with files
/// that are replaced through links, as those of a Kubernetes ConfigMap are.
const INTERVAL: Duration = Duration::from_millis(250);

/// What became of the configuration, for those who want to know.
#[derive(Clone, Debug)]
pub(crate) struct Reloads(Arc<ArcSwap<Reloaded>>);

#[derive(Clone, Debug)]
pub(crate) struct Reloaded {
    /// When the configuration that is in force was read.
    pub(crate) since: SystemTime,
    /// Why a later one is not in force.
    pub(crate) refused: Option<String>,
}

impl Reloads {
    pub(crate) fn last(&self) -> Arc<Reloaded> {
        self.0.load_full()
    }
}

/// Watches the configuration.
#[derive(Debug)]
pub(super) struct Reloader {
    file: Option<PathBuf>,
    fixed: Fixed,
    /// What was read last, whatever came of it.
    read: Sources,
    gate: Gate,
    reloads: Reloads,
    hangup: Signal,
}

impl Reloader {
    pub(super) fn new(
        file: Option<&Path>,
        fixed: Fixed,
        read: Sources,
        gate: &Gate,
    ) -> anyhow::Result<Self> {
        let reloaded = Reloaded {
            since: SystemTime::now(),
            refused: None,
        };
        Ok(Self {
            file: file.map(Path::to_owned),
            fixed,
            read,
            gate: gate.clone(),
            reloads: Reloads(Arc::new(ArcSwap::from_pointee(reloaded))),
            hangup: signal(SignalKind::hangup())?,
        })
    }

    pub(super) fn reloads(&self) -> Reloads {
        self.reloads.clone()
    }

    /// Reloads whenever there is a reason to, for ever.
    pub(super) async fn watch(mut self) {
        let mut ticks = interval(INTERVAL);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut seen = self.read.clone();
        loop {
            tokio::select! {
                _ = self.hangup.recv() => {
                    self.reload();
                    seen = self.read.clone();
                }
                _ = ticks.tick() => {
                    let now = self.read.again();
                    // What has changed since the last look may be half written.
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
                meter::reloaded("taken");
                reloaded.since = SystemTime::now();
                reloaded.refused = None;
            }
            Err(error) => {
                let reason = format!("{error:#}");
                tracing::error!(reason, "the configuration was refused: the old one goes on");
                meter::reloaded("refused");
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
        self.gate.follow(rules);
        Ok(())
    }
}
