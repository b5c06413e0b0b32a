//! Measures the heap memory of a table.

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicBool, AtomicIsize, Ordering::Relaxed};

/// The system's allocator, which counts bytes during [`count_bytes`]. At other times it only reads
/// a flag, so that timed threads do not contend for a counter.
pub(crate) struct CountingAllocator;

static IS_COUNTING: AtomicBool = AtomicBool::new(false);
static LIVE_BYTES: AtomicIsize = AtomicIsize::new(0);

#[allow(unsafe_code, reason = "`GlobalAlloc` is an unsafe trait")]
// SAFETY: each method calls the system's allocator with the same arguments.
unsafe impl GlobalAlloc for CountingAllocator {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        add(layout.size() as isize);
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        add(layout.size() as isize);
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        add(size as isize - layout.size() as isize);
        unsafe { System.realloc(pointer, layout, size) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        add(-(layout.size() as isize));
        unsafe { System.dealloc(pointer, layout) }
    }
}

fn add(bytes: isize) {
    if IS_COUNTING.load(Relaxed) {
        LIVE_BYTES.fetch_add(bytes, Relaxed);
    }
}

/// Calls the function. Returns its result, and the bytes that it allocated and did not free. Must
/// not be called by two threads at the same time.
pub(crate) fn count_bytes<T>(make: impl FnOnce() -> T) -> (T, usize) {
    LIVE_BYTES.store(0, Relaxed);
    IS_COUNTING.store(true, Relaxed);
    let result = make();
    IS_COUNTING.store(false, Relaxed);
    (result, LIVE_BYTES.load(Relaxed).try_into().unwrap_or(0))
}
