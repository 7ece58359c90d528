//! A frame in the kernel's hands.

use core::arch::asm;
use core::mem::MaybeUninit;

use aya_ebpf::bindings::__sk_buff;
use aya_ebpf::helpers::bpf_skb_load_bytes;
use aya_ebpf::programs::TcContext;
use ringfence_ebpf::packet::{Frame, Head};

/// A frame whose start mostly lies in one piece and is read in place, which
/// costs a nanosecond. `bpf_skb_load_bytes` reads what doesn't (AF_PACKET senders
/// can deliver 14 linear bytes) and costs 15 ns a call.
pub(super) struct Skb<'a>(pub(super) &'a TcContext);

impl Skb<'_> {
    #[inline(always)]
    fn skb(&self) -> *mut __sk_buff {
        self.0.skb.skb
    }

    /// # Safety
    /// Every bit pattern of `T` is valid.
    #[inline(always)]
    unsafe fn read<T>(&self, offset: u32) -> Option<T> {
        let mut value = MaybeUninit::<T>::uninit();
        // SAFETY: the helper writes all of `value` or fails; on failure (offset
        // past the end) it is not read.
        unsafe {
            let failed = bpf_skb_load_bytes(
                self.skb().cast(),
                offset,
                value.as_mut_ptr().cast(),
                size_of::<T>() as u32,
            );
            (failed == 0).then(|| value.assume_init())
        }
    }
}

impl Frame for Skb<'_> {
    #[inline(always)]
    fn load<const N: usize>(&self, offset: u32) -> Option<[u8; N]> {
        // SAFETY: bytes have no invalid patterns.
        unsafe { self.read(offset) }
    }

    #[inline(always)]
    fn words<const N: usize>(&self, offset: u32) -> Option<[u32; N]> {
        // SAFETY: integers have no invalid patterns.
        unsafe { self.read(offset) }
    }

    #[inline(always)]
    fn head<const N: usize>(&self) -> Option<impl Head> {
        // SAFETY: the kernel passes a valid __sk_buff; the verifier takes these
        // two fields for the packet's start and end.
        let (start, end) =
            unsafe { ((*self.skb()).data as usize, (*self.skb()).data_end as usize) };
        (start + N <= end).then_some(InPlace(start))
    }

    #[inline(always)]
    fn len(&self) -> u32 {
        self.0.len()
    }
}

/// The packet's start, as far as it was compared with its end.
///
/// Headers don't lie at multiples of their fields' sizes, which every machine
/// that Linux runs BPF on can read all the same. LLVM reads such a field byte by
/// byte, so the loads are written out.
struct InPlace(usize);

impl Head for InPlace {
    #[inline(always)]
    fn half<const AT: usize>(&self) -> u16 {
        let value: u64;
        // SAFETY: within the bytes that `head` compared; the verifier checks that.
        unsafe {
            asm!(
                "{value} = *(u16 *)({start} + {at})",
                value = out(reg) value,
                start = in(reg) self.0,
                at = const AT,
                options(pure, readonly, nostack)
            );
        }
        value as u16
    }

    #[inline(always)]
    fn word<const AT: usize>(&self) -> u32 {
        let value: u64;
        // SAFETY: as above.
        unsafe {
            asm!(
                "{value} = *(u32 *)({start} + {at})",
                value = out(reg) value,
                start = in(reg) self.0,
                at = const AT,
                options(pure, readonly, nostack)
            );
        }
        value as u32
    }
}
