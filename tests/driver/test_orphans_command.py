"""``zolder orphans`` as a command: its words, its configuration, and its exit status."""

from __future__ import annotations

import io
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.driver.cloud import PARENT, Cloud
from zolder.cli import backends
from zolder.cli.finding import Kind
from zolder.names import DatasetName


def test_words_and_status(cloud: Cloud) -> None:
    """What is found is said below a heading for its kind, and the exit status is 1."""
    lost, left = cloud.add_volume(zvol=False), cloud.add_volume(row=False)
    status, said = cloud.run()
    assert status == 1
    assert "volumes in Cinder without a zvol (volume-only-in-cinder):" in said
    assert f"    data/volumes/volume-{lost}: " in said
    assert f"`zfs destroy data/volumes/volume-{left}`" in said
    assert "2 differences, 0 of which --repair can mend." in said


def test_only_some_kinds(cloud: Cloud) -> None:
    """--only leaves the other kinds out, and what is left out does not count."""
    cloud.add_volume(zvol=False)
    cloud.add_volume(row=False)
    assert cloud.kinds("--only", "zvol-only-on-san") == [Kind.ZVOL_ONLY_ON_SAN]
    assert cloud.run("--only", "size-differs")[0] == 0


@pytest.mark.parametrize("section", ["one", "backend_defaults", "DEFAULT"])
def test_backend_host(cloud: Cloud, section: str) -> None:
    """cinder-volume takes it from the back end's own section, and a shared one does not count."""
    text = cloud.configuration.read_text() + "[backend_defaults]\n"
    cloud.configuration.write_text(text.replace(f"[{section}]\n", f"[{section}]\nbackend_host = elsewhere\n"))
    backends.read_configuration([str(cloud.configuration)])
    (ground,) = backends.read_grounds([])
    first = "elsewhere@one" if section == "one" else "control@one"
    assert [back_end.host for back_end in ground.back_ends] == [first, "control@two"]


def test_repair_without_a_terminal(cloud: Cloud, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where nobody can be asked, --repair without --yes is refused before anything is looked at."""
    monkeypatch.setattr(sys, "stdin", io.StringIO())
    for words in (("--repair",), ("--repair", "--json")):
        status, said = cloud.run(*words)
        assert (status, cloud.asked) == (2, [])
        assert "add --yes" in said


def test_san_that_does_not_answer(cloud: Cloud) -> None:
    """A SAN that cannot be asked makes the exit status 2, and the others are compared all the same."""
    cloud.configuration.write_text(cloud.configuration.read_text().replace("other, one, two", "far, one"))
    cloud.add_volume(zvol=False)
    status, said = cloud.run()
    assert status == 2
    assert "could not be looked at: 192.0.2.9 cannot be reached: check that the SAN is up" in said
    assert str(Kind.VOLUME_ONLY_IN_CINDER) in said


def test_database_that_does_not_answer(cloud: Cloud, tmp_path: Path) -> None:
    """A database without Cinder's tables makes the exit status 2, in one line."""
    (tmp_path / "cinder.sqlite").unlink()
    status, said = cloud.run()
    assert status == 2
    assert "Cinder's database cannot be asked: " in said
    assert "SELECT" not in said


@pytest.mark.parametrize(
    ("enabled", "words", "sentence"),
    [
        ("other", (), "enables no back end with volume_driver = zolder.cinder.driver.ZolderDriver"),
        ("one", ("--backend", "two"), "two: no back end of Zolder's in enabled_backends (one)"),
        ("one", ("--config-file", "/nonexistent"), "cinder.conf cannot be read"),
    ],
)
def test_configuration_that_will_not_do(
    cloud: Cloud, enabled: str, words: tuple[str, ...], sentence: str
) -> None:
    """A configuration without what was asked for makes the exit status 2, and a sentence."""
    cloud.configuration.write_text(cloud.configuration.read_text().replace("other, one, two", enabled))
    status, said = cloud.run(*words)
    assert status == 2
    assert sentence in said


def test_settings_that_will_not_do(cloud: Cloud) -> None:
    """A back end whose settings the driver would refuse is refused in the same words."""
    text = cloud.configuration.read_text().replace("[one]\n", "[one]\nsan_zfs_volume_base = -o\n")
    cloud.configuration.write_text(text)
    status, said = cloud.run()
    assert status == 2
    assert "[one]: " in said
    assert "san_zfs_volume_base = -o will not do" in said


@pytest.mark.parametrize("words", [["--settle", "x"], ["--only", "x"], ["--settle", "-1"]])
def test_usage(cloud: Cloud, words: list[str]) -> None:
    """A word that the command does not know ends it with exit status 2."""
    with pytest.raises(SystemExit) as ended:
        cloud.run(*words)
    assert ended.value.code == 2


def test_command_runs_by_itself(cloud: Cloud, tmp_path: Path) -> None:
    """As a process of its own it reads cinder.conf, and says so where the SAN cannot be reached."""
    del cloud
    path = tmp_path / "cinder.conf"
    path.write_text(path.read_text().replace("192.0.2.1", "127.0.0.1\nsan_ssh_port = 1"))
    done = subprocess.run(
        [sys.executable, "-m", "zolder.cli.command", "orphans", "--config-file", str(path)],
        capture_output=True, text=True, check=False, timeout=60, env={**os.environ, "HOME": str(tmp_path)},
    )  # fmt: skip
    assert (done.returncode, "could not be looked at" in done.stdout) == (2, True), done.stderr
    assert not done.stderr


def test_a_parent_after_the_other(cloud: Cloud) -> None:
    """A back end's volumes are compared with the parent that their pool is, and with no other."""
    fast = DatasetName("fast/volumes")
    text = cloud.configuration.read_text()
    text = text.replace("[one]\n", f"[one]\nsan_zfs_volume_base = {PARENT}, {fast}\n")
    cloud.configuration.write_text(text.replace("other, one, two", "one"))
    cloud.san._parents = (PARENT, fast)
    cloud.add_volume()
    lost = cloud.add_volume(zvol=False, host=f"control@one#{fast}")
    findings = cloud.findings()
    assert [finding["object"] for finding in findings] == [f"{fast}/volume-{lost}"]
    assert cloud.run_command("trash")[1].count(" on 192.0.2.1\n") == 2
