//! Describes the versions, the machine and the method, for the reader of the table.

use std::fs;
use std::process::Command;
use std::thread;

use crate::arguments::Schedule;

const CARGO_LOCK: &str = include_str!("../Cargo.lock");

const COMPARED: [&str; 6] = [
    "tollgate",
    "governor",
    "tower_governor",
    "axum-governor",
    "rate-net",
    "tower-rate-limit-redis",
];

/// Returns the description as a paragraph. `share_of_others` is the share of the processors' time
/// that other programs used, if it is known.
pub(crate) fn describe(schedule: Schedule, share_of_others: Option<f64>) -> String {
    let compared = COMPARED.map(|name| format!("{name} {}", version(name).unwrap_or("unknown")));
    let cores = thread::available_parallelism().map_or(0, |cores| cores.get());
    let date = output_of(&["date", "-u", "+%F"]);
    let rustc = output_of(&["rustc", "--version"]);
    let redis = output_of(&["redis-server", "--version"]);
    let mut words = redis.split(' ');
    let redis = words.find_map(|word| word.strip_prefix("v="));
    let redis = redis.unwrap_or("unknown");
    let share_of_others = share_of_others.map_or("an unknown share".into(), |share| {
        format!("{:.0} %", 100.0 * share)
    });
    format!(
        "{}. On {date}; {}, {cores} cores; {rustc}; Redis {redis} on the same machine. Other \
         programs used {share_of_others} of the processors' time. Medians of {} rounds ({} over \
         HTTP), in each of which every contender was timed once. In brackets: by what factor \
         tollgate is better than that contender (below 1: worse).",
        compared.join(", "),
        processor(),
        schedule.rounds,
        schedule.http_rounds(),
    )
}

/// Returns the version of a crate in Cargo.lock.
fn version(name: &str) -> Option<&'static str> {
    let line = format!("name = \"{name}\"\n");
    let (_, rest) = CARGO_LOCK.split_once(&line)?;
    rest.strip_prefix("version = \"")?.split('"').next()
}

/// Returns the name of the processor's model.
fn processor() -> String {
    let information = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = information
        .lines()
        .find_map(|line| line.strip_prefix("model name")?.split_once(": "));
    model.map_or("an unknown processor".into(), |(_, model)| model.into())
}

/// Runs a command. Returns its output, or `<program> unknown` if the program cannot be run.
fn output_of(command: &[&str]) -> String {
    let output = Command::new(command[0]).args(&command[1..]).output();
    let text = output.map(|output| String::from_utf8_lossy(&output.stdout).trim().to_owned());
    text.unwrap_or_else(|_| format!("{} unknown", command[0]))
}
