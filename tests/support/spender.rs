//! A limiter that admits nothing unless its store does, and users who spend their quota through
//! it, whatever becomes of the servers.

#![allow(dead_code, reason = "no test needs all of it")]

use std::ops::Range;
use std::time::Duration;

use tollgate::{Check, Decision, FailureStrategy, Identity, Limiter, Limits, Quota, RedisStore};

use crate::servers::{Server, Wait};

/// So long that nothing is late, however busy the machine.
pub(crate) const NEVER_LATE: Duration = Duration::from_secs(15);

/// Long enough for a server that is well, and short enough to learn soon that one is not.
pub(crate) const SOON: Duration = Duration::from_secs(1);

/// What every user may spend: nothing is regained while a test runs.
pub(crate) const QUOTA: Quota = Quota::per_day(LIMIT);
pub(crate) const LIMIT: u32 = 10;
pub(crate) const DAY: Duration = Duration::from_secs(86_400);

pub(crate) fn strict(store: &RedisStore, deadline: Duration) -> Limiter {
    Limiter::builder(store.clone())
        .deadline(deadline)
        .failure_strategy(FailureStrategy::Closed)
        .build()
}

/// Somebody who may spend a quota, and how often that was admitted. What is degraded is refused,
/// so it does not count.
pub(crate) struct User {
    pub(crate) identity: Identity,
    pub(crate) limits: Limits,
    pub(crate) admitted: u32,
}

impl User {
    pub(crate) fn new(name: &str) -> Self {
        Self::with(name, QUOTA)
    }

    pub(crate) fn with(name: &str, limits: impl Into<Limits>) -> Self {
        Self {
            identity: Identity::user(name),
            limits: limits.into(),
            admitted: 0,
        }
    }

    /// What stands in the braces of the user's keys.
    pub(crate) fn tag(&self) -> String {
        self.identity.to_string()
    }

    pub(crate) async fn ask(&mut self, limiter: &Limiter) -> Decision<'static> {
        let check = Check::new(&self.identity, &self.limits);
        let decision = limiter.check(&check).await.into_owned();
        self.admitted += u32::from(decision.is_allowed());
        decision
    }

    /// Is admitted so often.
    pub(crate) async fn spend(&mut self, limiter: &Limiter, times: u32) {
        for _ in 0..times {
            let decision = self.ask(limiter).await;
            let who = &self.identity;
            assert!(!decision.is_degraded(), "{who}: the store did not decide");
            assert!(decision.is_allowed(), "{who}: denied too early");
        }
    }

    /// Whether the store tells what is left. That costs nothing, even if it is told too late.
    pub(crate) async fn is_decided(&self, limiter: &Limiter) -> bool {
        let check = Check::new(&self.identity, &self.limits);
        !limiter.peek(&check).await.is_degraded()
    }

    /// Waits until the store decides again, which it must do by itself.
    pub(crate) async fn until_decided(&self, limiter: &Limiter) {
        let wait = Wait::until(format!("{} is decided about", self.identity));
        while !self.is_decided(limiter).await {
            wait.on().await;
        }
    }

    /// Waits until the store does not decide.
    pub(crate) async fn until_degraded(&self, limiter: &Limiter) {
        let wait = Wait::until(format!("{} is not decided about", self.identity));
        while self.is_decided(limiter).await {
            wait.on().await;
        }
    }

    /// Asks until the store denies. In all, as many were admitted as may be.
    pub(crate) async fn spend_the_rest(&mut self, limiter: &Limiter) {
        let wait = Wait::until(format!("{} is denied", self.identity));
        loop {
            let decision = self.ask(limiter).await;
            if decision.is_degraded() {
                wait.on().await;
            } else if !decision.is_allowed() {
                break;
            }
        }
        let limit = self.limits.policies()[0].quota().capacity();
        assert_eq!(self.admitted, limit, "{}", self.identity);
    }
}

/// Names of users whose keys are in these slots of a cluster.
pub(crate) fn names_in(slots: Range<u16>) -> impl Iterator<Item = String> {
    // CRC-16/XMODEM.
    let shift = |crc: u16, _| (crc << 1) ^ if crc & 0x8000 == 0 { 0 } else { 0x1021 };
    let add = move |crc: u16, byte: u8| (0..8).fold(crc ^ (u16::from(byte) << 8), shift);
    let hash = move |tag: String| tag.bytes().fold(0, add);
    let names = (0..).map(|number: u32| number.to_string());
    names.filter(move |name| slots.contains(&(hash(Identity::user(name).to_string()) % 16_384)))
}

/// Returns when all that this server has written is at its replica too. The key must be the
/// server's.
pub(crate) async fn replicated(server: &Server, tag: &str) {
    let mut connection = server.connect().await.expect("it answers");
    let (replicas,): (u32,) = redis::pipe()
        .cmd("SET")
        .arg(format!("replicated:{{{tag}}}"))
        .arg("")
        .arg("PX")
        .arg(60_000)
        .ignore()
        .cmd("WAIT")
        .arg(1)
        .arg(10_000)
        .query_async(&mut connection)
        .await
        .expect("it writes");
    assert_eq!(replicas, 1, "the replica follows");
}
