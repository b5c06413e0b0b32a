//! Parses `CLUSTER SLOTS` replies and the addresses of redirects.

use redis::{Cmd, Value};

use super::endpoint::Endpoint;
use crate::store::{StoreError, StoreErrorKind};

/// The number of hash slots of a cluster (Redis Cluster specification, "Key distribution model").
pub(super) const SLOTS: u16 = 16_384;

/// A range of hash slots, and the primary that owns them.
#[derive(Clone)]
pub(super) struct SlotRange {
    pub(super) first: usize,
    pub(super) last: usize,
    pub(super) node: Endpoint,
}

/// Compares the nodes by address.
impl PartialEq for SlotRange {
    fn eq(&self, other: &Self) -> bool {
        let slots = |range: &Self| (range.first, range.last);
        slots(self) == slots(other) && self.node.address == other.node.address
    }
}

/// The number of hash slots in these ranges.
pub(super) fn slot_count(ranges: &[SlotRange]) -> usize {
    ranges
        .iter()
        .map(|range| range.last - range.first + 1)
        .sum()
}

/// Queries a node for the ranges of hash slots. They are sorted.
pub(super) async fn query_slots(node: &Endpoint) -> Result<Vec<SlotRange>, StoreError> {
    let mut command = Cmd::new();
    command.arg("CLUSTER").arg("SLOTS");
    let reply: Vec<Value> = node.query_topology(&command).await?;
    let ranges = reply.iter().map(|range| parse_range(range, node));
    let ranges: Option<Vec<SlotRange>> = ranges.collect();
    let rejected = |error| StoreError::new(StoreErrorKind::Rejected, error).at(&node.address);
    match ranges {
        None => Err(rejected("unexpected reply to CLUSTER SLOTS")),
        Some(none) if none.is_empty() => Err(rejected(
            "the node knows no hash slots: it has not joined the cluster, or was removed",
        )),
        Some(mut ranges) => {
            ranges.sort_by_key(|range| range.first);
            Ok(ranges)
        }
    }
}

/// Parses one range: first slot, last slot, the primary's host and port, and the replicas, which are
/// ignored.
fn parse_range(range: &Value, node: &Endpoint) -> Option<SlotRange> {
    let Value::Array(range) = range else {
        return None;
    };
    let [
        Value::Int(first),
        Value::Int(last),
        Value::Array(primary),
        ..,
    ] = range.as_slice()
    else {
        return None;
    };
    let [host, Value::Int(port), ..] = primary.as_slice() else {
        return None;
    };
    let host = match host {
        Value::BulkString(host) => std::str::from_utf8(host).ok()?,
        _ => "",
    };
    let slot = |slot: &i64| {
        usize::try_from(*slot)
            .ok()
            .filter(|slot| *slot < SLOTS.into())
    };
    let (first, last) = (slot(first)?, slot(last)?);
    (first <= last).then_some(SlotRange {
        first,
        last,
        node: node.resolve(host, u16::try_from(*port).ok()?),
    })
}

/// Parses the `host:port` of a redirect by `node`.
pub(super) fn parse_address(text: &str, node: &Endpoint) -> Option<Endpoint> {
    let (host, port) = text.rsplit_once(':')?;
    Some(node.resolve(host, port.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn displayed(host: &str, port: u16) -> String {
        redis::ConnectionAddr::Tcp(host.into(), port).to_string()
    }

    #[test]
    fn redirect_without_host_keeps_the_host() {
        let node = Endpoint::at_url("redis://[2001:db8::1]:7000");
        for (text, host) in [
            ("127.0.0.1:7001", "127.0.0.1"),
            ("2001:db8::2:7001", "2001:db8::2"),
            ("redis.example:7001", "redis.example"),
            (":7001", "2001:db8::1"),
            ("?:7001", "2001:db8::1"),
        ] {
            let target = parse_address(text, &node).expect(text);
            assert_eq!(target.address.to_string(), displayed(host, 7_001), "{text}");
        }
        for invalid in ["", "127.0.0.1", "127.0.0.1:", "127.0.0.1:70001"] {
            assert!(parse_address(invalid, &node).is_none(), "{invalid}");
        }
    }

    #[test]
    fn cluster_slots_reply_is_parsed_with_and_without_host() {
        let asked = Endpoint::at_url("redis://127.0.0.1:7000");
        let range = |first, last, host: Value| {
            let node = Value::Array(vec![host, Value::Int(7_001), Value::Nil]);
            let range = vec![Value::Int(first), Value::Int(last), node.clone(), node];
            parse_range(&Value::Array(range), &asked)
        };
        let text = |host: &str| Value::BulkString(host.into());
        for (host, expected) in [
            (text("redis.example"), "redis.example"),
            (text("::1"), "::1"),
            (text("?"), "127.0.0.1"),
            (text(""), "127.0.0.1"),
            (Value::Nil, "127.0.0.1"),
        ] {
            let range = range(5, 7, host).expect("a range");
            assert_eq!((range.first, range.last), (5, 7));
            assert_eq!(range.node.address.to_string(), displayed(expected, 7_001));
        }
        assert!(parse_range(&Value::Array(vec![Value::Int(5)]), &asked).is_none());
        for (first, last) in [(7, 5), (-1, 5), (0, 16_384)] {
            assert!(
                range(first, last, text("::1")).is_none(),
                "{first} to {last}"
            );
        }
    }
}
