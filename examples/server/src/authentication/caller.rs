/// The sender of a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Caller {
    /// A caller without a token, where none is required: asks for any tenant and key.
    Anybody,
    /// The bearer of a token of the admin API: acts on any tenant and key.
    Operator,
    /// The bearer of a tenant's token: asks for any key of the tenant.
    Tenant(String),
    /// The bearer of one of Envoy's tokens: asks for any descriptor.
    Envoy,
    /// The bearer of a JSON web token: asks for its own key only.
    User {
        /// The tenant; the default one if `None`.
        tenant: Option<String>,
        subject: String,
    },
}
