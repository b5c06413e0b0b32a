use smallvec::SmallVec;

/// One value for each policy of a check. Two fit inline: most limits have no more policies.
pub(crate) type PerPolicy<T> = SmallVec<[T; 2]>;
