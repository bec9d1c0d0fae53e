//! Sets `cfg(tsan)` under ThreadSanitizer, which does not see into the prebuilt standard library.

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rustc-check-cfg=cfg(tsan)");
    if std::env::var("CARGO_CFG_SANITIZE").is_ok_and(|sanitizers| sanitizers.contains("thread")) {
        println!("cargo::rustc-cfg=tsan");
    }
}
