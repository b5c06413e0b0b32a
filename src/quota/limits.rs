use std::fmt;
use std::sync::Arc;

use super::name::{check_name, fingerprint};
use super::quota::Quota;
use crate::error::LimitsError;

/// How many policies [`Limits`] can hold.
pub const MAX_POLICIES: usize = 8;

/// A quota with a name: `burst`, `daily`.
///
/// The name is shown to clients in headers and rejections, and labels metrics.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Policy {
    name: Arc<str>,
    quota: Quota,
    fingerprint: u128,
    /// A hash of the name alone.
    #[cfg(feature = "metrics")]
    name_hash: u64,
    /// The end of a count's key in a store.
    #[cfg(feature = "redis")]
    key: Arc<str>,
}

impl Policy {
    /// Names a quota. [`Limits::new`] checks the name: one to 64 of ASCII letters, digits, `.`,
    /// `_` and `-`.
    ///
    /// # Panics
    ///
    /// If the quota's final numbers cannot be counted exactly, which only a quota made by a
    /// constructor that panics can be: see the rules of [`Quota`].
    #[track_caller]
    pub fn new(name: impl Into<Arc<str>>, quota: Quota) -> Self {
        let name = name.into();
        if let Err(flaw) = quota.check_exact() {
            panic!("policy `{name}`, quota `{quota}`: {flaw}");
        }
        Self {
            fingerprint: fingerprint("policy", &format!("{name} {quota}")),
            #[cfg(feature = "metrics")]
            name_hash: fingerprint("policy name", &name) as u64,
            #[cfg(feature = "redis")]
            key: format!("{name}:{}", quota.to_string().replace(' ', "-")).into(),
            name,
            quota,
        }
    }

    /// The policy's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The policy's quota.
    pub fn quota(&self) -> &Quota {
        &self.quota
    }

    /// Tells this name and quota from every other: a hash of both.
    pub(crate) fn fingerprint(&self) -> u128 {
        self.fingerprint
    }

    /// Tells this policy's name from every other: metrics have one row for all quotas of one name.
    #[cfg(feature = "metrics")]
    pub(crate) fn name_hash(&self) -> u64 {
        self.name_hash
    }

    /// Name and quota, as they stand in a count's key.
    #[cfg(feature = "redis")]
    pub(crate) fn key(&self) -> &str {
        &self.key
    }
}

impl fmt::Debug for Policy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Policy({}: {})", self.name, self.quota)
    }
}

/// One to eight policies that are decided together: **if any of them denies, none is charged.**
///
/// Cheap to clone.
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
    /// Gathers policies, whose order is kept.
    ///
    /// # Errors
    ///
    /// If there is none or more than [`MAX_POLICIES`], if two have the same name, or if a name
    /// has a character that cannot stand in a header or a key.
    pub fn new(policies: impl IntoIterator<Item = Policy>) -> Result<Self, LimitsError> {
        let policies: Arc<[Policy]> = policies.into_iter().collect();
        if policies.is_empty() || policies.len() > MAX_POLICIES {
            return Err(LimitsError::count(policies.len()));
        }
        for (index, policy) in policies.iter().enumerate() {
            check_name("policy", &policy.name)?;
            if policies[..index]
                .iter()
                .any(|earlier| earlier.name == policy.name)
            {
                return Err(LimitsError::duplicate(&policy.name));
            }
        }
        Ok(Self(policies))
    }

    /// The policies, in order.
    pub fn policies(&self) -> &[Policy] {
        &self.0
    }

    /// Whether these are those, and not only like them.
    pub(crate) fn is(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

/// A single policy, named `default`. Panics where [`Policy::new`] does.
impl From<Quota> for Limits {
    #[track_caller]
    fn from(quota: Quota) -> Self {
        Self([Policy::new("default", quota)].into())
    }
}

impl fmt::Debug for Limits {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map()
            .entries(self.0.iter().map(|policy| (&policy.name, &policy.quota)))
            .finish()
    }
}
