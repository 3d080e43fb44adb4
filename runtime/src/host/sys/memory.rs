//! The program's memory: an allocator for one thread and a short life.
//!
//! In and out: blocks, as the language asks for them. Small ones come in classes from memory that is part of the
//! program and costs nothing before it is touched, then from the kernel in large pieces; a block that is given back
//! serves the next one of its class. A command that lasts (`run` in the foreground, `events`) therefore does not grow,
//! and one that is over at once asks the kernel for nothing. Nothing small is ever returned to the kernel.

use std::alloc::{GlobalAlloc, Layout};
use std::cell::UnsafeCell;
use std::ptr::null_mut;

/// The part that is always there. Most commands need half of it.
const FIRST_LEN: usize = 256 * 1024;

/// How much is taken from the kernel at once.
const PIECE_LEN: usize = 1 << 20;

/// Blocks are multiples of this and begin at multiples of it.
const GRAIN: usize = 16;

/// Up to here there is a class for every multiple of the grain, above for every power of two.
const FINE_MAX: usize = 1024;
const FINE: usize = FINE_MAX / GRAIN;

/// From here on a block is the kernel's own.
const SMALL_MAX: usize = 128 * 1024;
const CLASSES: usize = FINE + 7;

#[repr(C, align(4096))]
struct First(UnsafeCell<[u8; FIRST_LEN]>);

// SAFETY: touched by the allocator only, which one thread uses (I3).
unsafe impl Sync for First {}

static FIRST: First = First(UnsafeCell::new([0; FIRST_LEN]));

struct State {
    /// Fresh memory, all zero: where it begins and ends; 0 before the first block.
    next: usize,
    end: usize,
    /// The last block given back of each class; each holds the address of the one before.
    free: [usize; CLASSES],
}

/// The allocator.
#[derive(Debug)]
pub struct OneThread {
    state: UnsafeCell<State>,
}

impl std::fmt::Debug for State {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("State").field("next", &self.next).field("end", &self.end).finish_non_exhaustive()
    }
}

// SAFETY: the program has one thread (I3); a process it makes has a copy of its own.
unsafe impl Sync for OneThread {}

/// The class of a size and what a block of it has; `None` for one of the kernel's.
fn class(size: usize) -> Option<(usize, usize)> {
    if size <= FINE_MAX {
        let grains = size.div_ceil(GRAIN).max(1);
        return Some((grains - 1, grains * GRAIN));
    }
    let whole = size.checked_next_power_of_two().filter(|whole| *whole <= SMALL_MAX)?;
    let over = usize::try_from(whole.trailing_zeros() - FINE_MAX.trailing_zeros()).unwrap_or(0);
    Some((FINE + over - 1, whole))
}

fn map(size: usize) -> usize {
    let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
    // SAFETY: new memory at a place of the kernel's choice.
    let at = unsafe { libc::mmap(null_mut(), size, libc::PROT_READ | libc::PROT_WRITE, flags, -1, 0) };
    if at == libc::MAP_FAILED { 0 } else { at as usize }
}

impl OneThread {
    /// An allocator that has given nothing yet.
    #[expect(clippy::new_without_default, reason = "made once, as a static")]
    pub const fn new() -> Self {
        Self { state: UnsafeCell::new(State { next: 0, end: 0, free: [0; CLASSES] }) }
    }

    /// Memory nobody has used yet.
    fn fresh(state: &mut State, size: usize) -> usize {
        if state.next == 0 {
            state.next = FIRST.0.get() as usize;
            state.end = state.next + FIRST_LEN;
        }
        if state.end - state.next < size {
            let piece = map(PIECE_LEN);
            if piece == 0 {
                return 0;
            }
            (state.next, state.end) = (piece, piece + PIECE_LEN);
        }
        let at = state.next;
        state.next += size;
        at
    }
}

// SAFETY: blocks are as large as asked for, aligned (small ones to the grain, the kernel's to a page, others refused),
// never given twice before they come back, and stay where they are. The class of a block follows from its layout, which
// the caller repeats when giving it back.
unsafe impl GlobalAlloc for OneThread {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        if layout.align() > GRAIN {
            return if layout.align() <= 4096 { map(layout.size().max(1)) as *mut u8 } else { null_mut() };
        }
        let Some((class, size)) = class(layout.size()) else { return map(layout.size()) as *mut u8 };
        // SAFETY: one thread, and nothing below calls back into the allocator: the only reference to the state.
        let state = unsafe { &mut *self.state.get() };
        match state.free[class] {
            0 => Self::fresh(state, size) as *mut u8,
            block => {
                // SAFETY: a block that was given back holds the address of the one before it, or 0.
                state.free[class] = unsafe { *(block as *const usize) };
                block as *mut u8
            }
        }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        let is_used = layout.align() <= GRAIN
            && class(layout.size()).is_some_and(|(class, _)| {
                // SAFETY: as in `alloc`; the reference ends with the expression.
                unsafe { (&*self.state.get()).free[class] != 0 }
            });
        // SAFETY: the caller's layout.
        let block = unsafe { self.alloc(layout) };
        if is_used {
            // SAFETY: a block of at least this size (a used one is there, so it is not null). Fresh memory is zero.
            unsafe { block.write_bytes(0, layout.size()) };
        }
        block
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        match class(layout.size()).filter(|_| layout.align() <= GRAIN) {
            // SAFETY: a mapping of this size that `alloc` has made.
            None => unsafe {
                libc::munmap(block.cast(), layout.size().max(1));
            },
            Some((class, _)) => {
                // SAFETY: as in `alloc`; the block is the allocator's again and has room for one address.
                unsafe {
                    let state = &mut *self.state.get();
                    *block.cast::<usize>() = state.free[class];
                    state.free[class] = block as usize;
                }
            }
        }
    }

    unsafe fn realloc(&self, block: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        let before = class(layout.size()).filter(|_| layout.align() <= GRAIN);
        let after = class(size).filter(|_| layout.align() <= GRAIN);
        match (before, after) {
            (Some(before), Some(after)) if before == after => return block,
            (None, None) => {
                // SAFETY: a mapping of the old size that `alloc` has made.
                let moved = unsafe { libc::mremap(block.cast(), layout.size().max(1), size, libc::MREMAP_MAYMOVE) };
                return if moved == libc::MAP_FAILED { null_mut() } else { moved.cast() };
            }
            _ => {}
        }
        // SAFETY: the caller's alignment with a size the caller has checked against it.
        let wanted = unsafe { Layout::from_size_align_unchecked(size, layout.align()) };
        // SAFETY: two blocks that do not overlap, each at least as long as what is copied; the old one is given back.
        unsafe {
            let moved = self.alloc(wanted);
            if !moved.is_null() {
                moved.copy_from_nonoverlapping(block, layout.size().min(size));
                self.dealloc(block, layout);
            }
            moved
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn classes_hold_what_they_are_asked_for_and_their_number_is_right() {
        let mut last = 0;
        for size in 1..=SMALL_MAX {
            let (class, whole) = class(size).unwrap();
            assert!(whole >= size && whole % GRAIN == 0 && class >= last && class < CLASSES, "{size}");
            last = class;
        }
        assert_eq!(last, CLASSES - 1);
        assert_eq!(class(SMALL_MAX + 1), None);
    }

    #[test]
    fn blocks_come_back_keep_their_bytes_when_they_grow_and_are_zero_when_asked() {
        let memory = OneThread::new();
        let layout = |size| Layout::from_size_align(size, 8).unwrap();
        // SAFETY: every block is used within its size and given back once, with its layout.
        unsafe {
            let one = memory.alloc(layout(100));
            one.write_bytes(7, 100);
            memory.dealloc(one, layout(100));
            assert_eq!(memory.alloc_zeroed(layout(100)), one);
            assert_eq!(std::slice::from_raw_parts(one, 100), [0; 100]);
            one.write_bytes(9, 100);
            let mut block = one;
            let mut size = 100;
            for next in [112, 2000, 60_000, 200_000, 400_000, 150_000, 90_000, 10] {
                block = memory.realloc(block, layout(size), next);
                size = next;
                assert_eq!(*block, 9);
                assert_eq!(*block.add(9), 9);
                block.add(size - 1).write(9);
            }
            memory.dealloc(block, layout(size));
            let aligned = Layout::from_size_align(64, 256).unwrap();
            let block = memory.alloc(aligned);
            assert_eq!(block as usize % 256, 0);
            memory.dealloc(block, aligned);
        }
    }
}
