//! Replies of a cluster's nodes: CLUSTER SLOTS, and the addresses in redirections.

use redis::{Cmd, Value};

use super::endpoint::Endpoint;
use crate::store::{StoreError, StoreErrorKind};

/// How many slots a cluster has (Redis Cluster specification, "Key distribution model").
pub(super) const SLOTS: u16 = 16_384;

/// Slots, from the first to the last, and the node that has them.
#[derive(Clone)]
pub(super) struct Range {
    pub(super) first: usize,
    pub(super) last: usize,
    pub(super) node: Endpoint,
}

/// Equal if the same slots are at the same address.
impl PartialEq for Range {
    fn eq(&self, other: &Self) -> bool {
        let parts = |range: &Self| (range.first, range.last);
        parts(self) == parts(other) && self.node.address == other.node.address
    }
}

/// How many slots these ranges have.
pub(super) fn covered(ranges: &[Range]) -> usize {
    ranges
        .iter()
        .map(|range| range.last - range.first + 1)
        .sum()
}

/// Asks a node which nodes have which slots. The ranges are in order.
pub(super) async fn ranges(node: &Endpoint) -> Result<Vec<Range>, StoreError> {
    let mut command = Cmd::new();
    command.arg("CLUSTER").arg("SLOTS");
    let reply: Vec<Value> = node.discover(&command).await?;
    let ranges = reply.iter().map(|range| read(range, node));
    let ranges: Option<Vec<Range>> = ranges.collect();
    let rejected = |error| StoreError::new(StoreErrorKind::Rejected, error).at(&node.address);
    match ranges {
        None => Err(rejected("the reply to CLUSTER SLOTS makes no sense")),
        // It has not met the cluster yet, or was expelled.
        Some(none) if none.is_empty() => Err(rejected("the node knows of no slots")),
        Some(mut ranges) => {
            ranges.sort_by_key(|range| range.first);
            Ok(ranges)
        }
    }
}

/// Reads one range: first slot, last slot, the primary's host and port, and more that does not
/// matter.
fn read(range: &Value, asked: &Endpoint) -> Option<Range> {
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
    (first <= last).then_some(Range {
        first,
        last,
        node: asked.named(host, u16::try_from(*port).ok()?),
    })
}

/// Reads the address in a redirection by a node.
pub(super) fn address(text: &str, node: &Endpoint) -> Option<Endpoint> {
    let (host, port) = text.rsplit_once(':')?;
    Some(node.named(host, port.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use redis::IntoConnectionInfo;

    use super::*;

    fn endpoint(url: &str) -> Endpoint {
        let info = url.into_connection_info().expect("a URL");
        Endpoint {
            address: info.addr().clone(),
            login: info.redis_settings().clone(),
            credentials: None,
            options: Default::default(),
        }
    }

    fn shown(host: &str, port: u16) -> String {
        redis::ConnectionAddr::Tcp(host.into(), port).to_string()
    }

    #[test]
    fn redirection_names_an_address_or_the_asked_host() {
        let asked = endpoint("redis://[2001:db8::1]:7000");
        for (text, host) in [
            ("127.0.0.1:7001", "127.0.0.1"),
            ("2001:db8::2:7001", "2001:db8::2"),
            ("redis.example:7001", "redis.example"),
            (":7001", "2001:db8::1"),
            ("?:7001", "2001:db8::1"),
        ] {
            let node = address(text, &asked).expect(text);
            assert_eq!(node.address.to_string(), shown(host, 7_001), "{text}");
        }
        for nonsense in ["", "127.0.0.1", "127.0.0.1:", "127.0.0.1:70001"] {
            assert!(address(nonsense, &asked).is_none(), "{nonsense}");
        }
    }

    #[test]
    fn cluster_slots_are_read_with_and_without_names() {
        let asked = endpoint("redis://127.0.0.1:7000");
        let range = |first, last, host: Value| {
            let node = Value::Array(vec![host, Value::Int(7_001), Value::Nil]);
            let range = vec![Value::Int(first), Value::Int(last), node.clone(), node];
            read(&Value::Array(range), &asked)
        };
        let named = |host: &str| Value::BulkString(host.into());
        for (host, expected) in [
            (named("redis.example"), "redis.example"),
            (named("::1"), "::1"),
            (named("?"), "127.0.0.1"),
            (named(""), "127.0.0.1"),
            (Value::Nil, "127.0.0.1"),
        ] {
            let range = range(5, 7, host).expect("a range");
            assert_eq!((range.first, range.last), (5, 7));
            assert_eq!(range.node.address.to_string(), shown(expected, 7_001));
        }
        assert!(read(&Value::Array(vec![Value::Int(5)]), &asked).is_none());
        for (first, last) in [(7, 5), (-1, 5), (0, 16_384)] {
            assert!(
                range(first, last, named("::1")).is_none(),
                "{first} to {last}"
            );
        }
    }
}
