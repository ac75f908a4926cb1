//! How much stack each function of the library needs at most, derived from its object code without running it.
//!
//! Method: the compiler writes the frame of each function into the section `.stack_sizes` (`-Z emit-stack-sizes`).
//! Relocations say what a function refers to, and all of that counts as called; so does what a constant refers to
//! (tables of functions), if the function refers to the constant. A function needs its frame and the most that one of
//! its callees needs. That is too much where a reference is not a call and where a call replaces its caller (tail
//! calls), and never too little:
//! - Routines of compiler_builtins come without such a record. Their frame is what their instructions lower the stack
//!   pointer by ([`Encoding::lowered`]). For all functions with a record the two are compared, too: instructions may
//!   not show less, where the frame is so small that one instruction can say it.
//! - A function that calls itself, also through others, is an error, and so is one whose code is not there.
//!
//! Not in it: what the caller pushes (arguments beyond those in registers), callbacks that the caller gives, frames of
//! interrupts.

use std::collections::HashMap;
use std::error::Error;

use object::read::archive::ArchiveFile;
use object::{File, Object, ObjectSection, ObjectSymbol, RelocationTarget, SectionIndex, SectionKind, SymbolKind};

use super::command::Done;
use super::instructions::Encoding;

/// A section of an object file, which holds one function or constant, or a name by which object files know each
/// other's.
struct Node {
    name: String,
    /// Bytes; none for a name that nothing defines.
    frame: Option<u64>,
    refers_to: Vec<usize>,
}

/// What refers to what in a library.
#[derive(Default)]
pub(super) struct Graph {
    nodes: Vec<Node>,
    /// Indices of the nodes of names.
    names: HashMap<String, usize>,
}

/// How far [`Graph::need`] is with a node.
#[derive(Clone, Copy)]
enum Visit {
    New,
    Begun,
    Needs(u64),
}

impl Graph {
    /// Reads a static library.
    pub(super) fn read(library: &[u8], encoding: Encoding) -> Result<Self, Box<dyn Error>> {
        let mut graph = Self::default();
        let mut records = 0;
        for member in ArchiveFile::parse(library)?.members() {
            records += graph.add(&File::parse(member?.data(library)?)?, encoding)?;
        }
        if records == 0 { Err("no record of frames".into()) } else { Ok(graph) }
    }

    /// The most stack that a function needs, in bytes.
    pub(super) fn need(&self, function: &str) -> Done<u64> {
        let node = self.names.get(function).ok_or_else(|| format!("the library has no {function}"))?;
        self.visit(*node, &mut vec![Visit::New; self.nodes.len()])
    }

    fn visit(&self, index: usize, visits: &mut [Visit]) -> Done<u64> {
        let node = &self.nodes[index];
        match visits[index] {
            Visit::Needs(bytes) => return Ok(bytes),
            Visit::Begun => return Err(format!("{} calls itself, or what it calls does", node.name)),
            Visit::New => visits[index] = Visit::Begun,
        }
        let frame = node.frame.ok_or_else(|| format!("nothing says how much stack {} needs", node.name))?;
        let mut callees = 0;
        for &callee in &node.refers_to {
            callees = self.visit(callee, visits)?.max(callees);
        }
        visits[index] = Visit::Needs(frame + callees);
        Ok(frame + callees)
    }

    /// Adds an object file: its sections, its names, and what they refer to. Returns how many functions have a record.
    fn add(&mut self, file: &File<'_>, encoding: Encoding) -> Result<usize, Box<dyn Error>> {
        let recorded = recorded(file)?;
        let mut nodes = HashMap::new();
        for section in file.sections() {
            let (frame, calls_itself) = match section.kind() {
                SectionKind::Text => frame(&section, recorded.get(&section.index()).copied(), encoding)?,
                _ => (0, false),
            };
            let node = self.push(section.name()?, Some(frame));
            self.nodes[node].refers_to.extend(calls_itself.then_some(node));
            nodes.insert(section.index(), node);
        }
        let node_of = |section: SectionIndex| nodes.get(&section).copied().ok_or("a symbol of no section");
        for symbol in file.symbols().filter(|symbol| symbol.is_global() && symbol.is_definition()) {
            let name = self.named(symbol.name()?);
            self.nodes[name].frame = Some(0);
            self.nodes[name].refers_to.extend(symbol.section_index().map(node_of).transpose()?);
        }
        for section in file.sections() {
            for (_, relocation) in section.relocations() {
                let RelocationTarget::Symbol(target) = relocation.target() else { continue };
                let symbol = file.symbol_by_index(target)?;
                let to = match symbol.section_index() {
                    // A jump within a function; only to the function itself it may be a call.
                    Some(own) if own == section.index() && symbol.kind() != SymbolKind::Text => continue,
                    Some(section) => node_of(section)?,
                    None if symbol.is_undefined() => self.named(symbol.name()?),
                    None => continue,
                };
                self.nodes[node_of(section.index())?].refers_to.push(to);
            }
        }
        Ok(recorded.len())
    }

    fn push(&mut self, name: &str, frame: Option<u64>) -> usize {
        self.nodes.push(Node { name: name.to_owned(), frame, refers_to: Vec::new() });
        self.nodes.len() - 1
    }

    /// The node of a name.
    fn named(&mut self, name: &str) -> usize {
        if let Some(&node) = self.names.get(name) {
            return node;
        }
        let node = self.push(name, None);
        self.names.insert(name.to_owned(), node);
        node
    }
}

/// The frame of the function in a section, and whether it calls itself.
fn frame<'a>(
    section: &impl ObjectSection<'a>,
    recorded: Option<u64>,
    encoding: Encoding,
) -> Result<(u64, bool), Box<dyn Error>> {
    let code = section.data()?;
    let lowered = encoding.lowered(code);
    let frame = recorded.unwrap_or(lowered);
    if lowered < frame && frame <= encoding.immediate() {
        let name = section.name()?;
        return Err(format!("{name}: a frame of {frame} bytes, of which the instructions show {lowered}").into());
    }
    Ok((frame, encoding.calls_itself(code)))
}

/// The frames that the compiler recorded, by the function's section. An entry is the function's address, which is a
/// relocation here, and the bytes in LEB128.
fn recorded(file: &File<'_>) -> Result<HashMap<SectionIndex, u64>, Box<dyn Error>> {
    let mut frames = HashMap::new();
    let address = if file.is_64() { 8 } else { 4 };
    for section in file.sections().filter(|section| section.name() == Ok(".stack_sizes")) {
        let data = section.data()?;
        for (offset, relocation) in section.relocations() {
            let RelocationTarget::Symbol(target) = relocation.target() else { continue };
            let symbol = file.symbol_by_index(target)?;
            let of = symbol.section_index().ok_or("a frame of a function that is elsewhere")?;
            let digits = data.get(offset as usize + address..).unwrap_or(&[]);
            let frame = leb128(digits).ok_or("a frame without its size")?;
            if frames.insert(of, frame).is_some() {
                return Err(format!("two functions in {}", file.section_by_index(of)?.name()?).into());
            }
        }
    }
    Ok(frames)
}

/// Seven bits per byte, lowest first; the last byte is below 128.
fn leb128(bytes: &[u8]) -> Option<u64> {
    let last = bytes.iter().take(9).position(|&byte| byte < 128)?;
    Some(bytes[..=last].iter().rev().fold(0, |value, &byte| value << 7 | u64::from(byte & 127)))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Functions with their frames (none: not there) and what they call; each name is that of its place.
    fn graph(functions: &[(Option<u64>, &[usize])]) -> Graph {
        let node = |(i, &(frame, calls)): (usize, &(Option<u64>, &[usize]))| Node {
            name: format!("f{i}"),
            frame,
            refers_to: calls.to_vec(),
        };
        let nodes = functions.iter().enumerate().map(node).collect();
        Graph { nodes, names: (0..functions.len()).map(|i| (format!("f{i}"), i)).collect() }
    }

    #[test]
    fn frames_add_up_along_the_deepest_path() {
        let chain = graph(&[(Some(8), &[1]), (Some(16), &[2]), (Some(100), &[])]);
        assert_eq!(["f0", "f1", "f2"].map(|name| chain.need(name).unwrap()), [124, 116, 100]);
        let diamond =
            graph(&[(Some(1), &[1, 2]), (Some(40), &[3]), (Some(30), &[3, 4]), (Some(5), &[]), (Some(20), &[])]);
        assert_eq!(diamond.need("f0"), Ok(51));
    }

    #[test]
    fn recursion_and_missing_functions_are_named() {
        let cycle = graph(&[(Some(1), &[1]), (Some(1), &[2]), (Some(1), &[1]), (Some(4), &[])]);
        assert!(cycle.need("f0").unwrap_err().starts_with("f1 calls itself"));
        assert_eq!(cycle.need("f3"), Ok(4));
        let missing = graph(&[(Some(1), &[1]), (None, &[])]);
        assert_eq!(missing.need("f0"), Err("nothing says how much stack f1 needs".into()));
        assert!(missing.need("f2").unwrap_err().contains("no f2"));
    }

    #[test]
    fn sizes_are_leb128() {
        assert_eq!(leb128(&[0x78, 0xff]), Some(0x78));
        assert_eq!(leb128(&[0xf8, 0x06]), Some(0x378));
        assert_eq!((leb128(&[]), leb128(&[0x80]), leb128(&[0xff; 20])), (None, None, None));
    }
}
