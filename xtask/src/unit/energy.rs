//! Energy of a request and of learning: the mapped netlist follows the script, its answers are compared, and OpenSTA
//! weighs what toggled. Cells only, with what their inputs load: no wires, no memories, no tree of the clock, no
//! leakage, and nothing that toggles more than once in a cycle.

use std::path::Path;

use super::model::Unit;
use super::netlist::Circuit;
use super::script::{Script, Word, command};
use super::synthesis::{LIBRARY, PERIOD, run_script};
use super::{Done, Sizes, cases};

/// Longest wait for anything, in cycles.
const PATIENCE: u32 = 100_000;

/// What something takes: cycles, nJ, and how many of them clocks alone take in as many cycles.
pub(super) type Energy = (u64, f64, f64);

/// What toggled in a while: per cycle, and the share of cycles in which it was 1.
#[derive(Debug, Default)]
struct Activity {
    cycles: u64,
    nets: Vec<(f64, f64)>,
}

/// Weighs a request of a size to its last word, with all that is wanted missing, and the learning after it, on the
/// netlist in a folder.
pub(super) fn energy(folder: &Path, sizes: Sizes) -> Done<[Energy; 2]> {
    let mut circuit = Circuit::read(&folder.join("netlist.v"), "cptr_unit")?;
    let mut script = Vec::new();
    let mut unit = Unit::new(Script::new(&mut script), Sizes { layers: 1, ..sizes });
    // The first token of a layer learns less.
    cases::cycles(&mut unit, &[(sizes.experts, sizes.k); 2])?;
    unit.script.end().map_err(|error| format!("script: {error}"))?;
    let words = script.chunks_exact(4).filter_map(|word| word.try_into().ok().map(u32::from_ne_bytes));
    let [request, learning] = follow(&mut circuit, words)?;
    // OpenSTA spreads activities of its own the first time that it is asked; those that are set after that stay.
    let mut tcl = format!(
        "read_liberty {LIBRARY}\nread_verilog netlist.v\nlink_design cptr_unit\n\
         create_clock -name clk -period {PERIOD} [get_ports clk]\nsta::design_power [sta::cmd_corner]\n\
         proc cell {{path memory pins}} {{\n\
         foreach pin $pins {{ lappend ::pins [sta::find_pin $path/$pin] }}\n\
         if {{!$memory}} {{ lappend ::cells [sta::find_instance $path] }} }}\n\
         proc weigh {{name values}} {{\n\
         foreach pin $::pins {{activity duty}} $values {{ sta::set_power_pin_activity $pin $activity $duty }}\n\
         set a 0.0\nset b 0.0\nforeach cell $::cells {{\n\
         lassign [sta::instance_power $cell [sta::cmd_corner]] internal switching\n\
         set a [expr $a + $internal]\nset b [expr $b + $switching] }}\n\
         puts \"power $name $a $b\" }}\n"
    );
    for cell in &circuit.cells {
        let pins: Vec<&str> = cell.pins.iter().map(|(pin, _)| *pin).collect();
        tcl += &format!("cell {{{}}} {} {{{}}}\n", cell.name, u8::from(cell.memory), pins.join(" "));
    }
    for (name, activity) in [("idle", &Activity::default()), ("request", &request), ("learning", &learning)] {
        let nets = circuit.cells.iter().flat_map(|cell| cell.pins.iter().map(|pin| pin.1 as usize));
        let values = nets.map(|net| activity.nets.get(net).copied().unwrap_or((0.0, 0.5)));
        let values: Vec<String> = values.map(|(toggles, ones)| format!("{toggles:.5} {ones:.5}")).collect();
        tcl += &format!("weigh {name} {{{}}}\n", values.join(" "));
    }
    let text = run_script(folder, "sta", "energy.tcl", &(tcl + "exit\n"), &["-exit"])?;
    let watts = |name: &str| -> Done<[f64; 2]> {
        let line = text.lines().find_map(|line| line.strip_prefix(&format!("power {name} ")));
        let numbers: Vec<f64> = line.unwrap_or_default().split(' ').filter_map(|word| word.parse().ok()).collect();
        numbers.try_into().map_err(|_| format!("OpenSTA gives no power: {name}"))
    };
    let idle = watts("idle")?;
    let of = |name: &str, activity: &Activity| -> Done<Energy> {
        let time = activity.cycles as f64 * PERIOD;
        let [power, clocks] = [watts(name)?, idle].map(|[internal, switching]| (internal + switching) * time);
        Ok((activity.cycles, power, clocks))
    };
    Ok([of("request", &request)?, of("learning", &learning)?])
}

/// Follows a script, as `firmware/rtl/unit/testbench.cpp` does, without waits; returns what toggled in the request that
/// only chooses, and in the one that learns after its answer.
fn follow(circuit: &mut Circuit, words: impl Iterator<Item = u32>) -> Done<[Activity; 2]> {
    let mut found = [Activity::default(), Activity::default()];
    let (mut answered, mut after) = (Activity::default(), Activity::default());
    let mut words = words.peekable();
    let mut next = || words.next().ok_or_else(|| "the script ends early".to_owned());
    loop {
        let word = next()?;
        if word == Word::End as u32 {
            return Ok(found);
        } else if word == Word::Write as u32 {
            let (address, value) = (next()?, next()?);
            if address == 4 << 2 && value & 15 == command::SELECT {
                circuit.count();
            }
            access(circuit, address, Some(value));
        } else if word == Word::Read as u32 {
            let (address, expected) = (next()?, next()?);
            let read = access(circuit, address, None);
            if read != expected {
                return Err(format!("netlist: register {address}: {read:08x} instead of {expected:08x}"));
            }
        } else if word == Word::Stream as u32 {
            let (count, last) = (next()?, next()? == 1);
            for n in 0..count {
                circuit.set("in_valid", 1);
                circuit.set("in_data", next()?);
                circuit.set("in_last", u32::from(last && n + 1 == count));
                until(circuit, "in_ready", 1)?;
                circuit.tick();
            }
            circuit.set("in_valid", 0);
            circuit.set("in_last", 0);
        } else if word == Word::Expect as u32 {
            circuit.set("out_ready", 1);
            for n in 0..next()? {
                let expected = next()?;
                until(circuit, "out_valid", 1)?;
                let data = circuit.get("out_data");
                if data != expected {
                    return Err(format!("netlist: answer word {n}: {data:08x} instead of {expected:08x}"));
                }
                circuit.tick();
            }
            circuit.set("out_ready", 0);
            answered = activity(circuit);
            circuit.count();
        } else if word == Word::Idle as u32 {
            until(circuit, "busy", 0)?;
            after = activity(circuit);
        } else if word == Word::Reset as u32 {
            for port in ["bus_request", "in_valid", "out_ready", "rst_n"] {
                circuit.set(port, 0);
            }
            circuit.tick();
            circuit.tick();
            circuit.set("rst_n", 1);
            circuit.tick();
        } else if word == Word::Cycles as u32 {
            (0..next()?).for_each(|_| circuit.tick());
        } else if word == Word::Label as u32 {
            next()?;
        } else if word == Word::Report as u32 {
            match next()? {
                0 => found[0] = std::mem::take(&mut answered),
                3 => found[1] = std::mem::take(&mut after),
                _ => (),
            }
            next()?;
            next()?;
        } else {
            return Err(format!("word {word} is not for netlists"));
        }
    }
}

fn activity(circuit: &Circuit) -> Activity {
    let cycles = circuit.cycles.max(1) as f64;
    let nets = (0..circuit.nets()).map(|net| circuit.toggles(net));
    let nets = nets.map(|(toggles, ones)| (f64::from(toggles) / cycles, f64::from(ones) / cycles)).collect();
    Activity { cycles: circuit.cycles, nets }
}

fn until(circuit: &mut Circuit, port: &str, value: u32) -> Done {
    for _ in 0..PATIENCE {
        if circuit.get(port) == value {
            return Ok(());
        }
        circuit.tick();
    }
    Err(format!("netlist: {port} is never {value}"))
}

fn access(circuit: &mut Circuit, address: u32, value: Option<u32>) -> u32 {
    circuit.set("bus_request", 1);
    circuit.set("bus_write", u32::from(value.is_some()));
    circuit.set("bus_address", address);
    circuit.set("bus_write_data", value.unwrap_or(0));
    circuit.tick();
    circuit.set("bus_request", 0);
    if value.is_some() {
        circuit.tick();
    }
    circuit.get("bus_read_data")
}
