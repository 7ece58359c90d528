//! The control element, which names the active buffer, mapped into memory: its first word is
//! written with one store, so no packet sees a partial update.

use std::num::NonZeroUsize;
use std::os::fd::AsFd as _;
use std::path::Path;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU64, Ordering};

use aya::maps::MapData;
use nix::sys::mman::{MapFlags, ProtFlags, mmap, munmap};
use ringfence_ebpf::abi::Control;

use super::catalog::MapName;
use super::error::DatapathError;
use super::maps::{Maps, Raw, map_error, wrote};
use super::written::written;

/// Map `CONTROL` takes one page of memory: a mappable array starts at a page boundary.
const LENGTH: NonZeroUsize = NonZeroUsize::MIN.saturating_add(size_of::<Control>() - 1);

/// Map `CONTROL` in this process's memory.
pub(super) struct InForce {
    element: NonNull<Control>,
}

// SAFETY: within this process the memory belongs to this value alone, and it isn't bound to a
// thread.
unsafe impl Send for InForce {}

impl InForce {
    /// Maps the pinned element.
    pub(super) fn map(folder: &Path) -> Result<Self, DatapathError> {
        let data = MapData::from_pin(folder.join(MapName::Control.as_str()))
            .map_err(|error| map_error("opening pinned", MapName::Control, &error))?;
        let protection = ProtFlags::PROT_READ | ProtFlags::PROT_WRITE;
        // SAFETY: this is a new mapping at an address chosen by the kernel, and the mapping itself
        // keeps the map alive.
        let mapped = unsafe {
            mmap(
                None,
                LENGTH,
                protection,
                MapFlags::MAP_SHARED,
                data.fd().as_fd(),
                0,
            )
        };
        let element = mapped.map_err(|errno| DatapathError::Map {
            operation: "mapping into memory",
            map: MapName::Control,
            message: errno.to_string(),
        })?;
        Ok(Self {
            element: element.cast(),
        })
    }

    fn word(&self) -> &AtomicU64 {
        // SAFETY: this is the first field of an element that starts at a page boundary; `Control`
        // is `repr(C)`, and both sides only access this word as a whole.
        unsafe { AtomicU64::from_ptr((&raw mut (*self.element.as_ptr()).state).cast()) }
    }

    /// Returns the state in force: [`Control::state`].
    pub(super) fn state(&self) -> u64 {
        self.word().load(Ordering::Acquire)
    }

    /// Makes a buffer active under its generation, ordered after all writes to that buffer.
    pub(super) fn set_state(&mut self, state: u64) {
        self.word().store(state, Ordering::Release);
    }
}

impl Maps {
    /// Returns the state in force: [`Control::state`].
    pub(super) fn state(&self) -> u64 {
        self.in_force.state()
    }

    /// Returns the state in force, with its settings.
    pub(super) fn control(&self) -> Result<Control, DatapathError> {
        match self.control.get(&0, 0) {
            Ok(Raw(control)) => Ok(control),
            Err(error) => Err(map_error("reading", MapName::Control, &error)),
        }
    }

    /// Puts a state in force with one store. Settings that differ are written before, under the
    /// state that was in force until then.
    pub(super) fn set_control(&mut self, control: Control) -> Result<(), DatapathError> {
        let before = self.control()?;
        let settings = Control {
            state: before.state,
            ..control
        };
        if before != settings {
            wrote(
                "writing",
                MapName::Control,
                self.control.set(0, Raw(settings), 0),
            )?;
        }
        self.in_force.set_state(control.state);
        written();
        Ok(())
    }

    /// Keeps requiring the mark of seen packets if the mark is the same as before; otherwise stops
    /// requiring any until [`Maps::set_control`] is called. Returns whether it is the same.
    pub(super) fn keep_seen_mark(&mut self, mark: u32) -> Result<bool, DatapathError> {
        let before = self.control()?;
        if before.seen_mark == mark {
            return Ok(true);
        }
        let control = Control {
            seen_mark: 0,
            ..before
        };
        self.set_control(control)?;
        self.wait_for_readers()?;
        Ok(false)
    }
}

impl Drop for InForce {
    fn drop(&mut self) {
        // SAFETY: mapped by `map` with this length, and not used any more. This only fails for
        // addresses that were never mapped.
        let _ = unsafe { munmap(self.element.cast(), LENGTH.get()) };
    }
}
