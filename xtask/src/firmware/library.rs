//! The static library as a linker sees it: which code its functions reach, how long that is, and that none of it panics.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::linked::{Linked, Memory};
use super::{Done, build, built, cargo, execute, folder, output, target_folder};

const M4F: &str = "thumbv7em-none-eabihf";

/// Links all functions of the target's library and nothing else, and looks at the result: no panics, no more memory than `budget`.
pub(super) fn check(target: &str, budget: Memory) -> Done<Memory> {
    let library = link(target)?;
    library.check(&format!("{target}: the library"), budget)?;
    if target == M4F {
        // That the names are still the ones looked for: an image that formats text does hold them.
        build("cptr-bench", target)?;
        if Linked::read(&built(target, "cptr-bench"))?.panics().is_empty() {
            return Err(
                "the check for panics finds none in an image that has some: the compiler's names have changed".into()
            );
        }
    }
    Ok(library.memory)
}

fn link(target: &str) -> Done<Linked> {
    let archive = built(target, "libcptr.a");
    let linked = target_folder().join(format!("{target}.elf"));
    let header = fs::read_to_string(folder().join("ffi/include/cptr.h")).map_err(|error| format!("cptr.h: {error}"))?;
    let functions: Vec<&str> = functions(&header);
    let mut lld = Command::new(sysroot_tool("rust-lld")?);
    lld.args(["-flavor", "gnu", "--gc-sections", "--entry=cptr_version"]);
    functions.iter().for_each(|name| _ = lld.args(["-u", name]));
    execute(lld.arg(archive).arg("-o").arg(&linked))?;
    let library = Linked::read(&linked)?;
    match functions.iter().find(|name| library.address(name).is_none()) {
        Some(name) => Err(format!("{target}: cptr.h declares {name}, the library has none")),
        None => Ok(library),
    }
}

/// Names of the functions that a header declares.
fn functions(header: &str) -> Vec<&str> {
    let code = header.lines().filter(|line| !line.trim_start().starts_with("//"));
    code.filter_map(|line| line.split_once('(').map(|(before, _)| before.rsplit([' ', '*']).next().unwrap_or("")))
        .filter(|name| name.starts_with("cptr_"))
        .collect()
}

/// A tool that comes with the compiler.
fn sysroot_tool(name: &str) -> Done<PathBuf> {
    let sysroot = output(Command::new("rustc").args(["--print", "sysroot"]))?;
    let host = output(Command::new("rustc").args(["--print", "host-tuple"]))?;
    Ok(Path::new(sysroot.trim()).join("lib/rustlib").join(host.trim()).join("bin").join(name))
}

/// The host's program under sanitizers, the C++ check, and the Cortex-M4F program in QEMU, which must print what the host's prints.
pub(super) fn c_programs() -> Done {
    execute(&mut cargo(&["build", "--quiet", "--release", "--package", "cptr-ffi"]))?;
    let folder = target_folder();
    let file = |name: &str| folder.join(name).to_string_lossy().into_owned();
    let (host, cpp, m4) = (file("c-host"), file("c-header"), file("c-cortex-m4.elf"));
    let common = "-std=c99 -O1 -g -Wall -Wextra -Wpedantic -Werror -Iffi/include";
    let sanitizers = "-fsanitize=address,undefined -fno-sanitize-recover=all";
    let library = file("release/libcptr.a");
    let system = "-lpthread -ldl -lm";
    compile("gcc", &[common, sanitizers, "ffi/tests/host.c"], &[&library, "-o", &host], system)?;
    compile(
        "g++",
        &["-std=c++11 -Wall -Wextra -Wpedantic -Werror -Iffi/include ffi/tests/header.cpp"],
        &[&library, "-o", &cpp],
        system,
    )?;
    execute(&mut Command::new(&cpp))?;
    let from_host = output(&mut Command::new(&host))?;
    print!("C on the host, sanitized: {from_host}");
    let cpu = "-mcpu=cortex-m4 -mthumb -mfloat-abi=hard -mfpu=fpv4-sp-d16 -nostdlib -ffreestanding -Wl,-z,noexecstack";
    let archive = built(M4F, "libcptr.a").to_string_lossy().into_owned();
    let script = "-Tffi/tests/cortex_m4.ld";
    compile("arm-none-eabi-gcc", &[common, cpu, script, "ffi/tests/cortex_m4.c"], &[&archive, "-o", &m4], "")?;
    let arguments = "-machine mps2-an386 -nographic -monitor none -serial stdio -semihosting-config enable=on,target=native -kernel";
    let from_m4 = output(Command::new("qemu-system-arm").args(arguments.split(' ')).arg(&m4))?;
    if from_m4 == from_host {
        Ok(())
    } else {
        Err(format!("C on the Cortex-M4F prints {from_m4}instead of {from_host}"))
    }
}

fn compile(compiler: &str, words: &[&str], files: &[&str], libraries: &str) -> Done {
    let mut command = Command::new(compiler);
    command
        .args(words.iter().flat_map(|words| words.split_whitespace()))
        .args(files)
        .args(libraries.split_whitespace());
    execute(&mut command)
}

#[cfg(test)]
mod tests {
    use super::functions;

    #[test]
    fn functions_of_a_header() {
        let header = "// cptr_no(\nuint32_t cptr_version(void);\ncptr_status cptr_select(const int *x,\n#define CPTR_SIZE(x) (x)\n";
        assert_eq!(functions(header), ["cptr_version", "cptr_select"]);
    }
}
