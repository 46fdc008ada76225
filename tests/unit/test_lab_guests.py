"""What the lab's guests are made of and how they are told apart, without starting any."""

from __future__ import annotations

import lzma
import os
import struct
import subprocess
import sys
from pathlib import Path

import pytest

from lab import spec
from lab.errors import LabError
from lab.initrd import cpio_entry, extract_kernel
from lab.keys import known_hosts
from lab.process import Process, find_by_pid_file
from lab.qemu import UNIX_PATH_LIMIT, start_qemu
from lab.runfile import RunFile, State
from lab.sanfiles import key_lines
from lab.spec import COMPUTE, SAN, Hardware, device_arguments, device_key, node_names

STATE = State(image="/i", golden="/g", accelerator="tcg", ssh_ports={"san": 1, "compute": 2})


def test_the_san_has_the_drafts_disks() -> None:
    """Three times six for data, two for the log, two for the cache, two for the second zpool."""
    names = [disk.name.rstrip("0123456789") for disk in SAN.disks]
    assert {name: names.count(name) for name in names} == {"data": 18, "log": 2, "cache": 2, "fast": 2}
    assert node_names(COMPUTE) == ["root"]


def test_a_saved_state_depends_on_devices_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ports and places may differ between labs; a kernel word may not."""
    before = device_key()
    assert device_key() == before
    monkeypatch.setattr(spec, "CLOCK_WORDS", ())
    assert device_key() != before


def test_the_ssh_port_is_on_loopback_only(tmp_path: Path) -> None:
    """Nobody on the network reaches a guest."""
    words = device_arguments(SAN, tmp_path, tmp_path, 2222)
    (forward,) = (word for word in words if "hostfwd" in word)
    assert "hostfwd=tcp:127.0.0.1:2222-:22" in forward


def test_one_guest_listens_and_the_other_comes_back(tmp_path: Path) -> None:
    """The private links survive a SAN that is switched off and on."""
    san = [word for word in device_arguments(SAN, tmp_path, tmp_path, 1) if word.startswith("stream")]
    compute = [word for word in device_arguments(COMPUTE, tmp_path, tmp_path, 1) if word.startswith("stream")]
    assert all("server=on" in word for word in san)
    assert all("reconnect-ms=" in word for word in compute)
    assert len(san) == len(compute) == 2


def test_a_path_too_long_for_sockets_is_refused(tmp_path: Path) -> None:
    """The error says what to set, before QEMU would fail with a riddle."""
    folder = tmp_path / ("x" * UNIX_PATH_LIMIT)
    folder.mkdir()
    with pytest.raises(LabError, match="set XDG_CACHE_HOME to a shorter path"):
        start_qemu(SAN, Hardware(tmp_path, "tcg"), folder, folder, 1, paused=True)


def test_the_agents_keys_reach_the_agent_alone(tmp_path: Path) -> None:
    """On the SAN each of the driver's keys is restricted to its identity."""
    for name in ("admin", "agent", "other"):
        (tmp_path / f"{name}.pub").write_text(f"ssh-ed25519 KEY-{name} comment\n")
    assert key_lines(tmp_path) == [
        'restrict,command="/usr/local/bin/zolder-san serve --identity lab" ssh-ed25519 KEY-agent lab\n',
        'restrict,command="/usr/local/bin/zolder-san serve --identity other" ssh-ed25519 KEY-other other\n',
    ]


def test_known_hosts_name_the_forwarded_ports(tmp_path: Path) -> None:
    """So clients can be strict about guests that all live on loopback."""
    (tmp_path / "san_host.pub").write_text("ssh-ed25519 KEY comment\n")
    assert known_hosts(tmp_path, {"san": 2222}) == "[127.0.0.1]:2222 ssh-ed25519 KEY\n"


def test_the_ram_disk_is_what_cpio_reads() -> None:
    """The archive follows cpio(5): the kernel's own format, read back by field."""
    entry = cpio_entry("bin/sh", 0o100755, b"12345")
    assert entry[:6] == b"070701"
    assert len(entry) % 4 == 0
    fields = [int(entry[6 + 8 * number : 14 + 8 * number], 16) for number in range(13)]
    assert fields[1] == 0o100755
    assert fields[6] == 5
    assert fields[11] == len("bin/sh") + 1
    assert entry[110:117] == b"bin/sh\0"
    assert entry[120:125] == b"12345"


def test_a_packed_kernel_is_unpacked(tmp_path: Path) -> None:
    """By the offsets in the boot header; what is no ELF file inside is refused."""
    payload = lzma.compress(b"\x7fELF and the rest") + struct.pack("<I", 17)
    header = bytearray(1024)
    header[0x1F1] = 1
    struct.pack_into("<II", header, 0x248, 0, len(payload))
    (tmp_path / "bzImage").write_bytes(bytes(header) + payload)
    extract_kernel(tmp_path / "bzImage", tmp_path / "vmlinux")
    assert (tmp_path / "vmlinux").read_bytes() == b"\x7fELF and the rest"
    (tmp_path / "bzImage").write_bytes(bytes(header) + b"packed otherwise")
    with pytest.raises(LabError, match="does not know"):
        extract_kernel(tmp_path / "bzImage", tmp_path / "vmlinux")


def test_a_process_is_known_by_its_start_as_well(tmp_path: Path) -> None:
    """An id that was given out again is not ours, nor is another program with the id of a pid file."""
    program = [sys.executable, "-c", "input(input())", "our-word"]
    with subprocess.Popen(program, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
        # Right after execve(2) a process has no command line yet; the prompt says that it is past that.
        assert child.stdin is not None
        assert child.stdout is not None
        child.stdin.write(b"well\n")
        child.stdin.flush()
        assert child.stdout.read(4) == b"well"
        process = Process.of(child.pid)
        assert process.is_alive()
        assert not Process(child.pid, process.start_time - 1).is_alive()
        pid_file = tmp_path / "pid"
        assert find_by_pid_file(pid_file, "our-word") is None
        pid_file.write_text(f"{child.pid}\n")
        assert find_by_pid_file(pid_file, "our-word") == process
        assert find_by_pid_file(pid_file, "their-word") is None
        Process(child.pid, process.start_time - 1).kill()
        assert process.is_alive()
        process.kill()
    assert not process.is_alive()
    assert Process.of(os.getpid()).is_alive()


def test_what_runs_is_written_down_whole(tmp_path: Path) -> None:
    """A state is read back as it was written, says what it stands on, and changes its stamp."""
    run_file = RunFile(tmp_path)
    assert run_file.read() is None
    run_file.write(STATE)
    stamp = run_file.stamp()
    assert run_file.read() == STATE
    assert STATE.entries == ["/i", "/g"]
    run_file.change(ready=True)
    run_file.change(installed="digest")
    changed = run_file.read()
    assert changed is not None
    assert (changed.ready, changed.installed) == (True, "digest")
    assert run_file.stamp() != stamp
    run_file.remove()
    with pytest.raises(LabError, match="somebody ended this lab"):
        run_file.change(ready=True)


def test_a_state_of_another_version_is_named(tmp_path: Path) -> None:
    """The error says how to get rid of it."""
    (tmp_path / "state.json").write_text('{"machines": {}}')
    with pytest.raises(LabError, match="python -m lab down"):
        RunFile(tmp_path).read()
