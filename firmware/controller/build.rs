//! With a log, the linker numbers its texts.
fn main() {
    let set = |name: &str| std::env::var_os(name).is_some();
    if set("CARGO_FEATURE_DEFMT") && std::env::var("CARGO_CFG_TARGET_OS").as_deref() == Ok("none") {
        println!("cargo:rustc-link-arg-bins=-Tdefmt.x");
    }
    println!("cargo:rerun-if-changed=build.rs");
}
