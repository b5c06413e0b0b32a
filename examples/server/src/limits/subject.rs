use std::fmt;
use std::str::FromStr;

use tollgate::Scope;

/// Whom a limit is for. As text: `tenants/acme`, `tiers/pro`, `keys/acme/user:42`, where a key may
/// have any text.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
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

/// A text that names nobody.
#[derive(Debug)]
pub(crate) struct NoSubject(String);

impl fmt::Display for NoSubject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{:?} is nobody's: write tenants/<tenant>, tiers/<tier> or keys/<tenant>/<key>",
            self.0
        )
    }
}

impl std::error::Error for NoSubject {}

impl FromStr for Subject {
    type Err = NoSubject;

    fn from_str(text: &str) -> Result<Self, NoSubject> {
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
        subject.ok_or_else(|| NoSubject(text.to_owned()))
    }
}
