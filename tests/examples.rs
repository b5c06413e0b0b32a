//! Runs the example programs and checks what they do, over HTTP where they serve it.

#[path = "support/redis/mod.rs"]
mod servers;
#[path = "support/example.rs"]
mod support;

use std::collections::HashSet;
#[cfg(target_os = "linux")]
use std::fs;
use std::io::Read;
#[cfg(target_os = "linux")]
use std::process::Command;
use std::process::Stdio;
use std::time::Instant;

use futures_util::future::join_all;
use http::header::{AsHeaderName, RETRY_AFTER};
use http::{Response, StatusCode};
use serde_json::{Value, json};
use support::{Example, Service, program};
use tollgate::header::{X_RATELIMIT_DEGRADED, X_RATELIMIT_LIMIT, X_RATELIMIT_REMAINING, exposed};

/// The quota of both services.
const BURST: u64 = 10;
const PER_SECOND: f64 = 5.0;

#[tokio::test]
async fn axum_keeps_its_quota_and_counts() {
    let service = Service::start("axum");
    let Tally { served, denied } = assert_quota_kept(&service).await;

    let scrapes = service.burst("/metrics", |_| vec![]).await;
    assert!(scrapes.iter().all(is_exempt), "{scrapes:?}");
    let scrape = &scrapes[0];
    assert_eq!(header(scrape, "content-type"), "text/plain; version=0.0.4");
    // The counters match the responses that the test has seen. Both users made one request.
    for line in [
        format!(r#"rate_limit_allowed_total{{identity="ip",policy="default"}} {served}"#),
        format!(r#"rate_limit_blocked_total{{identity="ip",policy="default"}} {denied}"#),
        r#"rate_limit_allowed_total{identity="user",policy="default"} 2"#.into(),
        r#"rate_limit_blocked_total{identity="user",policy="default"} 0"#.into(),
    ] {
        let found = scrape.body().lines().any(|other| other == line);
        assert!(found, "no {line:?} in\n{}", scrape.body());
    }
    let described = scrape.body().contains("# HELP rate_limit_allowed_total ");
    assert!(described, "{}", scrape.body());
}

#[tokio::test]
async fn hyper_keeps_its_quota() {
    assert_quota_kept(&Service::start("hyper")).await;
}

/// Sends 200 wrong passwords at once over these services. Returns the number of 401s.
async fn guess(services: &[Service], name: &str) -> usize {
    let body = json!({"name": name, "password": "guess"});
    let guesses = (0..200).map(|number| {
        let service = &services[number % services.len()];
        service.post("/login", &body)
    });
    let answers = join_all(guesses).await;
    let answered = answers
        .iter()
        .filter(|answer| answer.status() == StatusCode::UNAUTHORIZED);
    let answered = answered.count();
    let denied = answers
        .iter()
        .filter(|answer| answer.status() == StatusCode::TOO_MANY_REQUESTS);
    assert_eq!(answered + denied.count(), 200);
    answered
}

#[tokio::test]
async fn login_answers_five_guesses_of_each_name() {
    let services = [Service::start("login")];
    let right = |name| json!({"name": name, "password": "open sesame"});
    for _ in 0..10 {
        let response = services[0].post("/login", &right("alice")).await;
        assert_eq!(response.status(), StatusCode::OK);
    }
    assert_eq!(guess(&services, "alice").await, 5);
    let locked = services[0].post("/login", &right("alice")).await;
    assert_eq!(locked.status(), StatusCode::TOO_MANY_REQUESTS);
    let other = services[0].post("/login", &right("bob")).await;
    assert_eq!(other.status(), StatusCode::OK);
    let malformed = services[0].post("/login", &json!({"name": "bob"})).await;
    assert_eq!(malformed.status(), StatusCode::BAD_REQUEST);
}

#[tokio::test]
async fn login_counts_guesses_over_two_processes() {
    let server = servers::Server::start().await;
    let start = || {
        let mut login = program("login");
        login.env("REDIS_URL", server.url());
        Service::start_with(&mut login)
    };
    let services = [start(), start()];
    // A name for each attempt: a busy machine misses deadlines, and each process then decides alone.
    for attempt in 0..20 {
        let answered = guess(&services, &format!("alice-{attempt}")).await;
        if answered == 5 {
            return;
        }
        assert!((5..=10).contains(&answered), "{answered} guesses");
    }
    panic!("every attempt was degraded");
}

/// How many requests of the address were served and denied.
struct Tally {
    served: usize,
    denied: usize,
}

/// Asserts that a service, which has had no requests yet, limits each address and user. Does not
/// depend on timing: the bounds include what the bucket may have regained.
async fn assert_quota_kept(service: &Service) -> Tally {
    let began = Instant::now();
    let refilled = || (PER_SECOND * began.elapsed().as_secs_f64()).ceil() as u64;

    // Spend the burst.
    for spent in 1..=BURST {
        let response = service.get("/", vec![]).await;
        assert_eq!(response.status(), StatusCode::OK);
        assert_eq!(response.body(), "Hello, 127.0.0.1!\n");
        assert_eq!(number(&response, X_RATELIMIT_LIMIT), BURST);
        let remaining = number(&response, X_RATELIMIT_REMAINING);
        let least = BURST - spent;
        let most = (least + refilled()).min(BURST - 1);
        assert!(
            (least..=most).contains(&remaining),
            "{remaining} after {spent}"
        );
    }

    // Forwarding headers and invalid tokens do not change the identity.
    let mut answers = service.burst("/", |_| vec![]).await;
    let forwarded = |i| {
        let client = format!("203.0.113.{i}");
        vec![
            ("forwarded", format!("for={client}")),
            ("x-real-ip", client.clone()),
            ("x-forwarded-for", client),
        ]
    };
    answers.extend(service.burst("/", forwarded).await);
    let invalid_token = |i| vec![("authorization", format!("Bearer alice{i}"))];
    answers.extend(service.burst("/", invalid_token).await);

    let most = (BURST + refilled()) as usize;
    let (served, denied): (Vec<_>, Vec<_>) = answers
        .iter()
        .partition(|answer| answer.status() == StatusCode::OK);
    let tally = Tally {
        served: BURST as usize + served.len(),
        denied: denied.len(),
    };
    assert!(tally.served <= most, "{} of at most {most}", tally.served);
    assert!(tally.denied > 0);
    for response in served {
        assert_eq!(response.body(), "Hello, 127.0.0.1!\n");
        assert_eq!(number(response, X_RATELIMIT_LIMIT), BURST);
        assert!(number(response, X_RATELIMIT_REMAINING) < BURST);
    }
    for response in denied {
        assert_eq!(response.status(), StatusCode::TOO_MANY_REQUESTS);
        assert_eq!(header(response, "content-type"), "application/problem+json");
        assert_eq!(header(response, "cache-control"), "no-store");
        assert!(number(response, RETRY_AFTER) >= 1);
        assert_eq!(number(response, X_RATELIMIT_LIMIT), BURST);
        assert_eq!(number(response, X_RATELIMIT_REMAINING), 0);
        let problem: Value = serde_json::from_str(response.body()).expect("JSON");
        let quota_exceeded = "https://iana.org/assignments/http-problem-types#quota-exceeded";
        assert_eq!(problem["type"], quota_exceeded);
        assert_eq!(problem["status"], 429);
        assert_eq!(problem["violated-policies"], json!(["default"]));
    }

    // Authenticated users have separate counts.
    for (credentials, greeting) in [
        ("Bearer alice", "Hello, alice!\n"),
        ("bearer bob", "Hello, bob!\n"),
    ] {
        let response = service
            .get("/", vec![("authorization", credentials.into())])
            .await;
        assert_eq!(response.status(), StatusCode::OK);
        assert_eq!(response.body(), greeting);
        assert_eq!(number(&response, X_RATELIMIT_REMAINING), BURST - 1);
    }

    let checks = service.burst("/health", |_| vec![]).await;
    assert!(checks.iter().all(is_exempt), "{checks:?}");

    tally
}

#[test]
fn tonic_client_stops_at_the_pushback() {
    let mut example = Example::start(program("tonic").stdout(Stdio::piped()));
    let mut stdout = example.0.stdout.take().expect("piped");
    let status = example.wait();
    assert!(status.success(), "{status}");

    let mut output = String::new();
    stdout.read_to_string(&mut output).expect("text");
    assert!(output.contains("RESOURCE_EXHAUSTED"), "{output}");
    let pushback: u64 = output
        .lines()
        .find_map(|line| line.strip_prefix("grpc-retry-pushback-ms: "))
        .and_then(|pushback| pushback.parse().ok())
        .unwrap_or_else(|| panic!("{output}"));
    // Ten per minute is one token per six seconds.
    assert!((1..=6_000).contains(&pushback), "{pushback}");
}

#[test]
fn outgoing_example_serves_each_worker() {
    let mut example = Example::start(program("outgoing").stdout(Stdio::piped()));
    let mut stdout = example.0.stdout.take().expect("piped");
    let status = example.wait();
    assert!(status.success(), "{status}");

    let mut output = String::new();
    stdout.read_to_string(&mut output).expect("text");
    let workers: Vec<_> = output
        .lines()
        .filter_map(|line| line.split_once(" ms  worker ")?.1.parse::<usize>().ok())
        .collect();
    for worker in 1..=3 {
        let calls = workers.iter().filter(|caller| **caller == worker).count();
        assert_eq!(calls, 8, "{output}");
    }
}

#[tokio::test]
async fn redis_example_shares_one_count_over_two_servers() {
    let server = servers::Server::start().await;
    // The second run must not see the count of the first.
    for _ in 0..2 {
        let mut program = program("redis");
        program
            .env("REDIS_URL", server.url())
            .stdout(Stdio::piped());
        let mut example = Example::start(&mut program);
        let mut stdout = example.0.stdout.take().expect("piped");
        let status = example.wait();
        assert!(status.success(), "{status}");

        let mut output = String::new();
        stdout.read_to_string(&mut output).expect("text");
        let answers = output.lines().filter_map(|line| line.split_once("  "));
        let answers: Vec<_> = answers.filter(|(server, _)| server.contains(':')).collect();
        for (index, (_, answer)) in answers.iter().enumerate() {
            let expected = match 5_usize.checked_sub(index) {
                Some(left) => format!("200 OK, {left} left"),
                None => "429 Too Many Requests".into(),
            };
            assert!(answer.starts_with(&expected), "{expected}: {output}");
        }
        let servers: HashSet<_> = answers.iter().map(|(server, _)| server).collect();
        assert_eq!((answers.len(), servers.len()), (8, 2), "{output}");
    }
}

#[tokio::test]
async fn axum_reads_its_limit_from_the_environment() {
    let service = Service::start_with(program("axum").env("LIMIT", "fixed 2/1d"));
    // Up to four if a window, which is a day of UTC, ends during the test.
    let mut allowed = 0;
    while service.get("/", vec![]).await.status() == StatusCode::OK {
        allowed += 1;
    }
    assert!((2..=4).contains(&allowed), "{allowed}");
}

/// An address without a server: port 1 is never used for outgoing connections.
const NO_SERVER: &str = "redis://127.0.0.1:1";

#[tokio::test]
async fn axum_serves_without_redis() {
    let mut program = program("axum");
    program
        .env("REDIS_URL", NO_SERVER)
        .env("LIMIT", "fixed 2/1d");

    let open = Service::start_with(&mut program);
    let response = open.get("/", vec![]).await;
    assert_eq!(response.status(), StatusCode::OK);
    assert_eq!(number(&response, X_RATELIMIT_REMAINING), 1);
    assert_eq!(header(&response, X_RATELIMIT_DEGRADED), "true");
    // The fallback limits, whether the breaker is open or not.
    let answers = open.burst("/", |_| vec![]).await;
    let denied = answers.iter().filter(|answer| is_denied(answer)).count();
    assert!(denied >= answers.len() - 3, "{denied}");
    let is_degraded = |answer| header(answer, X_RATELIMIT_DEGRADED) == "true";
    assert!(answers.iter().all(is_degraded), "{answers:?}");

    let unlimited = Service::start_with(program.env("FAILURE_STRATEGY", "open-unlimited"));
    for _ in 0..5 {
        let response = unlimited.get("/", vec![]).await;
        assert_eq!(response.status(), StatusCode::OK);
        assert_eq!(header(&response, X_RATELIMIT_DEGRADED), "true");
    }

    let closed = Service::start_with(program.env("FAILURE_STRATEGY", "closed"));
    let response = closed.get("/", vec![]).await;
    assert!(is_denied(&response), "{response:?}");
    assert_eq!(header(&response, X_RATELIMIT_DEGRADED), "true");
    assert_eq!(number(&response, RETRY_AFTER), 1);
    assert!(is_exempt(&closed.get("/health", vec![]).await));
}

#[test]
fn invalid_configuration_is_a_clear_error() {
    let strategy = "FAILURE_STRATEGY=never is unknown: use open, open-unlimited or closed";
    let no_server = "start `redis-server`, or set REDIS_URL to the URL of a server";
    for (name, variable, value, reason) in [
        ("axum", "PORT", "70000", "PORT=70000 is not a port"),
        ("hyper", "PORT", "70000", "PORT=70000 is not a port"),
        ("axum", "LIMIT", "10", "LIMIT: `10` is not a quota"),
        ("axum", "REDIS_URL", "redis:/here", "REDIS_URL: `"),
        ("axum", "FAILURE_STRATEGY", "never", strategy),
        ("redis", "REDIS_URL", NO_SERVER, no_server),
    ] {
        let mut program = program(name);
        let mut example = Example::start(program.env(variable, value).stderr(Stdio::piped()));
        let mut stderr = example.0.stderr.take().expect("piped");
        let status = example.wait();
        assert!(!status.success(), "{name}: {status}");

        let mut output = String::new();
        stderr.read_to_string(&mut output).expect("text");
        assert!(output.contains(reason), "{name}: {output}");
    }
}

#[cfg(target_os = "linux")]
#[tokio::test]
async fn ctrl_c_stops_the_services() {
    // Until the program handles SIGINT (signal 2), the signal kills it.
    let handles_sigint = |id: u32| {
        let status = fs::read_to_string(format!("/proc/{id}/status")).ok()?;
        let caught = status
            .lines()
            .find_map(|line| line.strip_prefix("SigCgt:"))?;
        let caught = u64::from_str_radix(caught.trim(), 16).ok()?;
        (caught & 0b10 != 0).then_some(())
    };
    for name in ["axum", "hyper"] {
        let mut service = Service::start(name);
        // This leaves an idle connection open, which must not delay the shutdown.
        service.get("/", vec![]).await;
        let id = service.example.0.id();
        support::wait_for("the signal handler", || handles_sigint(id));
        let sent = Command::new("kill")
            .args(["-INT", &id.to_string()])
            .status();
        assert!(sent.expect("kill runs").success());
        let status = service.example.wait();
        assert!(status.success(), "{name}: {status}");
    }
}

fn header(response: &Response<String>, name: impl AsHeaderName) -> &str {
    let value = response.headers().get(name).expect("the header is there");
    value.to_str().expect("text")
}

fn number(response: &Response<String>, name: impl AsHeaderName) -> u64 {
    header(response, name).parse().expect("a number")
}

fn is_denied(response: &Response<String>) -> bool {
    response.status() == StatusCode::TOO_MANY_REQUESTS
}

/// Returns whether a request was served without any rate limit header.
fn is_exempt(response: &Response<String>) -> bool {
    let headers = response.headers();
    response.status() == StatusCode::OK && !exposed().iter().any(|name| headers.contains_key(name))
}
