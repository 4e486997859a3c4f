//! bpf(2) operations that aya lacks: links as file descriptors, and maps whose layout is known only at run time.

use std::{
    ffi::CString,
    io,
    os::{
        fd::{AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd, RawFd},
        unix::ffi::OsStrExt as _,
    },
    path::Path,
};

use aya_obj::generated::{bpf_attach_type, bpf_cmd};

/// The variant of `union bpf_attr` (linux/bpf.h) for `BPF_OBJ_PIN` and `BPF_OBJ_GET`; likewise for the structs below.
#[repr(C)]
struct Object {
    path: u64,
    fd: u32,
    flags: u32,
}

#[repr(C)]
struct LinkCreate {
    program: u32,
    ifindex: u32,
    attach_type: u32,
    flags: u32,
}

#[repr(C)]
struct LinkUpdate {
    link: u32,
    program: u32,
    flags: u32,
    old_program: u32,
}

#[repr(C)]
struct LinkDetach {
    link: u32,
}

#[repr(C)]
struct Info {
    fd: u32,
    bytes: u32,
    pointer: u64,
}

#[repr(C)]
struct MapElement {
    map: u32,
    padding: u32,
    key: u64,
    value: u64,
    flags: u64,
}

/// Start of `struct bpf_link_info`: the fields before `xdp` and `tcx`, which both begin with the interface's index.
#[repr(C, align(8))]
struct LinkInfo {
    kind: u32,
    id: u32,
    program: u32,
    padding: u32,
    ifindex: u32,
    more: u32,
}

/// Opens a pinned object.
///
/// # Errors
/// When it does not exist, or this process may not open it.
pub fn open(path: &Path) -> io::Result<OwnedFd> {
    let path = c_string(path)?;
    let mut attributes = Object { path: path.as_ptr() as u64, fd: 0, flags: 0 };
    // SAFETY: `path` is a NUL-terminated string that outlives the call.
    let fd = unsafe { call(bpf_cmd::BPF_OBJ_GET, &mut attributes) }?;
    // SAFETY: the kernel has just opened it for this call only.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Pins a link. The link holds its program, and the program its maps, until the file is removed.
pub fn pin(object: BorrowedFd<'_>, path: &Path) -> io::Result<()> {
    let path = c_string(path)?;
    let mut attributes = Object { path: path.as_ptr() as u64, fd: number(object), flags: 0 };
    // SAFETY: as above.
    unsafe { call(bpf_cmd::BPF_OBJ_PIN, &mut attributes) }.map(drop)
}

/// Attaches a program to an interface. Closing the descriptor detaches it, unless the link is pinned.
pub fn attach(program: BorrowedFd<'_>, ifindex: u32, attach_type: bpf_attach_type, flags: u32) -> io::Result<OwnedFd> {
    let mut attributes = LinkCreate { program: number(program), ifindex, attach_type: attach_type as u32, flags };
    // SAFETY: no pointers.
    let fd = unsafe { call(bpf_cmd::BPF_LINK_CREATE, &mut attributes) }?;
    // SAFETY: the kernel has just opened it for this call only.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Replaces the program of a link atomically: each packet runs the old or the new one.
///
/// # Errors
/// `ENOLINK` when the link's interface is gone: the link cannot be attached again.
pub fn swap(link: BorrowedFd<'_>, program: BorrowedFd<'_>) -> io::Result<()> {
    let mut attributes = LinkUpdate { link: number(link), program: number(program), flags: 0, old_program: 0 };
    // SAFETY: no pointers.
    unsafe { call(bpf_cmd::BPF_LINK_UPDATE, &mut attributes) }.map(drop)
}

/// Detaches a link at once. Closing the last descriptor would detach it with a delay.
pub fn detach(link: BorrowedFd<'_>) -> io::Result<()> {
    let mut attributes = LinkDetach { link: number(link) };
    // SAFETY: no pointers.
    unsafe { call(bpf_cmd::BPF_LINK_DETACH, &mut attributes) }.map(drop)
}

/// The interface of an XDP or TCX link; 0 if it is gone.
pub fn interface(link: BorrowedFd<'_>) -> io::Result<u32> {
    let mut info = LinkInfo { kind: 0, id: 0, program: 0, padding: 0, ifindex: 0, more: 0 };
    let bytes = size_of::<LinkInfo>() as u32;
    let mut attributes = Info { fd: number(link), bytes, pointer: (&raw mut info) as u64 };
    // SAFETY: the kernel writes `bytes` bytes at most into `info`, which is that large and outlives the call.
    unsafe { call(bpf_cmd::BPF_OBJ_GET_INFO_BY_FD, &mut attributes) }?;
    Ok(info.ifindex)
}

/// Reads an array's value; for a per-CPU array one value per possible CPU, each padded to 8 bytes.
///
/// # Errors
/// When the length of `value` is not the total length of the array's value, or the index does not exist.
pub fn look_up(map: &Array, index: u32, value: &mut [u8]) -> io::Result<()> {
    if value.len() != map.bytes {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    let mut attributes = MapElement {
        map: number(map.fd),
        padding: 0,
        key: (&raw const index) as u64,
        value: value.as_mut_ptr() as u64,
        flags: 0,
    };
    // SAFETY: the key has the four bytes of an array's key. The kernel writes the value's length, which the creator of
    // the `Array` has set. Both outlive the call.
    unsafe { call(bpf_cmd::BPF_MAP_LOOKUP_ELEM, &mut attributes) }.map(drop)
}

/// An array map, per CPU or not.
#[derive(Clone, Copy)]
pub struct Array<'a> {
    pub fd: BorrowedFd<'a>,
    /// Bytes of a value as copied by the kernel.
    pub bytes: usize,
}

fn number(fd: BorrowedFd<'_>) -> u32 {
    let fd: RawFd = fd.as_raw_fd();
    fd.cast_unsigned()
}

fn c_string(path: &Path) -> io::Result<CString> {
    CString::new(path.as_os_str().as_bytes()).map_err(Into::into)
}

/// # Safety
/// `attributes` must have the layout that the kernel expects for `command`, with valid pointers. The kernel treats
/// missing fields at its end as zeros.
unsafe fn call<T>(command: bpf_cmd, attributes: &mut T) -> io::Result<RawFd> {
    // SAFETY: guaranteed by the caller; the kernel reads no more than the given size.
    let result = unsafe { libc::syscall(libc::SYS_bpf, command as libc::c_int, &raw mut *attributes, size_of::<T>()) };
    RawFd::try_from(result).ok().filter(|result| *result >= 0).ok_or_else(io::Error::last_os_error)
}
