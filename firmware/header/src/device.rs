//! The header for drivers of a host: the wire format and the region in shared memory, from the protocol's own tables.

use std::fmt::Write as _;

use cptr_protocol::region::{self, State, device_word, host_word};
use cptr_protocol::ring;
use cptr_protocol::wire::{self, Command, Descriptor, Field, Status};

const PREAMBLE: &str = "\
/* What a host and a near-data controller of CPTR say to each other (docs/device.md): frames, and the region of shared
 * memory with its rings.
 *
 * Generated from the Rust source by `cargo xtask firmware --bless`; do not edit.
 *
 * Structures are little-endian and as they lie in a frame, where they need not be aligned: copy them with memcpy. A
 * frame is a cptr_wire_header, a body, and the CRC-32/ISCSI of both. */
#ifndef CPTR_DEVICE_H
#define CPTR_DEVICE_H

#include <stdint.h>
";

const TRAILER: &str = "\
/* Words of a ring of that many slots for frames of at most that many bytes. */
#define CPTR_RING_WORDS(slots, bytes) \\
  (2 * CPTR_LINE + (slots) * ((((bytes) + 3) / 4 + 1 + CPTR_LINE - 1) / CPTR_LINE * CPTR_LINE))
/* Words of a region. */
#define CPTR_REGION_WORDS(queues, slots, request, answer) \\
  (2 * CPTR_LINE + (queues) * (CPTR_RING_WORDS(slots, request) + CPTR_RING_WORDS(slots, answer)))
/* A check word goes on with each word; it begins with CPTR_CHECK_START. */
#define CPTR_CHECK_START UINT32_C(0x811C9DC5)
static inline uint32_t cptr_check(uint32_t sum, uint32_t word) {
  sum = (sum ^ word) * UINT32_C(0x01000193);
  return sum ^ (sum >> 15);
}

#endif /* CPTR_DEVICE_H */
";

/// `StandIn` and `stand_in` as `STAND_IN`.
fn upper(name: &str) -> String {
    let mut upper = String::new();
    for (place, letter) in name.char_indices() {
        if letter.is_uppercase() && place > 0 {
            upper.push('_');
        }
        upper.extend(letter.to_uppercase());
    }
    upper
}

/// The C type of a field, and what follows its name.
fn c_type(field: &Field) -> (&'static str, String) {
    let kind = field.kind.trim_matches(['[', ']']);
    let (kind, count) =
        kind.split_once(';').map_or((kind, String::new()), |(kind, n)| (kind, format!("[{}]", n.trim())));
    let kind = match kind.trim() {
        "u8" => "uint8_t",
        "U16" => "uint16_t",
        "U32" => "uint32_t",
        "U64" => "uint64_t",
        other => unreachable!("{other} is in no descriptor"),
    };
    (kind, count)
}

/// Documentation as C has it; links keep their names.
fn comment(text: &mut String, indent: &str, about: &[&str]) {
    let lines: Vec<String> = about.iter().map(|line| line.trim().replace(['[', ']', '`'], "")).collect();
    let _ = writeln!(text, "{indent}/* {} */", lines.join(&format!("\n{indent} * ")));
}

fn structure(text: &mut String, descriptor: &Descriptor) {
    let name = format!("cptr_wire_{}", upper(descriptor.name).to_lowercase());
    comment(text, "", descriptor.about);
    let _ = writeln!(text, "typedef struct {name} {{");
    for field in descriptor.fields {
        comment(text, "  ", field.about);
        let (kind, count) = c_type(field);
        let _ = writeln!(text, "  {kind} {}{count};", field.name);
    }
    let _ = writeln!(text, "}} {name};");
    let size = descriptor.bytes;
    let _ = writeln!(text, "typedef char {name}_has_{size}_bytes[sizeof({name}) == {size} ? 1 : -1];\n");
}

fn define(text: &mut String, name: &str, value: impl std::fmt::Display) {
    let _ = writeln!(text, "#define CPTR_{name} {value}");
}

/// The whole header.
pub(crate) fn header() -> String {
    let mut text = PREAMBLE.to_owned();
    text.push_str("\n/* Frames. */\n");
    define(&mut text, "FRAME_MAGIC", format_args!("{:#x}", wire::MAGIC));
    define(&mut text, "FRAME_VERSION", wire::VERSION);
    define(&mut text, "FRAME_OVERHEAD", wire::OVERHEAD);
    define(&mut text, "FRAME_ANSWER", wire::ANSWER);
    define(&mut text, "NOBODY", wire::NOBODY);
    define(&mut text, "ALL_LAYERS", wire::ALL_LAYERS);
    define(&mut text, "PART_WORDS", wire::PART);
    text.push_str("\n/* Kinds of requests. */\n");
    for command in (0..=u8::MAX).filter_map(|number| Command::try_from(number).ok()) {
        define(&mut text, &format!("COMMAND_{}", upper(&format!("{command:?}"))), command as u8);
    }
    text.push_str("\n/* Statuses of answers. */\n");
    for status in (0..=u8::MAX).filter_map(Status::from_number) {
        let _ = writeln!(text, "/* {status} */");
        define(&mut text, &format!("FRAME_STATUS_{}", upper(&format!("{status:?}"))), status as u8);
    }
    text.push('\n');
    wire::LAYOUT.iter().for_each(|descriptor| structure(&mut text, descriptor));
    text.push_str("/* The region: words of 32 bits, in lines of 64 bytes. */\n");
    define(&mut text, "LINE", ring::LINE);
    define(&mut text, "REGION_MAGIC", format_args!("UINT32_C({:#x})", region::MAGIC));
    define(&mut text, "REGION_VERSIONS", format_args!("UINT32_C({:#x})", region::VERSIONS));
    define(&mut text, "FEATURE_EVENTS", region::FEATURE_EVENTS);
    define(&mut text, "FEATURE_NO_CHECKSUM", region::FEATURE_NO_CHECKSUM);
    for (name, word) in [
        ("MAGIC", device_word::MAGIC),
        ("VERSIONS", device_word::VERSIONS),
        ("FEATURES", device_word::FEATURES),
        ("QUEUES", device_word::QUEUES),
        ("SLOTS", device_word::SLOTS),
        ("REQUEST", device_word::REQUEST),
        ("ANSWER", device_word::ANSWER),
        ("GENERATION", device_word::GENERATION),
        ("CHECK", device_word::CHECK),
        ("STATE", device_word::STATE),
        ("ATTACHMENT", device_word::ATTACHMENT),
        ("VERSION", device_word::VERSION),
        ("AGREED", device_word::AGREED),
        ("EVENTS", device_word::EVENTS),
    ] {
        define(&mut text, &format!("DEVICE_WORD_{name}"), word);
    }
    for (name, word) in [
        ("VERSIONS", host_word::VERSIONS),
        ("FEATURES", host_word::FEATURES),
        ("ATTACHMENT", host_word::ATTACHMENT),
        ("CHECK", host_word::CHECK),
    ] {
        define(&mut text, &format!("HOST_WORD_{name}"), format_args!("(CPTR_LINE + {word})"));
    }
    text.push_str("\n/* States in the device's line. */\n");
    for state in (0..8).filter_map(State::from_number) {
        define(&mut text, &format!("STATE_{}", upper(&format!("{state:?}"))), state as u32);
    }
    text.push_str(
        "\n/* Words of a ring: the producer's index, the consumer's, whether the consumer wants to be called. */\n",
    );
    define(&mut text, "RING_PUT", 0);
    define(&mut text, "RING_TAKEN", "CPTR_LINE");
    define(&mut text, "RING_WANTED", "(CPTR_LINE + 1)");
    define(&mut text, "RING_SLOTS", "(2 * CPTR_LINE)");
    text.push('\n');
    text + TRAILER
}
