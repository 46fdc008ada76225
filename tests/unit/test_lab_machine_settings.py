"""What the lab takes from this machine's own settings: apt's mirror and pip's index."""

from __future__ import annotations

from pathlib import Path

import pytest

from lab import aptconf
from lab.aptconf import Source, debian_sources, parse_deb822, parse_one_line, read_sources
from lab.chroot import remove_placeholders, would_create
from lab.errors import LabError
from lab.packages import BUILD_TOOLS, ensure_packages, install_commands
from lab.pipconf import local_paths, read_settings

ONE_LINE = """
# deb http://commented.test/debian bookworm main
deb [arch=amd64 signed-by=/usr/share/keyrings/k.gpg] http://mirror.test/debian bookworm main contrib # why
deb-src http://mirror.test/debian bookworm main
deb http://mirror.test/security bookworm-security main
"""

DEB822 = """\
# A comment
Types: deb deb-src
URIs: http://one.test/debian http://two.test/debian
Suites: bookworm
 bookworm-updates
# another
Components: main
Signed-By: /usr/share/keyrings/k.gpg

Types: deb
Enabled: no
URIs: http://off.test/debian
Suites: bookworm
Components: main

Types: deb
URIs: http://inline.test/debian
Suites: bookworm
Components: main
Signed-By:
 -----BEGIN PGP PUBLIC KEY BLOCK-----
 .
 mQINBF
"""


def test_one_line_sources_are_read() -> None:
    """Options, components and comments of sources.list(5); sources of source code are left out."""
    assert list(parse_one_line(ONE_LINE)) == [
        Source("http://mirror.test/debian", "bookworm", ("main", "contrib"), "/usr/share/keyrings/k.gpg"),
        Source("http://mirror.test/security", "bookworm-security", ("main",)),
    ]


def test_deb822_sources_are_read() -> None:
    """Each address with each suite; what is switched off is left out; a key in the stanza has no path."""
    found = list(parse_deb822(DEB822))
    assert [(source.uri, source.suite, source.signed_by) for source in found] == [
        ("http://one.test/debian", "bookworm", "/usr/share/keyrings/k.gpg"),
        ("http://one.test/debian", "bookworm-updates", "/usr/share/keyrings/k.gpg"),
        ("http://two.test/debian", "bookworm", "/usr/share/keyrings/k.gpg"),
        ("http://two.test/debian", "bookworm-updates", "/usr/share/keyrings/k.gpg"),
        ("http://inline.test/debian", "bookworm", ""),
    ]


def test_both_formats_are_found_below_etc(tmp_path: Path) -> None:
    """sources.list, *.list and *.sources count, other names do not."""
    folder = tmp_path / "sources.list.d"
    folder.mkdir()
    (tmp_path / "sources.list").write_text("deb http://a.test/debian bookworm main\n")
    (folder / "b.list").write_text("deb http://b.test/debian bookworm main\n")
    (folder / "c.sources").write_text("Types: deb\nURIs: http://c.test/debian\nSuites: x\nComponents: main\n")
    (folder / "d.sources.disabled").write_text(
        "Types: deb\nURIs: http://d.test\nSuites: x\nComponents: main\n"
    )
    assert [source.uri[7] for source in read_sources(tmp_path)] == ["a", "b", "c"]


def test_another_suite_comes_from_the_same_mirror(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The guests' suite is asked of the mirror and of the security archive that this machine uses."""
    monkeypatch.delenv("ZOLDER_LAB_DEBIAN_MIRROR", raising=False)
    monkeypatch.setattr(aptconf, "os_release", lambda: {"ID": "debian", "VERSION_CODENAME": "bookworm"})
    (tmp_path / "sources.list").write_text(ONE_LINE)
    lines = [source.line() for source in debian_sources("trixie", ("main", "contrib"), tmp_path)]
    signed = "deb [signed-by=/usr/share/keyrings/k.gpg]"
    assert lines == [
        f"{signed} http://mirror.test/debian trixie main contrib",
        f"{signed} http://mirror.test/debian trixie-updates main contrib",
        f"{signed} http://mirror.test/security trixie-security main contrib",
    ]


def test_without_a_mirror_the_error_says_what_to_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine that is no Debian has to be told of a mirror, and then it is used."""
    monkeypatch.delenv("ZOLDER_LAB_DEBIAN_MIRROR", raising=False)
    monkeypatch.setattr(aptconf, "os_release", lambda: {"ID": "other"})
    with pytest.raises(LabError, match="set ZOLDER_LAB_DEBIAN_MIRROR"):
        debian_sources("trixie", ("main",), tmp_path)
    monkeypatch.setenv("ZOLDER_LAB_DEBIAN_MIRROR", "http://given.test/debian")
    assert {source.uri for source in debian_sources("trixie", ("main",), tmp_path)} == {
        "http://given.test/debian"
    }


def test_missing_packages_without_root_name_the_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing is guessed: the error holds the very line to run."""
    monkeypatch.setattr("lab.packages.is_present", lambda tool: tool != "mmdebstrap")
    monkeypatch.setattr("lab.packages.shutil.which", lambda *_, **__: "/usr/bin/apt-get")
    monkeypatch.setattr("lab.packages.os.geteuid", lambda: 1000)
    with pytest.raises(LabError, match="sudo apt-get install -y --no-install-recommends mmdebstrap"):
        ensure_packages(BUILD_TOOLS, tmp_path, tmp_path / "log")


def test_on_debian_12_qemu_comes_from_backports(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only QEMU, and only there."""
    monkeypatch.setattr("lab.packages.is_bookworm", lambda: True)
    plain, newer = install_commands(["mmdebstrap", "qemu-system-x86"])
    assert plain[-1] == "mmdebstrap"
    assert newer[-3:] == ["-t", "bookworm-backports", "qemu-system-x86"]
    monkeypatch.setattr("lab.packages.is_bookworm", lambda: False)
    assert [command[-1] for command in install_commands(["mmdebstrap", "qemu-system-x86"])] == [
        "qemu-system-x86"
    ]


def test_pip_settings_become_variables(tmp_path: Path) -> None:
    """Later files win over earlier ones, the environment over all; what would misplace files is dropped."""
    first, second = tmp_path / "first", tmp_path / "second"
    first.write_text("[global]\nindex-url = https://one.test/simple\ntimeout = 10\n")
    second.write_text(
        "[install]\nextra-index-url =\n  file:///a\n  file:///b\n[global]\ntimeout = 20\nuser = yes\n"
    )
    environment = {"PIP_TIMEOUT": "30", "PIP_TARGET": "/elsewhere", "HOME": "/root"}
    assert read_settings(environment, [first, second, tmp_path / "absent"]) == {
        "PIP_INDEX_URL": "https://one.test/simple",
        "PIP_EXTRA_INDEX_URL": "file:///a file:///b",
        "PIP_TIMEOUT": "30",
    }


def test_paths_in_pip_settings_are_found(tmp_path: Path) -> None:
    """A certificate by its path, an index on disk by its parent, since its pages point beside it."""
    certificate, index = tmp_path / "ca.pem", tmp_path / "index" / "simple"
    certificate.touch()
    index.mkdir(parents=True)
    settings = {
        "PIP_CERT": str(certificate),
        "PIP_EXTRA_INDEX_URL": f"file://{index} https://one.test/simple",
    }
    assert local_paths(settings) == sorted([certificate, index.parent])


def test_mount_points_are_cleared_away_again(tmp_path: Path) -> None:
    """Of paths bound into a guest's tree nothing stays, and nothing that was there goes."""
    tree = tmp_path / "tree"
    (tree / "etc").mkdir(parents=True)
    (tree / "etc/resolv.conf").touch()
    bound = ["/opt/index/simple", "/etc/resolv.conf", "/etc/pip.pem", "/etc/xdg/pip/constraints.txt"]
    places = would_create(tree, [Path(path) for path in bound])
    assert places == [tree / "etc/pip.pem", tree / "etc/xdg", tree / "opt"]
    (tree / "opt/index/simple").mkdir(parents=True)
    (tree / "etc/xdg/pip").mkdir(parents=True)
    (tree / "etc/pip.pem").touch()
    (tree / "etc/xdg/pip/constraints.txt").touch()
    remove_placeholders(places)
    assert sorted(path.name for path in tree.rglob("*")) == ["etc", "resolv.conf"]


def test_a_mount_point_that_was_written_into_is_told(tmp_path: Path) -> None:
    """What something wrote where a file of this machine should have been bound is not thrown away unseen."""
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc/constraints.txt").write_text("written")
    with pytest.raises(LabError, match=r"constraints\.txt"):
        remove_placeholders([tmp_path / "etc"])
