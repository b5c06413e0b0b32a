//! The metrics of decisions, stores and circuit breakers. Their labels never contain an identity.

#[path = "support/redis/mod.rs"]
mod servers;

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::join_all;
use http::{Request, Response, StatusCode};
use http_body_util::Empty;
use metrics::{Counter, Gauge, Histogram, Key, KeyName, Metadata, Recorder, SharedString, Unit};
use metrics_util::debugging::{DebugValue, DebuggingRecorder, Snapshotter};
use tokio::runtime::Builder;
use tollgate::test_util::{Behavior, ManualClock, ProgrammableStore};
use tollgate::{
    Check, Identity, Kind, Limiter, Limits, LocalStore, PeerAddr, Policy, Quota, RateLimitLayer,
    RedisStore, Store, StoreErrorKind, UserId,
};
use tower::{Layer, ServiceExt};

const DOWN: Behavior = Behavior::Fail(StoreErrorKind::Unavailable);

/// Runs a test in virtual time with its own metrics recorder.
fn record(test: impl AsyncFnOnce(&Metrics)) {
    record_in(Builder::new_current_thread().start_paused(true), test);
}

/// Runs a test on this runtime with its own metrics recorder.
fn record_in(runtime: &mut Builder, test: impl AsyncFnOnce(&Metrics)) {
    let recorder = DebuggingRecorder::new();
    let metrics = Metrics {
        snapshotter: recorder.snapshotter(),
        gauges: RefCell::default(),
    };
    let runtime = runtime.enable_all().build().unwrap();
    metrics::with_local_recorder(&recorder, || {
        tollgate::describe_metrics();
        runtime.block_on(test(&metrics));
    });
}

/// Reads what the recorder of a test has recorded.
struct Metrics {
    snapshotter: Snapshotter,
    /// The total of each gauge. Each snapshot of the recorder resets its gauges to zero.
    gauges: RefCell<BTreeMap<String, f64>>,
}

impl Metrics {
    /// Returns all series, as `name{label=value}` with sorted labels: counters and histograms since the
    /// last snapshot, gauges in total. Panics if a metric has no description.
    fn snapshot(&self) -> BTreeMap<String, DebugValue> {
        let series = self.snapshotter.snapshot().into_vec().into_iter();
        series
            .map(|(key, unit, description, value)| {
                let is_described = unit.is_some() && description.is_some();
                assert!(is_described, "{key:?} has no description");
                let mut labels: Vec<_> = key.key().labels().collect();
                labels.sort();
                let labels = labels
                    .iter()
                    .map(|label| format!("{}={}", label.key(), label.value()));
                let labels = labels.collect::<Vec<_>>().join(",");
                let series = format!("{}{{{labels}}}", key.key().name());
                let value = match value {
                    DebugValue::Gauge(change) => {
                        let mut gauges = self.gauges.borrow_mut();
                        let total = gauges.entry(series.clone()).or_default();
                        *total += change.into_inner();
                        DebugValue::Gauge((*total).into())
                    }
                    value => value,
                };
                (series, value)
            })
            .collect()
    }

    /// Returns the counters that increased since the last snapshot, and all gauges but the estimate of
    /// live entries, each as `series value`.
    fn changed(&self) -> Vec<String> {
        let changed = self
            .snapshot()
            .into_iter()
            .filter_map(|(series, value)| match value {
                DebugValue::Counter(0) | DebugValue::Histogram(_) => None,
                DebugValue::Counter(count) => Some(format!("{series} {count}")),
                DebugValue::Gauge(_) if series.starts_with("rate_limit_live_entries") => None,
                DebugValue::Gauge(value) => Some(format!("{series} {value}")),
            });
        changed.collect()
    }
}

fn ten_a_day() -> Limits {
    Quota::per_day(10).into()
}

#[test]
fn decisions_are_counted_by_kind_and_binding_policy() {
    record(async |metrics| {
        let limiter = Limiter::from(LocalStore::new());
        let limits = Limits::new([
            Policy::new("roomy", Quota::per_day(100)),
            Policy::new("tight", Quota::per_day(2)),
        ])
        .unwrap();
        let alice = Identity::user("alice");
        let address = Identity::ip("203.0.113.7".parse().unwrap());
        for identity in [&alice, &alice, &alice, &address] {
            limiter.check(&Check::new(identity, &limits)).await;
        }
        limiter.peek(&Check::new(&alice, &limits)).await;
        limiter.reset(&Check::new(&alice, &limits)).await.unwrap();
        assert_eq!(
            metrics.changed(),
            [
                "rate_limit_allowed_total{identity=ip,policy=tight} 1",
                "rate_limit_allowed_total{identity=user,policy=tight} 2",
                "rate_limit_blocked_total{identity=user,policy=tight} 1",
                "rate_limit_store_operations_total{operation=check,status=ok,store=local} 4",
                "rate_limit_store_operations_total{operation=peek,status=ok,store=local} 1",
                "rate_limit_store_operations_total{operation=reset,status=ok,store=local} 1",
            ]
        );
    });
}

#[test]
fn store_outage_and_recovery_are_counted() {
    record(async |metrics| {
        let store = ProgrammableStore::new();
        let limiter = Limiter::from(store.clone());
        let (alice, limits) = (Identity::user("alice"), ten_a_day());
        let check = Check::new(&alice, &limits);
        store.behave(DOWN);
        for _ in 0..4 {
            limiter.check(&check).await;
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        assert_eq!(
            metrics.changed(),
            [
                "rate_limit_allowed_total{identity=user,policy=default} 4",
                "rate_limit_breaker_open{lane=0,store=programmable} 1",
                "rate_limit_degraded_total{store=programmable} 4",
                "rate_limit_errors_total{kind=unavailable} 3",
                "rate_limit_store_operations_total{operation=check,status=error,store=programmable} 3",
            ]
        );

        store.behave(Behavior::Hang);
        tokio::time::sleep(Duration::from_millis(151)).await;
        let changed = metrics.changed();
        let probe = "{operation=probe,status=timed_out,store=programmable}";
        assert!(
            changed.contains(&format!("rate_limit_store_operations_total{probe} 1")),
            "{changed:?}"
        );

        store.behave(Behavior::Answer);
        tokio::time::sleep(Duration::from_secs(2)).await;
        let changed = metrics.changed();
        let closed = "rate_limit_breaker_open{lane=0,store=programmable} 0";
        assert!(changed.contains(&closed.to_owned()), "{changed:?}");
        assert!(!limiter.check(&check).await.is_degraded());
    });
}

#[test]
fn pending_checks_are_timed_and_remaining_is_sampled() {
    record(async |metrics| {
        let store = ProgrammableStore::new();
        let limiter = Limiter::from(store.clone());
        let (alice, limits) = (Identity::user("alice"), ten_a_day());
        let check = Check::new(&alice, &limits);
        limiter.check(&check).await;
        store.behave(Behavior::AnswerAfter(Duration::from_millis(20)));
        limiter.check(&check).await;
        let snapshot = metrics.snapshot();
        let histogram = |name: &str| match &snapshot[name] {
            DebugValue::Histogram(values) => {
                values.iter().map(|v| v.into_inner()).collect::<Vec<_>>()
            }
            other => panic!("{name} is {other:?}"),
        };
        let waits = histogram("rate_limit_check_duration_seconds{store=programmable}");
        assert_eq!(
            waits,
            [0.02],
            "only the pending check is timed, in virtual time"
        );
        assert_eq!(
            histogram("rate_limit_remaining_ratio{policy=default}"),
            [0.9]
        );
    });
}

#[test]
fn delays_of_queued_checks_are_recorded() {
    record(async |metrics| {
        let limiter = Limiter::from(LocalStore::new().clock(ManualClock::new()));
        let (alice, limits) = (
            Identity::user("alice"),
            Limits::from(Quota::per_second(10).burst(1).queue(2)),
        );
        let check = Check::new(&alice, &limits);
        for limiter in [&limiter, &limiter, &limiter.clone().shadow(true)] {
            drop(limiter.acquire(&check).await.unwrap());
        }
        let delays = &metrics.snapshot()["rate_limit_delay_seconds{store=local}"];
        let DebugValue::Histogram(delays) = delays else {
            panic!("{delays:?}");
        };
        let delays: Vec<f64> = delays.iter().map(|delay| delay.into_inner()).collect();
        assert_eq!(
            delays,
            [0.1],
            "neither a check without a delay nor shadow mode"
        );
    });
}

#[test]
fn shadow_denials_have_a_separate_counter() {
    record(async |metrics| {
        let layer = RateLimitLayer::new(Quota::per_day(1), LocalStore::new()).shadow(true);
        let service = layer.layer(tower::service_fn(async |_: Request<()>| {
            Ok::<_, std::convert::Infallible>(Response::new(Empty::<Bytes>::new()))
        }));
        for _ in 0..3 {
            let mut request = Request::new(());
            request.extensions_mut().insert(UserId::new("alice"));
            let response = service.clone().oneshot(request).await.unwrap();
            assert_eq!(response.status(), StatusCode::OK);
        }
        let changed = metrics.changed();
        assert_eq!(
            changed[0],
            "rate_limit_allowed_total{identity=user,policy=default} 1"
        );
        assert_eq!(
            changed[1],
            "rate_limit_shadow_blocked_total{identity=user,policy=default} 2"
        );
        assert!(
            !changed
                .iter()
                .any(|series| series.contains("rate_limit_blocked_total"))
        );
    });
}

#[test]
fn evictions_are_counted_and_live_entries_estimated() {
    record(async |metrics| {
        let clock = ManualClock::new();
        let store = LocalStore::with_capacity(10_000).clock(clock.clone());
        let limiter = Limiter::from(store);
        let limits = ten_a_day();
        let fill = async |count: usize| {
            for index in 0..count {
                let user = Identity::user(&index.to_string());
                limiter.check(&Check::new(&user, &limits)).await;
            }
        };
        let live = |snapshot: &BTreeMap<String, DebugValue>| match snapshot["rate_limit_live_entries{store=local}"]
        {
            DebugValue::Gauge(live) => live.into_inner(),
            ref other => panic!("{other:?}"),
        };
        fill(5_000).await;
        let evicted = "rate_limit_evictions_total{store=local}";
        assert!(
            !metrics.snapshot().contains_key(evicted),
            "the table is not full"
        );
        clock.advance(Duration::from_secs(2));
        fill(5_000).await;
        let estimate = live(&metrics.snapshot());
        assert_eq!(estimate, 5_000.0, "a small table is counted exactly");

        fill(30_000).await;
        assert!(matches!(
            metrics.snapshot()[evicted],
            DebugValue::Counter(1_000..)
        ));
        clock.advance(Duration::from_secs(2 * 86_400));
        fill(100).await;
        clock.advance(Duration::from_secs(2));
        fill(100).await;
        assert_eq!(
            live(&metrics.snapshot()),
            100.0,
            "expired entries are not live"
        );
    });
}

#[test]
fn stores_of_one_name_are_counted_together() {
    record(async |metrics| {
        let limits = ten_a_day();
        let limiters = [(); 3].map(|()| Limiter::from(LocalStore::new()));
        for limiter in &limiters {
            limiter
                .check(&Check::new(&Identity::user("alice"), &limits))
                .await;
        }
        let live = || match metrics.snapshot()["rate_limit_live_entries{store=local}"] {
            DebugValue::Gauge(live) => live.into_inner(),
            ref other => panic!("{other:?}"),
        };
        assert_eq!(live(), 3.0);
        drop(limiters);
        assert_eq!(live(), 0.0, "the stores were dropped");

        let stores = [(); 2].map(|()| ProgrammableStore::new());
        let [failing, healthy] = stores.each_ref().map(|store| Limiter::from(store.clone()));
        stores[0].behave(DOWN);
        for _ in 0..4 {
            failing
                .check(&Check::new(&Identity::user("alice"), &limits))
                .await;
            healthy
                .check(&Check::new(&Identity::user("alice"), &limits))
                .await;
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        let open = "rate_limit_breaker_open{lane=0,store=programmable} 1".to_owned();
        assert!(
            metrics.changed().contains(&open),
            "the breaker of the failing store is open"
        );
        drop(failing);
        tokio::time::sleep(Duration::from_secs(3)).await;
        let open = "rate_limit_breaker_open{lane=0,store=programmable} 0".to_owned();
        assert!(metrics.changed().contains(&open), "no open breaker is left");
    });
}

#[test]
fn labels_are_bounded_and_contain_no_identity() {
    record(async |metrics| {
        let limiter = Limiter::from(LocalStore::new());
        let limits = ten_a_day();
        for index in 0..2_000 {
            let secret = format!("s3cr3t-{index}");
            let identity = Identity::new(&Kind::try_new(format!("kind-{index}")).unwrap(), &secret);
            limiter.check(&Check::new(&identity, &limits)).await;
        }
        let snapshot = metrics.snapshot();
        let mut counted = 0;
        let mut rows = 0;
        for (series, value) in &snapshot {
            assert!(!series.contains("s3cr3t"), "{series}");
            if let (true, DebugValue::Counter(count)) =
                (series.starts_with("rate_limit_allowed_total"), value)
            {
                counted += count;
                rows += 1;
            }
        }
        assert_eq!(counted, 2_000, "no decision is lost");
        assert!((100..=257).contains(&rows), "{rows} series");
        assert!(snapshot.contains_key("rate_limit_allowed_total{identity=other,policy=other}"));
    });
}

/// Runs in real time, with a real server.
#[test]
fn redis_batch_sizes_and_cached_denials_are_counted() {
    record_in(&mut Builder::new_current_thread(), async |metrics| {
        let server = servers::Server::start().await;
        let store = RedisStore::new(&server.url()).unwrap();
        store.ping().await.unwrap();
        metrics.snapshot();
        let (alice, limits) = (Identity::user("alice"), ten_a_day());
        let checks = (0..15).map(|_| store.check(&Check::new(&alice, &limits)).wait());
        join_all(checks).await;
        for _ in 0..3 {
            let check = Check::new(&alice, &limits);
            store.check(&check).wait().await.unwrap();
        }
        let snapshot = metrics.snapshot();
        let DebugValue::Histogram(sizes) = &snapshot["rate_limit_batch_size{store=redis}"] else {
            panic!("{snapshot:?}");
        };
        let sizes: Vec<f64> = sizes.iter().map(|size| size.into_inner()).collect();
        assert_eq!(sizes, [15.0]);
        let hits = &snapshot["rate_limit_denial_cache_hits_total{store=redis}"];
        assert_eq!(*hits, DebugValue::Counter(3));
    });
}

/// Collects the names of the metrics that are described, with their kinds.
#[derive(Default)]
struct DescribedMetrics(RefCell<BTreeSet<(String, &'static str)>>);

impl DescribedMetrics {
    fn add(&self, name: &KeyName, kind: &'static str) {
        let is_new = self.0.borrow_mut().insert((name.as_str().to_owned(), kind));
        assert!(is_new, "{name:?} is described twice");
    }
}

impl Recorder for DescribedMetrics {
    fn describe_counter(&self, name: KeyName, _: Option<Unit>, _: SharedString) {
        self.add(&name, "counter");
    }

    fn describe_gauge(&self, name: KeyName, _: Option<Unit>, _: SharedString) {
        self.add(&name, "gauge");
    }

    fn describe_histogram(&self, name: KeyName, _: Option<Unit>, _: SharedString) {
        self.add(&name, "histogram");
    }

    fn register_counter(&self, _: &Key, _: &Metadata<'_>) -> Counter {
        Counter::noop()
    }

    fn register_gauge(&self, _: &Key, _: &Metadata<'_>) -> Gauge {
        Gauge::noop()
    }

    fn register_histogram(&self, _: &Key, _: &Metadata<'_>) -> Histogram {
        Histogram::noop()
    }
}

/// The snapshots of the other tests assert that each metric that the crate emits is described.
#[test]
fn described_metrics_are_the_documented_ones() {
    let described = DescribedMetrics::default();
    metrics::with_local_recorder(&described, tollgate::describe_metrics);
    let rows = include_str!("../src/guide/metrics.md").lines();
    let documented = rows.filter_map(|row| {
        let (name, row) = row.strip_prefix("| `")?.split_once("` |")?;
        let kind = match row {
            _ if row.contains("| histogram:") => "histogram",
            _ if row.contains("| gauge:") => "gauge",
            _ => "counter",
        };
        Some((name.to_owned(), kind))
    });
    assert_eq!(described.0.take(), documented.collect::<BTreeSet<_>>());
}

#[test]
fn middleware_decisions_are_counted() {
    record(async |metrics| {
        let layer = RateLimitLayer::new(Quota::per_day(1), LocalStore::new())
            .skip(|parts| parts.uri.path() == "/health");
        let service = layer.layer(tower::service_fn(async |_: Request<()>| {
            Ok::<_, std::convert::Infallible>(Response::new(Empty::<Bytes>::new()))
        }));
        for path in ["/", "/", "/health"] {
            let mut request = Request::builder().uri(path).body(()).unwrap();
            request
                .extensions_mut()
                .insert(PeerAddr("203.0.113.7:443".parse().unwrap()));
            let _ = service.clone().oneshot(request).await.unwrap();
        }
        assert_eq!(
            metrics.changed(),
            [
                "rate_limit_allowed_total{identity=ip,policy=default} 1",
                "rate_limit_blocked_total{identity=ip,policy=default} 1",
                "rate_limit_store_operations_total{operation=check,status=ok,store=local} 2",
            ]
        );
    });
}

#[test]
fn quotas_of_one_policy_name_share_a_series() {
    record(async |metrics| {
        let limiter = Limiter::from(LocalStore::new());
        let alice = Identity::user("alice");
        for limit in 1..=1_000 {
            let limits = Limits::from(Quota::per_day(limit));
            limiter.check(&Check::new(&alice, &limits)).await;
        }
        let changed = metrics.changed();
        let row = "rate_limit_allowed_total{identity=user,policy=default} 1000";
        assert!(changed.contains(&row.into()), "{changed:?}");
    });
}

#[test]
fn unknown_policies_and_kinds_displace_no_configured_series() {
    record(async |metrics| {
        let limiter = Limiter::from(LocalStore::with_capacity(10_000));
        let limits = Limits::new([Policy::new("api", Quota::per_day(1_000))]).unwrap();
        let layer = RateLimitLayer::new(limits.clone(), limiter.clone()).scope("api");
        drop(layer.layer(()));
        for number in 0..1_000 {
            // No layer has this policy, and a client could choose this kind of identity.
            let foreign = Policy::new(format!("foreign-{number}"), Quota::per_day(1));
            let foreign = Limits::new([foreign]).unwrap();
            let identity = Identity::new(&Kind::try_new(format!("kind-{number}")).unwrap(), "1");
            limiter.check(&Check::new(&identity, &foreign)).await;
        }
        metrics.changed();
        let alice = Identity::user("alice");
        for number in 0..1_000 {
            limiter.check(&Check::new(&alice, &limits)).await;
            let identity = Identity::new(&Kind::try_new(format!("made-up-{number}")).unwrap(), "1");
            limiter.check(&Check::new(&identity, &limits)).await;
        }
        let changed = metrics.changed();
        let row = "rate_limit_allowed_total{identity=user,policy=api} 1000";
        assert!(changed.contains(&row.into()), "{changed:?}");
        let rows = changed.iter().filter(|row| row.contains("policy=api}"));
        let counts = rows.map(|row| row.rsplit(' ').next().unwrap().parse::<u64>().unwrap());
        assert_eq!(
            counts.sum::<u64>(),
            2_000,
            "each decision is counted under `api`: {changed:?}"
        );
    });
}

#[test]
fn layers_of_a_single_quota_are_told_apart() {
    record(async |metrics| {
        let limiter = Limiter::from(LocalStore::new());
        for scope in ["login", "search"] {
            let layer = RateLimitLayer::new(Quota::per_day(9), limiter.clone())
                .scope(scope)
                .identify_by(|_: &http::request::Parts| Ok(Identity::user("alice")));
            let service = layer.layer(tower::service_fn(async |_: Request<()>| {
                Ok::<_, std::convert::Infallible>(Response::new(Empty::<Bytes>::new()))
            }));
            let _ = service.oneshot(Request::new(())).await.unwrap();
        }
        let changed = metrics.changed();
        for scope in ["login", "search"] {
            let row = format!("rate_limit_allowed_total{{identity=user,policy={scope}}} 1");
            assert!(changed.contains(&row), "{changed:?}");
        }
    });
}

#[test]
fn requests_without_an_identity_are_counted() {
    record(async |metrics| {
        let layer = RateLimitLayer::new(Quota::per_day(1), LocalStore::new());
        for layer in [layer.clone(), layer.shadow(true)] {
            let service = layer.layer(tower::service_fn(async |_: Request<()>| {
                Ok::<_, std::convert::Infallible>(Response::new(Empty::<Bytes>::new()))
            }));
            let _ = service.oneshot(Request::new(())).await.unwrap();
        }
        assert_eq!(metrics.changed(), ["rate_limit_unidentified_total{} 2"]);
    });
}
