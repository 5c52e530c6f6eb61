//! `status`: what the agent says of itself, or what its pins show if it does not run.

use std::collections::BTreeMap;

use anyhow::Result;
use nodeport_common::{Device, Hook, device_flags};

use super::{Output, StatusArgs, print, print_json};
use crate::datapath::devices::{DeviceState, HookState, Role};
use crate::datapath::{Mode, Pins, Place, chain, pinned_hooks, pinned_places};
use crate::maps::{Devices, KernelStore, Store as _};
use crate::observe::server::{self, Question};
use crate::observe::{Status, counters, text};

/// Prints the status.
pub(super) fn status(args: &StatusArgs) -> Result<()> {
    let pins = Pins::new(&args.places.pin_dir);
    let status = match server::ask(&args.places.run_dir, Question::Status)? {
        Some(status) => status,
        None => left_behind(&pins)?,
    };
    match args.output {
        Output::Json => print_json(&status),
        Output::Table => print(&text::status(&status)),
    }
}

/// What the pins show: the datapath goes on without an agent.
fn left_behind(pins: &Pins) -> Result<Status> {
    let mut status = Status {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        pin_dir: pins.root().display().to_string(),
        ..Status::default()
    };
    let places = pinned_places(pins)?;
    if !pins.maps().exists() {
        status
            .problems
            .push("no agent runs, and none left anything behind".to_owned());
        return Ok(status);
    }
    status.problems.push(
        "no agent runs: the datapath goes on with what was last written, but follows no change"
            .to_owned(),
    );
    status.sockets.hooks = pinned_hooks(pins)?;
    match KernelStore::open(&pins.maps()) {
        Ok(store) => {
            status.outcomes = counters::named(&store.outcomes()?);
            let devices: BTreeMap<u32, Device> = store.entries::<Devices>()?.into_iter().collect();
            status.devices = pinned_devices(&places, &devices);
        }
        Err(error) => status.problems.push(chain(&error)),
    }
    Ok(status)
}

/// Devices with pinned links. Names may be of another network namespace than the agent's; then they are missing.
fn pinned_devices(places: &[Place], devices: &BTreeMap<u32, Device>) -> Vec<DeviceState> {
    let hook = |device: u32, hook: Hook, mode: Mode| {
        let pinned = places.contains(&Place { device, hook });
        HookState {
            mode: pinned.then_some(mode),
            since: None,
            error: None,
        }
    };
    devices
        .iter()
        .map(|(&index, device)| {
            let is = |flag: u32| device.flags & flag != 0;
            let xdp = if is(device_flags::XDP_GENERIC) {
                Mode::Generic
            } else {
                Mode::Native
            };
            let role = if is(device_flags::UPLINK) {
                Role::Uplink
            } else if is(device_flags::OVERLAY) {
                Role::Overlay
            } else {
                Role::Pod
            };
            DeviceState {
                index,
                name: String::new(),
                role,
                xdp: Some(hook(index, Hook::Xdp, xdp)).filter(|state| state.mode.is_some()),
                tc_ingress: hook(index, Hook::TcIngress, Mode::Tcx),
                tc_egress: hook(index, Hook::TcEgress, Mode::Tcx),
            }
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_and_the_device_table_tell_what_goes_on() {
        let places = [
            Place {
                device: 2,
                hook: Hook::Xdp,
            },
            Place {
                device: 2,
                hook: Hook::TcIngress,
            },
        ];
        let device = |flags| Device {
            flags,
            ..Device::default()
        };
        let devices = BTreeMap::from([
            (2, device(device_flags::UPLINK | device_flags::XDP_TARGET)),
            (3, device(device_flags::POD)),
        ]);
        let found = pinned_devices(&places, &devices);
        assert_eq!((found[0].role, found[1].role), (Role::Uplink, Role::Pod));
        let xdp = found[0].xdp.as_ref().and_then(|state| state.mode);
        assert_eq!(xdp, Some(Mode::Native));
        assert_eq!(found[0].tc_ingress.mode, Some(Mode::Tcx));
        assert_eq!(found[0].tc_egress.mode, None);
        assert_eq!(found[1].xdp, None);
    }
}
