//! How a map is laid out, and whether one that is there already is laid out as we need it.
//!
//! Owns the comparison. It refuses to know what is in a map. Invariant: a map of another layout is never read or written
//! (edge-cases I7): it is named, and the operator decides.

use aya::maps::{MapInfo, MapType};

use super::kind::Kind;

/// The layout of a map. Sizes are in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Layout {
    /// Its name.
    pub map: &'static str,
    /// How it is stored.
    pub kind: Kind,
    /// Size of a key.
    pub key_size: u32,
    /// Size of a value.
    pub value_size: u32,
    /// Most entries; `None` if any number will do.
    pub max_entries: Option<u32>,
}

/// A map is laid out otherwise than wanted.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("map {map}: {field} is {found}, wanted {wanted}")]
pub struct LayoutError {
    /// Name of the map.
    pub map: &'static str,
    /// The field that differs.
    pub field: &'static str,
    /// What it is.
    pub found: String,
    /// What it should be.
    pub wanted: String,
}

impl Layout {
    /// Compares with a map that is there.
    ///
    /// # Errors
    /// The first field that differs.
    pub fn check(&self, found: &MapInfo) -> Result<(), LayoutError> {
        let error = |field, found: &dyn ToString, wanted: &dyn ToString| LayoutError {
            map: self.map,
            field,
            found: found.to_string(),
            wanted: wanted.to_string(),
        };
        let kind = Kind::of(found);
        if kind != Some(self.kind) {
            let found = kind.map_or("of another kind", Kind::name);
            return Err(error("type", &found, &self.kind.name()));
        }
        let numbers = [
            ("key size", found.key_size(), Some(self.key_size)),
            ("value size", found.value_size(), Some(self.value_size)),
            ("max_entries", found.max_entries(), self.max_entries),
        ];
        for (field, found, wanted) in numbers {
            if let Some(wanted) = wanted
                && found != wanted
            {
                return Err(error(field, &found, &wanted));
            }
        }
        Ok(())
    }
}

impl Kind {
    /// The name as the kernel's documentation and `bpftool` have it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Hash => "hash",
            Self::LruHash => "lru_hash",
            Self::LpmTrie => "lpm_trie",
            Self::Array => "array",
            Self::PerCpuArray => "percpu_array",
        }
    }

    pub(super) fn of(info: &MapInfo) -> Option<Self> {
        match info.map_type() {
            Ok(MapType::Hash) => Some(Self::Hash),
            Ok(MapType::LruHash) => Some(Self::LruHash),
            Ok(MapType::LpmTrie) => Some(Self::LpmTrie),
            Ok(MapType::Array) => Some(Self::Array),
            Ok(MapType::PerCpuArray) => Some(Self::PerCpuArray),
            _ => None,
        }
    }
}
