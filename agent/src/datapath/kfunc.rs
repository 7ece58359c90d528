//! Completes the object's marked instructions for the running kernel: see
//! [`ringfence_ebpf::abi::marked`].
//!
//! `bpf_cast_to_kern_ctx` gives a program access to the kernel's own `sk_buff`, whose fields it
//! then reads with plain loads, about a nanosecond each (Linux 6.2). The alternative, a call of
//! `bpf_probe_read_kernel` for each field, takes a fifth of the processing time of each packet
//! sent by a pod. aya doesn't relocate calls of kernel functions, so that one instruction is
//! completed here, together with the offsets of the loads.

use object::{Object as _, ObjectSection as _, SectionFlags};
use ringfence_ebpf::abi::marked;

use super::btf::Running;
use super::error::DatapathError;

/// Loads with a larger offset than this are marked.
pub(super) const MARK: u16 = marked::LOADS as u16;

/// ELF's `SHF_EXECINSTR`.
const EXECUTABLE: u64 = 4;
/// `r0 = 0`: replaces the call if the kernel lacks the function. The programs never get there, but
/// the verifier checks calls before it finds out that they are unreachable.
const NO_CALL: u64 = 0xb7;
/// The class of instructions that load from memory.
const LDX: u8 = 1;

/// Returns the object completed for this kernel.
pub(super) fn complete(object: &[u8], running: &Running) -> Result<Vec<u8>, DatapathError> {
    let fault = |message: String| DatapathError::Program {
        operation: "completing the BPF object".to_owned(),
        message,
    };
    let file = object::File::parse(object).map_err(|error| fault(error.to_string()))?;
    let mut completed = object.to_vec();
    for section in file.sections() {
        let executable = matches!(section.flags(),
            SectionFlags::Elf { sh_flags } if sh_flags & EXECUTABLE != 0);
        let Some((start, length)) = section.file_range().filter(|_| executable) else {
            continue;
        };
        let (start, end) = (start as usize, (start + length) as usize);
        let Some(code) = completed.get_mut(start..end) else {
            return Err(fault("a section ends behind the file".to_owned()));
        };
        for instruction in code.chunks_exact_mut(8) {
            complete_one(instruction, running);
        }
    }
    Ok(completed)
}

fn complete_one(instruction: &mut [u8], running: &Running) {
    let Ok(bytes) = <[u8; 8]>::try_from(&*instruction) else {
        return;
    };
    // Opcode, registers, offset, immediate; the target is little-endian.
    let whole = u64::from_le_bytes(bytes);
    let offset = i16::from_le_bytes([bytes[2], bytes[3]]);
    if whole == marked::CAST {
        let call = |id| u64::from(id) << 32 | whole & 0xffff_ffff;
        instruction.copy_from_slice(&running.cast.map_or(NO_CALL, call).to_le_bytes());
    } else if bytes[0] & 7 == LDX
        && let Some(real) = marked::offset(&running.fields, offset)
    {
        instruction[2..4].copy_from_slice(&real.to_le_bytes());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ringfence_ebpf::abi::Kernel;

    fn completed(instruction: u64, cast: Option<u32>) -> u64 {
        let running = Running {
            fields: Kernel {
                skb_summed: 128,
                skb_head: 192,
                skb_data: 200,
                skb_sum_start: 136,
                skb_sum_offset: 138,
                ..Kernel::default()
            },
            cast,
        };
        let mut bytes = instruction.to_le_bytes();
        complete_one(&mut bytes, &running);
        u64::from_le_bytes(bytes)
    }

    #[test]
    fn the_marked_call_gets_the_functions_id_or_goes() {
        assert_eq!(completed(marked::CAST, Some(63_566)), 63_566 << 32 | 0x2085);
        assert_eq!(completed(marked::CAST, None), NO_CALL);
        // A call of a helper with the same number is a different instruction.
        let helper = u64::from(marked::CAST_ID) << 32 | 0x85;
        assert_eq!(completed(helper, Some(1)), helper);
    }

    #[test]
    fn marked_loads_get_their_offsets_whatever_their_registers() {
        let load = |offset: u16| 0x0000_0000_0000_3171 | u64::from(offset) << 16;
        for (mark, real) in [
            (marked::SUMMED, 128),
            (marked::HEAD, 192),
            (marked::DATA, 200),
            (marked::SUM_START, 136),
            (marked::SUM_OFFSET, 138),
        ] {
            assert_eq!(completed(load(mark as u16), None), load(real));
        }
        assert_eq!(completed(load(26), None), load(26));
        // A store with such an offset isn't marked.
        let store = 0x73 | 0x7a01 << 16;
        assert_eq!(completed(store, None), store);
    }

    #[test]
    fn the_objects_marks_are_all_completed() {
        if super::super::load::OBJECT.is_empty() {
            return;
        }
        let running = Running {
            fields: Kernel::default(),
            cast: Some(7),
        };
        let object = complete(super::super::load::OBJECT, &running).expect("an object");
        let changed = object
            .iter()
            .zip(super::super::load::OBJECT)
            .filter(|(new, old)| new != old)
            .count();
        // At least four bytes of the call, and two of each of five loads.
        assert!(changed >= 10, "{changed} bytes");
        let again = complete(&object, &running).expect("an object");
        assert!(again == object, "nothing is left to be completed");
    }
}
