//! guide
pub mod algorithms {
    //! a
}
pub mod stores {
    //! a
}
pub mod failures {
    //! a
}
pub mod identities {
    //! a
}
