//! Whether pinned maps have the layout that the embedded programs were compiled for.
//!
//! Owns the comparison: aya 0.14 takes a pinned map as it is, whatever its sizes. Refuses to repair anything. Invariant: no
//! program is loaded against a map that it would misread.

use std::collections::BTreeMap;
use std::io;

use aya::maps::{MapData, MapError};
use nodeport_common::maps;

use super::config::Sizes;
use super::error::DatapathError;
use super::pins::Pins;

/// Every map that outlives the agent.
pub const PINNED: &[&str] = &[
    maps::CONTROL,
    maps::DEVICES,
    maps::ADDRESSES4,
    maps::ADDRESSES6,
    maps::FRONTENDS4,
    maps::FRONTENDS6,
    maps::BACKENDS4,
    maps::BACKENDS6,
    maps::SERVING4,
    maps::SERVING6,
    maps::AFFINITY4,
    maps::AFFINITY6,
    maps::SOURCES4,
    maps::SOURCES6,
    maps::NOTED4,
    maps::NOTED6,
    maps::FLOWS4,
    maps::FLOWS6,
    maps::PENDING4,
    maps::PENDING6,
    maps::FRAGMENTS4,
    maps::FRAGMENTS6,
    maps::SOCKETS4,
    maps::SOCKETS6,
    maps::BINDS,
    maps::DESTINATIONS,
    maps::SNAT_CURSORS,
    maps::REJECTS,
    maps::OUTCOMES,
];

/// What the kernel knows of a map's layout.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Shape {
    /// `enum bpf_map_type`.
    pub map_type: u32,
    /// Bytes of a key.
    pub key_size: u32,
    /// Bytes of a value.
    pub value_size: u32,
    /// Creation flags.
    pub flags: u32,
    /// Most entries.
    pub max_entries: u32,
}

/// The maps of an object by name. `max_entries` of a map whose size is a matter of flags is `None` where no flag was given: then
/// a pinned map may have any size.
pub(super) type Wanted = BTreeMap<&'static str, (Shape, Option<u32>)>;

/// Who says how many entries a map has.
enum Size {
    /// Its flag; the object if that is not given.
    Flag(Option<u32>),
    /// The object alone.
    Object,
}

fn size_of(name: &str, sizes: &Sizes) -> Size {
    match name {
        maps::FLOWS4 | maps::FLOWS6 => Size::Flag(sizes.flows_max),
        maps::PENDING4 | maps::PENDING6 => Size::Flag(sizes.pending_max),
        maps::SOCKETS4 | maps::SOCKETS6 => Size::Flag(sizes.sockets_max),
        maps::BACKENDS4 | maps::BACKENDS6 => Size::Flag(sizes.backends_max),
        maps::FRONTENDS4 | maps::FRONTENDS6 => Size::Flag(sizes.frontends_max),
        _ => Size::Object,
    }
}

/// The sizes that flags override, for the loader.
pub(super) fn overrides(sizes: Sizes) -> impl Iterator<Item = (&'static str, u32)> {
    PINNED
        .iter()
        .filter_map(move |&name| match size_of(name, &sizes) {
            Size::Flag(Some(entries)) => Some((name, entries)),
            Size::Flag(None) | Size::Object => None,
        })
}

/// The layouts that the object's programs were compiled for.
///
/// # Errors
/// [`DatapathError::Object`] if it is no BPF object, [`DatapathError::ObjectLacks`] if a map is missing.
pub(super) fn wanted(object: &[u8], sizes: &Sizes) -> Result<Wanted, DatapathError> {
    let parsed =
        aya_obj::Object::parse(object).map_err(|error| DatapathError::Object(Box::new(error)))?;
    PINNED
        .iter()
        .map(|&name| {
            let map = parsed
                .maps
                .get(name)
                .ok_or(DatapathError::ObjectLacks { what: "map", name })?;
            let shape = Shape {
                map_type: map.map_type(),
                key_size: map.key_size(),
                value_size: map.value_size(),
                flags: map.map_flags(),
                max_entries: map.max_entries(),
            };
            let entries = match size_of(name, sizes) {
                Size::Flag(entries) => entries,
                Size::Object => Some(shape.max_entries),
            };
            Ok((name, (shape, entries)))
        })
        .collect()
}

/// Compares every pinned map with what is wanted. Maps that are not pinned yet are fine.
///
/// # Errors
/// [`DatapathError::Layout`] for the first difference, [`DatapathError::Map`] if a pin cannot be read.
pub(super) fn check_pinned(pins: &Pins, wanted: &Wanted) -> Result<(), DatapathError> {
    for (name, &(shape, entries)) in wanted {
        if let Some(found) = pinned_shape(pins, name)? {
            compare(name, &shape, entries, &found)?;
        }
    }
    Ok(())
}

/// The layout of a pinned map, if there is one.
fn pinned_shape(pins: &Pins, name: &str) -> Result<Option<Shape>, DatapathError> {
    let map = match MapData::from_pin(pins.map(name)) {
        Ok(map) => map,
        Err(MapError::SyscallError(error)) if error.io_error.kind() == io::ErrorKind::NotFound => {
            return Ok(None);
        }
        Err(error) => return Err(DatapathError::map("open pinned", name)(error)),
    };
    let info = map
        .info()
        .map_err(DatapathError::map("inspect pinned", name))?;
    let map_type = info
        .map_type()
        .map_err(DatapathError::map("inspect pinned", name))?;
    Ok(Some(Shape {
        map_type: map_type as u32,
        key_size: info.key_size(),
        value_size: info.value_size(),
        flags: info.map_flags(),
        max_entries: info.max_entries(),
    }))
}

/// Compares one map.
fn compare(
    name: &str,
    wanted: &Shape,
    entries: Option<u32>,
    found: &Shape,
) -> Result<(), DatapathError> {
    let differences = [
        ("type", found.map_type, wanted.map_type),
        ("key_size", found.key_size, wanted.key_size),
        ("value_size", found.value_size, wanted.value_size),
        ("flags", found.flags, wanted.flags),
        (
            "max_entries",
            found.max_entries,
            entries.unwrap_or(found.max_entries),
        ),
    ];
    match differences
        .into_iter()
        .find(|(_, found, wanted)| found != wanted)
    {
        None => Ok(()),
        Some((field, found, wanted)) => Err(DatapathError::Layout {
            name: name.to_owned(),
            field,
            found,
            wanted,
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FLOWS: Shape = Shape {
        map_type: 1,
        key_size: 16,
        value_size: 64,
        flags: 1,
        max_entries: 65536,
    };

    #[test]
    fn equal_layouts_pass() {
        assert!(compare("FLOWS4", &FLOWS, Some(65536), &FLOWS).is_ok());
    }

    #[test]
    fn a_table_keeps_its_size_if_no_flag_asks_for_another() {
        let pinned = Shape {
            max_entries: 1000,
            ..FLOWS
        };
        assert!(compare("FLOWS4", &FLOWS, None, &pinned).is_ok());
        let error = compare("FLOWS4", &FLOWS, Some(2000), &pinned).expect_err("another size");
        assert_eq!(
            error.to_string(),
            "pinned map FLOWS4 has max_entries 1000, but this agent wants 2000: leave its flag out, \
             or run `nodeport-agent clean` first, which ends live connections through this node"
        );
    }

    #[test]
    fn a_value_of_another_size_is_named_with_the_remedy() {
        let pinned = Shape {
            value_size: 56,
            ..FLOWS
        };
        let message = compare("FLOWS4", &FLOWS, None, &pinned)
            .expect_err("another layout")
            .to_string();
        assert!(
            message.starts_with("pinned map FLOWS4 has value_size 56, but this agent wants 64"),
            "{message}"
        );
        assert!(message.contains("nodeport-agent clean"), "{message}");
    }

    #[test]
    fn flags_size_both_families() {
        let sizes = Sizes {
            flows_max: Some(10),
            backends_max: Some(20),
            ..Sizes::default()
        };
        let found: Vec<_> = overrides(sizes).collect();
        assert_eq!(
            found,
            [
                ("BACKENDS4", 20),
                ("BACKENDS6", 20),
                ("FLOWS4", 10),
                ("FLOWS6", 10)
            ]
        );
    }
}
