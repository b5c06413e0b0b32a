//! What the nodes of a cluster say of its slots: all of them on request, and one when it is another
//! node's.

use redis::{Cmd, ConnectionAddr, ConnectionInfo, Value};

use super::connection::connect;
use super::refusal::broken;
use crate::store::{StoreError, StoreErrorKind};

/// Host and port.
pub(super) type Address = (String, u16);

/// Slots, from the first to the last, and who has them.
#[derive(Debug, PartialEq)]
pub(super) struct Range {
    pub(super) first: usize,
    pub(super) last: usize,
    pub(super) address: Address,
}

/// Asks a node who has which slot.
pub(super) async fn ranges(node: &ConnectionInfo) -> Result<Vec<Range>, StoreError> {
    let asking = async {
        let (mut connection, _) = connect(node.clone()).await?;
        let mut command = Cmd::new();
        command.arg("CLUSTER").arg("SLOTS");
        command.query_async::<Vec<Value>>(&mut connection).await
    };
    let reply = asking.await.map_err(|error| broken(&error))?;
    let ranges = reply.iter().map(|range| read(range, node));
    let ranges: Option<Vec<Range>> = ranges.collect();
    let rejected = |error| StoreError::new(StoreErrorKind::Rejected, error);
    match ranges {
        None => Err(rejected("the node's reply to CLUSTER SLOTS makes no sense")),
        // It has not met the cluster yet, or was expelled.
        Some(none) if none.is_empty() => Err(rejected("the node is in no cluster")),
        Some(ranges) => Ok(ranges),
    }
}

/// Reads one range: first slot, last slot, the primary's host and port, and more that does not
/// matter. A host that is not known is that of the node that was asked.
fn read(range: &Value, asked: &ConnectionInfo) -> Option<Range> {
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
    Some(Range {
        first: usize::try_from(*first).ok()?,
        last: usize::try_from(*last).ok()?,
        address: (or_that_of(host, asked), u16::try_from(*port).ok()?),
    })
}

/// A host that a node named, or the node's own where it named none.
fn or_that_of(host: &str, node: &ConnectionInfo) -> String {
    match node.addr() {
        ConnectionAddr::Tcp(own, _) | ConnectionAddr::TcpTls { host: own, .. }
            if matches!(host, "" | "?") =>
        {
            own.clone()
        }
        _ => host.into(),
    }
}

/// Reads the address in a redirection by a node.
pub(super) fn address(text: &str, node: &ConnectionInfo) -> Option<Address> {
    let (host, port) = text.rsplit_once(':')?;
    Some((or_that_of(host, node), port.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use redis::IntoConnectionInfo;

    use super::*;

    #[test]
    fn a_node_is_at_the_address_it_gives_or_where_it_was_asked() {
        let asked = "redis://[2001:db8::1]:7000".into_connection_info();
        let asked = asked.expect("a URL");
        for (text, host) in [
            ("127.0.0.1:7001", "127.0.0.1"),
            ("2001:db8::2:7001", "2001:db8::2"),
            ("redis.example:7001", "redis.example"),
            (":7001", "2001:db8::1"),
            ("?:7001", "2001:db8::1"),
        ] {
            assert_eq!(address(text, &asked), Some((host.into(), 7_001)), "{text}");
        }
        for nonsense in ["", "127.0.0.1", "127.0.0.1:", "127.0.0.1:70001"] {
            assert_eq!(address(nonsense, &asked), None, "{nonsense}");
        }
    }

    #[test]
    fn the_reply_to_cluster_slots_is_read_with_and_without_names() {
        let asked = "redis://127.0.0.1:7000".into_connection_info();
        let asked = asked.expect("a URL");
        let range = |host: Value| {
            let node = Value::Array(vec![host, Value::Int(7_001), Value::Nil]);
            let range = vec![Value::Int(5), Value::Int(7), node.clone(), node];
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
            let address = (expected.into(), 7_001);
            let range = range(host).expect("a range");
            assert_eq!((range.first, range.last, range.address), (5, 7, address));
        }
        assert_eq!(read(&Value::Array(vec![Value::Int(5)]), &asked), None);
    }
}
