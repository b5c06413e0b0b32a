//! What is printed: one table in Markdown, and whether what is required is met.

use std::fmt;

use crate::rounds::Who;

/// The table, part by part.
pub(crate) struct Report {
    /// What was measured, and where.
    pub(crate) preamble: String,
    pub(crate) parts: Vec<Part>,
}

pub(crate) struct Part {
    pub(crate) title: &'static str,
    pub(crate) rows: Vec<Row>,
    pub(crate) requirements: Vec<Requirement>,
}

#[derive(Clone, Copy)]
enum Column {
    /// What is measured.
    Work,
    Tollgate,
    Governor,
    AxumGovernor,
    RateNet,
    TowerRateLimitRedis,
    /// Without a limiter, or with the least that could be one.
    Bare,
}

const HEADINGS: [&str; 7] = [
    "",
    "tollgate",
    "governor, tower_governor",
    "axum-governor",
    "rate-net",
    "tower-rate-limit-redis",
    "without a limiter",
];

impl Column {
    fn of(who: Who) -> Self {
        match who {
            Who::Tollgate | Who::TollgateDecision | Who::TollgateRedis => Self::Tollgate,
            Who::Governor | Who::TowerGovernor => Self::Governor,
            Who::AxumGovernor => Self::AxumGovernor,
            Who::RateNet => Self::RateNet,
            Who::TowerRateLimitRedis => Self::TowerRateLimitRedis,
            Who::Bare | Who::Headers | Who::LeanScript | Who::Ping => Self::Bare,
        }
    }
}

pub(crate) struct Row([String; HEADINGS.len()]);

impl Row {
    pub(crate) fn new(label: String) -> Self {
        let mut cells = [const { String::new() }; HEADINGS.len()];
        cells[Column::Work as usize] = label;
        Self(cells)
    }

    #[must_use]
    pub(crate) fn cell(mut self, of: Who, shown: String) -> Self {
        self.0[Column::of(of) as usize] = shown;
        self
    }
}

/// A bound that tollgate must keep.
pub(crate) struct Requirement {
    what: String,
    measured: f64,
    bound: Bound,
    aside: Option<String>,
}

enum Bound {
    AtLeast(f64),
    AtMost(f64),
}

impl Requirement {
    pub(crate) fn at_least(what: String, measured: f64, least: f64) -> Self {
        Self::new(what, measured, Bound::AtLeast(least))
    }

    pub(crate) fn at_most(what: String, measured: f64, most: f64) -> Self {
        Self::new(what, measured, Bound::AtMost(most))
    }

    fn new(what: String, measured: f64, bound: Bound) -> Self {
        Self {
            what,
            measured,
            bound,
            aside: None,
        }
    }

    /// The same requirement, with something to be said beside it.
    #[must_use]
    pub(crate) fn aside(self, aside: String) -> Self {
        let aside = Some(aside);
        Self { aside, ..self }
    }

    fn is_met(&self) -> bool {
        match self.bound {
            Bound::AtLeast(least) => self.measured >= least,
            Bound::AtMost(most) => self.measured <= most,
        }
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}\n", self.preamble)?;
        writeln!(f, "| {} |", HEADINGS.join(" | "))?;
        writeln!(f, "|{}", "---|".repeat(HEADINGS.len()))?;
        for part in &self.parts {
            let empty = "| ".repeat(HEADINGS.len() - 1);
            writeln!(f, "| **{}** {empty}|", part.title)?;
            for Row(cells) in &part.rows {
                writeln!(f, "| {} |", cells.join(" | "))?;
            }
        }
        writeln!(f)?;
        for requirement in self.parts.iter().flat_map(|part| &part.requirements) {
            writeln!(f, "- {requirement}")?;
        }
        Ok(())
    }
}

impl fmt::Display for Requirement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let number = |number: f64| match number {
            large if large >= 100.0 => grouped(large),
            small if small < 1.0 => format!("{small:.3}"),
            other => format!("{other:.2}"),
        };
        let (relation, bound) = match self.bound {
            Bound::AtLeast(least) => ("at least", number(least)),
            Bound::AtMost(most) => ("at most", number(most)),
        };
        let met = if self.is_met() { "met" } else { "**NOT met**" };
        let measured = number(self.measured);
        let what = &self.what;
        write!(f, "{met}: {what}: {measured}, required {relation} {bound}")?;
        match &self.aside {
            Some(aside) => write!(f, " ({aside})"),
            None => Ok(()),
        }
    }
}

/// With two or three figures that say something, such as 7.4, 391 or 94,200.
pub(crate) fn grouped(number: f64) -> String {
    if number < 0.0 {
        return format!("−{}", grouped(-number));
    }
    if number < 10.0 {
        return format!("{number:.1}");
    }
    let scale = 10_f64.powi((number.log10() as i32 - 2).max(0));
    let digits = format!("{:.0}", (number / scale).round() * scale);
    let mut shown = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index) % 3 == 0 {
            shown.push(',');
        }
        shown.push(digit);
    }
    shown
}

/// How many times as well as a peer tollgate does; nothing where one takes less than no time, as a
/// denial may that spares what is within.
pub(crate) fn times(ratio: f64) -> String {
    match ratio > 0.0 {
        true => format!(" ({ratio:.1}×)"),
        false => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_grouped() {
        let shown = [0.0, 7.4, 391.0, 1_147.0, 94_049.0, 1_000_000.0, -120.0].map(grouped);
        let expected = ["0.0", "7.4", "391", "1,150", "94,000", "1,000,000", "−120"];
        assert_eq!(shown, expected);
    }

    #[test]
    fn a_bound_is_kept_or_not() {
        let at_least = |least| Requirement::at_least("a ratio".into(), 2.0, least).to_string();
        assert_eq!(at_least(2.0), "met: a ratio: 2.00, required at least 2.00");
        assert!(at_least(2.1).starts_with("**NOT met**"));
        assert!(!Requirement::at_most("a ratio".into(), 2.0, 1.9).is_met());
    }
}
