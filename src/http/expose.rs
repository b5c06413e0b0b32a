use http::{Extensions, Response};

use super::rate_limit_headers::RateLimitHeaders;
use crate::identity::Identity;
use crate::limiter::Decision;

/// Selects what a layer inserts into the extensions of requests and responses. The default selects
/// nothing.
///
/// ```
/// use tollgate::{Expose, LocalStore, Quota, RateLimitLayer};
///
/// RateLimitLayer::new(Quota::per_second(5), LocalStore::new())
///     .expose(Expose::new().decision().identity().in_response());
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Expose {
    decision: bool,
    identity: bool,
    charge: bool,
    in_response: bool,
}

impl Expose {
    /// Selects nothing.
    pub const fn new() -> Self {
        Self {
            decision: false,
            identity: false,
            charge: false,
            in_response: false,
        }
    }

    /// Selects the [`Decision<'static>`](crate::Decision). With the feature `axum`, it is an extractor.
    ///
    /// The decision of a request that is exempt, or that a layer in shadow mode could not identify, allows
    /// it with the whole capacity remaining, so that handlers work for such requests too.
    #[must_use]
    pub const fn decision(self) -> Self {
        Self {
            decision: true,
            ..self
        }
    }

    /// Selects the [`Identity`](crate::Identity). A request without an identity, such as one that the layer
    /// skips, has none.
    #[must_use]
    pub const fn identity(self) -> Self {
        Self {
            identity: true,
            ..self
        }
    }

    /// Selects the [`Charge`](crate::Charge), in requests only: handlers and streams report to it what was
    /// used. The charge is settled as under [`charge_if`](crate::RateLimitLayer::charge_if). A handler's
    /// [`settle`](crate::Charge::settle) takes precedence over `charge_if` and `settle_by`, which take
    /// precedence over [`add`](crate::Charge::add).
    ///
    /// Reports to the charge of a request that is exempt have no effect.
    #[must_use]
    pub const fn charge(self) -> Self {
        Self {
            charge: true,
            ..self
        }
    }

    /// Inserts the selection also into the extensions of the response, for outer layers. A rejection has it
    /// too.
    #[must_use]
    pub const fn in_response(self) -> Self {
        Self {
            in_response: true,
            ..self
        }
    }

    /// Returns whether nothing is selected.
    pub(super) fn is_empty(self) -> bool {
        !self.decision && !self.identity && !self.charge
    }

    pub(super) fn is_in_response(self) -> bool {
        self.in_response
    }

    pub(super) fn has_charge(self) -> bool {
        self.charge
    }

    /// Returns whether the identity is needed after the decision.
    pub(super) fn has_identity(self) -> bool {
        self.identity
    }

    /// Returns what to insert, or `None` if nothing is selected.
    #[inline]
    pub(super) fn select(
        self,
        decision: &Decision<'_>,
        identity: Option<&Identity>,
    ) -> Option<Box<Exposed>> {
        (self.decision || self.identity).then(|| self.selected(decision, identity))
    }

    #[cold]
    fn selected(self, decision: &Decision<'_>, identity: Option<&Identity>) -> Box<Exposed> {
        Box::new(Exposed {
            decision: self.decision.then(|| decision.clone().into_owned()),
            identity: identity.filter(|_| self.identity).cloned(),
            in_response: self.in_response,
        })
    }
}

/// The values to insert into extensions.
#[derive(Debug)]
pub(super) struct Exposed {
    decision: Option<Decision<'static>>,
    identity: Option<Identity>,
    in_response: bool,
}

impl Exposed {
    /// Inserts the values into a request. The values of an inner layer replace them.
    pub(super) fn insert_into_request(&self, extensions: &mut Extensions) {
        if let Some(decision) = &self.decision {
            extensions.insert(decision.clone());
        }
        if let Some(identity) = &self.identity {
            extensions.insert(identity.clone());
        }
    }

    /// Inserts the values into a response, unless an inner layer has.
    pub(super) fn insert_into_response(self, extensions: &mut Extensions) {
        if !self.in_response {
            return;
        }
        if let Some(decision) = self.decision {
            extensions.get_or_insert(decision);
        }
        if let Some(identity) = self.identity {
            extensions.get_or_insert(identity);
        }
    }
}

/// The additions of a layer to the response of the inner service.
#[derive(Debug, Default)]
pub(super) struct Additions {
    /// Missing for a request that is exempt.
    pub(super) headers: Option<RateLimitHeaders>,
    /// Missing if the layer exposes nothing.
    pub(super) exposed: Option<Box<Exposed>>,
}

impl Additions {
    pub(super) fn add_to<B>(self, response: &mut Response<B>) {
        if let Some(headers) = self.headers {
            headers.add_to(response);
        }
        if let Some(exposed) = self.exposed {
            exposed.insert_into_response(response.extensions_mut());
        }
    }
}
