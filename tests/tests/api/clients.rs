//! Clients that were written for Firecracker and know nothing of underlay.

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::Path,
    process::{Command, Stdio},
};

use underlay_tests::{Linux, Need, PythonPackage, Suite, Turn, underlay_path};

const FIRECRACKER_PYTHON: PythonPackage = PythonPackage { name: "firecracker-python", version: "0.0.5" };
const MICROHEART: PythonPackage = PythonPackage { name: "microheart", version: "0.3.0" };

pub(crate) fn add_to(suite: &mut Suite) {
    for (name, package) in [("firecracker_python", FIRECRACKER_PYTHON), ("microheart", MICROHEART)] {
        let needs = [Need::Kvm, Need::Linux, Need::Python(package)];
        suite.test(format!("clients::{name}_runs_linux"), &needs, move || runs_linux(name, package));
    }
}

/// Runs `tests/clients/use_NAME.py`, which starts a program called `firecracker`.
fn runs_linux(name: &str, package: PythonPackage) {
    let linux = Linux::built().unwrap();
    let _turn = Turn::wait(1);
    // In lower case: the path of the socket is the host of an URL for some.
    let prefix = format!("underlay-{}-{name}", std::process::id());
    let folder = tempfile::Builder::new().prefix(&prefix).rand_bytes(0).tempdir().unwrap();
    let firecracker = folder.path().join("firecracker");
    let script = format!("#!/bin/sh\nexec {} run --backing shmem \"$@\"\n", underlay_path().display());
    fs::write(&firecracker, script).unwrap();
    fs::set_permissions(&firecracker, fs::Permissions::from_mode(0o755)).unwrap();
    fs::write(folder.path().join("disk"), vec![0; 1 << 20]).unwrap();

    let client = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("clients/use_{name}.py"));
    let output = Command::new(package.python())
        .arg(client)
        .arg(folder.path())
        .args([&linux.kernel, &linux.initrd])
        .arg(&linux.command_line)
        .stdin(Stdio::null())
        .output()
        .unwrap();

    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{text}\n{}", String::from_utf8_lossy(&output.stderr));
    assert!(text.contains("the guest has ended"), "{text}");
}
