use std::num::NonZeroU64;
use std::time::Duration;

use tollgate::Quota;

use super::address::Address;

/// How much is asked.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Amount {
    Requests(u64),
    For(Duration),
}

/// What is asked, of whom, and how fast.
#[derive(Debug)]
pub(crate) struct Plan {
    /// At least one. They are asked in turn.
    pub(crate) servers: Vec<Address>,
    pub(crate) token: Option<String>,
    pub(crate) amount: Amount,
    /// How many requests may be without an answer at a time.
    pub(crate) in_flight: u32,
    /// How long an answer is waited for.
    pub(crate) patience: Duration,
    /// How many a second; as fast as they are answered unless set.
    pub(crate) rate: Option<NonZeroU64>,
    /// How many different keys there are. They are asked about in turn.
    pub(crate) keys: NonZeroU64,
    pub(crate) key_prefix: String,
    /// What is configured unless set.
    pub(crate) limit: Option<Quota>,
}

impl Plan {
    /// Which server gets a request, and for which key. All servers are asked about a key before the
    /// next one's turn, so that none is only ever asked of one of them.
    pub(super) fn request(&self, number: u64) -> (usize, String) {
        let servers = self.servers.len() as u64;
        let (round, server) = (number / servers, number % servers);
        let key = format!("{}{}", self.key_prefix, round % self.keys);
        (server as usize, key)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn servers_and_keys_have_their_turns() {
        let plan = Plan {
            servers: ["http://a:1", "grpc://b:2"]
                .map(|server| server.parse().expect("an address"))
                .to_vec(),
            token: None,
            amount: Amount::Requests(8),
            in_flight: 1,
            patience: Duration::ZERO,
            rate: None,
            keys: NonZeroU64::new(2).expect("not zero"),
            key_prefix: "key:".to_owned(),
            limit: None,
        };
        let asked = (0..6).map(|number| plan.request(number));
        let expected = [
            (0, "key:0"),
            (1, "key:0"),
            (0, "key:1"),
            (1, "key:1"),
            (0, "key:0"),
            (1, "key:0"),
        ];
        let expected = expected.map(|(server, key)| (server, key.to_owned()));
        assert_eq!(asked.collect::<Vec<_>>(), expected);
    }
}
