"""Runs a microVM by the package firecracker-python: its way of starting Firecracker, and its API."""

import os
import sys
import time

from firecracker.api import Api
from firecracker.exceptions import APIError
from firecracker.process import ProcessManager
import psutil

folder, kernel, initrd, command_line = sys.argv[1:]
name = "by-firecracker-python"
socket = f"{folder}/{name}/firecracker.socket"
os.mkdir(f"{folder}/{name}")

processes = ProcessManager()
processes._config.binary_path = f"{folder}/firecracker"
processes._config.data_path = folder
pid = processes.start(name, ["--api-sock", socket, "--id", name, "--log-path", f"{folder}/log"])
try:
    assert processes.is_running(name)
    api = Api(socket)
    assert api.describe.get().json()["state"] == "Not started"
    assert api.version.get().json()["firecracker_version"]

    api.boot.put(kernel_image_path=kernel, initrd_path=initrd, boot_args=f"{command_line} underlay.test=disk-read")
    api.drive.put(drive_id="rootfs", path_on_host=f"{folder}/disk", is_root_device=False, is_read_only=False)
    api.machine_config.put(vcpu_count=1, mem_size_mib=64)
    try:
        api.vsock.put(guest_cid=3, uds_path=f"{folder}/vsock")
        raise AssertionError("there is no vsock")
    except APIError as error:
        assert "vsock" in str(error), error
    api.actions.put(action_type="InstanceStart")

    api.vm.patch(state="Paused")
    assert api.describe.get().json()["state"] == "Paused"
    api.vm.patch(state="Resumed")
    config = api.vm_config.get().json()
    assert config["machine-config"]["mem_size_mib"] == 64, config
    assert config["drives"][0]["drive_id"] == "rootfs", config

    psutil.Process(pid).wait(timeout=300)
    console = open(f"{folder}/{name}/firecracker.log").read()
    assert "init: done status=0" in console, console
    assert not os.path.exists(socket)
    print("the guest has ended")
finally:
    if psutil.pid_exists(pid):
        psutil.Process(pid).kill()
