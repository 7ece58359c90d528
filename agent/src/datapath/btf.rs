//! The running kernel's type information (BTF): the offsets of the structure fields that the
//! programs read.
//!
//! This is a custom reader for the few records that are needed: the BTF crates resolve all of a
//! kernel's types at once, which takes 350 ms and 41 MB (measured with `btf-rs`), as much as a
//! third of the agent's total memory. Format: Documentation/bpf/btf.rst.

use std::path::Path;

use ringfence_ebpf::abi::Kernel;

use super::error::DatapathError;

/// Requires Linux 5.4 with `CONFIG_DEBUG_INFO_BTF`.
const PATH: &str = "/sys/kernel/btf/vmlinux";

const MAGIC: u16 = 0xeb9f;
const INT: u32 = 1;
const ARRAY: u32 = 3;
const STRUCT: u32 = 4;
const UNION: u32 = 5;
const ENUM: u32 = 6;
const TYPEDEF: u32 = 8;
/// The last of the qualifiers, which lie between `TYPEDEF` and this.
const RESTRICT: u32 = 11;
const FUNC: u32 = 12;
const FUNC_PROTO: u32 = 13;
const VAR: u32 = 14;
const DATASEC: u32 = 15;
const DECL_TAG: u32 = 17;
const TYPE_TAG: u32 = 18;
const ENUM64: u32 = 19;

/// What the programs need to know about the running kernel.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Running {
    /// Offsets of the fields that the programs read.
    pub(super) fields: Kernel,
    /// The id of function `bpf_cast_to_kern_ctx`, if the kernel has it (Linux 6.2).
    pub(super) cast: Option<u32>,
}

impl Running {
    /// Reads the type information of the running kernel.
    pub(super) fn read() -> Result<Self, DatapathError> {
        let path = Path::new(PATH);
        let data = std::fs::read(path).map_err(|source| DatapathError::File {
            operation: "reading the kernel's type information (CONFIG_DEBUG_INFO_BTF) from",
            path: path.to_owned(),
            source,
        })?;
        Btf::parse(&data)
            .and_then(|btf| btf.running())
            .map_err(|what| DatapathError::Program {
                operation: format!("finding {what} in {PATH}"),
                message: "this kernel's type information doesn't have it".to_owned(),
            })
    }
}

/// A blob of type information.
struct Btf<'a> {
    data: &'a [u8],
    /// Offset of each type's record, indexed by id minus one.
    types: Vec<usize>,
    strings: usize,
}

/// Location of a field in its structure.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Field {
    /// Offset in bits from the structure's start.
    bit: u32,
    /// Width of a bitfield; 0 for other fields.
    bits: u32,
    type_id: u32,
}

impl<'a> Btf<'a> {
    /// Locates the records; the error names what couldn't be read.
    fn parse(data: &'a [u8]) -> Result<Self, String> {
        let header = |at| word(data, at).ok_or_else(|| "a header".to_owned());
        if header(0)? as u16 != MAGIC {
            return Err("a header".to_owned());
        }
        let start = header(4)? as usize;
        let from = start + header(8)? as usize;
        let until = from + header(12)? as usize;
        let strings = start + header(16)? as usize;
        let mut types = Vec::new();
        let mut at = from;
        while at < until {
            let info = word(data, at + 4).ok_or_else(|| "all types".to_owned())?;
            types.push(at);
            at += 12 + trailer(info).ok_or_else(|| "only known kinds of types".to_owned())?;
        }
        Ok(Self {
            data,
            types,
            strings,
        })
    }

    fn running(&self) -> Result<Running, String> {
        let summed = self.field("sk_buff", &["ip_summed"])?;
        let (shift, bits) = (summed.bit % 8, summed.bits);
        if bits == 0 || shift + bits > 8 {
            return Err("sk_buff.ip_summed within one byte".to_owned());
        }
        let fields = Kernel {
            skb_sock: self.byte("sk_buff", &["sk"])?,
            skb_device: self.byte("sk_buff", &["dev"])?,
            skb_head: self.byte("sk_buff", &["head"])?,
            skb_data: self.byte("sk_buff", &["data"])?,
            skb_summed: (summed.bit / 8) as u16,
            skb_sum_start: self.byte("sk_buff", &["csum_start"])?,
            skb_sum_offset: self.byte("sk_buff", &["csum_offset"])?,
            // A `sock` starts with its `sock_common`, which is all that small sockets (requests,
            // TIME_WAIT) have.
            sock_net: self.byte("sock_common", &["skc_net", "net"])?,
            device_net: self.byte("net_device", &["nd_net", "net"])?,
            summed_bits: (((1 << bits) - 1) << shift) as u8,
            casts: 0,
            seen_mark: 0,
        };
        let cast = self.id(FUNC, "bpf_cast_to_kern_ctx");
        let casts = u8::from(cast.is_some());
        Ok(Running {
            fields: Kernel { casts, ..fields },
            cast,
        })
    }

    /// Returns the offset in bytes of a field that isn't a bitfield.
    fn byte(&self, structure: &str, path: &[&str]) -> Result<u16, String> {
        let field = self.field(structure, path)?;
        let byte = u16::try_from(field.bit / 8).ok().filter(|byte| *byte < MAX);
        match byte {
            Some(byte) if field.bits == 0 && field.bit % 8 == 0 => Ok(byte),
            _ => Err(format!("{structure}.{} at a byte", path.join("."))),
        }
    }

    /// Finds a field by the path of names that leads to it, looking through unnamed structures and
    /// unions on the way.
    fn field(&self, structure: &str, path: &[&str]) -> Result<Field, String> {
        let found = self.id(STRUCT, structure).and_then(|id| {
            let start = Field {
                bit: 0,
                bits: 0,
                type_id: id,
            };
            path.iter().try_fold(start, |at, name| {
                let field = self.member(at.type_id, name)?;
                Some(Field {
                    bit: at.bit + field.bit,
                    ..field
                })
            })
        });
        found.ok_or_else(|| format!("{structure}.{}", path.join(".")))
    }

    fn member(&self, type_id: u32, name: &str) -> Option<Field> {
        let at = self.resolve(type_id)?;
        let info = word(self.data, at + 4)?;
        if !matches!(kind(info), STRUCT | UNION) {
            return None;
        }
        (0..length(info)).find_map(|number| {
            let at = at + 12 + number * 12;
            let offset = word(self.data, at + 8)?;
            // If the flag is set, a member's offset also holds the width of a bitfield.
            let (bit, bits) = if info >> 31 == 1 {
                (offset & 0x00ff_ffff, offset >> 24)
            } else {
                (offset, 0)
            };
            let type_id = word(self.data, at + 4)?;
            let field = Field { bit, bits, type_id };
            match self.string(word(self.data, at)?)? {
                found if found == name.as_bytes() => Some(field),
                b"" => self.member(type_id, name).map(|inner| Field {
                    bit: bit + inner.bit,
                    ..inner
                }),
                _ => None,
            }
        })
    }

    /// Returns the record of a type, behind its typedefs and qualifiers.
    fn resolve(&self, mut id: u32) -> Option<usize> {
        // More levels than any declaration has.
        for _ in 0..32 {
            let at = *self.types.get(id.checked_sub(1)? as usize)?;
            match kind(word(self.data, at + 4)?) {
                TYPEDEF..=RESTRICT | TYPE_TAG => id = word(self.data, at + 8)?,
                _ => return Some(at),
            }
        }
        None
    }

    /// Returns the id of the first type with this kind and name.
    fn id(&self, of_kind: u32, name: &str) -> Option<u32> {
        let found = self.types.iter().position(|at| {
            word(self.data, at + 4).is_some_and(|info| kind(info) == of_kind)
                && word(self.data, *at).and_then(|offset| self.string(offset))
                    == Some(name.as_bytes())
        });
        found.map(|index| index as u32 + 1)
    }

    fn string(&self, offset: u32) -> Option<&'a [u8]> {
        let rest = self.data.get(self.strings + offset as usize..)?;
        rest.split(|byte| *byte == 0).next()
    }
}

/// Upper bound of real offsets. From here on, loads in the object carry markers instead: see
/// `kfunc.rs`. No kernel structure comes near this size.
const MAX: u16 = super::kfunc::MARK;

fn word(data: &[u8], at: usize) -> Option<u32> {
    let bytes = data.get(at..at.checked_add(4)?)?;
    Some(u32::from_ne_bytes(bytes.try_into().ok()?))
}

const fn kind(info: u32) -> u32 {
    info >> 24 & 0x1f
}

const fn length(info: u32) -> usize {
    (info & 0xffff) as usize
}

/// Returns the length in bytes of what follows a type's first three words.
const fn trailer(info: u32) -> Option<usize> {
    let each = match kind(info) {
        INT | VAR | DECL_TAG => return Some(4),
        ARRAY => return Some(12),
        STRUCT | UNION | DATASEC | ENUM64 => 12,
        ENUM | FUNC_PROTO => 8,
        1..=19 => 0,
        _ => return None,
    };
    Some(each * length(info))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Hand-made records: strings, then one type after another.
    struct Blob {
        types: Vec<u32>,
        strings: Vec<u8>,
    }

    impl Blob {
        fn name(&mut self, name: &str) -> u32 {
            let at = self.strings.len() as u32;
            self.strings.extend(name.bytes());
            self.strings.push(0);
            at
        }

        fn bytes(&self) -> Vec<u8> {
            let length = 4 * self.types.len() as u32;
            let header = [
                u32::from(MAGIC) | 1 << 16,
                24,
                0,
                length,
                length,
                self.strings.len() as u32,
            ];
            let words = header.iter().chain(&self.types);
            let mut bytes: Vec<u8> = words.flat_map(|word| word.to_ne_bytes()).collect();
            bytes.extend(&self.strings);
            bytes
        }
    }

    /// `struct s { u32 a; struct { union { u16 b; u8 c:2 at bit 5; } }; t d; }`, where
    /// `t` is a typedef of `struct { u32 net; }`.
    fn blob() -> Vec<u8> {
        let mut blob = Blob {
            types: Vec::new(),
            strings: vec![0],
        };
        let [s, a, b, c, d, t, net, f] =
            ["s", "a", "b", "c", "d", "t", "net", "f"].map(|name| blob.name(name));
        let flag = 1 << 31;
        blob.types.extend([0, INT << 24, 4, 32]); // 1: an integer
        blob.types
            .extend([0, flag | UNION << 24 | 2, 4, b, 1, 0, c, 1, 2 << 24 | 5]); // 2
        blob.types.extend([0, STRUCT << 24 | 1, 4, 0, 2, 16]); // 3
        blob.types.extend([0, STRUCT << 24 | 1, 4, net, 1, 0]); // 4
        blob.types.extend([t, TYPEDEF << 24, 4]); // 5
        blob.types
            .extend([s, STRUCT << 24 | 3, 16, a, 1, 0, 0, 3, 32, d, 5, 96]); // 6
        blob.types.extend([f, FUNC << 24, 1]); // 7
        blob.bytes()
    }

    #[test]
    fn fields_are_found_through_unnamed_structures_and_typedefs() {
        let blob = blob();
        let btf = Btf::parse(&blob).expect("a blob");
        assert_eq!(btf.byte("s", &["a"]), Ok(0));
        assert_eq!(btf.byte("s", &["b"]), Ok(6));
        assert_eq!(btf.byte("s", &["d", "net"]), Ok(12));
        let c = btf.field("s", &["c"]).expect("a bitfield");
        assert_eq!((c.bit, c.bits), (32 + 16 + 5, 2));
        assert_eq!(
            btf.byte("s", &["c"]),
            Err("s.c at a byte".to_owned()),
            "a bitfield has no offset of its own"
        );
        assert_eq!(btf.byte("s", &["e"]), Err("s.e".to_owned()));
        assert_eq!(btf.byte("r", &["a"]), Err("r.a".to_owned()));
        assert_eq!((btf.id(FUNC, "f"), btf.id(FUNC, "s")), (Some(7), None));
    }

    #[test]
    fn a_blob_that_is_cut_short_anywhere_is_refused_or_lacks_what_was_cut() {
        let blob = blob();
        for length in 0..blob.len() {
            if let Ok(btf) = Btf::parse(&blob[..length]) {
                assert!(btf.byte("s", &["d", "net"]).is_err() || length + 10 > blob.len());
            }
        }
    }

    #[test]
    fn the_running_kernel_has_all_that_the_programs_read() {
        if !Path::new(PATH).exists() {
            return;
        }
        let running = Running::read().expect("this kernel's type information");
        let fields = running.fields;
        assert_eq!(fields.summed_bits.count_ones(), 2);
        assert_eq!(fields.skb_sum_offset, fields.skb_sum_start + 2);
        assert_eq!(fields.casts == 1, running.cast.is_some());
    }
}
