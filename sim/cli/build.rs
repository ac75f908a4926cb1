//! The bundled model and its texts are 17 MB, of licences of their own; a package of crates.io may have 10 MB, and has
//! neither. Where they are, in a clone of the repository, they come into the program.

fn main() {
    let weights = "../data/model/model.safetensors";
    println!("cargo::rustc-check-cfg=cfg(bundled_model)");
    println!("cargo::rerun-if-changed={weights}");
    if std::path::Path::new(weights).exists() {
        println!("cargo::rustc-cfg=bundled_model");
    }
}
