//! Room for what is large: in large pages where there are such, for fewer faults.
#![allow(unsafe_code)]

/// Smaller pieces of memory may share their pages with others.
const LARGE: usize = 32 << 20;

/// So many zeros.
pub(crate) fn zeros<T: Clone + Default>(length: usize) -> Vec<T> {
    let room = vec![T::default(); length];
    in_large_pages(&room);
    room
}

/// An empty list with room for so many items, if the machine will promise it; it is not taken before
/// it is used.
pub(crate) fn reserved<T>(items: usize) -> Vec<T> {
    let mut room = Vec::new();
    // Without it the list grows as others do.
    let _ = room.try_reserve_exact(items);
    in_large_pages(&room);
    room
}

/// Asks for large pages below a list; nothing comes of it where there are none.
fn in_large_pages<T>(room: &Vec<T>) {
    let bytes = room.capacity() * size_of::<T>();
    #[cfg(target_os = "linux")]
    if bytes >= LARGE {
        const PAGE: usize = 4096;
        let before = room.as_ptr().addr() % PAGE;
        let start = room.as_ptr().cast_mut().wrapping_byte_sub(before).cast();
        // SAFETY: advice changes no content, whatever memory it is given for.
        unsafe { libc::madvise(start, before + bytes, libc::MADV_HUGEPAGE) };
    }
}
