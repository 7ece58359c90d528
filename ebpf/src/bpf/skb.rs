//! Access to a frame in the kernel's `sk_buff`.

use core::arch::asm;
use core::mem::MaybeUninit;

use aya_ebpf::bindings::__sk_buff;
use aya_ebpf::helpers::bpf_skb_load_bytes;
use aya_ebpf::helpers::generated::{bpf_probe_read_kernel, bpf_skb_load_bytes_relative};
use aya_ebpf::programs::TcContext;
use ringfence_ebpf::abi::{Addr, Kernel, marked};
use ringfence_ebpf::packet::{Frame, Head, ethertype};

/// `BPF_HDR_START_NET` (linux/bpf.h).
const BPF_HDR_START_NET: u32 = 1;

/// Offsets of the running kernel's fields. The agent sets them before it loads the programs; the
/// verifier treats the values as constants.
// SAFETY: nothing else has this name.
#[unsafe(no_mangle)]
static KERNEL: Kernel = Kernel {
    skb_sock: 0,
    skb_device: 0,
    skb_head: 0,
    skb_data: 0,
    skb_summed: 0,
    skb_sum_start: 0,
    skb_sum_offset: 0,
    sock_net: 0,
    device_net: 0,
    summed_bits: 0,
    casts: 0,
    seen_mark: 0,
};

/// Reads one of its fields. The load is volatile, since the compiler takes the zeros above for
/// the actual values.
macro_rules! kernel {
    ($field:ident) => {
        // SAFETY: an aligned integer of a static.
        unsafe { (&raw const KERNEL.$field).read_volatile() }
    };
}

/// Returns the bit of `skb->mark` that ingress hooks set on packets they have seen.
#[inline(always)]
pub(super) fn seen_mark() -> u32 {
    kernel!(seen_mark)
}

/// A frame whose start is usually contiguous and then read in place, which costs a nanosecond.
/// Otherwise (AF_PACKET senders can deliver 14 linear bytes) it is read by `bpf_skb_load_bytes`,
/// which costs 15 ns a call.
pub(super) struct Skb<'a>(pub(super) &'a TcContext);

impl Skb<'_> {
    /// Returns the source address in the IP header, with or without a link header before it;
    /// `None` for anything but IP.
    #[inline(always)]
    pub(super) fn source(&self) -> Option<Addr> {
        self.address(12, 8)
    }

    /// Returns the destination address in the same way.
    #[inline(always)]
    pub(super) fn destination(&self) -> Option<Addr> {
        self.address(16, 24)
    }

    /// Reports whether this is, or may be, one of the pieces into which IPv6 cuts a packet: only
    /// certain extension headers can precede its fragment header (RFC 8200, 4.5).
    #[inline(always)]
    pub(super) fn may_be_piece_v6(&self) -> bool {
        self.kind() == ethertype::IPV6 && matches!(self.of_network(6), Some(0_u8 | 43 | 44 | 60))
    }

    /// Reports whether this is about a group's listeners: IGMP, or IPv6 with hop-by-hop options.
    #[inline(always)]
    pub(super) fn may_be_of_group(&self) -> bool {
        let next = self.kind() == ethertype::IPV6 && self.protocol() == Some(0);
        (next || self.is_igmp()) && self.destination().is_some_and(|to| to.is_group())
    }

    /// Reports whether this is IGMP.
    #[inline(always)]
    pub(super) fn is_igmp(&self) -> bool {
        const IGMP: u8 = 2;
        self.kind() == ethertype::IPV4 && self.protocol() == Some(IGMP)
    }

    /// Returns IPv4's protocol or IPv6's next header.
    #[inline(always)]
    pub(super) fn protocol(&self) -> Option<u8> {
        match self.kind() {
            ethertype::IPV4 => self.of_network(9),
            ethertype::IPV6 => self.of_network(6),
            _ => None,
        }
    }

    #[inline(always)]
    fn address(&self, v4: u32, v6: u32) -> Option<Addr> {
        match self.kind() {
            ethertype::IPV4 => self.of_network(v4).map(Addr::v4),
            ethertype::IPV6 => self.of_network(v6).map(Addr::from_words),
            _ => None,
        }
    }

    /// Returns the EtherType that the kernel recorded, after any VLAN tags that it stripped.
    #[inline(always)]
    fn kind(&self) -> u16 {
        // SAFETY: the kernel passes a valid __sk_buff.
        u16::from_be(unsafe { (*self.skb()).protocol } as u16)
    }

    /// Reads bytes at an offset from the start of the network header (Linux 4.18).
    #[inline(always)]
    fn of_network<T: Copy + Default>(&self, offset: u32) -> Option<T> {
        let mut value = T::default();
        // SAFETY: the helper writes all of `value`, with zeros if it fails; integers and arrays
        // of them have no invalid bit patterns.
        let failed = unsafe {
            bpf_skb_load_bytes_relative(
                self.skb().cast(),
                offset,
                (&raw mut value).cast(),
                size_of::<T>() as u32,
                BPF_HDR_START_NET,
            )
        };
        (failed == 0).then_some(value)
    }

    /// Returns where a pending checksum will be written. If `pending` is false, it answers for
    /// frames without a pending checksum instead.
    #[inline(always)]
    pub(super) fn checksum_place(&self, pending: bool) -> Option<u32> {
        if kernel!(casts) != 0 {
            pending_by_cast(self.skb(), pending)
        } else {
            pending_by_probes(self.skb(), pending)
        }
    }

    #[inline(always)]
    fn skb(&self) -> *mut __sk_buff {
        self.0.skb.skb
    }

    /// # Safety
    /// Every bit pattern of `T` is valid.
    #[inline(always)]
    unsafe fn read<T>(&self, offset: u32) -> Option<T> {
        let mut value = MaybeUninit::<T>::uninit();
        // SAFETY: the helper writes all of `value` or fails; `value` isn't read after a failure
        // (offset past the end).
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

/// Reads a field of a kernel structure; returns zero if the memory isn't accessible.
#[inline(always)]
fn probe<T: Copy + Default>(base: u64, offset: u16) -> T {
    let mut value = T::default();
    let from = (base + u64::from(offset)) as *const core::ffi::c_void;
    // SAFETY: the helper writes all of `value`, with zeros if it fails, and accepts any address
    // (Linux 5.5).
    unsafe {
        bpf_probe_read_kernel((&raw mut value).cast(), size_of::<T>() as u32, from);
    }
    value
}

/// Reads a field of the kernel's `sk_buff` by a plain load; its offset is a placeholder, which
/// the agent replaces by the real one.
macro_rules! load {
    ($kind:literal, $base:expr, $mark:expr) => {{
        let value: u64;
        // SAFETY: the verifier checks that the field is within the structure.
        unsafe {
            asm!(
                concat!("{value} = *(", $kind, " *)({base} + {at})"),
                value = out(reg) value,
                base = in(reg) $base,
                at = const $mark,
                options(pure, readonly, nostack)
            );
        }
        value
    }};
}

/// Returns the offset from the frame's start at which a checksum will be written when the frame
/// leaves: the sender left that to a device, or to the kernel in its place (`CHECKSUM_PARTIAL`).
/// A bench inverts the condition (`pending` is false), since none of its frames has a pending
/// checksum.
#[inline(always)]
fn pending_by_cast(skb: *mut __sk_buff, pending: bool) -> Option<u32> {
    let kernel: u64;
    // SAFETY: calls a kernel function that takes the context and returns the `sk_buff` behind it;
    // the agent has patched the function's id into the call.
    unsafe {
        asm!(
            ".quad {call}",
            call = const marked::CAST,
            inlateout("r1") skb => _,
            lateout("r0") kernel,
            lateout("r2") _,
            lateout("r3") _,
            lateout("r4") _,
            lateout("r5") _,
            options(nostack)
        );
    }
    let bits = u64::from(kernel!(summed_bits));
    if (load!("u8", kernel, marked::SUMMED) & bits == bits) != pending {
        return None;
    }
    let headroom = load!("u64", kernel, marked::DATA) - load!("u64", kernel, marked::HEAD);
    let at = load!("u16", kernel, marked::SUM_START) + load!("u16", kernel, marked::SUM_OFFSET);
    Some((at - headroom) as u32)
}

/// Does the same on kernels without that function.
#[inline(never)]
fn pending_by_probes(skb: *mut __sk_buff, pending: bool) -> Option<u32> {
    let skb = skb as u64;
    let bits = kernel!(summed_bits);
    if (probe::<u8>(skb, kernel!(skb_summed)) & bits == bits) != pending {
        return None;
    }
    let headroom = probe::<u64>(skb, kernel!(skb_data)) - probe::<u64>(skb, kernel!(skb_head));
    let start = probe::<u16>(skb, kernel!(skb_sum_start));
    let at = u64::from(start) + u64::from(probe::<u16>(skb, kernel!(skb_sum_offset)));
    Some((at - headroom) as u32)
}

/// Reports whether a socket of this node sent the frame: one of the network namespace of the
/// device to which the hook is attached.
///
/// That is proof, unlike an ingress interface of 0, which a packet that was forwarded and
/// refragmented has too. Forwarding refuses packets with a socket (`ip_forward`, `ip6_forward`),
/// receiving IP removes the socket (`ip_rcv_core`), and a packet that a bridge forwards from a
/// pod has a socket of the pod's namespace.
#[inline(always)]
pub(super) fn is_sent_here(ctx: &TcContext) -> bool {
    let skb = ctx.skb.skb as u64;
    let socket = probe::<u64>(skb, kernel!(skb_sock));
    let device = probe::<u64>(skb, kernel!(skb_device));
    if socket == 0 || device == 0 {
        return false;
    }
    let net = probe::<u64>(socket, kernel!(sock_net));
    net != 0 && net == probe::<u64>(device, kernel!(device_net))
}

impl Frame for Skb<'_> {
    #[inline(always)]
    fn load<const N: usize>(&self, offset: u32) -> Option<[u8; N]> {
        // SAFETY: bytes have no invalid bit patterns.
        unsafe { self.read(offset) }
    }

    #[inline(always)]
    fn words<const N: usize>(&self, offset: u32) -> Option<[u32; N]> {
        // SAFETY: integers have no invalid bit patterns.
        unsafe { self.read(offset) }
    }

    #[inline(always)]
    fn head<const N: usize>(&self) -> Option<impl Head> {
        // SAFETY: the kernel passes a valid __sk_buff; the verifier recognizes these two fields
        // as the packet's start and end.
        let (start, end) =
            unsafe { ((*self.skb()).data as usize, (*self.skb()).data_end as usize) };
        (start + N <= end).then_some(InPlace(start))
    }

    #[inline(always)]
    fn len(&self) -> u32 {
        self.0.len()
    }

    #[inline(always)]
    fn pending_checksum(&self) -> Option<u32> {
        self.checksum_place(true)
    }
}

/// The start of the packet, as far as it was compared with the packet's end.
///
/// Headers aren't aligned to their fields' sizes; every machine on which Linux runs BPF can read
/// them anyway. LLVM reads such a field byte by byte, so the loads are written in assembly.
struct InPlace(usize);

impl Head for InPlace {
    #[inline(always)]
    fn half<const AT: usize>(&self) -> u16 {
        let value: u64;
        // SAFETY: within the bytes that `head` checked; the verifier enforces that.
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
