//! `cargo xtask install --prefix FOLDER`: the C library for engines on this machine, as other build systems find it.

use std::env::consts::{DLL_PREFIX, DLL_SUFFIX};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use super::command::{Done, cargo, execute, folder, target_folder};
use super::library::compile;

/// Libraries that the static one needs.
const SYSTEM: &str = "-lpthread -ldl -lm";

/// Builds the library and writes it, its header, and what pkg-config and CMake look for, below a prefix.
pub(crate) fn install(prefix: &Path) -> bool {
    match install_to(prefix) {
        Ok(()) => {
            println!("installed into {}", prefix.display());
            true
        }
        Err(error) => {
            eprintln!("xtask install: {error}");
            false
        }
    }
}

pub(super) fn install_to(prefix: &Path) -> Done {
    for kind in ["staticlib", "cdylib"] {
        execute(&mut cargo(&["rustc", "--quiet", "--release", "--package", "cptr-ffi", "--crate-type", kind]))?;
    }
    let shared = format!("{DLL_PREFIX}cptr{DLL_SUFFIX}");
    let built = target_folder().join("release");
    let version = env!("CARGO_PKG_VERSION");
    let failed = |path: &Path, error: std::io::Error| format!("{}: {error}", path.display());
    for part in ["include", "lib/pkgconfig", "lib/cmake/cptr"] {
        let part = prefix.join(part);
        fs::create_dir_all(&part).map_err(|error| failed(&part, error))?;
    }
    let prefix = prefix.canonicalize().map_err(|error| failed(prefix, error))?;
    let copies = [
        (folder().join("ffi/include/cptr.h"), prefix.join("include/cptr.h")),
        (built.join("libcptr.a"), prefix.join("lib/libcptr.a")),
        (built.join(&shared), prefix.join("lib").join(&shared)),
    ];
    for (from, to) in &copies {
        fs::copy(from, to).map_err(|error| failed(from, error))?;
    }
    let pkg_config = format!(
        "prefix={}\nName: cptr\nDescription: Caches of experts for mixture-of-experts models\nVersion: {version}\n\
         Cflags: -I${{prefix}}/include\nLibs: -L${{prefix}}/lib -lcptr\nLibs.private: {SYSTEM}\n",
        prefix.display()
    );
    let cmake = format!(
        "get_filename_component(CPTR_PREFIX \"${{CMAKE_CURRENT_LIST_DIR}}/../../..\" ABSOLUTE)\n\
         foreach(kind SHARED STATIC)\n\
         \x20 if(kind STREQUAL SHARED)\n    set(name cptr::cptr)\n    set(file {shared})\n\
         \x20 else()\n    set(name cptr::static)\n    set(file libcptr.a)\n  endif()\n\
         \x20 if(NOT TARGET ${{name}})\n    add_library(${{name}} ${{kind}} IMPORTED)\n\
         \x20   set_target_properties(${{name}} PROPERTIES\n\
         \x20     IMPORTED_LOCATION \"${{CPTR_PREFIX}}/lib/${{file}}\"\n      IMPORTED_NO_SONAME TRUE\n\
         \x20     INTERFACE_INCLUDE_DIRECTORIES \"${{CPTR_PREFIX}}/include\")\n  endif()\nendforeach()\n\
         set_property(TARGET cptr::static PROPERTY INTERFACE_LINK_LIBRARIES pthread dl m)\n"
    );
    let cmake_version = format!(
        "set(PACKAGE_VERSION {version})\nif(PACKAGE_FIND_VERSION VERSION_LESS_EQUAL PACKAGE_VERSION)\n\
         \x20 set(PACKAGE_VERSION_COMPATIBLE TRUE)\nendif()\n"
    );
    for (file, text) in [
        ("lib/pkgconfig/cptr.pc", pkg_config),
        ("lib/cmake/cptr/cptrConfig.cmake", cmake),
        ("lib/cmake/cptr/cptrConfigVersion.cmake", cmake_version),
    ] {
        let file = prefix.join(file);
        fs::write(&file, text).map_err(|error| failed(&file, error))?;
    }
    Ok(())
}

/// The example of an engine, as C90, against both installed libraries; by pkg-config and CMake where they are there.
pub(super) fn example() -> Done {
    let (prefix, engine) = (target_folder().join("installed"), target_folder().join("c-engine"));
    install_to(&prefix)?;
    let engine = engine.to_string_lossy().into_owned();
    let common = "-std=c90 -O1 -g -Wall -Wextra -Wpedantic -Werror ffi/examples/engine.c";
    let include = format!("-I{}/include", prefix.display());
    let sanitizers = "-fsanitize=address,undefined -fno-sanitize-recover=all";
    let archive = prefix.join("lib/libcptr.a").to_string_lossy().into_owned();
    compile("gcc", &[common, &include, sanitizers], &[&archive, "-o", &engine], SYSTEM)?;
    execute(&mut Command::new(&engine))?;
    let there = |program: &str| {
        let tried = Command::new(program).arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status();
        let there = tried.is_ok_and(|status| status.success());
        if !there {
            println!("no {program}: what it reads was not tried");
        }
        there
    };
    if there("pkg-config") {
        let paths = prefix.join("lib/pkgconfig");
        let flags = super::command::output(
            Command::new("pkg-config").args(["--cflags", "--libs", "cptr"]).env("PKG_CONFIG_PATH", &paths),
        )?;
        compile("gcc", &[common], &["-o", &engine], flags.trim())?;
        execute(Command::new(&engine).env("LD_LIBRARY_PATH", prefix.join("lib")))?;
    }
    if there("cmake") {
        let (source, build) = (target_folder().join("c-cmake"), target_folder().join("c-cmake/build"));
        fs::create_dir_all(&source).map_err(|error| format!("{}: {error}", source.display()))?;
        let text = format!(
            "cmake_minimum_required(VERSION 3.10)\nproject(engine C)\nfind_package(cptr 0.1 REQUIRED)\n\
             foreach(library cptr static)\n  add_executable(engine-${{library}} {})\n\
             \x20 target_link_libraries(engine-${{library}} cptr::${{library}})\nendforeach()\n",
            folder().join("ffi/examples/engine.c").display()
        );
        fs::write(source.join("CMakeLists.txt"), text).map_err(|error| format!("{}: {error}", source.display()))?;
        let path = format!("-DCMAKE_PREFIX_PATH={}", absolute(&prefix)?.display());
        execute(Command::new("cmake").arg("-S").arg(&source).arg("-B").arg(&build).arg(path))?;
        execute(Command::new("cmake").arg("--build").arg(&build))?;
        for library in ["cptr", "static"] {
            execute(Command::new(build.join(format!("engine-{library}"))).env("LD_LIBRARY_PATH", prefix.join("lib")))?;
        }
    }
    Ok(())
}

fn absolute(path: &Path) -> Done<PathBuf> {
    path.canonicalize().map_err(|error| format!("{}: {error}", path.display()))
}
