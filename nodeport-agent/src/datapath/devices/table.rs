//! The map `DEVICES`: what programs know of each device.
//!
//! Owns that map. Refuses to know where its values come from. Invariant: a value that is already there is not written again.

use std::collections::BTreeMap;

use aya::maps::{HashMap, Map, MapData};
use nodeport_common::{Device, maps};

use crate::datapath::error::DatapathError;
use crate::datapath::pins::Pins;

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
    let parts = device
        .flags
        .to_ne_bytes()
        .into_iter()
        .chain(device.address4)
        .chain(device.address6)
        .chain(device.mac)
        .chain(device.mtu.to_ne_bytes());
    for (byte, part) in bytes.iter_mut().zip(parts) {
        *byte = part;
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::mem::offset_of;

    #[test]
    fn the_value_is_laid_out_as_the_programs_read_it() {
        let device = Device {
            flags: 0x0102_0304,
            address4: [192, 0, 2, 11],
            address6: [9; 16],
            mac: [2, 0, 0, 0, 0, 1],
            mtu: 1500,
            pad: [0; 2],
        };
        let bytes = encode(&device);
        assert_eq!(bytes[0..4], 0x0102_0304_u32.to_ne_bytes());
        assert_eq!(bytes[offset_of!(Device, address4)..][..4], [192, 0, 2, 11]);
        assert_eq!(bytes[offset_of!(Device, address6)..][..16], [9; 16]);
        assert_eq!(bytes[offset_of!(Device, mac)..][..6], [2, 0, 0, 0, 0, 1]);
        assert_eq!(
            bytes[offset_of!(Device, mtu)..][..2],
            1500_u16.to_ne_bytes()
        );
        assert_eq!(bytes[32..], [0; 8]);
    }
}
