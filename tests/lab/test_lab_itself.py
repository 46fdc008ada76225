"""The lab itself: its machines are what they should be, and come back pristine whatever was done to them."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from lab.errors import CommandFailed, LabError, TimedOut
from lab.waiting import wait_until

if TYPE_CHECKING:
    from lab import Lab
    from lab.machine import Machine

REPOSITORY = Path(__file__).parents[2]


@pytest.fixture
def second(lab: Lab) -> Iterator[Lab]:
    """A lab of another name, not up yet, and down at the end."""
    other = type(lab)(f"{lab.name}-second")
    yield other
    other.down()


def command(lab: Lab, *words: str) -> list[str]:
    """Return the lab's command line for a lab."""
    return ["env", f"ZOLDER_LAB={lab.name}", sys.executable, "-m", "lab", *words]


def test_the_san_is_the_drafts_in_miniature(lab: Lab) -> None:
    """Three raidz1 of six disks, a mirrored log, two cache devices, and a second zpool; all healthy."""
    layout = [line.split() for line in lab.san.succeed("zpool list -vHP data").splitlines()]
    kinds = [name.rsplit("-", 1)[0] for name, *_ in layout]
    groups = [kind for kind in kinds if not kind.startswith("/dev")]
    assert groups == ["data", "raidz1", "raidz1", "raidz1", "logs", "mirror", "cache"]
    assert sum(name.startswith("/dev/disk/by-id/virtio-data") for name, *_ in layout) == 18
    assert sum(name.startswith("/dev/disk/by-id/virtio-log") for name, *_ in layout) == 2
    assert sum(name.startswith("/dev/disk/by-id/virtio-cache") for name, *_ in layout) == 2
    assert lab.san.succeed("zpool status -x") == "all pools are healthy\n"
    assert "mirror" in lab.san.succeed("zpool list -vH fast")


@pytest.mark.parametrize("parent", ["data/volumes", "data/more", "data/other", "fast/volumes"])
def test_parents_are_ready_for_zvols(lab: Lab, parent: str) -> None:
    """Devices without partitions shown, no snapshot nodes, compression."""
    values = lab.san.succeed(["zfs", "get", "-Ho", "value", "volmode,snapdev,compression", parent])
    assert values.split() == ["dev", "hidden", "on"]


def test_the_san_speaks_every_target(lab: Lab) -> None:
    """LIO with configfs, tgt beside it on another port, nvmet; and Python's way to LIO."""
    assert ":3261" in lab.san.succeed("ss -ltnH")
    lab.san.succeed("test -d /sys/kernel/config/target && test -d /sys/kernel/config/nvmet")
    lab.san.succeed("python3 -c 'import rtslib_fb'")
    for module in ("iscsi_target_mod", "target_core_iblock", "nvmet_tcp"):
        lab.san.succeed(f"test -d /sys/module/{module}")


def test_compute_can_attach(lab: Lab) -> None:
    """The initiator has its fixed name, the tools, and os-brick for its own Python."""
    name = lab.compute.succeed("cat /etc/iscsi/initiatorname.iscsi").strip()
    assert name == f"InitiatorName={lab.environment()['initiator']}"
    for tool in ("iscsiadm", "nvme", "multipath", "fio"):
        lab.compute.succeed(f"command -v {tool}")
    version = "from importlib.metadata import version; print(version('os-brick'))"
    assert lab.compute.succeed(["/opt/os-brick/bin/python", "-c", version]) == "7.1.1\n"


@pytest.mark.parametrize("network", ["192.168.77", "192.168.78"])
def test_the_machines_share_private_links(lab: Lab, network: str) -> None:
    """Both links carry large frames in both directions."""
    lab.compute.succeed(f"ping -c 1 -W 5 -M do -s 8900 {network}.1")
    lab.san.succeed(f"ping -c 1 -W 5 -M do -s 8900 {network}.2")


def test_a_guests_clock_is_right_and_runs_right(lab: Lab) -> None:
    """It shows this machine's time after a restore, and does not run faster on a busy machine."""
    for machine in (lab.san, lab.compute):
        first = read_clocks(machine)
        assert abs(first[1] - time.time()) < 5
        machine.succeed("sleep 2")
        second = read_clocks(machine)
        passed_here, passed_there = second[0] - first[0], second[1] - first[1]
        # The answers' ways over ssh are in it, and they vary on a busy machine.
        assert abs(passed_there - passed_here) < 1.5


def read_clocks(machine: Machine) -> tuple[float, float]:
    """Return this machine's monotonic clock and the guest's clock, read at about the same time."""
    before = time.monotonic()
    there = float(machine.succeed("date +%s.%N"))
    return (before + time.monotonic()) / 2, there


def test_nobody_looks_into_a_zvol(lab: Lab) -> None:
    """What an initiator wrote is parsed by neither blkid nor LVM on the SAN."""
    lab.san.succeed("zfs create -sV 64M data/volumes/written && udevadm settle")
    try:
        lab.san.succeed("mkfs.ext4 -q /dev/zvol/data/volumes/written && udevadm settle")
        lab.san.succeed("udevadm trigger --settle $(readlink -f /dev/zvol/data/volumes/written)")
        known = lab.san.succeed("udevadm info /dev/zvol/data/volumes/written")
        assert "ID_FS_" not in known
        assert "SYSTEMD_READY=0" in known
    finally:
        lab.san.succeed("zfs destroy data/volumes/written")


def test_the_drivers_key_reaches_the_agent_alone(lab: Lab) -> None:
    """Whatever it asks to run: no shell answers, under strict host keys."""
    there = lab.environment()
    done = subprocess.run(
        [
            "ssh", "-F", "/dev/null", "-o", "BatchMode=yes", "-o", "StrictHostKeyChecking=yes",
            "-o", f"UserKnownHostsFile={there['known_hosts']}", "-o", "IdentitiesOnly=yes",
            "-i", there["agent_key"], "-p", there["san_ssh_port"], "zolder@127.0.0.1", "echo a-shell",
        ],
        stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip
    assert done.returncode != 255, done.stderr
    assert "a-shell" not in done.stdout


def test_nothing_of_this_machine_stays_in_the_image(lab: Lab) -> None:
    """Neither where packages came from nor how pip was told to find its own."""
    lab.compute.succeed("! test -e /etc/apt/sources.list && ! test -e /etc/pip.conf")
    assert lab.compute.succeed("ls /opt").split() == ["os-brick"]
    assert lab.compute.succeed("cat /etc/apt/apt.conf.d/* | grep -ci proxy || true") == "0\n"


def test_a_reset_forgets_everything(lab: Lab) -> None:
    """Zvols, files and processes are gone, and the code under test is there again."""
    lab.san.succeed("zfs create -sV 1G data/volumes/forgotten && touch /root/forgotten")
    lab.compute.succeed("setsid sleep 1000 >/dev/null 2>&1 </dev/null & touch /root/forgotten")
    lab.reset()
    lab.san.fail("zfs list data/volumes/forgotten")
    for machine in (lab.san, lab.compute):
        machine.fail("test -e /root/forgotten")
    lab.compute.fail("pgrep -x sleep")
    lab.san.succeed("test -x /usr/local/bin/zolder-san && test -d /usr/local/lib/zolder/zolder")


@pytest.mark.timeout(900)  # a cold boot under emulation, on a machine that may be busy
def test_a_pulled_plug_loses_only_what_was_not_flushed(lab: Lab) -> None:
    """After a cold boot from the disks as they were the zpools are back; a reset is pristine all the same."""
    lab.san.succeed("zfs create -sV 64M data/volumes/kept && udevadm settle")
    lab.san.succeed("dd if=/dev/zero of=/dev/zvol/data/volumes/kept bs=64k count=4 oflag=dsync status=none")
    lab.san.succeed("printf flushed | dd of=/dev/zvol/data/volumes/kept conv=fsync status=none")
    lab.san.power_off_hard()
    try:
        assert not lab.is_up()
        with pytest.raises(LabError):
            lab.san.succeed("true")
        lab.san.boot()
        assert lab.san.succeed("zpool status -x") == "all pools are healthy\n"
        assert lab.san.succeed("head -c 7 /dev/zvol/data/volumes/kept") == "flushed"
        lab.compute.wait_until("ping -c 1 -W 1 192.168.77.1", 60, "the private link to come back")
    finally:
        lab.reset()
    lab.san.fail("zfs list data/volumes/kept")


def test_code_is_installed_once(lab: Lab) -> None:
    """What is there already is not pushed again, and is root's alone to change."""
    lab.install()
    assert lab.install() is False
    assert lab.san.succeed("stat -c %U:%a /etc/zolder/san.toml") == "root:644\n"


def test_a_failure_explains_itself(lab: Lab) -> None:
    """The error has the command, its complaint and the end of the console."""
    lab.san.succeed("echo a word on the console > /dev/console")
    with pytest.raises(CommandFailed) as failed:
        lab.san.succeed("echo a complaint >&2; exit 7")
    for part in ("in san", "exit status 7", "echo a complaint", "    a complaint", "a word on the console"):
        assert part in str(failed.value)
    with pytest.raises(LabError, match="should have failed"):
        lab.san.fail("true")
    with pytest.raises(TimedOut, match="a word on the console"):
        lab.san.run("sleep 60", timeout_seconds=0.5)
    with pytest.raises(TimedOut, match="pigs to fly"):
        lab.san.wait_until("false", 0.1, "pigs to fly")


def test_files_are_written_whole(lab: Lab) -> None:
    """Any bytes, to any path, with the mode asked for."""
    content = bytes(range(256)) * 100
    lab.san.write_file("/root/a file", content, mode=0o600)
    sums = lab.san.succeed("sha256sum '/root/a file' && stat -c %a '/root/a file' && ls /root")
    assert sums.endswith("600\na file\n")
    lab.san.succeed("rm '/root/a file'")


def test_the_command_line_reaches_the_machines(lab: Lab) -> None:
    """Exit status and output of a command come through; env is what a shell can read."""
    done = subprocess.run(
        command(lab, "ssh", "san", "--", "echo out; echo err >&2; exit 5"),
        capture_output=True, text=True, check=False, cwd=REPOSITORY, stdin=subprocess.DEVNULL,
    )  # fmt: skip
    assert (done.returncode, done.stdout, done.stderr) == (5, "out\n", "err\n")
    given = subprocess.run(command(lab, "env"), capture_output=True, text=True, check=True, cwd=REPOSITORY)
    assert f"export ZOLDER_LAB_SAN_SSH_PORT={lab.san.ssh_port}\n" in given.stdout
    as_json = subprocess.run(command(lab, "env", "--json"), capture_output=True, check=True, cwd=REPOSITORY)
    assert json.loads(as_json.stdout) == lab.environment()


def test_two_ups_at_once_share_one_lab(lab: Lab, second: Lab) -> None:
    """Both succeed, one set of machines runs, and ending it leaves the first lab alone."""
    ups = [
        subprocess.Popen(
            command(second, "up"), cwd=REPOSITORY, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        for _ in range(2)
    ]
    for up in ups:
        _, stderr = up.communicate(timeout=300)
        assert up.returncode == 0, stderr
    assert second.is_up()
    assert second.san.ssh_port != lab.san.ssh_port
    second.down()
    assert not second.machines()
    assert not second.folder.exists()
    assert lab.is_up()
    lab.san.succeed("true")


def test_a_killed_up_is_no_lab(second: Lab) -> None:
    """What it started is ended by the next one, which comes up as if nothing had been."""
    with subprocess.Popen(
        command(second, "up"), cwd=REPOSITORY, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    ) as up:
        started = second.folder / "san" / "qemu.pid"
        wait_until(started.exists, 120, "the killed up to start a machine", interval_seconds=0.01)
        first = wait_until(started.read_text, 10, "its id")
        os.kill(up.pid, signal.SIGKILL)
    assert not second.is_up()
    second.up()
    assert second.is_up()
    assert started.read_text() != first
    second.san.succeed("zpool status -x data")
