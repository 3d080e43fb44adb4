//! bpf(2): loads a device program and attaches it to a cgroup. `libc` has neither the constants nor the union.

use std::io;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};

const BPF_PROG_LOAD: libc::c_int = 5;
const BPF_PROG_ATTACH: libc::c_int = 8;
const BPF_PROG_DETACH: libc::c_int = 9;
const BPF_PROG_GET_FD_BY_ID: libc::c_int = 13;
const BPF_OBJ_GET_INFO_BY_FD: libc::c_int = 15;
const BPF_PROG_QUERY: libc::c_int = 16;

const BPF_PROG_TYPE_CGROUP_DEVICE: u32 = 15;
const BPF_CGROUP_DEVICE: u32 = 6;
const BPF_F_ALLOW_MULTI: u32 = 2;
const BPF_F_REPLACE: u32 = 4;

/// More programs on one cgroup than the kernel accepts (`BPF_CGROUP_MAX_PROGS` is 64).
const PROGRAMS_MAX: usize = 64;

/// Where `name` stands in `struct bpf_prog_info`: after type, id, tag, two lengths, two pointers, load time, uid,
/// the number of maps and the pointer to them.
const INFO_NAME_AT: usize = 64;
const INFO_BYTES: usize = 80;

#[repr(C)]
#[derive(Default)]
struct Load {
    program_type: u32,
    instruction_count: u32,
    instructions: u64,
    license: u64,
    log_level: u32,
    log_size: u32,
    log_buffer: u64,
    kernel_version: u32,
    flags: u32,
    name: [u8; 16],
}

#[repr(C)]
#[derive(Default)]
struct Attach {
    target_fd: u32,
    attach_fd: u32,
    attach_type: u32,
    attach_flags: u32,
    replace_fd: u32,
}

#[repr(C)]
#[derive(Default)]
struct Query {
    target_fd: u32,
    attach_type: u32,
    query_flags: u32,
    attach_flags: u32,
    ids: u64,
    count: u32,
    padding: u32,
}

#[repr(C)]
#[derive(Default)]
struct ById {
    id: u32,
    next: u32,
    flags: u32,
}

#[repr(C)]
#[derive(Default)]
struct Info {
    fd: u32,
    length: u32,
    buffer: u64,
}

fn number(fd: &impl AsFd) -> u32 {
    fd.as_fd().as_raw_fd().cast_unsigned()
}

fn address<T>(data: *const T) -> u64 {
    data.expose_provenance() as u64
}

/// Calls bpf(2) with one of the structs above, each a prefix of `union bpf_attr`.
fn call<T>(command: libc::c_int, attributes: &mut T) -> io::Result<libc::c_long> {
    // SAFETY: `attributes` is a live, exclusively borrowed struct whose size is passed along; every pointer inside it
    // was made by the caller in this file from data that outlives the call. The kernel treats missing tail fields as 0.
    let result = unsafe { libc::syscall(libc::SYS_bpf, command, std::ptr::from_mut(attributes), size_of::<T>()) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

fn new_fd(result: libc::c_long) -> OwnedFd {
    let fd = libc::c_int::try_from(result).expect("the kernel returns descriptors as ints");
    // SAFETY: the kernel just returned this descriptor to us; nobody else owns it.
    unsafe { OwnedFd::from_raw_fd(fd) }
}

/// Loads a program of type `BPF_PROG_TYPE_CGROUP_DEVICE`; each word is one `struct bpf_insn`.
pub fn load_device_program(instructions: &[u64], name: &str) -> io::Result<OwnedFd> {
    let mut attributes = Load {
        program_type: BPF_PROG_TYPE_CGROUP_DEVICE,
        instruction_count: u32::try_from(instructions.len()).map_err(|_| io::Error::from_raw_os_error(libc::E2BIG))?,
        instructions: address(instructions.as_ptr()),
        license: address(c"Apache-2.0".as_ptr()),
        ..Load::default()
    };
    for (to, from) in attributes.name.iter_mut().take(15).zip(name.bytes()) {
        *to = from;
    }
    call(BPF_PROG_LOAD, &mut attributes).map(new_fd)
}

/// Adds a program to those of a cgroup.
pub fn attach(cgroup: &impl AsFd, program: &impl AsFd) -> io::Result<()> {
    let mut attributes = Attach {
        target_fd: number(cgroup),
        attach_fd: number(program),
        attach_type: BPF_CGROUP_DEVICE,
        attach_flags: BPF_F_ALLOW_MULTI,
        ..Attach::default()
    };
    call(BPF_PROG_ATTACH, &mut attributes).map(drop)
}

/// Puts a program in the place of another in one step (since Linux 5.6).
pub fn replace(cgroup: &impl AsFd, program: &impl AsFd, old: &impl AsFd) -> io::Result<()> {
    let mut attributes = Attach {
        target_fd: number(cgroup),
        attach_fd: number(program),
        attach_type: BPF_CGROUP_DEVICE,
        attach_flags: BPF_F_ALLOW_MULTI | BPF_F_REPLACE,
        replace_fd: number(old),
    };
    call(BPF_PROG_ATTACH, &mut attributes).map(drop)
}

/// Takes a program off a cgroup.
pub fn detach(cgroup: &impl AsFd, program: &impl AsFd) -> io::Result<()> {
    let mut attributes = Attach {
        target_fd: number(cgroup),
        attach_fd: number(program),
        attach_type: BPF_CGROUP_DEVICE,
        ..Attach::default()
    };
    call(BPF_PROG_DETACH, &mut attributes).map(drop)
}

/// The ids of the device programs attached to this very cgroup.
pub fn attached(cgroup: &impl AsFd) -> io::Result<Vec<u32>> {
    let mut ids = [0u32; PROGRAMS_MAX];
    let mut attributes = Query {
        target_fd: number(cgroup),
        attach_type: BPF_CGROUP_DEVICE,
        ids: address(ids.as_mut_ptr()),
        count: u32::try_from(PROGRAMS_MAX).expect("64 fits"),
        ..Query::default()
    };
    call(BPF_PROG_QUERY, &mut attributes)?;
    let count = usize::try_from(attributes.count).unwrap_or(PROGRAMS_MAX).min(PROGRAMS_MAX);
    Ok(ids[..count].to_vec())
}

/// Opens a loaded program.
pub fn program_by_id(id: u32) -> io::Result<OwnedFd> {
    call(BPF_PROG_GET_FD_BY_ID, &mut ById { id, ..ById::default() }).map(new_fd)
}

/// The name a program was loaded with.
pub fn program_name(program: &impl AsFd) -> io::Result<String> {
    let mut buffer = [0u8; INFO_BYTES];
    let mut attributes = Info {
        fd: number(program),
        length: u32::try_from(INFO_BYTES).expect("80 fits"),
        buffer: address(buffer.as_mut_ptr()),
    };
    call(BPF_OBJ_GET_INFO_BY_FD, &mut attributes)?;
    let name = &buffer[INFO_NAME_AT..];
    let end = name.iter().position(|byte| *byte == 0).unwrap_or(name.len());
    Ok(String::from_utf8_lossy(&name[..end]).into_owned())
}
