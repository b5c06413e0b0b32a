//! What one node of a cluster knows of all nodes.

use std::ops::RangeInclusive;

pub(crate) struct View(Vec<Known>);

struct Known {
    id: String,
    flags: Vec<String>,
    linked: bool,
    slots: Vec<RangeInclusive<u16>>,
}

impl View {
    /// Reads the answer to CLUSTER NODES.
    pub(crate) fn read(answer: &str) -> Self {
        Self(answer.lines().map(Known::read).collect())
    }

    /// Whether so many nodes are known, and all are well.
    pub(crate) fn is_sound(&self, nodes: usize) -> bool {
        let ill = ["handshake", "fail", "fail?", "noaddr"];
        let sound = |node: &Known| node.linked && !ill.iter().any(|flag| node.is(flag));
        self.0.len() == nodes && self.0.iter().all(sound)
    }

    pub(crate) fn replicas(&self) -> usize {
        self.0.iter().filter(|node| node.is("slave")).count()
    }

    /// The node whose slot this is.
    pub(crate) fn owner_of(&self, slot: u16) -> Option<&str> {
        let owns = |node: &&Known| node.slots.iter().any(|slots| slots.contains(&slot));
        self.0.iter().find(owns).map(|node| node.id.as_str())
    }
}

impl Known {
    fn read(line: &str) -> Self {
        let words: Vec<_> = line.split(' ').collect();
        let [id, _, flags, _, _, _, _, link, slots @ ..] = words.as_slice() else {
            panic!("no line of CLUSTER NODES: {line}");
        };
        Self {
            id: (*id).to_owned(),
            flags: flags.split(',').map(str::to_owned).collect(),
            linked: *link == "connected",
            slots: slots.iter().filter_map(|slots| range(slots)).collect(),
        }
    }

    fn is(&self, flag: &str) -> bool {
        self.flags.iter().any(|other| other == flag)
    }
}

/// `7` or `0-5460`, but not `[7->-id]`, which is a slot that moves.
fn range(slots: &str) -> Option<RangeInclusive<u16>> {
    let (first, last) = slots.split_once('-').unwrap_or((slots, slots));
    Some(first.parse().ok()?..=last.parse().ok()?)
}
