use std::path::Path;

use anyhow::Context;
use futures_util::future::join_all;
use tokio::signal::unix::{SignalKind, signal};
use tokio::time::timeout;

use super::connection::Deadlines;
use super::connections::Connections;
use super::listener::{Front, Shared};
use super::reload::Reloader;
use super::stopping::Stopping;
use super::{descriptors, limiter, log};
use crate::admin::{self, Admin};
use crate::configuration::{Configuration, Sources};
use crate::decide::Gate;
use crate::{grpc, http, meter};

/// Serves until it is told to stop.
pub(crate) async fn run(file: Option<&Path>) -> anyhow::Result<()> {
    let mut sources = Sources::default();
    let Configuration { fixed, rules } = Configuration::load(file, &mut sources)?;
    log::start(&fixed);
    let metrics = meter::install()?;
    tokio::spawn(meter::upkeep(metrics.clone()));
    // Heard from now on, so that no signal ends the server in the middle of something.
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;

    let overrides = limiter::overrides(&fixed.store)?;
    // Before the first request, if Redis can be reached.
    overrides.refresh().await;
    tokio::spawn(overrides.clone().keep_fresh());
    let gate = Gate::new(limiter::limiters(&fixed.store, &rules)?, rules, overrides);
    let (listen, shutdown) = (fixed.listen, fixed.shutdown);
    let reloader = Reloader::new(file, fixed, sources, &gate)?;
    let reloads = reloader.reloads();

    let stopping = Stopping::new();
    let door = http::Door {
        gate: gate.clone(),
        metrics,
        stopping: stopping.clone(),
    };
    let (grpc, health) = grpc::router(gate.clone()).await?;
    let max_connections = descriptors::max_connections(listen.max_connections)?;
    // Half of them, so that no address keeps all others out.
    let max_per_address = match listen.max_connections_per_address {
        Some(max) => max as usize,
        None => max_connections.div_ceil(2),
    };
    let shared = Shared {
        connections: Connections::new(max_connections, max_per_address),
        deadlines: Deadlines {
            request: listen.request_deadline,
            age: listen.max_connection_age,
        },
        stopping: stopping.clone(),
    };
    let mut fronts = vec![
        Front::open("http", listen.http, http::router(door), &shared).await?,
        Front::open("grpc", listen.grpc, grpc, &shared).await?,
    ];
    if let Some(address) = listen.admin {
        let router = admin::router(Admin { gate, reloads });
        fronts.push(Front::open("admin", address, router, &shared).await?);
    }
    let addresses = fronts.iter().map(|front| front.to_string());
    println!("Listening: {}", addresses.collect::<Vec<_>>().join(", "));
    tokio::spawn(reloader.watch());

    let mut fronts = tokio::spawn(join_all(fronts.into_iter().map(Front::serve)));
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
        ended = &mut fronts => return ended.map(drop).context("a front door ended"),
    }
    tracing::info!("told to stop: clients are asked to go elsewhere");
    let end = async {
        health.say(false).await;
        stopping.stop(shutdown.delay).await;
        if timeout(shutdown.deadline, fronts).await.is_err() {
            tracing::warn!("some requests were still under way at the end");
        }
    };
    tokio::select! {
        () = end => {}
        _ = terminate.recv() => tracing::warn!("told to stop again: nobody is waited for"),
        _ = interrupt.recv() => tracing::warn!("told to stop again: nobody is waited for"),
    }
    Ok(())
}
