use std::sync::Arc;

use http::request::Parts;
use http::{Extensions, HeaderMap};

use super::identify::{Identify, IdentifyError};
use super::identity::Identity;
use super::user::UserOrIp;

/// The [`Identify`] of a layer. It rejects identities with an empty value.
#[derive(Clone)]
pub(crate) struct Identifier(Arc<dyn Identify>);

impl Identifier {
    pub(crate) fn new(identify: impl Identify) -> Self {
        Self(Arc::new(identify))
    }

    pub(crate) fn identify(&self, parts: &Parts) -> Result<Identity, IdentifyError> {
        let identity = self.0.identify(parts)?;
        IdentifyError::check_not_empty(identity)
    }

    pub(crate) fn identify_head(
        &self,
        headers: &HeaderMap,
        extensions: &Extensions,
    ) -> Option<Result<Identity, IdentifyError>> {
        let identified = self.0.identify_head(headers, extensions)?;
        Some(identified.and_then(IdentifyError::check_not_empty))
    }
}

impl Default for Identifier {
    fn default() -> Self {
        Self::new(UserOrIp::default())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::identity::UserId;

    fn empty(_: &Parts) -> Result<Identity, IdentifyError> {
        Ok(Identity::user(""))
    }

    #[test]
    fn head_is_enough_through_arc_and_box() {
        let mut extensions = Extensions::new();
        extensions.insert(UserId::new("42"));
        let boxed: Box<dyn Identify> = Box::new(UserOrIp::default());
        for identifier in [
            Identifier::default(),
            Identifier::new(Arc::new(UserOrIp::default())),
            Identifier::new(boxed),
        ] {
            let identified = identifier.identify_head(&HeaderMap::new(), &extensions);
            assert_eq!(identified, Some(Ok(Identity::user("42"))));
        }
        let closure = Identifier::new(empty);
        let identified = closure.identify_head(&HeaderMap::new(), &extensions);
        assert_eq!(identified, None, "a closure needs the parts");
    }

    #[test]
    fn empty_value_is_rejected() {
        let (parts, ()) = http::Request::new(()).into_parts();
        let identified = Identifier::new(empty).identify(&parts);
        let error = identified.expect_err("the value is empty");
        assert!(error.to_string().contains("empty value"), "{error}");
    }
}
