"""The lab's cache: what is in it is whole, whatever happened while it was made."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from lab.cache import KEPT_SECONDS, Cache, content_key, recipe_digest, tree_digest, write_json
from lab.errors import DiskFull

# Says when it has begun, and then never ends by itself.
ENDLESS_BUILD = """
import sys, threading
from pathlib import Path
from lab.cache import Cache

def make(folder):
    (folder / "half").write_text("half")
    print("begun", flush=True)
    threading.Event().wait()

Cache(Path(sys.argv[1])).ensure("image", "key", make)
"""


@pytest.fixture
def cache(tmp_path: Path) -> Cache:
    """A cache of its own."""
    return Cache(tmp_path / "cache")


def fill(folder: Path) -> None:
    """Make an entry."""
    (folder / "content").write_text("whole")


def test_an_entry_is_made_once(cache: Cache) -> None:
    """What is there is not made again."""
    made: list[Path] = []

    def make(folder: Path) -> None:
        made.append(folder)
        fill(folder)

    first = cache.ensure("image", "key", make)
    assert cache.ensure("image", "key", make) == first == cache.find("image", "key")
    assert (first / "content").read_text() == "whole"
    assert len(made) == 1


def test_builds_at_once_share_one_result(cache: Cache) -> None:
    """Of several builds of one entry one makes it, and the others wait for it."""
    made: list[Path] = []

    def make(folder: Path) -> None:
        made.append(folder)
        time.sleep(0.05)  # long enough for the others to come
        fill(folder)

    with ThreadPoolExecutor(max_workers=4) as workers:
        found = set(workers.map(lambda _: cache.ensure("image", "key", make), range(4)))
    assert found == {cache.entry("image", "key")}
    assert len(made) == 1


def test_a_failed_build_leaves_nothing(cache: Cache) -> None:
    """After an error there is neither an entry nor a scratch folder."""

    def make(folder: Path) -> None:
        fill(folder)
        raise ValueError

    with pytest.raises(ValueError):  # noqa: PT011 - the very one raised above, passed on as it is
        cache.ensure("image", "key", make)
    assert cache.find("image", "key") is None
    assert not list(cache.root.glob(".making*"))


def test_a_killed_build_is_never_used(cache: Cache) -> None:
    """What SIGKILL left half made is no entry, holds no lock, and is cleared by the next build."""
    with subprocess.Popen(
        [sys.executable, "-c", ENDLESS_BUILD, str(cache.root)], stdout=subprocess.PIPE, text=True
    ) as build:
        assert build.stdout is not None
        assert build.stdout.readline() == "begun\n"
        build.send_signal(signal.SIGKILL)
    assert cache.find("image", "key") is None
    assert list(cache.root.glob(".making*/half"))
    found = cache.ensure("image", "key", fill)
    assert sorted(path.name for path in found.iterdir()) == ["content"]
    assert not list(cache.root.glob(".making*"))


def test_too_little_space_is_refused_before_the_build(cache: Cache) -> None:
    """The error names both figures and a way out."""
    with pytest.raises(DiskFull, match=r"GiB free and .* needed; free some, or set XDG_CACHE_HOME"):
        cache.ensure("image", "key", fill, needs_bytes=2**70)
    assert cache.find("image", "key") is None


def test_a_disk_that_fills_up_is_named(cache: Cache) -> None:
    """ENOSPC in the middle becomes DiskFull, and nothing is left."""

    def make(folder: Path) -> None:
        fill(folder)
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with pytest.raises(DiskFull, match="no space left"):
        cache.ensure("image", "key", make)
    assert not list(cache.root.glob("*image*"))


def test_what_was_of_no_use_for_long_is_removed(cache: Cache) -> None:
    """But neither what was used lately, nor what a running lab stands on, nor what the lab did not make."""
    old, standing, recent = (cache.ensure("image", key, fill) for key in ("old", "standing", "recent"))
    foreign = cache.root / "my-photos"
    foreign.mkdir()
    long_ago = time.time() - KEPT_SECONDS - 60
    for path in (old, standing, foreign):
        os.utime(path, (long_ago, long_ago))
    write_json(cache.run_folder("default") / "state.json", {"entries": [str(standing)]})
    assert cache.prune() == [old]
    assert not old.exists()
    assert standing.exists()
    assert recent.exists()
    assert foreign.exists()


def test_finding_an_entry_keeps_it_young(cache: Cache) -> None:
    """Use counts, not the day it was made."""
    path = cache.ensure("image", "key", fill)
    os.utime(path, (0, 0))
    cache.find("image", "key")
    assert cache.prune() == []


def test_a_digest_covers_names_modes_and_content(tmp_path: Path) -> None:
    """Each of the three changes it; the place of the tree does not."""
    digests = set()
    for name, mode, text in (("a", 0o644, "x"), ("b", 0o644, "x"), ("a", 0o755, "x"), ("a", 0o644, "y")):
        tree = tmp_path / content_key(name, mode, text)
        tree.mkdir()
        (tree / name).write_text(text)
        (tree / name).chmod(mode)
        digests.add(tree_digest(tree))
    assert len(digests) == 4
    copy = tmp_path / "copy"
    copy.mkdir()
    (copy / "a").write_text("x")
    assert tree_digest(copy) in digests


def test_comments_do_not_change_a_recipe(tmp_path: Path) -> None:
    """What a module says may change without building everything again; what it does may not."""
    module = tmp_path / "module.py"
    digests = []
    for text in (
        '"""Doc."""\n\ndef f():\n    """Doc."""\n    return 1  # why\n',
        "def f():\n    return 1\n",
        "def f():\n    return 2\n",
    ):
        module.write_text(text)
        digests.append(recipe_digest(module))
    assert digests[0] == digests[1] != digests[2]


def test_a_lock_is_free_after_its_holder_was_killed(cache: Cache) -> None:
    """The kernel frees it."""
    holder = "import sys,threading; from pathlib import Path; from lab.cache import Cache\n"
    holder += "with Cache(Path(sys.argv[1])).locked('x'): print('held', flush=True); threading.Event().wait()"
    with subprocess.Popen(
        [sys.executable, "-c", holder, str(cache.root)], stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        process.kill()
    with cache.locked("x"):
        pass
