//! Encoding into a reused buffer allocates nothing.
//!
//! A test program of its own, because it replaces the allocator and must run nothing beside.

use dogwatch_schemas::records::Event;
use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicUsize, Ordering};

static ALLOCATIONS: AtomicUsize = AtomicUsize::new(0);

struct Counting;

// SAFETY: everything is the system allocator's; only a counter is added.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.fetch_add(1, Ordering::Relaxed);
        // SAFETY: the caller's promises are passed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, place: *mut u8, layout: Layout) {
        // SAFETY: the caller's promises are passed on.
        unsafe { System.dealloc(place, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

#[test]
fn a_reused_buffer_is_all_that_encoding_needs() {
    let event = Event {
        evt_type: "execve".into(),
        seq: i64::MAX,
        proc_cmdline: Some("sh -c 'echo a longer text than any view holds'".into()),
        proc_args: Some(vec!["-c".into(), "echo".into()]),
        container_labels: Some([("app".into(), "web".into())].into()),
        ..Event::default()
    };
    let mut out = Vec::new();
    event.encode_framed(&mut out);
    let framed = out.clone();

    // The test harness has threads of its own, so the least of several runs counts.
    let fewest = (0..20).map(|_| {
        out.clear();
        let before = ALLOCATIONS.load(Ordering::Relaxed);
        event.encode_framed(&mut out);
        ALLOCATIONS.load(Ordering::Relaxed) - before
    });
    assert_eq!(fewest.min(), Some(0));
    assert_eq!(out, framed);
}
