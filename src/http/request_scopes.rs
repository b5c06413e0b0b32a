use std::collections::HashMap;
use std::sync::Arc;

use http::request::Parts;
use parking_lot::RwLock;

use crate::quota::{Limits, NameError, Scope};

/// Chooses a name for the scope of each request.
pub(super) struct ScopeFor {
    pub(super) name: Box<ScopeName>,
    /// Returns the scope for the layer's scope and a request's name.
    pub(super) scope: fn(&Scope, &str) -> Result<Scope, NameError>,
}

pub(super) type ScopeName = dyn for<'a> Fn(&'a Parts) -> Option<&'a str> + Send + Sync;

/// The largest number of scopes of one layer. Requests choose names, perhaps without a bound.
pub(super) const MAX_SCOPES: usize = 1_000;

/// The scopes that the requests of a layer have chosen so far, by name.
#[derive(Default)]
pub(super) struct RequestScopes(RwLock<HashMap<Box<str>, Arc<RequestScope>>>);

/// The scope of a request, and the layer's limits with its name.
pub(super) struct RequestScope {
    pub(super) scope: Scope,
    pub(super) limits: Limits,
}

/// The reason why a request counts in the layer's scope, although it has a name.
pub(super) enum NoScope {
    InvalidName(NameError),
    TooMany,
}

impl RequestScopes {
    /// Returns the scope of a name, which is created if there is room for it.
    pub(super) fn get(
        &self,
        name: &str,
        scope: impl FnOnce() -> Result<Scope, NameError>,
        limits: &Limits,
    ) -> Result<Arc<RequestScope>, NoScope> {
        let scopes = self.0.read();
        if let Some(scope) = scopes.get(name) {
            return Ok(scope.clone());
        }
        let is_full = scopes.len() >= MAX_SCOPES;
        drop(scopes);
        if is_full {
            return Err(NoScope::TooMany);
        }
        let scope = scope().map_err(NoScope::InvalidName)?;
        let limits = limits.named_by(&scope);
        let mut scopes = self.0.write();
        // Other threads may have added scopes since.
        if scopes.len() >= MAX_SCOPES && !scopes.contains_key(name) {
            return Err(NoScope::TooMany);
        }
        let new = || Arc::new(RequestScope { scope, limits });
        Ok(scopes.entry(name.into()).or_insert_with(new).clone())
    }
}
