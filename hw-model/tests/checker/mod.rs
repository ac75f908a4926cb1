//! An independent judge of a command log: every pair of commands against every rule, and the state of every bank.
//!
//! It shares nothing with the model but the table of timings. Distances are measured as in the standards, from the last
//! cycle of one command to the last cycle of the other; the model measures from first cycles.
use cptr_hw_model::dram::device::RefreshSet;
use cptr_hw_model::dram::{Command, CommandKind, Device};

use CommandKind::{Act, Act2, Cas, Pre, PreAll, Rd, RdA, RefAll, RefBank, RfmAll, RfmBank, Wr, WrA};

const READS: &[CommandKind] = &[Rd, RdA];
const WRITES: &[CommandKind] = &[Wr, WrA];

/// Which pairs a rule is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Scope {
    Bank,
    Group,
    Stack,
    Rank,
    /// Same rank, other stack.
    OtherStack,
    /// Same rank, not a bank of the refreshed set.
    OtherBank,
}

struct Rule {
    scope: Scope,
    first: &'static [CommandKind],
    second: &'static [CommandKind],
    cycles: u32,
    name: &'static str,
}

/// A command that broke a rule.
#[derive(Debug)]
#[allow(dead_code, reason = "read through Debug")]
pub(crate) struct Violation {
    pub(crate) rule: String,
    pub(crate) cycle: u64,
    pub(crate) command: Command,
}

fn rules(d: &Device) -> Vec<Rule> {
    let t = &d.timing;
    let write_end = t.n_cwl + t.n_bl;
    let mut rules = Vec::new();
    let mut add = |scope, first, second, cycles, name| rules.push(Rule { scope, first, second, cycles, name });
    add(Scope::Bank, &[Act], &[Act], t.n_rc, "tRC");
    add(Scope::Bank, &[Act], READS, t.n_rcd_rd, "tRCD");
    add(Scope::Bank, &[Act], WRITES, t.n_rcd_wr, "tRCD of writes");
    add(Scope::Bank, &[Act], &[Pre], t.n_ras, "tRAS");
    add(Scope::Rank, &[Act], &[PreAll], t.n_ras, "tRAS before PREab");
    add(Scope::Bank, &[Pre], &[Act], t.n_rp, "tRP");
    add(Scope::Rank, &[PreAll], &[Act], t.n_rp_all, "tRPab");
    add(Scope::Rank, &[Pre, PreAll], &[RefAll], t.n_rp, "tRP before REFab");
    add(Scope::Bank, &[Pre], &[RefBank], t.n_rp, "tRP before REFpb");
    add(Scope::Rank, &[PreAll], &[RefBank], t.n_rp_all, "tRPab before REFpb");
    add(Scope::Bank, &[Rd], &[Pre], t.n_rtp, "tRTP");
    add(Scope::Rank, &[Rd], &[PreAll], t.n_rtp, "tRTP before PREab");
    add(Scope::Bank, &[Wr], &[Pre], write_end + t.n_wr, "tWR");
    add(Scope::Rank, &[Wr], &[PreAll], write_end + t.n_wr, "tWR before PREab");
    add(Scope::Bank, &[RdA], &[Act, RefBank], t.n_rtp + t.n_rp, "tRTP + tRP");
    add(Scope::Rank, &[RdA], &[RefAll], t.n_rtp + t.n_rp, "tRTP + tRP before REFab");
    add(Scope::Bank, &[WrA], &[Act, RefBank], write_end + t.n_wr + t.n_rp, "tWR + tRP");
    add(Scope::Rank, &[WrA], &[RefAll], write_end + t.n_wr + t.n_rp, "tWR + tRP before REFab");
    add(Scope::Rank, &[Act], &[RefAll], t.n_rc, "tRC before REFab");
    add(Scope::Bank, &[Act], &[RefBank], t.n_rc, "tRC before REFpb");
    add(Scope::Rank, &[RefAll], &[Act, PreAll, RefAll, RefBank], t.n_rfc, "tRFC");
    add(Scope::Group, READS, READS, t.n_ccd_l, "tCCD_L");
    add(Scope::Group, WRITES, WRITES, t.n_ccd_l_wr, "tCCD_L_WR");
    add(Scope::Stack, READS, READS, t.n_ccd_s, "tCCD_S");
    add(Scope::Stack, WRITES, WRITES, t.n_ccd_s_wr, "tCCD_S_WR");
    add(Scope::OtherStack, READS, READS, t.n_ccd_r, "tCCD_R");
    add(Scope::OtherStack, WRITES, WRITES, t.n_ccd_s_wr, "tCCD_S of writes to another stack");
    add(Scope::Rank, READS, READS, t.n_bl, "burst");
    add(Scope::Rank, WRITES, WRITES, t.n_bl, "burst of writes");
    add(Scope::Rank, READS, WRITES, t.n_rtw, "tRTW");
    add(Scope::Rank, WRITES, READS, write_end + t.n_wtr_s, "tWTR_S");
    add(Scope::Group, WRITES, READS, t.n_cwl + t.n_bl_max + t.n_wtr_l, "tWTR_L");
    add(Scope::Group, &[Act], &[Act], t.n_rrd_l, "tRRD_L");
    add(Scope::Rank, &[Act], &[Act], t.n_rrd_s, "tRRD_S");
    add(Scope::Rank, &[Pre, PreAll], &[Pre, PreAll], t.n_ppd, "tPPD");
    if let Some(refresh) = d.bank_refresh {
        add(Scope::Bank, &[RefBank], &[Act, RefBank], refresh.n_rfc, "tRFCpb");
        add(Scope::OtherBank, &[RefBank], &[Act], refresh.n_ref_to_act, "tREFSBRD / tRREFD / tpbR2act");
        add(Scope::Rank, &[RefBank], &[RefBank], refresh.n_ref_to_ref, "REFpb to REFpb");
        add(Scope::Rank, &[RefBank], &[RefAll], refresh.n_rfc, "REFpb to REFab");
    }
    if let Some(management) = d.refresh_management {
        let busy = management.n_rfm;
        add(Scope::Rank, &[Act], &[RfmAll], t.n_rc, "tRC before RFMab");
        add(Scope::Rank, &[Pre, PreAll], &[RfmAll], t.n_rp, "tRP before RFMab");
        add(Scope::Rank, &[RdA], &[RfmAll], t.n_rtp + t.n_rp, "tRTP + tRP before RFMab");
        add(Scope::Rank, &[WrA], &[RfmAll], write_end + t.n_wr + t.n_rp, "tWR + tRP before RFMab");
        add(Scope::Rank, &[RefAll], &[RfmAll, RfmBank], t.n_rfc, "tRFC before RFM");
        add(Scope::Rank, &[RfmAll], &[Act, PreAll, RefAll, RefBank, RfmAll], busy, "tRFMab");
        add(Scope::Bank, &[Act], &[RfmBank], t.n_rc, "tRC before RFMsb");
        add(Scope::Bank, &[Pre], &[RfmBank], t.n_rp, "tRP before RFMsb");
        add(Scope::Rank, &[PreAll], &[RfmBank], t.n_rp_all, "tRPab before RFMsb");
        add(Scope::Bank, &[RdA], &[RfmBank], t.n_rtp + t.n_rp, "tRTP + tRP before RFMsb");
        add(Scope::Bank, &[WrA], &[RfmBank], write_end + t.n_wr + t.n_rp, "tWR + tRP before RFMsb");
        add(Scope::Bank, &[RfmBank], &[Act, RefBank, RfmBank], busy, "tRFMsb");
        add(Scope::Rank, &[RfmBank], &[RefAll], busy, "tRFMsb before REFab");
        if let Some(refresh) = d.bank_refresh {
            add(Scope::Bank, &[RefBank], &[RfmBank], refresh.n_rfc, "tRFCsb before RFMsb");
            add(Scope::Rank, &[RefBank], &[RfmAll], refresh.n_rfc, "tRFCsb before RFMab");
            add(Scope::OtherBank, &[RfmBank], &[Act], refresh.n_ref_to_act, "tREFSBRD after RFMsb");
            add(Scope::Rank, &[RfmBank], &[RefBank, RfmBank], refresh.n_ref_to_ref, "RFMsb to REFsb, RFMsb");
            add(Scope::Rank, &[RefBank], &[RfmBank], refresh.n_ref_to_ref, "REFsb to RFMsb");
        }
    }
    rules
}

/// Rank, stack, group and bank of a flat bank number.
fn place(d: &Device, bank: u16) -> (u32, u32, u32) {
    let o = &d.organisation;
    let bank = u32::from(bank);
    (bank / o.banks_per_rank(), bank / (o.groups * o.banks), bank / o.banks)
}

/// Banks that `command` acts on.
fn targets(d: &Device, command: Command) -> Vec<u16> {
    let o = &d.organisation;
    let all = |keep: &dyn Fn(u32) -> bool| (0..o.total_banks()).filter(|&b| keep(b)).map(|b| b as u16).collect();
    let (rank, ..) = place(d, command.bank);
    let same_rank = |b: u32| b / o.banks_per_rank() == rank;
    match (command.kind, d.bank_refresh.map(|refresh| refresh.set)) {
        (PreAll | RefAll | RfmAll, _) => all(&same_rank),
        (RefBank | RfmBank, Some(RefreshSet::SameBank)) => {
            all(&|b| same_rank(b) && b % o.banks == u32::from(command.bank) % o.banks)
        }
        (RefBank | RfmBank, Some(RefreshSet::Pair)) => {
            let half = o.banks_per_rank() / 2;
            all(&|b| same_rank(b) && b % half == u32::from(command.bank) % half)
        }
        _ => vec![command.bank],
    }
}

fn cycles(d: &Device, kind: CommandKind) -> u64 {
    match kind {
        Act => u64::from(d.timing.act_cycles),
        Rd | RdA | Wr | WrA => u64::from(d.timing.column_cycles),
        _ => u64::from(d.timing.other_cycles),
    }
}

/// Checks a whole log; the first violation is returned.
pub(crate) fn check(d: &Device, log: &[(u64, Command)]) -> Result<(), Violation> {
    let (half_clocks, d) = (d.half_clocks, &d.in_cycles());
    let rules = rules(d);
    let window = rules.iter().map(|rule| u64::from(rule.cycles)).max().unwrap_or(0) + 4;
    let mut state = vec![BankState::Closed; d.organisation.total_banks() as usize];
    for (index, &(cycle, command)) in log.iter().enumerate() {
        let violated = |rule: String| Violation { rule, cycle, command };
        if half_clocks && !matches!(command.kind, Pre | PreAll) && cycle % 2 == 0 {
            return Err(violated("only PRE begins at the falling edge".into()));
        }
        step_state(d, &mut state, command).map_err(|rule| violated(rule.to_string()))?;
        for &(earlier, first) in log[..index].iter().rev().take_while(|(earlier, _)| earlier + window >= cycle) {
            if earlier > cycle {
                return Err(violated("the log must be in order of time".into()));
            }
            if shares_bus(d, first.kind, command.kind) && cycle < earlier + cycles(d, first.kind) {
                return Err(violated(format!("command bus still busy with {first} of {earlier}")));
            }
            // From last cycle to last cycle.
            let (end, first_end) = (cycle + cycles(d, command.kind), earlier + cycles(d, first.kind));
            for rule in &rules {
                let concerns = rule.first.contains(&first.kind) && rule.second.contains(&command.kind);
                if concerns && applies(d, rule.scope, first, command) && end < first_end + u64::from(rule.cycles) {
                    return Err(violated(format!("{} after {first} of {earlier}", rule.name)));
                }
            }
            check_data_bus(d, (earlier, first), (cycle, command)).map_err(violated)?;
        }
        check_four_activates(d, &log[..=index]).map_err(violated)?;
    }
    check_activate_counts(d, log)?;
    check_split_activate(d, log)
}

/// The rolling count of activates of no bank exceeds RAAMMT, and management comes only where a bank asks for it.
fn check_activate_counts(d: &Device, log: &[(u64, Command)]) -> Result<(), Violation> {
    let Some(needs) = d.refresh_management else { return Ok(()) };
    let mut counts = vec![0u32; d.organisation.total_banks() as usize];
    for &(cycle, command) in log {
        let violated = |rule: &str| Violation { rule: rule.into(), cycle, command };
        let banks: Vec<usize> = targets(d, command).into_iter().map(usize::from).collect();
        match command.kind {
            Act if counts[banks[0]] == needs.raammt => return Err(violated("an activate beyond RAAMMT")),
            Act => counts[banks[0]] += 1,
            RfmAll | RfmBank => {
                if banks.iter().all(|&bank| counts[bank] < needs.raaimt) {
                    return Err(violated("management that no bank asked for"));
                }
                banks.iter().for_each(|&bank| counts[bank] = counts[bank].saturating_sub(needs.raaimt));
            }
            RefAll | RefBank => {
                banks.iter().for_each(|&bank| counts[bank] = counts[bank].saturating_sub(needs.refresh_decrement));
            }
            _ => {}
        }
    }
    Ok(())
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum BankState {
    Closed,
    Activating,
    Open,
}

fn step_state(d: &Device, state: &mut [BankState], command: Command) -> Result<(), &'static str> {
    let opened = if d.split_activate.is_some() { BankState::Activating } else { BankState::Open };
    for bank in targets(d, command) {
        let bank = &mut state[usize::from(bank)];
        let (needs, next): (&[BankState], BankState) = match command.kind {
            Act => (&[BankState::Closed], opened),
            Act2 => (&[BankState::Activating], BankState::Open),
            Pre | PreAll => (&[BankState::Open, BankState::Closed], BankState::Closed),
            Rd | Wr => (&[BankState::Open], BankState::Open),
            RdA | WrA => (&[BankState::Open], BankState::Closed),
            RefAll | RefBank | RfmAll | RfmBank => (&[BankState::Closed], BankState::Closed),
            Cas => continue,
        };
        if !needs.contains(bank) {
            return Err("the bank is in the wrong state");
        }
        *bank = next;
    }
    Ok(())
}

fn shares_bus(d: &Device, a: CommandKind, b: CommandKind) -> bool {
    !d.dual_command_bus || a.is_column() == b.is_column()
}

fn applies(d: &Device, scope: Scope, first: Command, second: Command) -> bool {
    let ((rank1, stack1, group1), (rank2, stack2, group2)) = (place(d, first.bank), place(d, second.bank));
    let overlap = || {
        let seconds = targets(d, second);
        targets(d, first).iter().any(|bank| seconds.contains(bank))
    };
    match scope {
        Scope::Bank => overlap(),
        Scope::Group => group1 == group2,
        Scope::Stack => stack1 == stack2,
        Scope::Rank => rank1 == rank2,
        Scope::OtherStack => rank1 == rank2 && stack1 != stack2,
        Scope::OtherBank => rank1 == rank2 && !overlap(),
    }
}

/// Two bursts never share the data wires, and those of two ranks keep nCS between them.
fn check_data_bus(d: &Device, first: (u64, Command), second: (u64, Command)) -> Result<(), String> {
    let burst = |(cycle, command): (u64, Command)| {
        let latency = match command.kind {
            Rd | RdA => d.timing.n_cl,
            Wr | WrA => d.timing.n_cwl,
            _ => return None,
        };
        let begin = cycle + cycles(d, command.kind) + u64::from(latency);
        Some(begin..begin + u64::from(d.timing.n_bl))
    };
    let same_rank = place(d, first.1.bank).0 == place(d, second.1.bank).0;
    let same_wires = !d.pseudo_channels || same_rank;
    let gap = if same_rank { 0 } else { u64::from(d.timing.n_cs) };
    if let (Some(a), Some(b), true) = (burst(first), burst(second), same_wires)
        && a.start < b.end + gap
        && b.start < a.end + gap
    {
        return Err(format!("data of {} of {} still on the bus", first.1, first.0));
    }
    Ok(())
}

/// The last command, if an ACT, comes at least tFAW after the fourth ACT of its rank before it.
fn check_four_activates(d: &Device, log: &[(u64, Command)]) -> Result<(), String> {
    let Some(&(cycle, command)) = log.last() else { return Ok(()) };
    if command.kind != Act {
        return Ok(());
    }
    let rank = place(d, command.bank).0;
    let fourth = log[..log.len() - 1].iter().rev().filter(|(_, c)| c.kind == Act && place(d, c.bank).0 == rank).nth(3);
    match fourth {
        Some(&(earlier, _)) if cycle < earlier + u64::from(d.timing.n_faw) => {
            Err(format!("tFAW after ACT of {earlier}"))
        }
        _ => Ok(()),
    }
}

/// LPDDR5, LPDDR6: ACT2 within tAAD of ACT1 with no other ACT1 between, and a running data clock under every burst.
fn check_split_activate(d: &Device, log: &[(u64, Command)]) -> Result<(), Violation> {
    let Some(split) = d.split_activate else { return Ok(()) };
    let mut first_half: Option<(u64, u16)> = None;
    let (mut clock_until, mut last_cas) = (0, None);
    for &(cycle, command) in log {
        let violated = |rule: &str| Violation { rule: rule.into(), cycle, command };
        match command.kind {
            Act if first_half.is_some() => return Err(violated("ACT1 between ACT1 and ACT2")),
            Act => first_half = Some((cycle, command.bank)),
            Act2 => match first_half.take() {
                Some((at, bank)) if bank == command.bank && cycle <= at + u64::from(split.n_aad) => {}
                _ => return Err(violated("ACT2 without ACT1 or after tAAD")),
            },
            Cas => last_cas = Some(cycle),
            Rd | RdA | Wr | WrA => {
                if cycle >= clock_until && last_cas != Some(cycle - cycles(d, Cas)) {
                    return Err(violated("data clock stopped"));
                }
                let latency = if matches!(command.kind, Rd | RdA) { d.timing.n_cl } else { d.timing.n_cwl };
                clock_until = clock_until.max(cycle + u64::from(latency + d.timing.n_bl + split.n_wck_pst));
            }
            Pre | PreAll | RefAll | RefBank | RfmAll | RfmBank => {}
        }
    }
    Ok(())
}
