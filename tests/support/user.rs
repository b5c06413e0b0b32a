//! Users who spend their quota through a limiter that fails closed, while servers fail over or
//! slots move.
//!
//! Such a limiter admits nothing unless the store does, so the servers must have counted every
//! check that a [`User`] was admitted. This module needs `support/redis/mod.rs` as the module
//! `servers`.

#![allow(dead_code, reason = "no test needs all of it")]

use std::ops::Range;
use std::time::Duration;

use tollgate::{Check, Decision, FailureStrategy, Identity, Limiter, Limits, Quota, RedisStore};

use crate::servers::{Server, Wait};

/// A deadline that no busy machine misses.
pub(crate) const LONG_DEADLINE: Duration = Duration::from_secs(15);

/// A deadline by which a server that is well answers, and an outage is noticed soon.
pub(crate) const SHORT_DEADLINE: Duration = Duration::from_secs(1);

/// The quota of a user. It regains nothing while a test runs.
pub(crate) const QUOTA: Quota = Quota::per_day(LIMIT);
pub(crate) const LIMIT: u32 = 10;
pub(crate) const DAY: Duration = Duration::from_secs(86_400);

/// Returns a limiter that refuses every check that the store does not decide.
pub(crate) fn closed_limiter(store: &RedisStore, deadline: Duration) -> Limiter {
    Limiter::builder(store.clone())
        .deadline(deadline)
        .failure_strategy(FailureStrategy::Closed)
        .build()
}

/// A user, its limits, and how many of its checks were admitted.
pub(crate) struct User {
    pub(crate) identity: Identity,
    pub(crate) limits: Limits,
    pub(crate) admitted: u32,
}

impl User {
    /// Returns a user with [`QUOTA`].
    pub(crate) fn new(name: &str) -> Self {
        Self::with_limits(name, QUOTA)
    }

    pub(crate) fn with_limits(name: &str, limits: impl Into<Limits>) -> Self {
        Self {
            identity: Identity::user(name),
            limits: limits.into(),
            admitted: 0,
        }
    }

    /// Returns the hash tag of the user's keys.
    pub(crate) fn hash_tag(&self) -> String {
        self.identity.to_string()
    }

    /// Makes a check of cost 1.
    pub(crate) async fn check(&mut self, limiter: &Limiter) -> Decision<'static> {
        let check = Check::new(&self.identity, &self.limits);
        let decision = limiter.check(&check).await.into_owned();
        self.admitted += u32::from(decision.is_allowed());
        decision
    }

    /// Makes `times` checks, which the store must admit.
    pub(crate) async fn spend(&mut self, limiter: &Limiter, times: u32) {
        for _ in 0..times {
            let decision = self.check(limiter).await;
            let identity = &self.identity;
            assert!(
                !decision.is_degraded(),
                "{identity}: the store did not decide"
            );
            assert!(decision.is_allowed(), "{identity}: denied too early");
        }
    }

    /// Returns whether the store answers a peek, which charges nothing even if it times out.
    pub(crate) async fn is_decided_by_store(&self, limiter: &Limiter) -> bool {
        let check = Check::new(&self.identity, &self.limits);
        !limiter.peek(&check).await.is_degraded()
    }

    /// Waits until the store decides for this user again.
    pub(crate) async fn wait_until_store_decides(&self, limiter: &Limiter) {
        let wait = Wait::until(format!("the store decides for {}", self.identity));
        while !self.is_decided_by_store(limiter).await {
            wait.sleep().await;
        }
    }

    /// Waits until the store does not decide for this user.
    pub(crate) async fn wait_until_degraded(&self, limiter: &Limiter) {
        let wait = Wait::until(format!("checks of {} are degraded", self.identity));
        while self.is_decided_by_store(limiter).await {
            wait.sleep().await;
        }
    }

    /// Makes checks until the store denies one. Panics unless exactly the limit was admitted in
    /// all.
    pub(crate) async fn spend_remaining(&mut self, limiter: &Limiter) {
        let wait = Wait::until(format!("{} is denied", self.identity));
        loop {
            let decision = self.check(limiter).await;
            if decision.is_degraded() {
                wait.sleep().await;
            } else if !decision.is_allowed() {
                break;
            }
        }
        let limit = self.limits.policies()[0].quota().capacity();
        assert_eq!(self.admitted, limit, "{}", self.identity);
    }
}

/// Returns names of users whose keys are in these slots of a cluster.
pub(crate) fn names_in_slots(slots: Range<u16>) -> impl Iterator<Item = String> {
    // CRC-16/XMODEM.
    let shift = |crc: u16, _| (crc << 1) ^ if crc & 0x8000 == 0 { 0 } else { 0x1021 };
    let add = move |crc: u16, byte: u8| (0..8).fold(crc ^ (u16::from(byte) << 8), shift);
    let hash = move |tag: String| tag.bytes().fold(0, add);
    let names = (0..).map(|number: u32| number.to_string());
    names.filter(move |name| slots.contains(&(hash(Identity::user(name).to_string()) % 16_384)))
}

/// Waits until the replica has everything that this primary has written. `hash_tag` must be in a
/// slot of this primary, since a marker key is written with it.
pub(crate) async fn wait_for_replica(server: &Server, hash_tag: &str) {
    let mut connection = server.connect().await.expect("the server answers");
    let (replicas,): (u32,) = redis::pipe()
        .cmd("SET")
        .arg(format!("replicated:{{{hash_tag}}}"))
        .arg("")
        .arg("PX")
        .arg(60_000)
        .ignore()
        .cmd("WAIT")
        .arg(1)
        .arg(10_000)
        .query_async(&mut connection)
        .await
        .expect("the server writes");
    assert_eq!(replicas, 1, "the replica follows");
}
