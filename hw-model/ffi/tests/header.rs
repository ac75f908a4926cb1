//! `include/cptr_memory.h` is what `src/lib.rs` says. `CPTR_BLESS=1 cargo test -p cptr-memory --test header` writes it.
use std::fmt::Write;
use std::fs;

const SOURCE: &str = include_str!("../src/lib.rs");
const HEADER: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/include/cptr_memory.h");

const PREAMBLE: &str = r#"/* A memory of DRAM channels, exact to the cycle, as a part of another simulator. Guide: docs/dram.md.
 *
 * Generated from hw-model/ffi/src by `CPTR_BLESS=1 cargo test -p cptr-memory --test header`; do not edit.
 *
 * Offer requests, let time pass, take completions:
 *
 *     cptr_memory *memory;
 *     if (cptr_memory_open("DDR5-4800", "channels=2", &memory, message, sizeof message) != CPTR_MEMORY_OK)
 *         ... message says why ...
 *     cptr_memory_offer(memory, 0x1000, 0, 0, &id);
 *     cptr_memory_next_event(memory, &cycle);
 *     cptr_memory_advance(memory, cycle);
 *     while (cptr_memory_pop(memory, &id, &cycle, NULL, NULL, NULL) == CPTR_MEMORY_OK)
 *         ... the request with this id is complete ...
 *     cptr_memory_close(memory);
 *
 * A handle is for one thread at a time; different handles know nothing of each other. Every function but
 * cptr_memory_close returns a status: 0 if it was done, more if there is nothing or not now, negative for an error.
 * What is not done changes nothing. */
#ifndef CPTR_MEMORY_H
#define CPTR_MEMORY_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/* What a function returns. */
typedef int32_t cptr_memory_status;
/* An engine. */
typedef struct cptr_memory cptr_memory;

"#;

const END: &str = "#ifdef __cplusplus
}
#endif

#endif
";

/// A declaration of a name in C, for a type in Rust.
fn declare(rust: &str, name: &str) -> String {
    let (mut of, mut stars, mut constant) = (rust.trim(), String::new(), "");
    while let Some(rest) = of.strip_prefix('*') {
        stars.push('*');
        of = rest.strip_prefix("mut ").unwrap_or_else(|| {
            constant = "const ";
            rest.strip_prefix("const ").expect("a pointer")
        });
    }
    let c = match of {
        "u64" => "uint64_t",
        "u32" => "uint32_t",
        "i32" => "int32_t",
        "u8" => "uint8_t",
        "usize" => "size_t",
        "f64" => "double",
        "c_char" => "char",
        "CptrMemoryStatus" => "cptr_memory_status",
        "CptrMemory" => "cptr_memory",
        "CptrMemoryTotals" => "cptr_memory_totals",
        "CptrMemoryEnergy" => "cptr_memory_energies",
        other => panic!("no type in C for {other}"),
    };
    format!("{constant}{c} {stars}{name}")
}

const STRUCTURES: [(&str, &str); 2] =
    [("CptrMemoryTotals", "cptr_memory_totals"), ("CptrMemoryEnergy", "cptr_memory_energies")];

/// The lines of a documentation comment up to the safety section, as one comment in C.
fn comment(lines: &[&str], indent: &str) -> String {
    let end = lines.iter().position(|line| line.contains("# Safety")).unwrap_or(lines.len());
    let text = |line: &&str| line.trim_start_matches("///").trim().replace(['`', '[', ']'], "").replace('…', "...");
    let mut lines: Vec<String> = lines[..end].iter().map(text).collect();
    while lines.last().is_some_and(String::is_empty) {
        lines.pop();
    }
    let body = lines.join(&format!("\n{indent} * ")).replace("* \n", "*\n");
    format!("{indent}/* {body} */\n")
}

fn generate() -> String {
    let mut header = PREAMBLE.to_string();
    let (mut doc, mut lines, mut in_structure) = (Vec::new(), SOURCE.lines(), None);
    while let Some(line) = lines.next() {
        let code = line.trim();
        if code.starts_with("///") {
            doc.push(code);
            continue;
        }
        if let Some(constant) = code.strip_prefix("pub const ") {
            let (name, value) = constant.split_once(": CptrMemoryStatus = ").expect("a status");
            let value = value.trim_end_matches(';');
            let value = if value.starts_with('-') { format!("({value})") } else { value.into() };
            let _ = writeln!(header, "{}#define {name} {value}", comment(&doc, ""));
        } else if let Some(name) = STRUCTURES.iter().find(|(rust, _)| code == format!("pub struct {rust} {{")) {
            let _ = write!(header, "\n{}typedef struct {} {{\n", comment(&doc, ""), name.1);
            in_structure = Some(name.1);
        } else if let (Some(name), "}") = (in_structure, code) {
            let _ = writeln!(header, "}} {name};");
            in_structure = None;
        } else if in_structure.is_some() {
            let (name, of) = code.trim_start_matches("pub ").trim_end_matches(',').split_once(": ").expect("a field");
            let _ = writeln!(header, "{}    {};", comment(&doc, "    "), declare(of, name));
        } else if let Some(function) = code.strip_prefix("pub unsafe extern \"C\" fn ") {
            let mut text = function.to_string();
            while !text.contains('{') {
                text += lines.next().expect("the end of a function's head").trim();
            }
            let (name, rest) = text.split_once('(').expect("arguments");
            let (arguments, rest) = rest.split_once(')').expect("the end of the arguments");
            let declared = arguments.split(',').filter(|argument| !argument.trim().is_empty()).map(|argument| {
                let (name, of) = argument.split_once(": ").expect("an argument");
                declare(of, name.trim())
            });
            let declared: Vec<String> = declared.collect();
            let result = if rest.contains("->") { "cptr_memory_status" } else { "void" };
            let line = format!("{result} {name}({});", declared.join(", "));
            let line =
                if line.len() <= 120 { line } else { format!("{result} {name}(\n    {});", declared.join(",\n    ")) };
            let _ = write!(header, "{}{line}\n\n", comment(&doc, ""));
        }
        if !code.starts_with("#[") {
            doc.clear();
        }
    }
    header + END
}

#[test]
fn the_header_is_what_the_source_says() {
    let header = generate();
    assert_eq!(header.matches("cptr_memory_status cptr_memory_").count(), 16);
    if std::env::var_os("CPTR_BLESS").is_some() {
        fs::write(HEADER, &header).unwrap();
    }
    let found = fs::read_to_string(HEADER).unwrap_or_default();
    assert!(found == header, "{HEADER} is not what src/lib.rs says; CPTR_BLESS=1 writes it");
}
