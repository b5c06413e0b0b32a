//! Measures the throughput of an application that axum serves over HTTP.

use std::net::{Ipv4Addr, SocketAddr};

use axum::Router;
use axum::routing::get;
use tokio::net::TcpListener;
use tokio::runtime::{self, Runtime};
use tollgate::LocalStore;
use tower::util::MapResponseLayer;

use crate::arguments::Schedule;
use crate::contest::{self, Contender, Contest, Measured};
use crate::histogram::LoadResult;
use crate::http_clients;
use crate::layers::{self, PeerAddress};
use crate::redis_limiters::{connect_peer, tollgate_limiter};
use crate::redis_path::format_load_result;
use crate::redis_server::RedisServer;
use crate::report::{Part, Requirement, Row, format_factor};
use crate::token_bucket::TokenBucket;

const PEERS: [Contender; 3] = [
    Contender::TowerGovernor,
    Contender::AxumGovernor,
    Contender::RateNet,
];

/// Runs the contest. `redis_row` is a row of the part about Redis, which this part repeats as the
/// maximum that Redis allows.
pub(crate) fn compare(
    redis: &RedisServer,
    redis_row: Option<Row>,
    schedule: Schedule,
) -> anyhow::Result<Part> {
    let runtime = runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()?;
    let mut contest = Contest::new("all contenders");
    for (contender, app) in apps(redis, &runtime)? {
        let address = runtime.block_on(serve(app))?;
        contest.add(contender, move || {
            http_clients::measure(address, schedule.over_http).expect("every request is allowed")
        });
    }
    let measured = contest::run("http", schedule.http_rounds(), vec![contest]);
    let [measured] = &measured[..] else {
        unreachable!("there is one contest");
    };
    let mut rows = rows(measured);
    rows.extend(redis_row);
    let label = "HTTP, counts in the process: part of the bare application's throughput";
    let share = ratio(measured, Contender::Tollgate, Contender::Bare);
    Ok(Part {
        title: "HTTP, 64 clients, part of the throughput without a limiter (median / 99th percentile in µs)",
        rows,
        requirements: vec![Requirement::at_least(label.into(), share, 0.95)],
    })
}

/// Returns the same application without a limiter and with each of the limiters.
fn apps(redis: &RedisServer, runtime: &Runtime) -> anyhow::Result<Vec<(Contender, Router)>> {
    let app = || Router::new().route("/", get(async || "hello"));
    let (usual, sixteen_bits) = (TokenBucket::USUAL, TokenBucket::SIXTEEN_BITS);
    let connection = runtime.block_on(connect_peer(redis.url()))?;
    let limiter = tollgate_limiter(redis.url())?;
    // axum-governor starts a task that sweeps its table, which needs a runtime.
    let _entered = runtime.enter();
    Ok(vec![
        (Contender::Bare, app()),
        (
            Contender::Headers,
            app().layer(MapResponseLayer::new(layers::with_headers)),
        ),
        (
            Contender::Tollgate,
            app().layer(layers::tollgate(usual, LocalStore::new())),
        ),
        (
            Contender::TowerGovernor,
            app().layer(layers::tower_governor(usual)),
        ),
        (
            Contender::AxumGovernor,
            app().layer(layers::axum_governor(usual)),
        ),
        (Contender::RateNet, app().layer(layers::rate_net(usual))),
        (
            Contender::TollgateRedis,
            app().layer(layers::tollgate(usual, limiter)),
        ),
        (
            Contender::TowerRateLimitRedis,
            app().layer(layers::tower_rate_limit_redis(
                sixteen_bits,
                PeerAddress,
                connection,
            )),
        ),
    ])
}

/// Serves the application until the runtime is dropped.
async fn serve(app: Router) -> anyhow::Result<SocketAddr> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
    let address = listener.local_addr()?;
    let app = app.into_make_service_with_connect_info::<SocketAddr>();
    tokio::spawn(async { axum::serve(listener, app).await });
    Ok(address)
}

/// Returns the throughput of a contender relative to another one in the same round.
fn ratio(measured: &Measured<LoadResult>, contender: Contender, baseline: Contender) -> f64 {
    measured.median_of_pairs(contender, baseline, |contender, baseline| {
        contender.per_second / baseline.per_second
    })
}

fn rows(measured: &Measured<LoadResult>) -> Vec<Row> {
    let share = |contender| {
        let share = 100.0 * ratio(measured, contender, Contender::Bare);
        format!("{share:.0} %: {}", format_load_result(measured, contender))
    };
    let compared = |tollgate, peer| share(peer) + &format_factor(ratio(measured, tollgate, peer));
    let in_process = Row::new("counts in the process".into())
        .cell(Contender::Tollgate, share(Contender::Tollgate))
        .cell(
            Contender::Bare,
            format!(
                "{}<br>with three headers: {}",
                format_load_result(measured, Contender::Bare),
                share(Contender::Headers)
            ),
        );
    let in_process = PEERS.into_iter().fold(in_process, |row, peer| {
        row.cell(peer, compared(Contender::Tollgate, peer))
    });
    let (tollgate, peer) = (Contender::TollgateRedis, Contender::TowerRateLimitRedis);
    let in_redis = Row::new("counts in Redis".into())
        .cell(tollgate, share(tollgate))
        .cell(peer, compared(tollgate, peer));
    vec![in_process, in_redis]
}
