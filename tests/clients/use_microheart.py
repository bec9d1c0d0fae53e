"""Runs a microVM by the package microheart: the command line and the configuration file of its VMs, and its API client."""

import json
import subprocess
import sys
import time
from pathlib import Path

from microheart import api

folder, kernel, initrd, command_line = sys.argv[1:]
socket = f"{folder}/firecracker.socket"
config = {
    "boot-source": {
        "kernel_image_path": kernel,
        "initrd_path": initrd,
        "boot_args": f"{command_line} underlay.test=disk-read",
    },
    "drives": [
        {"drive_id": "rootfs", "path_on_host": f"{folder}/disk", "is_root_device": False, "is_read_only": False}
    ],
    "machine-config": {"vcpu_count": 1, "mem_size_mib": 64},
}
Path(f"{folder}/vm_config.json").write_text(json.dumps(config, indent=2))
with open(f"{folder}/console.log", "w") as log:
    vm = subprocess.Popen(
        [f"{folder}/firecracker", "--api-sock", socket, "--config-file", f"{folder}/vm_config.json", "--enable-pci"],
        stdout=log,
        stderr=subprocess.STDOUT,
        stdin=subprocess.DEVNULL,
        start_new_session=True,
    )
try:
    deadline = time.time() + 60
    while not Path(socket).exists():
        assert vm.poll() is None and time.time() < deadline, "the API is not served"
        time.sleep(0.05)
    machine = api.request(socket, "GET", "/machine-config")
    assert (machine["vcpu_count"], machine["mem_size_mib"]) == (1, 64), machine
    assert api.request(socket, "GET", "/")["state"] == "Running"
    assert vm.wait(timeout=300) == 0
    console = Path(f"{folder}/console.log").read_text()
    assert "init: done status=0" in console, console
    print("the guest has ended")
finally:
    vm.kill()
