//! Takes over what has changed in the configuration while the server runs: when it is told to, and
//! when a file has changed.

use std::hash::{DefaultHasher, Hasher};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use anyhow::bail;
use arc_swap::ArcSwap;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::time::{MissedTickBehavior, interval};

use crate::configuration::{Configuration, Fixed};
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
    gate: Gate,
    reloads: Reloads,
    hangup: Signal,
}

impl Reloader {
    pub(super) fn new(file: Option<&Path>, fixed: Fixed, gate: &Gate) -> anyhow::Result<Self> {
        let reloaded = Reloaded {
            since: SystemTime::now(),
            refused: None,
        };
        Ok(Self {
            file: file.map(Path::to_owned),
            fixed,
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
        let mut read = self.contents();
        let mut seen = read;
        loop {
            tokio::select! {
                _ = self.hangup.recv() => {
                    read = self.contents();
                    seen = read;
                    self.reload();
                }
                _ = ticks.tick() => {
                    let now = self.contents();
                    // One that has changed since the last look may be half written.
                    if now == seen && now != read {
                        read = now;
                        self.reload();
                    }
                    seen = now;
                }
            }
        }
    }

    /// What the files hold, in short.
    fn contents(&self) -> u64 {
        let mut hasher = DefaultHasher::new();
        let mut add = |file: &Path| {
            let contents = std::fs::read(file).unwrap_or_default();
            hasher.write_usize(contents.len());
            hasher.write(&contents);
        };
        // The first, even if the configuration in force came from others.
        self.file.iter().for_each(|file| add(file));
        self.gate.rules().files.iter().for_each(|file| add(file));
        hasher.finish()
    }

    fn reload(&self) {
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

    fn load(&self) -> anyhow::Result<()> {
        let Configuration { fixed, rules } = Configuration::load(self.file.as_deref())?;
        let differences = self.fixed.differences(&fixed);
        if !differences.is_empty() {
            bail!("restart to change {}", differences.join(" and "));
        }
        self.gate.follow(rules);
        Ok(())
    }
}
