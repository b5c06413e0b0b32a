use std::fmt;

use super::decision::Decision;

/// The error of a check that was not allowed: a limit was reached, or the store was unavailable and the
/// [`FailureStrategy`](crate::FailureStrategy) is `Closed`.
///
/// [`Decision::into_result`] returns it, so that `?` ends a function whose check was denied:
///
/// ```
/// use tollgate::{Check, Denied, Identity, Limiter, Limits, LocalStore, Quota};
///
/// async fn send_mail(limiter: &Limiter, limits: &Limits, sender: &Identity) -> Result<(), Denied> {
///     limiter.check(&Check::new(sender, limits)).await.into_result()?;
///     // Send the mail here.
///     Ok(())
/// }
///
/// # #[tokio::main(flavor = "current_thread")] async fn main() {
/// let limiter = Limiter::from(LocalStore::new());
/// let (alice, limits) = (Identity::user("alice"), Limits::from(Quota::per_hour(1)));
/// assert!(send_mail(&limiter, &limits, &alice).await.is_ok());
///
/// let denied = send_mail(&limiter, &limits, &alice).await.unwrap_err();
/// assert_eq!(denied.decision().policy().name(), "default");
/// # }
/// ```
// Boxed, since a `Result` is as large as its error.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Denied(Box<Decision<'static>>);

impl Denied {
    pub(super) fn new(decision: Decision<'_>) -> Self {
        Self(Box::new(decision.into_owned()))
    }

    /// Returns the decision: the policies that denied the check, and how long to wait.
    ///
    /// If [`is_refused`](Decision::is_refused) is true, no limit was reached, but the store is unavailable.
    pub fn decision(&self) -> &Decision<'static> {
        &self.0
    }
}

impl Decision<'_> {
    /// Returns the decision if it is [allowed](Decision::is_allowed).
    ///
    /// # Errors
    ///
    /// If it is not.
    pub fn into_result(self) -> Result<Self, Denied> {
        match self.is_allowed() {
            true => Ok(self),
            false => Err(Denied::new(self)),
        }
    }
}

impl fmt::Display for Denied {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (decision, policy) = (self.decision(), self.0.policy());
        match decision.is_refused() {
            true => f.write_str("the rate limiter's store is unavailable")?,
            false => write!(
                f,
                "rate limit exceeded: policy `{}` allows {}",
                policy.name(),
                policy.quota()
            )?,
        }
        match decision.retry_after() {
            Some(wait) => write!(f, "; retry after {wait:?}"),
            None => f.write_str("; the same check can never be allowed"),
        }
    }
}

impl std::error::Error for Denied {}
