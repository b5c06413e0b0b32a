//! Parses CLUSTER NODES: the state of a cluster as one of its nodes sees it.

use std::ops::RangeInclusive;

/// All nodes that one node of a cluster knows, itself included.
pub(crate) struct View(Vec<Node>);

struct Node {
    id: String,
    flags: Vec<String>,
    linked: bool,
    slots: Vec<RangeInclusive<u16>>,
}

impl View {
    /// Parses the reply to CLUSTER NODES.
    pub(crate) fn parse(reply: &str) -> Self {
        Self(reply.lines().map(Node::parse).collect())
    }

    /// Returns whether exactly `nodes` nodes are known, and all are connected and healthy.
    pub(crate) fn is_healthy(&self, nodes: usize) -> bool {
        let unhealthy = ["handshake", "fail", "fail?", "noaddr"];
        let is_healthy =
            |node: &Node| node.linked && !unhealthy.iter().any(|flag| node.has_flag(flag));
        self.0.len() == nodes && self.0.iter().all(is_healthy)
    }

    /// Returns the number of replicas.
    pub(crate) fn replicas(&self) -> usize {
        self.0.iter().filter(|node| node.has_flag("slave")).count()
    }

    /// Returns the id of the node that serves the slot.
    pub(crate) fn owner_of(&self, slot: u16) -> Option<&str> {
        let owns = |node: &&Node| node.slots.iter().any(|slots| slots.contains(&slot));
        self.0.iter().find(owns).map(|node| node.id.as_str())
    }
}

impl Node {
    fn parse(line: &str) -> Self {
        let words: Vec<_> = line.split(' ').collect();
        let [id, _, flags, _, _, _, _, link, slots @ ..] = words.as_slice() else {
            panic!("not a line of CLUSTER NODES: {line}");
        };
        Self {
            id: (*id).to_owned(),
            flags: flags.split(',').map(str::to_owned).collect(),
            linked: *link == "connected",
            slots: slots
                .iter()
                .filter_map(|slots| parse_slots(slots))
                .collect(),
        }
    }

    fn has_flag(&self, flag: &str) -> bool {
        self.flags.iter().any(|other| other == flag)
    }
}

/// Parses `7` or `0-5460`. Returns `None` for `[7->-id]`, a slot that is being moved.
fn parse_slots(slots: &str) -> Option<RangeInclusive<u16>> {
    let (first, last) = slots.split_once('-').unwrap_or((slots, slots));
    Some(first.parse().ok()?..=last.parse().ok()?)
}
