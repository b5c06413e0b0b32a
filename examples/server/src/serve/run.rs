use std::path::Path;

use anyhow::Context;
use tokio::signal::unix::{SignalKind, signal};
use tokio::time::timeout;

use super::listener::Front;
use super::stopping::Stopping;
use super::{limiter, log};
use crate::configuration::Configuration;
use crate::decide::Gate;
use crate::{grpc, http, meter};

/// Serves until it is told to stop.
pub(crate) async fn run(file: Option<&Path>) -> anyhow::Result<()> {
    let Configuration { fixed, rules } = Configuration::load(file)?;
    log::start(&fixed);
    let metrics = meter::install()?;
    tokio::spawn(meter::upkeep(metrics.clone()));
    // Heard from now on, so that no signal ends the server in the middle of something.
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;

    let gate = Gate::new(limiter::limiter(&fixed.store)?, rules);
    let stopping = Stopping::new();
    let door = http::Door {
        gate: gate.clone(),
        metrics,
        stopping: stopping.clone(),
    };
    let (grpc, health) = grpc::router(gate).await?;
    let http = Front::open(fixed.listen.http, http::router(door), &stopping).await?;
    let grpc = Front::open(fixed.listen.grpc, grpc, &stopping).await?;
    println!(
        "Listening: http {}, grpc {}",
        http.address()?,
        grpc.address()?
    );

    let mut fronts = tokio::spawn(async { tokio::join!(http.serve(), grpc.serve()) });
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
        ended = &mut fronts => return ended.map(drop).context("a front door ended"),
    }
    tracing::info!("told to stop: clients are asked to go elsewhere");
    health.say(false).await;
    stopping.stop(fixed.shutdown.delay).await;
    if timeout(fixed.shutdown.deadline, fronts).await.is_err() {
        tracing::warn!("some requests were still under way at the end");
    }
    Ok(())
}
