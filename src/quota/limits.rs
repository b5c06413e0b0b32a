use std::fmt;
use std::sync::Arc;

use super::error::QuotaError;
use super::kind::Kind;
use super::name::{NameError, check_name, fingerprint};
use super::quota::Quota;
use super::scope::{DEFAULT, Scope};

/// The largest number of policies in [`Limits`].
pub const MAX_POLICIES: usize = 8;

/// A quota with a name, such as `burst` or `daily`.
///
/// Headers and rejections show the name to clients, and it is a label of metrics.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Policy {
    name: Arc<str>,
    quota: Quota,
    /// The kind of the level that the policy counts, unless it counts the identity itself.
    level: Option<Kind>,
    fingerprint: u128,
    /// A hash of the name without the quota.
    #[cfg(feature = "metrics")]
    name_hash: u64,
    /// The policy's part of a store's key.
    #[cfg(feature = "redis")]
    key: Arc<str>,
}

impl Policy {
    /// Names a quota. [`Limits::new`] checks the name: 1 to 64 ASCII letters, digits, `.`, `_` and
    /// `-`.
    ///
    /// # Panics
    ///
    /// If the quota cannot be counted exactly. [`Quota::token_bucket`] and the constructors named for
    /// a period leave this check to `Policy::new`: see the rules of [`Quota`].
    #[track_caller]
    pub fn new(name: impl Into<Arc<str>>, quota: Quota) -> Self {
        let name = name.into();
        if let Err(flaw) = quota.check_exact() {
            panic!("policy `{name}`, quota `{quota}`: {flaw}");
        }
        Self {
            fingerprint: fingerprint("policy", &format!("{name} {quota}")),
            #[cfg(feature = "metrics")]
            name_hash: name_hash(&name),
            #[cfg(feature = "redis")]
            key: format!("{name}:{}", quota.to_string().replace(' ', "-")).into(),
            name,
            quota,
            level: None,
        }
    }

    /// Counts by the level of this kind: the identity itself, or the ancestor that it is
    /// [within](crate::Identity::within). Unless set, a policy counts by the identity itself.
    ///
    /// The policy does not apply to an identity without such a level. A layer rejects a request to
    /// which no policy applies as unidentified, and a [`Limiter`](crate::Limiter) denies it.
    ///
    /// ```
    /// use tollgate::{Kind, Limits, Policy, Quota};
    ///
    /// const ORG: Kind = Kind::new("org");
    ///
    /// // Each user has 600 requests a minute, and all users of an organisation 10,000 together.
    /// let limits = Limits::new([
    ///     Policy::new("user", Quota::per_minute(600)),
    ///     Policy::new("org", Quota::per_minute(10_000)).per(&ORG),
    /// ])?;
    /// # Ok::<(), tollgate::LimitsError>(())
    /// ```
    #[must_use]
    pub fn per(self, level: &Kind) -> Self {
        Self {
            level: Some(level.clone()),
            ..self
        }
    }

    /// Returns the kind of the level by which the policy counts, or `None` for the identity itself.
    pub fn level(&self) -> Option<&Kind> {
        self.level.as_ref()
    }

    /// Returns the policy's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Returns a policy that counts in the same entries and is shown under another name.
    fn shown_as(&self, name: &str) -> Self {
        Self {
            name: name.into(),
            #[cfg(feature = "metrics")]
            name_hash: name_hash(name),
            ..self.clone()
        }
    }

    /// Returns the policy's quota.
    pub fn quota(&self) -> &Quota {
        &self.quota
    }

    /// Returns a hash of the name and the quota, which differs for every policy and scope.
    pub(crate) fn fingerprint(&self) -> u128 {
        self.fingerprint
    }

    /// Returns a hash of the name. Metrics have one row for all quotas of one name.
    #[cfg(feature = "metrics")]
    pub(crate) fn name_hash(&self) -> u64 {
        self.name_hash
    }

    /// Returns the policy's part of a store's key: name and quota.
    #[cfg(feature = "redis")]
    pub(crate) fn key(&self) -> &str {
        &self.key
    }
}

impl fmt::Debug for Policy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Policy({}: {}", self.name, self.quota)?;
        if let Some(level) = &self.level {
            write!(f, " per {level}")?;
        }
        f.write_str(")")
    }
}

#[cfg(feature = "metrics")]
fn name_hash(name: &str) -> u64 {
    fingerprint("policy name", name) as u64
}

/// One to eight policies that are decided together: **if any of them denies, none is charged.**
///
/// Clones share the policies.
///
/// ```
/// use tollgate::{Limits, Policy, Quota};
///
/// let limits = Limits::new([
///     Policy::new("burst", Quota::per_second(10)),
///     Policy::new("daily", Quota::per_day(10_000)),
/// ])?;
/// assert_eq!(limits.policies().len(), 2);
/// # Ok::<(), tollgate::LimitsError>(())
/// ```
///
/// With the feature `serde`, limits are a map from policy to quota, or a single quota's text.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Limits(Arc<[Policy]>);

impl Limits {
    /// Groups policies, in their order.
    ///
    /// # Errors
    ///
    /// If there is no policy or more than [`MAX_POLICIES`], if two have the same name, if a name is not
    /// 1 to 64 ASCII letters, digits, `.`, `_` and `-`, or if two quotas have a
    /// [queue](Quota::queue): a check that waits for the longer of two delays would exceed the rate of
    /// the quota with the shorter delay.
    pub fn new(policies: impl IntoIterator<Item = Policy>) -> Result<Self, LimitsError> {
        let policies: Arc<[Policy]> = policies.into_iter().collect();
        if policies.is_empty() || policies.len() > MAX_POLICIES {
            return Err(LimitsError(LimitsErrorKind::Count(policies.len())));
        }
        for (index, policy) in policies.iter().enumerate() {
            check_name("policy", &policy.name)?;
            let mut earlier = policies[..index].iter();
            if earlier.any(|earlier| earlier.name == policy.name) {
                let name = policy.name.to_string();
                return Err(LimitsError(LimitsErrorKind::Duplicate(name)));
            }
        }
        let mut queueing = policies.iter().filter(|policy| policy.quota.queued() > 0);
        if let (Some(one), Some(two)) = (queueing.next(), queueing.next()) {
            let names = [one, two].map(|policy| policy.name.to_string());
            return Err(LimitsError(LimitsErrorKind::Queues(names)));
        }
        Ok(Self(policies))
    }

    /// Returns the policies, in order.
    pub fn policies(&self) -> &[Policy] {
        &self.0
    }

    /// Returns whether a policy counts by another level than the identity itself.
    #[inline]
    pub(crate) fn has_levels(&self) -> bool {
        self.0.iter().any(|policy| policy.level.is_some())
    }

    /// Returns the limits with [reservations](Quota::reserve_for) of 30 seconds in each token bucket that can
    /// have them, so that its charges can be settled.
    ///
    /// # Errors
    ///
    /// If a quota with reservations cannot be counted exactly.
    pub(crate) fn settleable(&self) -> Result<Self, QuotaError> {
        let policies = self.0.iter().map(|policy| {
            let quota = policy.quota.settleable()?;
            let settleable = Policy::new(policy.name.clone(), quota);
            let level = policy.level.clone();
            Ok(Policy {
                level,
                ..settleable
            })
        });
        Ok(Self(policies.collect::<Result<_, QuotaError>>()?))
    }

    /// Returns whether a policy's quota reserves.
    pub(crate) fn is_reserving(&self) -> bool {
        self.0.iter().any(|policy| policy.quota.is_reserving())
    }

    /// Returns whether a policy's quota has a queue.
    #[inline]
    pub(crate) fn has_queue(&self) -> bool {
        self.0.iter().any(|policy| policy.quota.queued() > 0)
    }

    /// Returns the policies for which `keep` is true. Returns `None` if it is true for no policy.
    pub(crate) fn filter(&self, keep: impl Fn(&Policy) -> bool) -> Option<Self> {
        let kept: Arc<[Policy]> = self
            .0
            .iter()
            .filter(|&policy| keep(policy))
            .cloned()
            .collect();
        (!kept.is_empty()).then_some(Self(kept))
    }

    /// Returns the limits with the name of the scope for a single policy named `default`, or else a clone.
    ///
    /// Only the shown name changes: the policy still counts in the entries of `default`, so that a
    /// [`Limiter`](crate::Limiter) with the same quota reaches them.
    pub(crate) fn named_by(&self, scope: &Scope) -> Self {
        match self.policies() {
            [policy] if &*policy.name == DEFAULT && scope.as_str() != DEFAULT => {
                Self([policy.shown_as(scope.as_str())].into())
            }
            _ => self.clone(),
        }
    }

    /// Returns whether both are clones of the same limits.
    pub(crate) fn ptr_eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

/// Creates limits of a single policy, named `default`. A layer shows the policy under the name of its
/// [scope](crate::RateLimitLayer::scope). Panics where [`Policy::new`] does.
impl From<Quota> for Limits {
    #[track_caller]
    fn from(quota: Quota) -> Self {
        Self([Policy::new(DEFAULT, quota)].into())
    }
}

impl fmt::Debug for Limits {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map()
            .entries(self.0.iter().map(|policy| (&policy.name, &policy.quota)))
            .finish()
    }
}

/// An invalid list of policies for [`Limits`].
///
/// ```
/// use tollgate::{Limits, Policy, Quota};
///
/// let quota = Quota::per_minute(60);
/// assert!(Limits::new([]).unwrap_err().is_policy_count());
/// let twice = Limits::new([Policy::new("api", quota), Policy::new("api", quota)]);
/// assert!(twice.unwrap_err().is_duplicate_name());
/// assert!(Limits::new([Policy::new("an api", quota)]).unwrap_err().is_invalid_name());
/// let queues = ["user", "service"].map(|name| Policy::new(name, quota.queue(5)));
/// assert!(Limits::new(queues).unwrap_err().is_several_queues());
/// ```
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(transparent)]
pub struct LimitsError(LimitsErrorKind);

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
enum LimitsErrorKind {
    #[error("limits hold 1 to {MAX_POLICIES} policies, not {0}; stack layers for more")]
    Count(usize),
    #[error("two policies are named `{0}`; give each its own name")]
    Duplicate(String),
    #[error(
        "the policies `{}` and `{}` both have a queue, and a check waits in one only; \
         remove one queue, or stack two layers", .0[0], .0[1]
    )]
    Queues([String; 2]),
    #[error(transparent)]
    Name(NameError),
}

impl LimitsError {
    /// Returns whether there is no policy, or more than [`MAX_POLICIES`].
    pub fn is_policy_count(&self) -> bool {
        matches!(self.0, LimitsErrorKind::Count(_))
    }

    /// Returns whether two policies have the same name.
    pub fn is_duplicate_name(&self) -> bool {
        matches!(self.0, LimitsErrorKind::Duplicate(_))
    }

    /// Returns whether more than one policy has a queue.
    pub fn is_several_queues(&self) -> bool {
        matches!(self.0, LimitsErrorKind::Queues(_))
    }

    /// Returns whether a policy's name is invalid.
    pub fn is_invalid_name(&self) -> bool {
        matches!(self.0, LimitsErrorKind::Name(_))
    }
}

impl From<NameError> for LimitsError {
    fn from(error: NameError) -> Self {
        Self(LimitsErrorKind::Name(error))
    }
}
