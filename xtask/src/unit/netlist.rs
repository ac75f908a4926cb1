//! A mapped netlist as a circuit without delays: its cells, flip-flops and memories, and how often each output toggles.

use std::collections::HashMap;
use std::fs;
use std::path::Path;

use super::Done;

/// A cell's name, its inputs, and its output by them.
type Kind = (&'static str, &'static [&'static str], fn([bool; 4]) -> bool);

/// Cells of the library with their inputs and what their output is; flip-flops and memories are not among them.
const CELLS: [Kind; 24] = [
    ("INVX1", &["A"], |i| !i[0]),
    ("INVX2", &["A"], |i| !i[0]),
    ("INVX4", &["A"], |i| !i[0]),
    ("INVX8", &["A"], |i| !i[0]),
    ("BUFX2", &["A"], |i| i[0]),
    ("BUFX4", &["A"], |i| i[0]),
    ("CLKBUF1", &["A"], |i| i[0]),
    ("CLKBUF2", &["A"], |i| i[0]),
    ("CLKBUF3", &["A"], |i| i[0]),
    ("NAND2X1", &["A", "B"], |i| !(i[0] & i[1])),
    ("NAND3X1", &["A", "B", "C"], |i| !(i[0] & i[1] & i[2])),
    ("NOR2X1", &["A", "B"], |i| !(i[0] | i[1])),
    ("NOR3X1", &["A", "B", "C"], |i| !(i[0] | i[1] | i[2])),
    ("AND2X1", &["A", "B"], |i| i[0] & i[1]),
    ("AND2X2", &["A", "B"], |i| i[0] & i[1]),
    ("OR2X1", &["A", "B"], |i| i[0] | i[1]),
    ("OR2X2", &["A", "B"], |i| i[0] | i[1]),
    ("XOR2X1", &["A", "B"], |i| i[0] ^ i[1]),
    ("XNOR2X1", &["A", "B"], |i| !(i[0] ^ i[1])),
    ("AOI21X1", &["A", "B", "C"], |i| !(i[0] & i[1] | i[2])),
    ("AOI22X1", &["A", "B", "C", "D"], |i| !(i[0] & i[1] | i[2] & i[3])),
    ("OAI21X1", &["A", "B", "C"], |i| !((i[0] | i[1]) & i[2])),
    ("OAI22X1", &["A", "B", "C", "D"], |i| !((i[0] | i[1]) & (i[2] | i[3]))),
    ("MUX2X1", &["S", "A", "B"], |i| !(if i[0] { i[1] } else { i[2] })),
];

/// A net's number; the first two never change.
pub(super) type Net = u32;
const ZERO: Net = 0;
const ONE: Net = 1;

/// Ports and the nets that they are connected to.
type Connections<'a> = Vec<(&'a str, &'a str)>;

/// A module as it is written: instances with their kind, name and connections, and nets that are others' names.
#[derive(Debug, Default)]
struct Module<'a> {
    instances: Vec<(&'a str, &'a str, Connections<'a>)>,
    assigns: Vec<(&'a str, &'a str)>,
}

/// A cell: what it does as a table, its inputs and its output.
#[derive(Debug)]
struct Gate {
    table: u16,
    inputs: [Net; 4],
    output: Net,
}

#[derive(Debug)]
struct Flop {
    data: Net,
    /// At 0 these make it 0, or 1.
    clear: Net,
    set: Net,
    output: Net,
}

/// A memory as `unit_ram` is.
#[derive(Debug, Default)]
struct Memory {
    read: Net,
    write: Net,
    read_address: Vec<Net>,
    write_address: Vec<Net>,
    read_data: Vec<Net>,
    write_data: Vec<Net>,
    words: HashMap<u32, u128>,
}

/// A cell whose power is asked for.
#[derive(Debug)]
pub(super) struct Cell {
    /// Its name, behind those of the instances that it is in.
    pub(super) name: String,
    /// Whether it stands for a memory's port.
    pub(super) memory: bool,
    pub(super) pins: Vec<(&'static str, Net)>,
}

/// A circuit, and its state.
#[derive(Debug)]
pub(super) struct Circuit {
    gates: Vec<Gate>,
    flops: Vec<Flop>,
    memories: Vec<Memory>,
    ports: HashMap<String, Net>,
    pub(super) cells: Vec<Cell>,
    values: Vec<bool>,
    /// Values at the last edge of the clock; since `count` toggles, and for how many edges each net was 1.
    before: Vec<bool>,
    toggles: Vec<u32>,
    ones: Vec<u32>,
    pub(super) cycles: u64,
}

/// Words of Verilog: names without what escapes them, and single signs.
fn words(text: &str) -> impl Iterator<Item = &str> {
    let mut rest = text;
    std::iter::from_fn(move || {
        loop {
            rest = rest.trim_start();
            let Some(comment) = rest.strip_prefix("/*") else { break };
            rest = comment.split_once("*/")?.1;
        }
        let first = rest.chars().next()?;
        let (word, after) = if first == '\\' {
            let end = rest.find(char::is_whitespace)?;
            (&rest[1..end], &rest[end..])
        } else if first.is_alphanumeric() || first == '_' {
            let end = rest.find(|c: char| !(c.is_alphanumeric() || "_$'".contains(c))).unwrap_or(rest.len());
            rest.split_at(end)
        } else {
            rest.split_at(first.len_utf8())
        };
        rest = after;
        Some(word)
    })
}

fn modules(text: &str) -> Done<HashMap<&str, Module<'_>>> {
    let mut modules = HashMap::new();
    let mut words = words(text).peekable();
    while let Some(word) = words.next() {
        if word != "module" {
            return Err(format!("no module begins with {word}"));
        }
        let name = words.next().unwrap_or_default();
        let mut module = Module::default();
        words.by_ref().find(|word| *word == ";");
        while let Some(word) = words.next().filter(|word| *word != "endmodule") {
            let statement: Vec<&str> = words.by_ref().take_while(|word| *word != ";").collect();
            match word {
                "wire" | "input" | "output" if statement.len() == 1 => (),
                "assign" if statement.len() == 3 => module.assigns.push((statement[0], statement[2])),
                kind if statement.get(1) == Some(&"(") => {
                    let connections = statement[2..].split(|word| *word == ".").filter_map(|connection| {
                        connection.first().map(|port| (*port, *connection.get(2).unwrap_or(&")")))
                    });
                    module.instances.push((kind, statement[0], connections.collect()));
                }
                _ => return Err(format!("{name}: {word} {}", statement.join(" "))),
            }
        }
        modules.insert(name, module);
    }
    Ok(modules)
}

/// The bits of a port, or the port itself if it is one bit wide.
fn bits(connections: &HashMap<&str, Net>, port: &str) -> Vec<Net> {
    let whole = connections.get(port).copied();
    whole
        .into_iter()
        .chain((0..).map_while(|bit| connections.get(format!("{port}[{bit}]").as_str()).copied()))
        .collect()
}

impl Circuit {
    /// Reads what yosys wrote, bit by bit.
    pub(super) fn read(path: &Path, top: &str) -> Done<Self> {
        let text = fs::read_to_string(path).map_err(|error| format!("{}: {error}", path.display()))?;
        Self::of(&text, top)
    }

    fn of(text: &str, top: &str) -> Done<Self> {
        let modules = modules(text)?;
        let mut circuit = Self {
            gates: Vec::new(),
            flops: Vec::new(),
            memories: Vec::new(),
            ports: HashMap::new(),
            cells: Vec::new(),
            values: vec![false, true],
            before: Vec::new(),
            toggles: Vec::new(),
            ones: Vec::new(),
            cycles: 0,
        };
        let mut nets = HashMap::new();
        circuit.add(&modules, top, "", &mut nets)?;
        circuit.ports = nets.into_iter().map(|(name, net)| (name.to_owned(), net)).collect();
        circuit.order()?;
        circuit.count();
        Ok(circuit)
    }

    fn net<'a>(&mut self, nets: &mut HashMap<&'a str, Net>, name: &'a str) -> Net {
        match name {
            "1'h0" => ZERO,
            "1'h1" => ONE,
            // What is connected to nothing is a net of its own.
            ")" => self.new_net(),
            _ => *nets.entry(name).or_insert_with(|| self.new_net()),
        }
    }

    fn new_net(&mut self) -> Net {
        self.values.push(false);
        self.values.len() as Net - 1
    }

    /// Adds a module, some of whose nets are known, with all that is in it.
    fn add<'a>(
        &mut self,
        modules: &HashMap<&'a str, Module<'a>>,
        name: &str,
        within: &str,
        nets: &mut HashMap<&'a str, Net>,
    ) -> Done {
        let module = modules.get(name).ok_or_else(|| format!("no module {name}"))?;
        for (to, from) in &module.assigns {
            let (output, input) = (self.net(nets, to), self.net(nets, from));
            self.gates.push(Gate { table: 0xaaaa, inputs: [input, ZERO, ZERO, ZERO], output });
        }
        for (kind, instance, connections) in &module.instances {
            let mut known: HashMap<&str, Net> =
                connections.iter().map(|(port, net)| (*port, self.net(nets, net))).collect();
            let pin = |port: &str| known.get(port).copied().ok_or_else(|| format!("{within}{instance} has no {port}"));
            let instance = format!("{within}{instance}");
            if let Some((_, inputs, function)) = CELLS.iter().find(|(cell, ..)| cell == kind) {
                let mut pins = vec![("Y", pin("Y")?)];
                let table = (0..16u16).filter(|&i| function([0, 1, 2, 3].map(|bit| i >> bit & 1 == 1)));
                let mut gate = Gate { table: table.map(|i| 1 << i).sum(), inputs: [ZERO; 4], output: pin("Y")? };
                for (input, port) in gate.inputs.iter_mut().zip(*inputs) {
                    *input = pin(port)?;
                    pins.push((port, *input));
                }
                self.cells.push(Cell { name: instance, memory: false, pins });
                self.gates.push(gate);
            } else if matches!(*kind, "DFFPOSX1" | "DFFSR") {
                let [clear, set] = if *kind == "DFFSR" { [pin("R")?, pin("S")?] } else { [ONE, ONE] };
                let flop = Flop { data: pin("D")?, clear, set, output: pin("Q")? };
                let mut pins = vec![("Q", flop.output), ("D", flop.data)];
                if *kind == "DFFSR" {
                    pins.extend([("R", clear), ("S", set)]);
                }
                self.cells.push(Cell { name: instance, memory: false, pins });
                self.flops.push(flop);
            } else if kind.contains("unit_ram") {
                let memory = Memory {
                    read: pin("read")?,
                    write: pin("write")?,
                    read_address: bits(&known, "read_address"),
                    write_address: bits(&known, "write_address"),
                    read_data: bits(&known, "read_data"),
                    write_data: bits(&known, "write_data"),
                    words: HashMap::new(),
                };
                // The flip-flops that stand for its port.
                for (word, name, connections) in modules.get(kind).iter().flat_map(|module| &module.instances) {
                    let to = connections.iter().find(|(port, _)| *port == "Q" && word.starts_with("DFF"));
                    let assigns = modules.get(kind).map_or(&[][..], |module| &module.assigns);
                    let alias = |net: &str| assigns.iter().find(|(_, from)| *from == net).map(|(to, _)| *to);
                    let net = to.and_then(|(_, net)| known.get(net).or_else(|| known.get(alias(net)?)));
                    if let Some(&net) = net {
                        self.cells.push(Cell {
                            name: format!("{instance}/{name}"),
                            memory: true,
                            pins: vec![("Q", net)],
                        });
                    }
                }
                self.memories.push(memory);
            } else {
                self.add(modules, kind, &format!("{instance}/"), &mut known)?;
            }
        }
        Ok(())
    }

    /// Puts cells behind those that drive them.
    fn order(&mut self) -> Done {
        let mut waiting = vec![Vec::new(); self.values.len()];
        let mut driven = vec![false; self.values.len()];
        self.gates.iter().for_each(|gate| driven[gate.output as usize] = true);
        let mut missing = vec![0; self.gates.len()];
        let mut ready = Vec::new();
        for (number, gate) in self.gates.iter().enumerate() {
            for &input in gate.inputs.iter().filter(|&&input| driven[input as usize]) {
                waiting[input as usize].push(number);
                missing[number] += 1;
            }
            if missing[number] == 0 {
                ready.push(number);
            }
        }
        let mut places = Vec::new();
        while let Some(number) = ready.pop() {
            places.push(number);
            for &next in &waiting[self.gates[number].output as usize] {
                missing[next] -= 1;
                if missing[next] == 0 {
                    ready.push(next);
                }
            }
        }
        if places.len() != self.gates.len() {
            return Err("cells drive each other in a ring".into());
        }
        let mut gates: Vec<Option<Gate>> = std::mem::take(&mut self.gates).into_iter().map(Some).collect();
        self.gates = places.into_iter().filter_map(|place| gates[place].take()).collect();
        Ok(())
    }

    /// Begins to count.
    pub(super) fn count(&mut self) {
        self.before = self.values.clone();
        self.toggles = vec![0; self.values.len()];
        self.ones = vec![0; self.values.len()];
        self.cycles = 0;
    }

    pub(super) fn nets(&self) -> Net {
        self.values.len() as Net
    }

    /// Toggles of a net since `count`, and cycles that it was 1.
    pub(super) fn toggles(&self, net: Net) -> (u32, u32) {
        (self.toggles[net as usize], self.ones[net as usize])
    }

    fn ports(&self, port: &str) -> Vec<Net> {
        let whole = self.ports.get(port).copied();
        whole.into_iter().chain((0..32).map_while(|bit| self.ports.get(&format!("{port}[{bit}]")).copied())).collect()
    }

    /// Sets an input.
    pub(super) fn set(&mut self, port: &str, value: u32) {
        for (bit, net) in self.ports(port).into_iter().enumerate() {
            self.values[net as usize] = value >> bit & 1 == 1;
        }
    }

    /// An output, once all has settled.
    pub(super) fn get(&mut self, port: &str) -> u32 {
        self.settle();
        self.ports(port).into_iter().enumerate().map(|(bit, net)| u32::from(self.values[net as usize]) << bit).sum()
    }

    fn settle(&mut self) {
        let values = &mut self.values;
        for gate in &self.gates {
            let [a, b, c, d] = gate.inputs.map(|net| u16::from(values[net as usize]));
            values[gate.output as usize] = gate.table >> (a | b << 1 | c << 2 | d << 3) & 1 == 1;
        }
    }

    /// An edge of the clock.
    pub(super) fn tick(&mut self) {
        self.settle();
        for (net, value) in self.values.iter().enumerate() {
            self.toggles[net] += u32::from(*value != self.before[net]);
            self.ones[net] += u32::from(*value);
        }
        self.before.copy_from_slice(&self.values);
        self.cycles += 1;
        let before = &self.before;
        let number = |nets: &[Net]| -> u128 {
            nets.iter().enumerate().map(|(bit, net)| u128::from(before[*net as usize]) << bit).sum()
        };
        for flop in &self.flops {
            let value = before[flop.data as usize] | !before[flop.set as usize];
            self.values[flop.output as usize] = value & before[flop.clear as usize];
        }
        for memory in &mut self.memories {
            if before[memory.read as usize] {
                let word = memory.words.get(&(number(&memory.read_address) as u32)).copied().unwrap_or(0);
                for (bit, net) in memory.read_data.iter().enumerate() {
                    self.values[*net as usize] = word >> bit & 1 == 1;
                }
            }
            if before[memory.write as usize] {
                memory.words.insert(number(&memory.write_address) as u32, number(&memory.write_data));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A bit that turns over when `go` is 1, from 1 after a reset, beside a memory of a bit that it is written to.
    const TEXT: &str = "/* comment */\nmodule \\half=1 (clk, \\in[0] , go, rst_n, \\out[0] );\n\
        input clk; input \\in[0] ; input go; input rst_n; output \\out[0] ; wire next;\n\
        XOR2X1 \\a.b[1] (.A(\\in[0] ), .B(go), .Y(next));\n\
        DFFSR keep (.CLK(clk), .D(next), .Q(\\out[0] ), .R(1'h1), .S(rst_n));\nendmodule\n\
        module unit_ram1 (clk);\ninput clk;\nendmodule\n\
        module top (clk, rst_n, go, \\is , was);\ninput clk; input rst_n; input go; output is; output was; wire bit;\n\
        assign is = bit;\n\\half=1 part (.clk(clk), .\\in[0] (bit), .go(go), .rst_n(rst_n), .\\out[0] (bit));\n\
        unit_ram1 ram (.clk(clk), .read(1'h1), .read_address(1'h0), .read_data(was), .write(go),\n\
        .write_address(1'h0), .write_data(bit));\nendmodule\n";

    #[test]
    fn follows_its_cells() {
        let mut circuit = Circuit::of(TEXT, "top").expect("a netlist");
        circuit.set("rst_n", 0);
        circuit.tick();
        circuit.set("rst_n", 1);
        assert_eq!(circuit.get("is"), 1);
        circuit.tick();
        assert_eq!((circuit.get("is"), circuit.get("was")), (1, 0));
        circuit.count();
        circuit.set("go", 1);
        for expected in [(1, 0), (0, 0), (1, 1), (0, 0)] {
            assert_eq!((circuit.get("is"), circuit.get("was")), expected);
            circuit.tick();
        }
        let keep = circuit.cells.iter().find(|cell| cell.name == "part/keep").expect("the flip-flop");
        assert_eq!(circuit.cycles, 4);
        assert_eq!(circuit.toggles(keep.pins[0].1), (3, 2));
        assert!(circuit.cells.iter().any(|cell| cell.name == "part/a.b[1]" && cell.pins.len() == 3));
    }

    #[test]
    fn says_what_it_does_not_know() {
        assert!(Circuit::of(&TEXT.replace("XOR2X1", "LATCH"), "top").is_err_and(|error| error.contains("LATCH")));
        assert!(Circuit::of(TEXT, "elsewhere").is_err());
        assert!(Circuit::of(&TEXT.replace(".Y(next)", ".Y(bit)").replace(".Q(", ".QN("), "top").is_err());
        let ring = TEXT.replace(".A(\\in[0] )", ".A(next)");
        assert!(Circuit::of(&ring, "top").is_err_and(|error| error.contains("ring")));
    }
}
