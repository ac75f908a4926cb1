//! The `cptr` command.
#![forbid(unsafe_code)]

fn main() -> std::process::ExitCode {
    cptr_cli::main()
}
