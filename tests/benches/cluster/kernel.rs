//! The agent's pinned maps, read as packets read them.

use std::mem::size_of;
use std::path::Path;

use anyhow::{Context as _, Result};
use aya::maps::{Array, HashMap, Map, MapData, MapError};
use ringfence_ebpf::abi::{ABI_VERSION, Addr, Control, Grant, Identity, RuleKey, Seed};
use ringfence_policy::compile::IdKey;

type Bytes<const N: usize> = [u8; N];
const RULE: usize = size_of::<RuleKey>();
const GRANT: usize = size_of::<Grant>();
const IDENTITY: usize = size_of::<Identity>();
const CONTROL: usize = size_of::<Control>();

/// The random numbers of the tables here: the mirror numbers by them as well.
const SEED: [u8; size_of::<Seed>()] = [7; size_of::<Seed>()];

/// The key of the ids in tables of [`seed`]'s.
pub(crate) fn id_key() -> IdKey {
    IdKey::from_secret(&SEED)
}

/// Gives tables that nobody has made yet their random numbers; an agent keeps those.
pub(crate) fn seed(pin_dir: &Path) -> Result<()> {
    let folder = pin_dir.join(format!("v{ABI_VERSION}"));
    std::fs::create_dir_all(&folder)?;
    let mut seed: Array<MapData, Bytes<{ size_of::<Seed>() }>> = Array::create(1, 0)?;
    seed.set(0, SEED, 0)?;
    seed.pin(folder.join("SEED")).context("pinning map SEED")
}

/// What one entry is to be in the active buffer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Mark {
    /// An address: whether it has an element, and its class there.
    Address(Addr, Option<u32>),
    /// What a ruleset grants a class.
    Rule(u32, u32, Option<Grant>),
}

/// The maps of one agent.
pub(crate) struct Kernel {
    control: Array<MapData, Bytes<CONTROL>>,
    addresses: HashMap<MapData, Bytes<16>, Bytes<IDENTITY>>,
    rules: HashMap<MapData, Bytes<RULE>, Bytes<GRANT>>,
}

impl Kernel {
    /// Opens what is pinned.
    pub(crate) fn open(pin_dir: &Path) -> Result<Self> {
        let folder = pin_dir.join(format!("v{ABI_VERSION}"));
        let pin = |name: &str| {
            MapData::from_pin(folder.join(name)).with_context(|| format!("opening map {name}"))
        };
        Ok(Self {
            control: Map::Array(pin("CONTROL")?).try_into()?,
            addresses: Map::HashMap(pin("ADDRESSES")?).try_into()?,
            rules: Map::HashMap(pin("RULES")?).try_into()?,
        })
    }

    /// Whether an entry is as it should be.
    pub(crate) fn has(&self, mark: &Mark) -> Result<bool> {
        let buffer = word(&self.control.get(&0, 0)?, 0) & 1;
        Ok(match mark {
            Mark::Address(addr, class) => {
                let found = some(self.addresses.get(&addr.octets(), 0))?;
                // After workload and flags.
                let at = |identity| word(&identity, 2 + buffer as usize);
                found.map(at) == *class
            }
            Mark::Rule(ruleset, class, grant) => {
                let mut key = [0; RULE];
                for (to, part) in key.chunks_exact_mut(4).zip([buffer, *ruleset, *class]) {
                    to.copy_from_slice(&part.to_ne_bytes());
                }
                let found = some(self.rules.get(&key, 0))?;
                let found = found.map(|bytes| Grant {
                    enforced: word(&bytes, 0),
                    staged: word(&bytes, 1),
                });
                found == *grant
            }
        })
    }
}

fn some<T>(found: Result<T, MapError>) -> Result<Option<T>> {
    match found {
        Ok(found) => Ok(Some(found)),
        Err(MapError::KeyNotFound) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// The n-th word of an element.
fn word<const N: usize>(bytes: &Bytes<N>, n: usize) -> u32 {
    let mut word = [0; 4];
    word.copy_from_slice(&bytes[4 * n..4 * n + 4]);
    u32::from_ne_bytes(word)
}
