//! The whole way: an application that axum serves, and clients that ask it over HTTP.

use std::net::{Ipv4Addr, SocketAddr};

use axum::Router;
use axum::routing::get;
use tokio::net::TcpListener;
use tokio::runtime::{self, Runtime};
use tollgate::LocalStore;
use tower::util::MapResponseLayer;

use crate::allowance::Allowance;
use crate::arguments::Pace;
use crate::asking::{connection_of_peer, patient_limiter};
use crate::latencies::Throughput;
use crate::layers::{self, PeerAddress};
use crate::load;
use crate::redis_path::shown;
use crate::redis_server::RedisServer;
use crate::report::{Part, Requirement, Row, times};
use crate::rounds::{self, Measured, Who, Work};

const PEERS: [Who; 3] = [Who::TowerGovernor, Who::AxumGovernor, Who::RateNet];

/// What is compared. As many as Redis takes, if that was measured, stands beside.
pub(crate) fn compare(
    redis: &RedisServer,
    most_of_redis: Option<Row>,
    pace: Pace,
) -> anyhow::Result<Part> {
    let runtime = runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()?;
    let mut work = Work::new("all contenders");
    for (who, app) in apps(redis, &runtime)? {
        let address = runtime.block_on(serve(app))?;
        work.contender(who, move || {
            load::put_on(address, pace.over_http).expect("all requests are answered")
        });
    }
    let measured = rounds::run("http", pace.http_rounds(), vec![work]);
    let [measured] = &measured[..] else {
        unreachable!("there is one kind of work");
    };
    let mut rows = rows(measured);
    rows.extend(most_of_redis);
    let what = "HTTP, counts in the process: part of the bare application's throughput";
    let share = ratio(measured, Who::Tollgate, Who::Bare);
    Ok(Part {
        title: "HTTP, 64 clients, part of the throughput without a limiter (median / 99th percentile in µs)",
        rows,
        requirements: vec![Requirement::at_least(what.into(), share, 0.95)],
    })
}

/// The same application without a limiter and behind each.
fn apps(redis: &RedisServer, runtime: &Runtime) -> anyhow::Result<Vec<(Who, Router)>> {
    let app = || Router::new().route("/", get(async || "hello"));
    let (usual, sixteen_bits) = (Allowance::USUAL, Allowance::SIXTEEN_BITS);
    let connection = runtime.block_on(connection_of_peer(redis.url()))?;
    let limiter = patient_limiter(redis.url())?;
    // Where axum-governor starts a task that sweeps its table.
    let _entered = runtime.enter();
    Ok(vec![
        (Who::Bare, app()),
        (
            Who::Headers,
            app().layer(MapResponseLayer::new(layers::with_headers)),
        ),
        (
            Who::Tollgate,
            app().layer(layers::tollgate(usual, LocalStore::new())),
        ),
        (
            Who::TowerGovernor,
            app().layer(layers::tower_governor(usual)),
        ),
        (Who::AxumGovernor, app().layer(layers::axum_governor(usual))),
        (Who::RateNet, app().layer(layers::rate_net(usual))),
        (
            Who::TollgateRedis,
            app().layer(layers::tollgate(usual, limiter)),
        ),
        (
            Who::TowerRateLimitRedis,
            app().layer(layers::tower_rate_limit_redis(
                sixteen_bits,
                PeerAddress,
                connection,
            )),
        ),
    ])
}

/// Serves for as long as the runtime lives.
async fn serve(app: Router) -> anyhow::Result<SocketAddr> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
    let address = listener.local_addr()?;
    let app = app.into_make_service_with_connect_info::<SocketAddr>();
    tokio::spawn(async { axum::serve(listener, app).await });
    Ok(address)
}

/// How many times as much one does as another in the same round.
fn ratio(measured: &Measured<Throughput>, one: Who, other: Who) -> f64 {
    measured.median_beside(one, other, |one, other| one.per_second / other.per_second)
}

fn rows(measured: &Measured<Throughput>) -> Vec<Row> {
    let share = |who| {
        let share = 100.0 * ratio(measured, who, Who::Bare);
        format!("{share:.0} %: {}", shown(measured, who))
    };
    let beside = |ours, peer| share(peer) + &times(ratio(measured, ours, peer));
    let in_process = Row::new("counts in the process".into())
        .cell(Who::Tollgate, share(Who::Tollgate))
        .cell(
            Who::Bare,
            format!(
                "{}<br>with three headers: {}",
                shown(measured, Who::Bare),
                share(Who::Headers)
            ),
        );
    let in_process = PEERS.into_iter().fold(in_process, |row, peer| {
        row.cell(peer, beside(Who::Tollgate, peer))
    });
    let (ours, peer) = (Who::TollgateRedis, Who::TowerRateLimitRedis);
    let in_redis = Row::new("counts in Redis".into())
        .cell(ours, share(ours))
        .cell(peer, beside(ours, peer));
    vec![in_process, in_redis]
}
