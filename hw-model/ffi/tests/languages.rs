//! Programs in C, C++ and SystemVerilog with the memory engine in them.
use std::path::{Path, PathBuf};
use std::process::Command;

const FOLDER: &str = env!("CARGO_MANIFEST_DIR");
/// Libraries that the static one needs.
const SYSTEM: [&str; 3] = ["-lpthread", "-ldl", "-lm"];

/// The static library, which was built beside this test.
fn library() -> PathBuf {
    let folder = std::env::current_exe().unwrap().parent().unwrap().to_path_buf();
    let library = folder.join("libcptr_memory.a");
    assert!(library.exists(), "{} must have been built with this test", library.display());
    library
}

/// Runs a command to its end; its output.
fn run(command: &mut Command) -> (String, String) {
    let output = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    let [out, err] = [output.stdout, output.stderr].map(|text| String::from_utf8(text).unwrap());
    assert!(output.status.success(), "{command:?}: {}\n{out}{err}", output.status);
    (out, err)
}

fn compile(compiler: &str, flags: &str, source: &str, into: &Path) {
    let mut command = Command::new(compiler);
    command.args(flags.split_whitespace()).arg(format!("-I{FOLDER}/include")).arg(format!("{FOLDER}/{source}"));
    run(command.arg(library()).args(SYSTEM).arg("-o").arg(into));
}

const C: &str =
    "-std=c90 -O1 -g -Wall -Wextra -Wpedantic -Werror -fsanitize=address,undefined -fno-sanitize-recover=all";

/// What the C program prints: completions, and a line of counts.
fn host(folder: &Path) -> (String, String) {
    let program = folder.join("host");
    compile("cc", C, "examples/host.c", &program);
    run(Command::new(program).args(["DDR5-4800", "2000"]))
}

#[test]
fn a_program_in_c() {
    let folder = tempfile::tempdir().unwrap();
    let (completions, counts) = host(folder.path());
    assert_eq!(completions.lines().count(), 2000);
    let cycles: Vec<u64> = completions.lines().map(|line| line.split(' ').next().unwrap().parse().unwrap()).collect();
    assert!(cycles.is_sorted());
    assert!(counts.starts_with("1500 reads, 500 writes, "), "{counts}");
    // Source 1 comes second.
    let latencies: Vec<f64> = counts
        .split_once("latency ")
        .unwrap()
        .1
        .split(", of source 1 ")
        .map(|number| number.trim().parse().unwrap())
        .collect();
    assert!(latencies[1] > latencies[0], "{counts}");
}

#[test]
fn a_back_end_in_cpp() {
    let folder = tempfile::tempdir().unwrap();
    let program = folder.path().join("backend");
    compile("c++", "-std=c++17 -O1 -Wall -Wextra -Wpedantic -Werror", "examples/backend.cpp", &program);
    let (out, _) = run(&mut Command::new(program));
    assert!(out.starts_with("5000 requests in ") && out.contains("device: expected one of DDR4-3200"), "{out}");
}

#[test]
#[ignore = "needs verilator and make; `cargo xtask test rtl` runs it"]
fn a_testbench_in_systemverilog() {
    let folder = tempfile::tempdir().unwrap();
    let mut verilator = Command::new("verilator");
    verilator.args(["--cc", "--exe", "-Wall", "-Wno-fatal", "-Wno-DECLFILENAME", "--top-module", "testbench", "-Mdir"]);
    verilator.arg(folder.path());
    verilator.args(["cptr_memory.sv", "testbench.sv", "main.cpp"].map(|file| format!("{FOLDER}/verilog/{file}")));
    let libraries = format!("{} {}", library().display(), SYSTEM.join(" "));
    run(verilator.args(["-LDFLAGS", &libraries]));
    let make = ["-s", "-f", "Vtestbench.mk", "OPT_FAST=-O0", "OPT_GLOBAL=-O0", "Vtestbench"];
    run(Command::new("make").arg("-C").arg(folder.path()).args(make));
    let (printed, _) = run(&mut Command::new(folder.path().join("Vtestbench")));
    let completions: String =
        printed.lines().filter(|line| !line.starts_with('-')).fold(String::new(), |all, line| all + line + "\n");
    assert_eq!(completions, host(folder.path()).0);
}
