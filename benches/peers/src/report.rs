//! The report: one table in Markdown, and whether each requirement is met.

use std::fmt;

use crate::contest::Contender;

/// The whole report. [`Display`](fmt::Display) prints it as Markdown.
pub(crate) struct Report {
    /// The versions, the machine and the method.
    pub(crate) preamble: String,
    pub(crate) parts: Vec<Part>,
}

/// Rows of the table under one title, and their requirements.
pub(crate) struct Part {
    pub(crate) title: &'static str,
    pub(crate) rows: Vec<Row>,
    pub(crate) requirements: Vec<Requirement>,
}

#[derive(Clone, Copy)]
enum Column {
    /// The label of the row.
    Label,
    Tollgate,
    Governor,
    AxumGovernor,
    RateNet,
    TowerRateLimitRedis,
    /// The contenders that are no limiters.
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
    fn of(contender: Contender) -> Self {
        match contender {
            Contender::Tollgate | Contender::TollgateDecision | Contender::TollgateRedis => {
                Self::Tollgate
            }
            Contender::Governor | Contender::TowerGovernor => Self::Governor,
            Contender::AxumGovernor => Self::AxumGovernor,
            Contender::RateNet => Self::RateNet,
            Contender::TowerRateLimitRedis => Self::TowerRateLimitRedis,
            Contender::Bare | Contender::Headers | Contender::LeanScript | Contender::Ping => {
                Self::Bare
            }
        }
    }
}

/// A row of the table, with one cell in each column.
pub(crate) struct Row([String; HEADINGS.len()]);

impl Row {
    pub(crate) fn new(label: String) -> Self {
        let mut cells = [const { String::new() }; HEADINGS.len()];
        cells[Column::Label as usize] = label;
        Self(cells)
    }

    /// Sets the cell in the column of a contender.
    #[must_use]
    pub(crate) fn cell(mut self, contender: Contender, text: String) -> Self {
        self.0[Column::of(contender) as usize] = text;
        self
    }
}

/// A bound for one figure of tollgate.
pub(crate) struct Requirement {
    label: String,
    measured: f64,
    bound: Bound,
    remark: Option<String>,
}

enum Bound {
    AtLeast(f64),
    AtMost(f64),
}

impl Requirement {
    pub(crate) fn at_least(label: String, measured: f64, least: f64) -> Self {
        Self::new(label, measured, Bound::AtLeast(least))
    }

    pub(crate) fn at_most(label: String, measured: f64, most: f64) -> Self {
        Self::new(label, measured, Bound::AtMost(most))
    }

    fn new(label: String, measured: f64, bound: Bound) -> Self {
        Self {
            label,
            measured,
            bound,
            remark: None,
        }
    }

    /// Adds a remark, which is printed in parentheses.
    #[must_use]
    pub(crate) fn remark(self, remark: String) -> Self {
        let remark = Some(remark);
        Self { remark, ..self }
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
            large if large >= 100.0 => format_number(large),
            small if small < 1.0 => format!("{small:.3}"),
            other => format!("{other:.2}"),
        };
        let (relation, bound) = match self.bound {
            Bound::AtLeast(least) => ("at least", number(least)),
            Bound::AtMost(most) => ("at most", number(most)),
        };
        let met = if self.is_met() { "met" } else { "**NOT met**" };
        let measured = number(self.measured);
        let label = &self.label;
        write!(f, "{met}: {label}: {measured}, required {relation} {bound}")?;
        match &self.remark {
            Some(remark) => write!(f, " ({remark})"),
            None => Ok(()),
        }
    }
}

/// Formats a number with two or three significant digits and separated thousands, such as 7.4, 391
/// or 94,200.
pub(crate) fn format_number(number: f64) -> String {
    if number < 0.0 {
        return format!("−{}", format_number(-number));
    }
    if number < 10.0 {
        return format!("{number:.1}");
    }
    let scale = 10_f64.powi((number.log10() as i32 - 2).max(0));
    let digits = format!("{:.0}", (number / scale).round() * scale);
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index) % 3 == 0 {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// Formats the factor by which tollgate is better than a peer. Returns an empty text for a negative
/// factor: a denied request may take less time than the inner service, which is subtracted.
pub(crate) fn format_factor(factor: f64) -> String {
    match factor > 0.0 {
        true => format!(" ({factor:.1}×)"),
        false => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_rounded_and_separated() {
        let numbers = [0.0, 7.4, 391.0, 1_147.0, 94_049.0, 1_000_000.0, -120.0];
        let expected = ["0.0", "7.4", "391", "1,150", "94,000", "1,000,000", "−120"];
        assert_eq!(numbers.map(format_number), expected);
    }

    #[test]
    fn requirement_says_whether_it_is_met() {
        let at_least = |least| Requirement::at_least("a ratio".into(), 2.0, least).to_string();
        assert_eq!(at_least(2.0), "met: a ratio: 2.00, required at least 2.00");
        assert!(at_least(2.1).starts_with("**NOT met**"));
        assert!(!Requirement::at_most("a ratio".into(), 2.0, 1.9).is_met());
    }
}
