//! What was measured: numbers, for machines as they are, and for people as a table and a histogram.

mod histogram;
mod numbers;
mod table;

pub(crate) use numbers::Report;
