//! Reads elements of which only the beginning is known: aya only reads elements of one size.

use std::io;
use std::os::fd::{AsFd as _, AsRawFd as _};
use std::path::Path;

use aya::maps::{MapData, MapInfo, MapType};
use nix::libc;
use ringfence_ebpf::abi::Plain;

use super::catalog::MapName;
use super::error::DatapathError;
use super::maps::map_error;

/// `BPF_MAP_LOOKUP_ELEM` (linux/bpf.h).
const LOOKUP: libc::c_int = 1;

/// The part of `union bpf_attr` that a lookup uses (linux/bpf.h).
#[repr(C)]
struct Lookup {
    map_fd: u32,
    pad: u32,
    key: u64,
    value: u64,
    flags: u64,
}

/// A pinned array whose elements start with a `T` and may be longer.
pub(super) struct Heads {
    data: MapData,
    entries: u32,
    name: MapName,
    element: Vec<u8>,
}

impl Heads {
    /// Opens an array whose elements have at least `least` bytes; missing bytes of a `T` read as
    /// zero. None if it doesn't exist or isn't such an array.
    pub(super) fn open<T: Plain>(
        folder: &Path,
        name: MapName,
        least: usize,
    ) -> Result<Option<Self>, DatapathError> {
        let path = folder.join(name.as_str());
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
            // The kernel writes whole words.
            element: vec![0; size.max(size_of::<T>()).next_multiple_of(8)],
        }))
    }

    /// Returns the number of elements.
    pub(super) const fn len(&self) -> u32 {
        self.entries
    }

    /// Reads the beginning of the element at `index`.
    pub(super) fn get<T: Plain>(&mut self, index: u32) -> Result<T, DatapathError> {
        self.look_up(index).map_err(|error| DatapathError::Map {
            operation: "reading",
            map: self.name,
            message: error.to_string(),
        })?;
        let element: *const T = self.element.as_ptr().cast();
        assert!(self.element.len() >= size_of::<T>(), "opened for another");
        // SAFETY: the assertion checked the length, and `Plain` guarantees that any bytes are a
        // `T`.
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
        // SAFETY: the kernel reads `attr` and a key of four bytes, as every array has, and writes
        // one value, for which `element` has room: `open` queried its size.
        let result =
            unsafe { libc::syscall(libc::SYS_bpf, LOOKUP, &raw const attr, size_of::<Lookup>()) };
        if result < 0 {
            return Err(io::Error::last_os_error());
        }
        Ok(())
    }
}
