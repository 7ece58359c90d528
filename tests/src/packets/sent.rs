//! A frame on its way out of a pod, as the library sees it.

use ringfence_ebpf::packet::{Frame, Head};

/// A frame, and where a checksum is still to be written.
pub(super) struct Sent<'f> {
    pub(super) bytes: &'f [u8],
    pub(super) pending: Option<u32>,
}

impl Frame for Sent<'_> {
    fn load<const N: usize>(&self, offset: u32) -> Option<[u8; N]> {
        self.bytes.load(offset)
    }

    fn words<const N: usize>(&self, offset: u32) -> Option<[u32; N]> {
        self.bytes.words(offset)
    }

    fn head<const N: usize>(&self) -> Option<impl Head> {
        self.bytes.head::<N>()
    }

    fn len(&self) -> u32 {
        Frame::len(self.bytes)
    }

    fn pending_checksum(&self) -> Option<u32> {
        self.pending
    }
}
