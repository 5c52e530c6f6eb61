//! The map `DEVICES`: what programs know of each device.
//!
//! Owns that map. Refuses to know where its values come from. Invariant: a value that is already there is not written again.

use std::collections::BTreeMap;

use aya::maps::{HashMap, Map, MapData};
use nodeport_common::{Device, maps};

use crate::datapath::error::DatapathError;
use crate::datapath::pins::Pins;
use crate::maps::Bytes as _;

/// Bytes of a value.
const SIZE: usize = size_of::<Device>();

/// The map and what is in it.
#[derive(Debug)]
pub struct DeviceTable {
    map: HashMap<MapData, u32, [u8; SIZE]>,
    written: BTreeMap<u32, [u8; SIZE]>,
}

impl DeviceTable {
    /// Opens the pinned map and reads what an earlier agent left in it.
    ///
    /// # Errors
    /// [`DatapathError::Map`].
    pub fn open(pins: &Pins) -> Result<Self, DatapathError> {
        let name = maps::DEVICES;
        let data = MapData::from_pin(pins.map(name)).map_err(DatapathError::map("open", name))?;
        let map: HashMap<_, u32, [u8; SIZE]> = Map::HashMap(data)
            .try_into()
            .map_err(DatapathError::map("open", name))?;
        let written = map
            .iter()
            .collect::<Result<_, _>>()
            .map_err(DatapathError::map("read", name))?;
        Ok(Self { map, written })
    }

    /// Writes the value of a device. Returns whether that changed anything.
    ///
    /// # Errors
    /// [`DatapathError::Map`].
    pub fn set(&mut self, index: u32, device: &Device) -> Result<bool, DatapathError> {
        let value = encode(device);
        if self.written.get(&index) == Some(&value) {
            return Ok(false);
        }
        self.map
            .insert(index, value, 0)
            .map_err(DatapathError::map("write", maps::DEVICES))?;
        self.written.insert(index, value);
        Ok(true)
    }

    /// Removes every device that `keep` refuses. Returns whether that changed anything.
    ///
    /// # Errors
    /// [`DatapathError::Map`].
    pub fn retain(&mut self, keep: impl Fn(u32) -> bool) -> Result<bool, DatapathError> {
        let gone: Vec<u32> = self
            .written
            .keys()
            .copied()
            .filter(|&index| !keep(index))
            .collect();
        for index in &gone {
            self.map
                .remove(index)
                .map_err(DatapathError::map("remove from", maps::DEVICES))?;
            self.written.remove(index);
        }
        Ok(!gone.is_empty())
    }
}

/// The value as the map holds it.
fn encode(device: &Device) -> [u8; SIZE] {
    let mut bytes = [0; SIZE];
    device.put(&mut bytes);
    bytes
}
