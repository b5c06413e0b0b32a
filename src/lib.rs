//! wip
mod error;
mod quota;
/// guide
pub mod guide {
    /// a
    pub mod algorithms {}
}
/// s
pub trait Store {}
/// s
#[derive(Debug)]
pub struct StoreError;
pub use error::*;
pub use quota::*;
