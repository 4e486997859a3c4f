//! The memory of the class trie in the kernel: an array of arrays, mapped contiguously.

use std::{ffi::c_void, ptr::NonNull, slice, sync::atomic::AtomicU32};

use aya::{
    Ebpf,
    maps::{ArrayOfMaps, Map, MapData},
};
use aya_obj::generated::{BPF_F_MMAPABLE, bpf_map_type::BPF_MAP_TYPE_ARRAY};
use hub_common::class_trie::{CHUNK_WORDS, Chunk, MAX_CHUNKS};
use rustix::mm::{MapFlags, ProtFlags, mmap, mmap_anonymous, munmap};

use super::class_trie::memory::Backing;
use crate::datapath::DatapathError;

const NAME: &str = "CHUNKS";
/// The used bytes of a chunk: a multiple of the page size, as mmap requires.
const CHUNK_BYTES: usize = CHUNK_WORDS as usize * size_of::<u32>();

/// The existing chunks.
pub struct Chunks {
    outer: ArrayOfMaps<MapData>,
    /// Start of an address range for the maximum number of chunks; existing chunks are mapped from its start.
    base: NonNull<AtomicU32>,
    bytes: usize,
    count: u32,
}

impl Chunks {
    /// `most`: maximum number of chunks.
    pub fn take(ebpf: &mut Ebpf, most: u32) -> Result<Self, DatapathError> {
        let map: Map = ebpf.take_map(NAME).expect("the embedded object has every map");
        let outer = ArrayOfMaps::try_from(map).map_err(|error| DatapathError::map(NAME, MAX_CHUNKS, &error))?;
        let bytes = most as usize * CHUNK_BYTES;
        // SAFETY: a new mapping at an address chosen by the kernel; no references to it exist.
        let base = unsafe {
            mmap_anonymous(std::ptr::null_mut(), bytes, ProtFlags::empty(), MapFlags::PRIVATE | MapFlags::NORESERVE)
        };
        let base = base.map_err(|error| DatapathError::Map { map: NAME, cause: error.to_string() })?;
        let base = NonNull::new(base.cast()).expect("the kernel maps nothing at address 0 unless asked to");
        Ok(Self { outer, base, bytes, count: 0 })
    }
}

impl Backing for Chunks {
    type Error = DatapathError;

    fn words(&self) -> &[AtomicU32] {
        // SAFETY: `count` chunks are mapped from `base` on, readable and writable, until `self` is dropped. The kernel
        // side only reads them, and every access here is atomic.
        unsafe { slice::from_raw_parts(self.base.as_ptr(), self.count as usize * CHUNK_WORDS as usize) }
    }

    fn grow(&mut self) -> Result<(), DatapathError> {
        let (key, value) = (size_of::<u32>() as u32, size_of::<Chunk>() as u32);
        let array = aya_obj::Map::new_from_params(BPF_MAP_TYPE_ARRAY as u32, key, value, 1, BPF_F_MMAPABLE);
        let chunk =
            MapData::create(array, "CHUNK", None).map_err(|error| DatapathError::map(NAME, MAX_CHUNKS, &error))?;
        let place: *mut c_void = self.base.as_ptr().wrapping_add(self.count as usize * CHUNK_WORDS as usize).cast();
        assert!((self.count as usize + 1) * CHUNK_BYTES <= self.bytes, "the memory keeps to its limit");
        // SAFETY: replaces a part of our own reservation, to which no reference exists yet.
        let mapped = unsafe {
            mmap(
                place,
                CHUNK_BYTES,
                ProtFlags::READ | ProtFlags::WRITE,
                MapFlags::SHARED | MapFlags::FIXED,
                chunk.fd(),
                0,
            )
        };
        mapped.map_err(|error| DatapathError::Map { map: NAME, cause: format!("mapping a chunk: {error}") })?;
        self.outer.set(self.count, &chunk, 0).map_err(|error| DatapathError::map(NAME, MAX_CHUNKS, &error))?;
        self.count += 1;
        Ok(())
    }
}

impl Drop for Chunks {
    fn drop(&mut self) {
        // SAFETY: unmaps exactly the whole reservation; references to it live no longer than `self`.
        if let Err(error) = unsafe { munmap(self.base.as_ptr().cast(), self.bytes) } {
            tracing::warn!(name: "lookup_memory_kept", "the memory of the look-up is not unmapped: {error}");
        }
    }
}

// SAFETY: this value owns the mapping exclusively, and its words are atomic.
unsafe impl Send for Chunks {}
