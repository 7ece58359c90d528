//! Memory that several CPUs access concurrently.
//!
//! CPUs read and write the elements of an array map without a lock. A `&mut` to an element
//! asserts that no other CPU accesses it, and a plain load or store that races with another CPU's
//! store is a data race: both are undefined behaviour. Here each integer is a [`Shared`], which
//! is loaded and stored as a unit, and types of the kernel boundary have views of the same layout
//! that consist of such integers. Two integers of one element may stem from different moments,
//! and if two CPUs add to one integer, one addition may be lost: users of a view have to tolerate
//! that.

use crate::abi::{Addr, Bucket, BucketEntry, Budget, Connection, ConnectionKey, Quota};

pub use cell::{Shared, Word};

/// For the host: atomics without ordering.
#[cfg(not(target_arch = "bpf"))]
mod cell {
    use core::fmt::Debug;
    use core::sync::atomic::Ordering::Relaxed;
    use core::sync::atomic::{AtomicU8, AtomicU16, AtomicU32, AtomicU64};

    /// An integer that a CPU loads and stores as a unit.
    pub trait Word: Copy + Default + Debug {
        /// The atomic with the layout of the integer.
        type Place;
        /// Creates an atomic with this value.
        fn place(self) -> Self::Place;
        /// Loads the value.
        fn load(place: &Self::Place) -> Self;
        /// Stores the value.
        fn store(self, place: &Self::Place);
    }

    macro_rules! words {
        ($($word:ty: $place:ty),+) => {$(
            impl Word for $word {
                type Place = $place;

                fn place(self) -> $place {
                    <$place>::new(self)
                }

                fn load(place: &$place) -> Self {
                    place.load(Relaxed)
                }

                fn store(self, place: &$place) {
                    place.store(self, Relaxed);
                }
            }
        )+};
    }

    words!(u8: AtomicU8, u16: AtomicU16, u32: AtomicU32, u64: AtomicU64);

    /// An integer that other CPUs write concurrently.
    #[repr(transparent)]
    pub struct Shared<T: Word>(T::Place);

    impl<T: Word> Shared<T> {
        /// Creates one with an initial value.
        pub fn new(value: T) -> Self {
            Self(value.place())
        }

        /// Returns the current value.
        #[inline(always)]
        pub fn get(&self) -> T {
            T::load(&self.0)
        }

        /// Stores a new value.
        #[inline(always)]
        pub fn set(&self, value: T) {
            value.store(&self.0);
        }
    }
}

/// For BPF, where `core` has only 64-bit atomics: volatile loads and stores, like the kernel's
/// own `READ_ONCE` and `WRITE_ONCE`. LLVM compiles each to one BPF instruction, and the kernel's
/// compiler to one load or store of the machine.
#[cfg(target_arch = "bpf")]
#[allow(unsafe_code)]
mod cell {
    use core::cell::UnsafeCell;
    use core::fmt::Debug;

    /// An integer that a CPU loads and stores as a unit.
    pub trait Word: Copy + Default + Debug {}

    impl Word for u8 {}
    impl Word for u16 {}
    impl Word for u32 {}
    impl Word for u64 {}

    /// An integer that other CPUs write concurrently.
    #[repr(transparent)]
    pub struct Shared<T: Word>(UnsafeCell<T>);

    // SAFETY: an aligned integer of at most 64 bits, which every CPU loads and stores
    // with one instruction.
    unsafe impl<T: Word> Sync for Shared<T> {}

    impl<T: Word> Shared<T> {
        /// Creates one with an initial value.
        #[inline(always)]
        pub const fn new(value: T) -> Self {
            Self(UnsafeCell::new(value))
        }

        /// Returns the current value.
        #[inline(always)]
        pub fn get(&self) -> T {
            // SAFETY: an aligned integer, valid as long as `self` is.
            unsafe { self.0.get().read_volatile() }
        }

        /// Stores a new value.
        #[inline(always)]
        pub fn set(&self, value: T) {
            // SAFETY: as above.
            unsafe { self.0.get().write_volatile(value) }
        }

        /// Returns the address, for operations that `core` lacks.
        #[inline(always)]
        pub const fn as_ptr(&self) -> *mut T {
            self.0.get()
        }
    }
}

impl<T: Word> Clone for Shared<T> {
    #[inline(always)]
    fn clone(&self) -> Self {
        Self::new(self.get())
    }
}

impl<T: Word> Default for Shared<T> {
    fn default() -> Self {
        Self::new(T::default())
    }
}

impl<T: Word> core::fmt::Debug for Shared<T> {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        self.get().fmt(f)
    }
}

/// Defines the view of a type: the same fields at the same offsets.
macro_rules! view {
    ($name:ident of $abi:ident { $($(#[$cfg:meta])* $field:ident: $ty:ty),+ $(,)? }) => {
        #[doc = concat!("A [`", stringify!($abi), "`] that other CPUs write at the same time.")]
        #[repr(C)]
        #[derive(Clone, Debug, Default)]
        pub struct $name {$(
            $(#[$cfg])*
            #[doc = concat!("[`", stringify!($abi), "::", stringify!($field), "`].")]
            pub $field: $ty,
        )+}

        const _: () = {
            assert!(size_of::<$name>() == size_of::<$abi>());
            assert!(align_of::<$name>() == align_of::<$abi>());
            $(assert!(
                core::mem::offset_of!($name, $field) == core::mem::offset_of!($abi, $field)
            );)+
        };
    };
}

view!(SharedKey of ConnectionKey {
    local: [Shared<u32>; 4],
    remote: [Shared<u32>; 4],
    endpoint: Shared<u32>,
    local_port: Shared<u16>,
    remote_port: Shared<u16>,
    protocol: Shared<u32>,
});

view!(SharedConnection of Connection {
    #[cfg(not(feature = "other-connections"))]
    last_seen: Shared<u64>,
    opened: Shared<u64>,
    #[cfg(feature = "other-connections")]
    last_seen: Shared<u64>,
    packets: [Shared<u64>; 2],
    bytes: [Shared<u64>; 2],
    epoch: Shared<u32>,
    peer: Shared<u32>,
    opened_by: Shared<u8>,
    state: Shared<u8>,
    flags: Shared<u8>,
    minute: Shared<u8>,
    timeout: Shared<u32>,
    numbers: [Shared<u64>; 2],
});

view!(SharedEntry of BucketEntry {
    connection: SharedConnection,
    key: SharedKey,
    slot: Shared<u32>,
});

view!(SharedBucket of Bucket {
    tags: [Shared<u64>; Bucket::WAYS],
    owners: [Shared<u64>; 4],
    until: [Shared<u32>; Bucket::WAYS],
    connections: [SharedEntry; Bucket::WAYS],
});

view!(SharedQuota of Quota {
    endpoint: Shared<u32>,
    replied: Shared<u32>,
    claims: Shared<u32>,
    pad: Shared<u32>,
});

view!(SharedBudget of Budget {
    since: Shared<u64>,
    events: Shared<u64>,
});

impl SharedKey {
    /// Reports whether this is a given key, without `memcmp`. Each integer is loaded where it is
    /// compared: a BPF program doesn't have registers for all of them.
    #[inline(always)]
    pub fn is(&self, key: &ConnectionKey) -> bool {
        is_addr(&self.remote, &key.remote)
            && is_addr(&self.local, &key.local)
            && self.endpoint.get() == key.endpoint
            && self.local_port.get() == key.local_port
            && self.remote_port.get() == key.remote_port
            && self.protocol.get() == key.protocol
    }

    /// Stores a new value.
    #[inline(always)]
    pub fn set(&self, key: &ConnectionKey) {
        set_addr(&self.local, &key.local);
        set_addr(&self.remote, &key.remote);
        self.endpoint.set(key.endpoint);
        self.local_port.set(key.local_port);
        self.remote_port.set(key.remote_port);
        self.protocol.set(key.protocol);
    }
}

#[inline(always)]
fn is_addr(words: &[Shared<u32>; 4], addr: &Addr) -> bool {
    let other = addr.words();
    words[0].get() == other[0]
        && words[1].get() == other[1]
        && words[2].get() == other[2]
        && words[3].get() == other[3]
}

#[inline(always)]
fn set_addr(words: &[Shared<u32>; 4], addr: &Addr) {
    let other = addr.words();
    words[0].set(other[0]);
    words[1].set(other[1]);
    words[2].set(other[2]);
    words[3].set(other[3]);
}

impl SharedConnection {
    /// Stores a new value.
    #[inline(always)]
    pub fn set(&self, connection: &Connection) {
        self.last_seen.set(connection.last_seen);
        self.opened.set(connection.opened);
        self.packets[0].set(connection.packets[0]);
        self.packets[1].set(connection.packets[1]);
        self.bytes[0].set(connection.bytes[0]);
        self.bytes[1].set(connection.bytes[1]);
        self.epoch.set(connection.epoch);
        self.peer.set(connection.peer);
        self.opened_by.set(connection.opened_by);
        self.state.set(connection.state);
        self.flags.set(connection.flags);
        self.minute.set(connection.minute);
        self.timeout.set(connection.timeout);
        self.numbers[0].set(connection.numbers[0]);
        self.numbers[1].set(connection.numbers[1]);
    }

    /// Copies another connection, integer by integer: a full copy doesn't fit on a BPF stack.
    #[inline(always)]
    pub fn copy(&self, from: &Self) {
        self.last_seen.set(from.last_seen.get());
        self.opened.set(from.opened.get());
        self.packets[0].set(from.packets[0].get());
        self.packets[1].set(from.packets[1].get());
        self.bytes[0].set(from.bytes[0].get());
        self.bytes[1].set(from.bytes[1].get());
        self.epoch.set(from.epoch.get());
        self.peer.set(from.peer.get());
        self.opened_by.set(from.opened_by.get());
        self.state.set(from.state.get());
        self.flags.set(from.flags.get());
        self.minute.set(from.minute.get());
        self.timeout.set(from.timeout.get());
        self.numbers[0].set(from.numbers[0].get());
        self.numbers[1].set(from.numbers[1].get());
    }
}

#[cfg(test)]
#[path = "shared_tests.rs"]
mod tests;
