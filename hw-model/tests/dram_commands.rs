//! Single commands against the device models of Ramulator 2.1 (commit c5b1c3a): every row of `commands.tsv` is a random
//! sequence of commands, with the first cycle in which Ramulator takes each. Refresh of all banks and bank by bank, and
//! refresh management, are in it; `command_rows.py` says what is not and why.
use cptr_hw_model::dram::device::{BankRefresh, RefreshSet};
use cptr_hw_model::dram::{Channel, Command, CommandKind, Device, ManagementCommand, RefreshManagement, presets};

const ROWS: &str = include_str!("commands.tsv");

/// The device of a row: where Ramulator refreshes or manages a single bank, so does ours.
fn device(name: &str) -> Device {
    let (base, single) = name.split_once(' ').map_or((name, false), |(base, _)| (base, true));
    let mut device = presets::by_name(base).unwrap();
    device.bank_refresh = device.bank_refresh.map(|refresh| BankRefresh { set: RefreshSet::Bank, ..refresh });
    if base == "DDR5-4800" {
        let (command, n_rfm) =
            if single { (ManagementCommand::BankWise, 313) } else { (ManagementCommand::AllBank, 710) };
        // Ramulator's device does not count activates.
        let (raaimt, raammt, refresh_decrement) = (1000, 1000, 0);
        device.refresh_management = Some(RefreshManagement { command, raaimt, raammt, refresh_decrement, n_rfm });
        if single {
            // Its RFMpb, which the standard does not have, holds up no other bank.
            let free = |refresh| BankRefresh { n_ref_to_ref: 1, n_ref_to_act: 0, ..refresh };
            device.bank_refresh = device.bank_refresh.map(free);
        }
    }
    device
}

fn kind(name: &str) -> CommandKind {
    CommandKind::ALL.into_iter().find(|kind| kind.name() == name).unwrap_or_else(|| panic!("{name}"))
}

#[test]
fn commands_become_legal_when_they_do_in_ramulator() {
    let (mut compared, mut refreshes) = (0, 0);
    for row in ROWS.lines().filter(|row| !row.starts_with('#')) {
        let (name, sequence) = row.split_once('\t').unwrap();
        let device = device(name);
        let mut channel = Channel::new(&device).unwrap();
        let mut now = 0;
        for text in sequence.split(' ') {
            let field: Vec<&str> = text.split(':').collect();
            let number = |at: usize| field[at].parse::<u64>().unwrap();
            let (bank, first, sent) = (number(1) as u16, field[3].parse::<u64>().ok(), number(4));
            let command = Command { kind: kind(field[0]), bank, row: number(2) as u32 };
            let found = channel.probe(command).unwrap_or_else(|error| panic!("{name} {text}: {error}"));
            if let Some(first) = first {
                // A cycle has one command here, and of half clocks only the first has another than PRE.
                let any_edge = matches!(command.kind, CommandKind::Pre | CommandKind::PreAll);
                let edge = u64::from(device.half_clocks && !any_edge);
                assert_eq!(found.max(now + 1) | edge, first, "{name}: {text} in {sequence}");
                compared += 1;
            }
            channel.issue(command, sent).unwrap_or_else(|refused| panic!("{name}: {refused}"));
            now = sent;
            refreshes += u32::from(command.kind.is_refresh());
        }
    }
    assert!(compared > 2000 && refreshes > 300, "{compared} commands, {refreshes} of refresh");
}
