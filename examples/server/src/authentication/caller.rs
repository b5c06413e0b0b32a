/// Who is asking.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Caller {
    /// Nobody said, and nobody need.
    Anybody,
    /// A tenant, for whichever of its keys it likes.
    Tenant(String),
    /// A user, for nobody else.
    User {
        /// None: the default one.
        tenant: Option<String>,
        subject: String,
    },
}
