//! A controller in the loop: the engine in the process of the command, and what can go wrong with emulated firmware.
//! The firmware itself runs in `cargo xtask firmware`.

use serde_json::Value;

use crate::command::{Folder, finish};
use crate::traces::{bundled, number};

const TINY: &str = "tiny-moe-8m.safetensors";

/// The row and what the controller has to say.
fn held(folder: &Folder, arguments: &str) -> (Value, Value) {
    let whole = folder.json(&format!("run {TINY} --json {arguments} --controller host"));
    (whole["rows"][0].clone(), whole["controller"].clone())
}

#[test]
fn the_engine_decides_what_the_strategy_decides() {
    let folder = bundled();
    // Whatever the strategy is told.
    for arguments in [
        "--tokens 400",
        "--tokens 150 --strategy bounded:eps=0.3:keep=0 --resident 3",
        "--tokens 150 --strategy bounded:eps=1:error=0.1+tracked:slow=0.2:fast=0.9:threshold=2 --resident 16",
        "--tokens 100 --strategy bounded:eps=0 --resident 32 --router softmax-selected",
        "--tokens 100 --strategy bounded:eps=0.2+in-place+uniform:bits=4 --resident 1 --router sigmoid:1:1 --system ndp",
    ] {
        let (row, report) = held(&folder, arguments);
        let tokens: u64 = arguments.split(' ').nth(1).unwrap().parse().unwrap();
        assert_eq!(
            (&report["controller"], &report["tokens"], &report["layers"]),
            (&"host".into(), &tokens.into(), &4.into())
        );
        // Who is there, reset, configuration; then one request per token and layer.
        assert_eq!(report["requests"], 3 + tokens * 4, "{arguments}");
        // Every expert that is not resident runs near the data.
        let misses = number(&row["miss_rate"]) * (tokens * 4 * 4) as f64;
        assert!((report["jobs"].as_u64().unwrap() as f64 - misses).abs() < 1e-6, "{arguments}: {misses}");
        assert!(report["select_instructions"].is_null(), "the host counts none");
        // The row itself is the strategy's.
        let alone =
            if arguments.contains("--strategy") { arguments.into() } else { format!("{arguments} --strategy bounded") };
        assert_eq!(row, folder.row(&format!("run {TINY} {alone}")), "{arguments}");
    }
    let table = folder.run(&format!("run {TINY} --tokens 50 --controller host")).ok().stdout;
    assert!(
        table.contains("controller host: 203 requests for 50 tokens x 4 layers, every decision the strategy's"),
        "{table}"
    );
    assert!(!table.contains("instructions"), "{table}");
}

#[test]
fn the_engine_places_what_the_strategy_places() {
    let folder = bundled();
    // Replicas of 1 to 4 bits on average, of more, and experts that are copied; few and many of them in fast memory.
    let near = "+in-place+uniform:bits";
    for (prompt, tokens, arguments) in [
        (60, 300, "--strategy bounded+once:tokens=60".to_owned()),
        (100, 220, format!("--strategy bounded:eps=0.2+once:tokens=100:alpha=0.5{near}=2 --resident 12 --system ndp")),
        (
            40,
            150,
            format!("--strategy bounded:eps=0.1:keep=0+once:tokens=40:alpha=0{near}=3 --resident 1 --system ndp"),
        ),
        (1, 100, format!("--strategy bounded:eps=0+once:tokens=1{near}=1 --resident 32 --system ndp")),
        (50, 120, format!("--strategy bounded+once:tokens=50:alpha=0.5{near}=8 --router sigmoid:1:1 --system ndp")),
        (
            50,
            120,
            format!("--strategy bounded+once:tokens=50:alpha=0.5{near}=4 --router softmax-selected --system ndp"),
        ),
    ] {
        let arguments = format!("--tokens {tokens} {arguments}");
        let (row, report) = held(&folder, &arguments);
        assert_eq!((&report["tokens"], &report["prompt_tokens"]), (&(tokens - prompt).into(), &prompt.into()));
        // Beside those of all tokens: who is there, reset, configuration, and four layers to place.
        assert_eq!(report["requests"], 3 + 4 + tokens * 4, "{arguments}");
        // The row counts the prompt, too, in which nothing is resident; the controller counts what it has decided.
        let misses = number(&row["miss_rate"]) * f64::from(tokens * 4 * 4);
        let jobs = report["jobs"].as_u64().unwrap() as f64;
        assert!((jobs + f64::from(prompt * 4 * 4) - misses).abs() < 1e-6, "{arguments}: {jobs}, {misses}");
        if !arguments.contains("--resident 32") {
            assert!(jobs > 0.0, "{arguments}");
        }
    }
    let line = format!("run {TINY} --tokens 50 --strategy bounded+once:tokens=20 --controller host");
    let table = folder.run(&line).ok().stdout;
    let expected =
        "controller host: 207 requests for 30 tokens after a prompt of 20 x 4 layers, every decision the strategy's; ";
    assert!(table.contains(expected), "{table}");
}

#[test]
fn only_what_the_firmware_runs() {
    let folder = bundled();
    let refusal = |arguments: &str| folder.refusal(&format!("run {arguments}"));
    let expected =
        "--controller: expected bounded with tracked or once, gpu or in-place, which the firmware runs, found ";
    for strategy in ["tracked", "bounded+lru", "bounded:eps=0.1+transition", "raw"] {
        let found = refusal(&format!("{TINY} --controller host --strategy {strategy}"));
        assert_eq!(found, format!("{expected}{strategy}"));
    }
    assert_eq!(
        refusal(&format!("{TINY} --controller host --strategy bounded,bounded:eps=0.1")),
        "--controller host: expected one strategy, found 2"
    );
    assert_eq!(
        refusal(&format!("{TINY} --controller host --strategy bounded+once --tokens 100")),
        "--controller: expected a prompt (once:tokens=N) shorter than the 100 tokens of the trace, found 512"
    );
    assert_eq!(
        refusal("gpt-oss-20b.safetensors --controller host --domain-tokens 200"),
        "--controller: expected a trace with all router logits, found expert ids and the weights of the chosen"
    );
    assert!(refusal(&format!("{TINY} --controller qemu:z80")).contains(
        "expected a controller (host, qemu:cortex-m4f, qemu:cortex-m7, qemu:cortex-m33, qemu:cortex-r5f, qemu:rv32imc, qemu:rv32imac, qemu:rv64gc, rtl:ibex-fast+unit), found \"qemu:z80\""
    ));
    assert!(refusal(&format!("{TINY} --image a.elf")).contains("--controller"));
}

#[test]
fn missing_and_dying_emulators() {
    let folder = bundled();
    let line = format!("run {TINY} --tokens 10 --controller qemu:cortex-m4f --image image.elf");
    assert_eq!(
        folder.refusal(&line),
        "no firmware image for cortex-m4f at image.elf; cargo xtask firmware builds it, --image names another place"
    );
    let refusal = folder.refusal(&format!("run {TINY} --tokens 10 --controller rtl:ibex-fast+unit --image image.hex"));
    assert!(refusal.starts_with("no model of ibex-fast+unit at ") && refusal.contains("cargo xtask rtl builds it"));
    folder.file("image.elf", "not an image");
    let refused = |path: &std::path::Path| {
        let output = finish(folder.command(&line).env("PATH", path));
        assert_eq!((output.code, &output.stdout[..]), (2, ""), "{output:#?}");
        output.stderr
    };
    std::fs::create_dir(folder.path().join("empty")).unwrap();
    assert_eq!(
        refused(&folder.path().join("empty")),
        "cptr: qemu-system-arm is not installed; on Debian it is in the package qemu-system-arm\n"
    );
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        let program = folder.file("bin/qemu-system-arm", "#!/bin/sh\necho it has burnt down >&2\nexit 7\n");
        std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755)).unwrap();
        assert_eq!(
            refused(&folder.path().join("bin")),
            "cptr: qemu-system-arm has ended without an answer (exit status: 7): it has burnt down\n"
        );
    }
}

#[test]
fn first_tokens() {
    let folder = bundled();
    let report = folder.row(&format!("inspect {TINY} --tokens 300"));
    // Windows of 192 tokens: the second one is cut off.
    assert_eq!((report["tokens"].as_u64(), report["sequences"].as_u64()), (Some(300), Some(2)));
    let whole = folder.row(&format!("inspect {TINY}"));
    assert_eq!(folder.row(&format!("inspect {TINY} --tokens 1000000")), whole);
    assert_eq!(
        folder.refusal(&format!("inspect {TINY} --tokens 0")),
        format!("{TINY}: --tokens: expected at least 1, found 0")
    );
}
