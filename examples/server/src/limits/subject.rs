use std::fmt;
use std::str::FromStr;

use tollgate::Scope;

/// A tier, a tenant or a key that a limit is for. As text: `tenants/acme`, `tiers/pro`,
/// `keys/acme/user:42`. A key may be any text that is not empty.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Subject {
    Tier(String),
    Tenant(String),
    Key { tenant: String, key: String },
}

impl fmt::Display for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tier(name) => write!(f, "tiers/{name}"),
            Self::Tenant(name) => write!(f, "tenants/{name}"),
            Self::Key { tenant, key } => write!(f, "keys/{tenant}/{key}"),
        }
    }
}

/// The error that a text is not a subject.
#[derive(Debug)]
pub(crate) struct SubjectError(String);

impl fmt::Display for SubjectError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{:?} is not a subject: write tenants/<tenant>, tiers/<tier> or keys/<tenant>/<key>",
            self.0
        )
    }
}

impl std::error::Error for SubjectError {}

impl FromStr for Subject {
    type Err = SubjectError;

    fn from_str(text: &str) -> Result<Self, SubjectError> {
        let name = |name: &str| Some(Scope::new(name).ok()?.as_str().to_owned());
        let subject = match text.split_once('/') {
            Some(("tiers", tier)) => name(tier).map(Self::Tier),
            Some(("tenants", tenant)) => name(tenant).map(Self::Tenant),
            Some(("keys", rest)) => rest.split_once('/').and_then(|(tenant, key)| {
                let tenant = name(tenant)?;
                let key = (!key.is_empty()).then(|| key.to_owned())?;
                Some(Self::Key { tenant, key })
            }),
            _ => None,
        };
        subject.ok_or_else(|| SubjectError(text.to_owned()))
    }
}
