//! `cptr-header`: prints the C headers of `ffi/src` and of the protocol. `cptr-header --check` compares them with
//! `ffi/include/cptr.h` and `ffi/include/cptr_device.h` instead, `--bless` writes them there.
#![forbid(unsafe_code)]

mod device;

use std::path::Path;
use std::process::ExitCode;

use cbindgen::{Builder, Config, DocumentationStyle, ItemType, Language, RenameRule};

const PREAMBLE: &str = "\
/* CPTR: tracking of expert demand, bounded-loss selection and eviction for mixture-of-experts routers, in fixed point.
 *
 * Generated from firmware/ffi/src by `cargo xtask firmware --bless`; do not edit. Guide: docs/c.md.
 *
 * No allocation, no floating point, no global state. All memory is the caller's: CPTR_TRACKER_SIZE(experts) bytes per
 * layer, CPTR_CONFIG_SIZE for all and CPTR_QUEUE_SIZE(jobs) for a queue, aligned to CPTR_ALIGN. Functions on different
 * states may run at the same time; one state is for one thread at a time. Functions may be called from interrupts under
 * the same rule.
 *
 * Every function returns a cptr_status: 0 or more for success, negative for an error, after which nothing has been
 * written. */";

const TRAILER: &str = "\
/* Bytes of a tracker of a layer with that many experts. */
#define CPTR_TRACKER_SIZE(experts) (CPTR_TRACKER_BASE + 8 * (experts))
/* Bytes of a queue for that many jobs. */
#define CPTR_QUEUE_SIZE(jobs) (CPTR_QUEUE_BASE + 24 * (jobs))
/* The two sums of a cptr_demand: tokens, and mixing weights in steps of 2^-20. */
#define CPTR_DEMAND_COUNT(demand) ((uint32_t)((demand).sums & 0x3FFFFF))
#define CPTR_DEMAND_SCORE(demand) ((demand).sums >> 22)
/* Bytes of scratch memory for a matrix of that many columns, whatever its groups. */
#define CPTR_PRODUCT_SCRATCH(columns) (72 * (((columns) + 31) / 32))
/* Bytes of scratch memory for an expert of that many inputs and hidden values. */
#define CPTR_EXPERT_SCRATCH(columns, hidden) \\
    (8 * (hidden) + CPTR_PRODUCT_SCRATCH(columns) + CPTR_PRODUCT_SCRATCH(hidden))
/* Entries of scratch memory for the bits of that many experts. */
#define CPTR_BITS_SCRATCH(experts) (3 * ((experts) + 1))
/* Words of a bit field of that many experts. */
#define CPTR_SET_WORDS(experts) (((experts) + 31) / 32)

/* The layouts that the library was built for, on every machine. */
#define CPTR_ASSERT_SIZE(type, bytes) typedef char type##_has_##bytes##_bytes[sizeof(type) == (bytes) ? 1 : -1]
CPTR_ASSERT_SIZE(cptr_parameters, 20);
CPTR_ASSERT_SIZE(cptr_step, 12);
CPTR_ASSERT_SIZE(cptr_demand, 8);
CPTR_ASSERT_SIZE(cptr_candidate, 8);
CPTR_ASSERT_SIZE(cptr_job, 24);
CPTR_ASSERT_SIZE(cptr_cache_parameters, 32);
CPTR_ASSERT_SIZE(cptr_load, 12);
CPTR_ASSERT_SIZE(cptr_counters, 48);
CPTR_ASSERT_SIZE(cptr_matrix_shape, 16);
CPTR_ASSERT_SIZE(cptr_losses, 16);
CPTR_ASSERT_SIZE(cptr_split, 16);
CPTR_ASSERT_SIZE(cptr_change_config, 8);
CPTR_ASSERT_SIZE(cptr_change_detector, 16);
CPTR_ASSERT_SIZE(cptr_swap, 8);
CPTR_ASSERT_SIZE(cptr_allowance, 24);
#undef CPTR_ASSERT_SIZE
";

fn generate(source: &Path) -> Result<Vec<u8>, cbindgen::Error> {
    let mut config = Config {
        header: Some(PREAMBLE.to_owned()),
        trailer: Some(TRAILER.to_owned()),
        include_guard: Some("CPTR_H".to_owned()),
        language: Language::C,
        cpp_compat: true,
        no_includes: true,
        sys_includes: vec!["stddef.h".to_owned(), "stdint.h".to_owned()],
        usize_is_size_t: true,
        documentation_style: DocumentationStyle::C,
        line_length: 120,
        ..Config::default()
    };
    for (rust, c) in [
        ("CptrStatus", "cptr_status"),
        ("CptrRouter", "cptr_router"),
        ("CptrParameters", "cptr_parameters"),
        ("CptrStep", "cptr_step"),
        ("CptrDemand", "cptr_demand"),
        ("CptrCandidate", "cptr_candidate"),
        ("CptrNearRun", "cptr_near_run"),
        ("CptrJob", "cptr_job"),
        ("CptrUnits", "cptr_units"),
        ("CptrCacheParameters", "cptr_cache_parameters"),
        ("CptrCounters", "cptr_counters"),
        ("CptrLoad", "cptr_load"),
        ("CptrMatrix", "cptr_matrix"),
        ("CptrMatrixShape", "cptr_matrix_shape"),
        ("CptrExpert", "cptr_expert"),
        ("CptrVector", "cptr_vector"),
        ("CptrLosses", "cptr_losses"),
        ("CptrLayerLosses", "cptr_layer_losses"),
        ("CptrSplit", "cptr_split"),
        ("CptrChangeConfig", "cptr_change_config"),
        ("CptrChangeDetector", "cptr_change_detector"),
        ("CptrSwap", "cptr_swap"),
        ("CptrAllowance", "cptr_allowance"),
    ] {
        config.export.rename.insert(rust.to_owned(), c.to_owned());
    }
    config.export.item_types = vec![ItemType::Constants, ItemType::Structs, ItemType::Functions, ItemType::Typedefs];
    config.function.rename_args = RenameRule::None;
    // The modules that it declares are read, too.
    let builder = Builder::new().with_config(config).with_src(source.join("lib.rs"));
    let mut header = Vec::new();
    builder.generate()?.write(&mut header);
    // Other comments than C90 has.
    let header = String::from_utf8_lossy(&header);
    Ok(header.replace("// __cplusplus", "/* __cplusplus */").into_bytes())
}

/// Does with a header what the argument says.
fn handle(file: &Path, header: &[u8]) -> Result<(), String> {
    match std::env::args().nth(1).as_deref() {
        Some("--bless") => std::fs::write(file, header).map_err(|error| format!("{}: {error}", file.display())),
        Some("--check") => match std::fs::read(file) {
            Ok(found) if found == header => Ok(()),
            _ => Err(format!(
                "{} is not what the Rust source says; `cargo xtask firmware --bless` writes it",
                file.display()
            )),
        },
        _ => {
            println!("{}", String::from_utf8_lossy(header));
            Ok(())
        }
    }
}

fn main() -> ExitCode {
    let ffi = Path::new(env!("CARGO_MANIFEST_DIR")).join("../ffi");
    let library = generate(&ffi.join("src")).map_err(|error| error.to_string());
    let include = ffi.join("include");
    let done = library.and_then(|header| handle(&include.join("cptr.h"), &header));
    match done.and_then(|()| handle(&include.join("cptr_device.h"), device::header().as_bytes())) {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => {
            eprintln!("cptr-header: {message}");
            ExitCode::FAILURE
        }
    }
}
