//! Memory for a large table, in large pages.
//!
//! A table of a million counts takes 12,000 pages of 4 KiB, more than the processor remembers the
//! places of: it looks up most of them again, in memory. In pages of 2 MiB there are 24. Measured:
//! a check of one in a million identities takes four fifths of the time.

#![allow(unsafe_code)]

/// As many defaults as asked for, in large pages where the system has any to spare.
pub(super) fn filled<T: Default>(count: usize) -> Box<[T]> {
    let mut filled = Vec::with_capacity(count);
    // Before it is written to, which is when the system provides it.
    advise(filled.spare_capacity_mut());
    filled.resize_with(count, T::default);
    filled.into_boxed_slice()
}

#[cfg(all(target_os = "linux", not(miri)))]
fn advise<T>(memory: &mut [std::mem::MaybeUninit<T>]) {
    const LARGE: usize = 2 << 20;
    let memory = memory.as_mut_ptr_range();
    let start = memory.start.addr().next_multiple_of(LARGE);
    let end = memory.end.addr() & !(LARGE - 1);
    if start < end {
        // SAFETY: the range is within memory that is ours, and begins at a page. This advice changes
        // neither what is in it nor what may be done with it. If it is not taken, nothing is lost.
        unsafe {
            let start = memory.start.with_addr(start).cast();
            libc::madvise(start, end - start.addr(), libc::MADV_HUGEPAGE);
        }
    }
}

#[cfg(not(all(target_os = "linux", not(miri))))]
fn advise<T>(_: &mut [std::mem::MaybeUninit<T>]) {}
