//! Devices that ways to simulate are compared on, for the tests of the crate and those inside it.

use super::{Device, ManagementCommand, RefreshManagement, presets};

/// The built-in devices, and some of more ranks and other sizes.
pub(super) fn devices() -> Vec<Device> {
    let of_ranks = |mut device: Device, ranks: u32| {
        device.organisation.ranks = ranks;
        device.organisation.rows = device.organisation.rows / 2 * 3;
        device.organisation.capacity_bytes = device.organisation.capacity_bytes / 2 * 3 * u64::from(ranks);
        device
    };
    let mut devices = presets::all();
    devices.extend([of_ranks(presets::ddr5_6400(), 4), of_ranks(presets::ddr4_3200(), 3)]);
    let managed = |mut device: Device, command: ManagementCommand, raaimt: u32| {
        let (raammt, refresh_decrement, n_rfm) = (raaimt + 3, raaimt / 2, 90);
        device.refresh_management = Some(RefreshManagement { command, raaimt, raammt, refresh_decrement, n_rfm });
        device
    };
    devices.push(managed(of_ranks(presets::ddr5_4800(), 2), ManagementCommand::BankWise, 3));
    devices.push(managed(presets::lpddr5_6400(), ManagementCommand::AllBank, 8));
    devices.push(managed(presets::hbm3_6400(), ManagementCommand::BankWise, 2));
    devices
}
