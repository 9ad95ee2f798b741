//! Builds the shim: one `rustc` call with its own flags, because it is `no_std`,
//! static and linked without libc (docs/decisions/0003-shim.md). The result lies in
//! `OUT_DIR` and is embedded by `src/launch`.

use std::env;
use std::path::PathBuf;
use std::process::Command;

/// Against position independence, start files and padding: 5 KiB instead of 20.
const LINK: [&str; 8] = [
    "-nostartfiles",
    "-nostdlib",
    "-static",
    "-no-pie",
    "-Wl,--build-id=none",
    "-Wl,--gc-sections",
    "-Wl,-z,norelro",
    "-Wl,-z,stack-size=65536",
];

fn main() {
    println!("cargo::rerun-if-changed=src/shim/src");
    let out = PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets OUT_DIR"));
    let rustc = env::var_os("RUSTC").expect("cargo sets RUSTC");
    let target = env::var("TARGET").expect("cargo sets TARGET");
    let mut command = Command::new(rustc);
    command
        .args(["--crate-name", "bulkhead_shim", "--edition", "2024", "--crate-type", "bin"])
        .args(["--target", &target, "-Copt-level=s", "-Cpanic=abort", "-Clto=fat"])
        .args(["-Ccodegen-units=1", "-Cstrip=symbols", "-Crelocation-model=static"])
        .args(["-Cdefault-linker-libraries=no", "-Cforce-frame-pointers=no"])
        .args(LINK.map(|argument| format!("-Clink-arg={argument}")))
        .arg("-o")
        .arg(out.join("bulkhead-shim"))
        .arg("src/shim/src/main.rs");
    if let Some(linker) = env::var_os("RUSTC_LINKER") {
        command.arg("-C").arg(format!("linker={}", linker.to_string_lossy()));
    }
    let status = command.status().expect("rustc runs");
    assert!(status.success(), "the shim does not build: {command:?}");
}
