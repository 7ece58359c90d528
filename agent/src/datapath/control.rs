//! The element that says what is in force, mapped into memory: its first word is
//! written with one store, so that no packet reads half of it.

use std::num::NonZeroUsize;
use std::os::fd::AsFd as _;
use std::path::Path;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU64, Ordering};

use aya::maps::MapData;
use nix::sys::mman::{MapFlags, ProtFlags, mmap, munmap};
use ringfence_ebpf::abi::Control;

use super::error::DatapathError;
use super::maps::{Maps, Raw, map_error, wrote};
use super::written::written;

/// `CONTROL` takes one page of memory: a mappable array starts at a page.
const LENGTH: NonZeroUsize = NonZeroUsize::MIN.saturating_add(size_of::<Control>() - 1);

/// Map `CONTROL` in this process' memory.
pub(super) struct InForce {
    element: NonNull<Control>,
}

// SAFETY: the memory belongs to this value alone in this process, and is not bound
// to a thread.
unsafe impl Send for InForce {}

impl InForce {
    /// Maps the pinned element.
    pub(super) fn map(folder: &Path) -> Result<Self, DatapathError> {
        let data = MapData::from_pin(folder.join("CONTROL"))
            .map_err(|error| map_error("opening pinned", "CONTROL", &error))?;
        let protection = ProtFlags::PROT_READ | ProtFlags::PROT_WRITE;
        // SAFETY: a new mapping at an address that the kernel chooses; it keeps the
        // map alive by itself.
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
            map: "CONTROL",
            message: errno.to_string(),
        })?;
        Ok(Self {
            element: element.cast(),
        })
    }

    fn word(&self) -> &AtomicU64 {
        // SAFETY: the first field of an element that starts at a page; `Control` is
        // `repr(C)`, and both sides touch this word in whole only.
        unsafe { AtomicU64::from_ptr((&raw mut (*self.element.as_ptr()).state).cast()) }
    }

    /// What is in force: [`Control::state`].
    pub(super) fn state(&self) -> u64 {
        self.word().load(Ordering::Acquire)
    }

    /// Puts a world in force under its generation, after everything that was written
    /// to it.
    pub(super) fn set_state(&mut self, state: u64) {
        self.word().store(state, Ordering::Release);
    }
}

impl Maps {
    /// What is in force: [`Control::state`].
    pub(super) fn state(&self) -> u64 {
        self.in_force.state()
    }

    /// What is in force, with its settings.
    pub(super) fn control(&self) -> Result<Control, DatapathError> {
        match self.control.get(&0, 0) {
            Ok(Raw(control)) => Ok(control),
            Err(error) => Err(map_error("reading", "CONTROL", &error)),
        }
    }

    /// Puts a state in force, with one store. Its settings come first where they
    /// differ, under the state that was in force before.
    pub(super) fn set_control(&mut self, control: Control) -> Result<(), DatapathError> {
        let before = self.control()?;
        let settings = Control {
            state: before.state,
            ..control
        };
        if before != settings {
            wrote("writing", "CONTROL", self.control.set(0, Raw(settings), 0))?;
        }
        self.in_force.set_state(control.state);
        written();
        Ok(())
    }

    /// Goes on asking packets for a mark if that is the one which they are asked for, and
    /// else asks for none until [`Maps::set_control`] does; whether it goes on.
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
        // SAFETY: mapped by `map` with this length, and not used any more. It only
        // fails for addresses that were never mapped.
        let _ = unsafe { munmap(self.element.cast(), LENGTH.get()) };
    }
}
