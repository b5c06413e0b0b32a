//! What is compared, and on what: what a reader of the table has to know.

use std::fs;
use std::process::Command;
use std::thread;

use crate::arguments::Pace;

const LOCK: &str = include_str!("../Cargo.lock");

const COMPARED: [&str; 6] = [
    "tollgate",
    "governor",
    "tower_governor",
    "axum-governor",
    "rate-net",
    "tower-rate-limit-redis",
];

/// In a paragraph. Others have taken a part of the processors' time meanwhile, if it is known.
pub(crate) fn describe(pace: Pace, others: Option<f64>) -> String {
    let compared = COMPARED.map(|name| format!("{name} {}", version(name).unwrap_or("unknown")));
    let cores = thread::available_parallelism().map_or(0, |cores| cores.get());
    let date = said(&["date", "-u", "+%F"]);
    let rustc = said(&["rustc", "--version"]);
    let redis = said(&["redis-server", "--version"]);
    let mut words = redis.split(' ');
    let redis = words.find_map(|word| word.strip_prefix("v="));
    let redis = redis.unwrap_or("unknown");
    let others = others.map_or("an unknown part".into(), |part| {
        format!("{:.0} %", 100.0 * part)
    });
    format!(
        "{}. On {date}; {}, {cores} cores; {rustc}; Redis {redis} on the same machine, of whose \
         time other programs took {others} meanwhile. Medians of {} rounds ({} over HTTP), in each \
         of which every contender was timed once. In brackets: how many times as well as that one \
         tollgate does.",
        compared.join(", "),
        processor(),
        pace.rounds,
        pace.http_rounds(),
    )
}

/// The version that was built.
fn version(name: &str) -> Option<&'static str> {
    let line = format!("name = \"{name}\"\n");
    let (_, rest) = LOCK.split_once(&line)?;
    rest.strip_prefix("version = \"")?.split('"').next()
}

fn processor() -> String {
    let information = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = information
        .lines()
        .find_map(|line| line.strip_prefix("model name")?.split_once(": "));
    model.map_or("an unknown processor".into(), |(_, model)| model.into())
}

fn said(command: &[&str]) -> String {
    let output = Command::new(command[0]).args(&command[1..]).output();
    let said = output.map(|output| String::from_utf8_lossy(&output.stdout).trim().to_owned());
    said.unwrap_or_else(|_| format!("{} unknown", command[0]))
}
