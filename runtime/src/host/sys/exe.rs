//! Which file this process runs from: mmap(2), mremap(2), prctl(2) `PR_SET_MM_EXE_FILE`.
//!
//! In: a descriptor of the same program by way of another mount. Out: a process whose code, data and `/proc/PID/exe`
//! lead to that mount, as if it had been executed from there. The kernel checks it: as long as one piece of the old
//! file is mapped it refuses (`EBUSY`), and the caller does what it would have done otherwise.

use std::os::fd::{AsRawFd, BorrowedFd};
use std::sync::atomic::Ordering;

use nix::errno::Errno;

use super::check;
use super::process::WORDS;

const PAGE: usize = 4096;

/// One part of the program in memory that comes from its file.
#[derive(Debug, Clone, Copy)]
struct Part {
    start: usize,
    length: usize,
    offset: usize,
    flags: u32,
}

/// The parts of this program, and what is read-only after its start.
#[derive(Debug)]
struct Parts {
    parts: Vec<Part>,
    read_only: Option<(usize, usize)>,
}

fn parts() -> nix::Result<Parts> {
    // SAFETY: asks for numbers the kernel gave this process at execve.
    let [table, count, size] =
        [libc::AT_PHDR, libc::AT_PHNUM, libc::AT_PHENT].map(|kind| unsafe { libc::getauxval(kind) });
    let [table, count, size] = [table, count, size].map(|number| usize::try_from(number).unwrap_or(0));
    if table == 0 || size != size_of::<libc::Elf64_Phdr>() {
        return Err(Errno::ENOEXEC);
    }
    // SAFETY: the kernel's own words for where the program's headers lie in memory and how many there are.
    let headers = unsafe { std::slice::from_raw_parts(table as *const libc::Elf64_Phdr, count) };
    let number = |number: u64| usize::try_from(number).map_err(|_| Errno::EOVERFLOW);
    // The headers follow the file's own header, with which the first part begins; that tells where it was put.
    let first = headers.iter().find(|one| one.p_type == libc::PT_LOAD && one.p_offset == 0).ok_or(Errno::ENOEXEC)?;
    let base = table.wrapping_sub(size_of::<libc::Elf64_Ehdr>()).wrapping_sub(number(first.p_vaddr)?);
    let mut parts = Vec::with_capacity(count);
    for one in headers.iter().filter(|one| one.p_type == libc::PT_LOAD && one.p_filesz > 0) {
        let from = base.wrapping_add(number(one.p_vaddr)?);
        let start = from & !(PAGE - 1);
        let length = (from - start + number(one.p_filesz)?).next_multiple_of(PAGE);
        parts.push(Part { start, length, offset: number(one.p_offset)? & !(PAGE - 1), flags: one.p_flags });
    }
    let relro = headers.iter().find(|one| one.p_type == libc::PT_GNU_RELRO);
    let read_only = relro.map(|one| -> nix::Result<_> {
        let from = base.wrapping_add(number(one.p_vaddr)?);
        let end = (from + number(one.p_memsz)?) & !(PAGE - 1);
        Ok((from & !(PAGE - 1), end))
    });
    Ok(Parts { parts, read_only: read_only.transpose()? })
}

/// Goes on from `file`, which has to be another way to the very file this process was executed from.
///
/// After an error the process runs as well as before, from the old file or from both.
pub fn continue_from(file: BorrowedFd<'_>) -> nix::Result<()> {
    let Parts { parts, read_only } = parts()?;
    for part in &parts {
        if part.flags & libc::PF_W == 0 {
            let mut protection = 0;
            for (flag, bit) in [(libc::PF_R, libc::PROT_READ), (libc::PF_X, libc::PROT_EXEC)] {
                protection |= if part.flags & flag == 0 { 0 } else { bit };
            }
            // SAFETY: the same bytes of the same file (its inode cannot be written while it is executed) come to the
            // same place with the same protection, in one step: nothing that runs or points there notices.
            check(unsafe {
                libc::syscall(
                    libc::SYS_mmap,
                    part.start,
                    part.length,
                    protection,
                    libc::MAP_PRIVATE | libc::MAP_FIXED,
                    file.as_raw_fd(),
                    part.offset,
                )
            })?;
        } else {
            replace_data(part)?;
        }
    }
    if let Some((start, end)) = read_only.filter(|(start, end)| end > start) {
        // SAFETY: the linker says that these whole pages are not written any more once the program has begun.
        check(unsafe { libc::syscall(libc::SYS_mprotect, start, end - start, libc::PROT_READ) })?;
    }
    // The first takes CAP_SYS_ADMIN or CAP_CHECKPOINT_RESTORE, the second CAP_SYS_RESOURCE of the first user namespace.
    set_layout(file, &parts).or_else(|_| {
        let (option, fd) = (libc::PR_SET_MM_EXE_FILE, file.as_raw_fd());
        // SAFETY: a live descriptor and plain numbers.
        check(unsafe { libc::prctl(libc::PR_SET_MM, option, fd as u64, 0u64, 0u64) }.into()).map(drop)
    })
}

/// `struct prctl_mm_map` of the kernel.
#[repr(C)]
#[derive(Debug, Default)]
struct MemoryMap {
    start_code: u64,
    end_code: u64,
    start_data: u64,
    end_data: u64,
    start_brk: u64,
    brk: u64,
    start_stack: u64,
    arg_start: u64,
    arg_end: u64,
    env_start: u64,
    env_end: u64,
    auxv: u64,
    auxv_size: u32,
    exe_fd: u32,
}

/// Tells the kernel the file of the program together with where everything is, which is as it was.
fn set_layout(file: BorrowedFd<'_>, parts: &[Part]) -> nix::Result<()> {
    let words = WORDS.load(Ordering::Relaxed);
    if words.is_null() {
        return Err(Errno::EINVAL);
    }
    // SAFETY: `main` was called with this vector; the kernel lays down, one after the other: the words, a null, the
    // environment, a null. The texts of both follow each other too, and then the name of the program.
    let (first, variables) = unsafe {
        let count = (0..).take_while(|at| !(*words.add(*at)).is_null()).count();
        (*words, *words.add(count + 1))
    };
    // SAFETY: asks for a number the kernel gave this process at execve.
    let name = unsafe { libc::getauxval(libc::AT_EXECFN) };
    // SAFETY: asks where the heap ends.
    let brk = check(unsafe { libc::syscall(libc::SYS_brk, 0) })?;
    let brk = u64::try_from(brk).map_err(|_| Errno::EINVAL)?;
    let variables = if variables.is_null() { name } else { variables as u64 };
    let end = |part: &Part| (part.start + part.length) as u64;
    let code = parts.iter().find(|part| part.flags & libc::PF_X != 0).ok_or(Errno::ENOEXEC)?;
    let data = parts.iter().find(|part| part.flags & libc::PF_W != 0).ok_or(Errno::ENOEXEC)?;
    let map = MemoryMap {
        start_code: code.start as u64,
        end_code: end(code),
        start_data: data.start as u64,
        end_data: end(data),
        // What the heap has grown to stays: nothing gives it back.
        start_brk: brk,
        brk,
        start_stack: words as u64,
        arg_start: first as u64,
        arg_end: variables,
        env_start: variables,
        env_end: name,
        exe_fd: u32::try_from(file.as_raw_fd()).map_err(|_| Errno::EBADF)?,
        ..MemoryMap::default()
    };
    let option = libc::PR_SET_MM_MAP;
    // SAFETY: a structure of the kernel's shape, with its size, that outlives the call.
    check(unsafe { libc::prctl(libc::PR_SET_MM, option, &raw const map, size_of::<MemoryMap>(), 0u64) }.into())
        .map(drop)
}

/// Puts a copy that belongs to no file in the place of the program's data.
fn replace_data(part: &Part) -> nix::Result<()> {
    let protection = libc::PROT_READ | libc::PROT_WRITE;
    let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
    // SAFETY: new memory at a place of the kernel's choice.
    let copy = check(unsafe { libc::syscall(libc::SYS_mmap, 0usize, part.length, protection, flags, -1, 0usize) })?;
    let copy = usize::try_from(copy).map_err(|_| Errno::EOVERFLOW)?;
    // SAFETY: both are `length` bytes that can be read and written. This program has one thread (I3), and between the
    // copy and the move nothing is called but the kernel, which writes to neither: `errno` is only set by a failure,
    // and lies in the data only where the C library puts it there; it is read after the move has failed, in its place.
    // The move replaces the old pages by the same bytes in one step.
    check(unsafe {
        std::ptr::copy_nonoverlapping(part.start as *const u8, copy as *mut u8, part.length);
        libc::syscall(
            libc::SYS_mremap,
            copy,
            part.length,
            part.length,
            libc::MREMAP_MAYMOVE | libc::MREMAP_FIXED,
            part.start,
        )
    })
    .map(drop)
}
