//! An element of which only the beginning is known: aya reads elements of one size.

use std::io;
use std::os::fd::{AsFd as _, AsRawFd as _};
use std::path::Path;

use aya::maps::{MapData, MapInfo, MapType};
use nix::libc;
use ringfence_ebpf::abi::Plain;

use super::error::DatapathError;
use super::maps::map_error;

/// `BPF_MAP_LOOKUP_ELEM` (linux/bpf.h).
const LOOKUP: libc::c_int = 1;

/// The part of `union bpf_attr` that a lookup takes (linux/bpf.h).
#[repr(C)]
struct Lookup {
    map_fd: u32,
    pad: u32,
    key: u64,
    value: u64,
    flags: u64,
}

/// A pinned array whose elements begin with a `T`, and may go on.
pub(super) struct Heads {
    data: MapData,
    entries: u32,
    name: &'static str,
    element: Vec<u8>,
}

impl Heads {
    /// Opens one whose elements have so many bytes at least; what they lack of a `T` reads
    /// as zero. None if it isn't there, or is no such array.
    pub(super) fn open<T: Plain>(
        folder: &Path,
        name: &'static str,
        least: usize,
    ) -> Result<Option<Self>, DatapathError> {
        let path = folder.join(name);
        if !path.exists() {
            return Ok(None);
        }
        let failed = |error| map_error("opening pinned", name, &error);
        let info = MapInfo::from_pin(&path).map_err(failed)?;
        let size = info.value_size() as usize;
        if info.map_type().map_err(failed)? != MapType::Array || size < least {
            return Ok(None);
        }
        Ok(Some(Self {
            data: MapData::from_pin(&path).map_err(failed)?,
            entries: info.max_entries(),
            name,
            // What the kernel writes: whole words.
            element: vec![0; size.max(size_of::<T>()).next_multiple_of(8)],
        }))
    }

    /// How many elements there are.
    pub(super) const fn len(&self) -> u32 {
        self.entries
    }

    /// How the element at `index` begins.
    pub(super) fn get<T: Plain>(&mut self, index: u32) -> Result<T, DatapathError> {
        self.look_up(index).map_err(|error| DatapathError::Map {
            operation: "reading",
            map: self.name,
            message: error.to_string(),
        })?;
        let element: *const T = self.element.as_ptr().cast();
        assert!(self.element.len() >= size_of::<T>(), "opened for another");
        // SAFETY: so many bytes are there, and `Plain` promises that any are a `T`.
        Ok(unsafe { element.read_unaligned() })
    }

    fn look_up(&mut self, index: u32) -> io::Result<()> {
        let attr = Lookup {
            map_fd: self.data.fd().as_fd().as_raw_fd().cast_unsigned(),
            pad: 0,
            key: (&raw const index).expose_provenance() as u64,
            value: self.element.as_mut_ptr().expose_provenance() as u64,
            flags: 0,
        };
        // SAFETY: the kernel reads `attr` and a key of four bytes, as every array has, and
        // writes one value, for which `element` has room: `open` asked for its size.
        let result =
            unsafe { libc::syscall(libc::SYS_bpf, LOOKUP, &raw const attr, size_of::<Lookup>()) };
        if result < 0 {
            return Err(io::Error::last_os_error());
        }
        Ok(())
    }
}
