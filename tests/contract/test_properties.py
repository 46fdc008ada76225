"""What a volume's type decides of its zvol, held by every implementation of the storage contract."""

from __future__ import annotations

import dataclasses

import pytest

from tests.contract.ground import FOREIGN, MIB, NEVER_FITS_BYTES, PARENT
from tests.contract.test_storage import SIZE, SNAPSHOT, create, new_id, new_name
from zolder.api import Storage
from zolder.errors import AlreadyExists, InvalidRequest, NoSpace, NotFound, NotPermitted
from zolder.model import Change, Zvol
from zolder.properties import (
    INHERITED,
    BlockSize,
    Cached,
    Checksum,
    Compression,
    Copies,
    Dedup,
    LogBias,
    Sync,
    ZvolProperties,
)

FAST = ZvolProperties(
    compression=Compression("zstd-3"),
    checksum=Checksum("sha256"),
    copies=Copies("1"),
    dedup=Dedup("off"),
    logbias=LogBias("throughput"),
    primarycache=Cached("metadata"),
    secondarycache=Cached("none"),
    sync=Sync("always"),
)
PLAIN = ZvolProperties(compression=Compression("off"))
BLOCKS = BlockSize("64k")


def make(storage: Storage, *, sparse: bool = True, volblocksize: BlockSize | None = None) -> Zvol:
    """Create a zvol with each property of its own."""
    return storage.create_zvol(
        PARENT,
        new_name(),
        volume_id=new_id(),
        volsize_bytes=SIZE,
        sparse=sparse,
        properties=FAST,
        volblocksize=volblocksize,
    ).value


class TestCreation:
    """Properties given with the request that makes a zvol."""

    @pytest.mark.parametrize("sparse", [True, False], ids=["sparse", "thick"])
    def test_create(self, storage: Storage, *, sparse: bool) -> None:
        """A zvol has each property that it was made with, is as thin or thick, and grows with them."""
        made = make(storage, sparse=sparse, volblocksize=BLOCKS)
        assert (made.properties, made.sparse) == (FAST, sparse)
        assert storage.get_zvol(PARENT, made.name) == made
        assert made in storage.list_zvols(PARENT)
        grown = storage.grow_zvol(PARENT, made.name, volsize_bytes=2 * SIZE + MIB).value
        assert grown == dataclasses.replace(made, volsize_bytes=2 * SIZE + MIB)
        assert storage.get_zvol(PARENT, made.name) == grown

    def test_inherited(self, storage: Storage) -> None:
        """A zvol without a type has no property of its own."""
        assert create(storage).properties == INHERITED

    @pytest.mark.parametrize("sparse", [True, False], ids=["sparse", "thick"])
    def test_create_twice(self, storage: Storage, *, sparse: bool) -> None:
        """Asked for again with the same properties, nothing changes; with others it is another zvol."""
        made = make(storage, sparse=sparse, volblocksize=BLOCKS)

        def again(properties: ZvolProperties, volblocksize: BlockSize | None) -> Change[Zvol]:
            return storage.create_zvol(
                PARENT,
                made.name,
                volume_id=made.volume_id,
                volsize_bytes=SIZE,
                sparse=sparse,
                properties=properties,
                volblocksize=volblocksize,
            )

        assert again(FAST, BLOCKS) == Change(changed=False, value=made)
        assert again(FAST, None) == Change(changed=False, value=made)
        for properties, volblocksize in ((PLAIN, BLOCKS), (INHERITED, BLOCKS), (FAST, BlockSize("8k"))):
            with pytest.raises(AlreadyExists):
                again(properties, volblocksize)

    @pytest.mark.parametrize("sparse", [True, False], ids=["sparse", "thick"])
    @pytest.mark.parametrize("snapshot", [True, False], ids=["of snapshot", "of zvol"])
    def test_clone(self, storage: Storage, *, snapshot: bool, sparse: bool) -> None:
        """A clone has the properties that it is asked for, not its source's; asked again, nothing changes."""
        source = make(storage)
        if snapshot:
            storage.create_snapshot(PARENT, source.name, SNAPSHOT)
        name, volume_id = new_name(), new_id()

        def clone(properties: ZvolProperties) -> Change[Zvol]:
            return storage.clone_zvol(
                PARENT,
                source.name,
                SNAPSHOT if snapshot else None,
                name,
                volume_id=volume_id,
                volsize_bytes=2 * SIZE,
                sparse=sparse,
                properties=properties,
            )

        made = clone(PLAIN)
        assert (made.changed, made.value.properties, made.value.sparse) == (True, PLAIN, sparse)
        assert storage.get_zvol(PARENT, name) == made.value
        assert clone(PLAIN) == Change(changed=False, value=made.value)
        with pytest.raises(AlreadyExists):
            clone(FAST)

    @pytest.mark.parametrize("snapshot", [True, False], ids=["of snapshot", "of zvol"])
    def test_clone_of_other_blocks(self, storage: Storage, *, snapshot: bool) -> None:
        """A clone has its origin's volblocksize: asked for another it is refused, and nothing is left."""
        source = make(storage, volblocksize=BLOCKS)
        if snapshot:
            storage.create_snapshot(PARENT, source.name, SNAPSHOT)
        name, volume_id = new_name(), new_id()

        def clone(volblocksize: BlockSize) -> Change[Zvol]:
            return storage.clone_zvol(
                PARENT,
                source.name,
                SNAPSHOT if snapshot else None,
                name,
                volume_id=volume_id,
                volsize_bytes=SIZE,
                sparse=True,
                volblocksize=volblocksize,
            )

        with pytest.raises(InvalidRequest, match="volblocksize"):
            clone(BlockSize("16k"))
        with pytest.raises(NotFound):
            storage.get_zvol(PARENT, name)
        assert clone(BLOCKS).changed
        with pytest.raises(AlreadyExists):
            clone(BlockSize("16k"))

    @pytest.mark.parametrize("size", BlockSize.values)
    @pytest.mark.parametrize("sparse", [True, False], ids=["sparse", "thick"])
    def test_block_sizes(self, storage: Storage, size: str, *, sparse: bool) -> None:
        """Whatever the volblocksize, a size of whole MiB is kept exactly."""
        made = storage.create_zvol(
            PARENT,
            new_name(),
            volume_id=new_id(),
            volsize_bytes=MIB,
            sparse=sparse,
            volblocksize=BlockSize(size),
        ).value
        assert storage.get_zvol(PARENT, made.name).volsize_bytes == MIB
        storage.set_zvol_properties(
            PARENT, made.name, sparse=sparse, properties=INHERITED, volblocksize=BlockSize(size)
        )
        storage.delete_zvol(PARENT, made.name)

    def test_copies_of_a_thick_zvol(self, storage: Storage) -> None:
        """ZFS would reserve one copy alone, so a thick zvol of more is refused before anything is made."""
        name = new_name()
        twice = ZvolProperties(copies=Copies("2"))
        with pytest.raises((NotPermitted, InvalidRequest)):
            storage.create_zvol(
                PARENT, name, volume_id=new_id(), volsize_bytes=SIZE, sparse=False, properties=twice
            )
        with pytest.raises(NotFound):
            storage.get_zvol(PARENT, name)


class TestChange:
    """Properties of a zvol that stands."""

    def test_change(self, storage: Storage) -> None:
        """It has what is asked for and nothing of its own beside it; asked again, nothing changes."""
        made = create(storage)
        for properties in (FAST, PLAIN, INHERITED):
            changed = storage.set_zvol_properties(
                PARENT, made.name, sparse=True, properties=properties, volblocksize=None
            )
            assert changed == Change(changed=True, value=dataclasses.replace(made, properties=properties))
            assert storage.get_zvol(PARENT, made.name) == changed.value
            assert not storage.set_zvol_properties(
                PARENT, made.name, sparse=True, properties=properties, volblocksize=None
            ).changed

    def test_thick_and_thin(self, storage: Storage) -> None:
        """A thin zvol becomes thick, which takes its size at once, and thin again, which gives it back."""
        made = create(storage)
        before = storage.get_figures(PARENT).available_bytes
        for sparse in (False, True):
            change = storage.set_zvol_properties(
                PARENT, made.name, sparse=sparse, properties=PLAIN, volblocksize=None
            )
            assert change.changed
            assert storage.get_zvol(PARENT, made.name).sparse is sparse
            available = storage.get_figures(PARENT).available_bytes
            # ZFS moves a little space about meanwhile.
            assert (before - available > SIZE / 2) is not sparse

    def test_thick_does_not_fit(self, storage: Storage) -> None:
        """What does not fit is refused with the numbers, and the zvol stays as it was."""
        made = create(storage, size=NEVER_FITS_BYTES)
        with pytest.raises(NoSpace) as refused:
            storage.set_zvol_properties(PARENT, made.name, sparse=False, properties=FAST, volblocksize=None)
        assert int(str(refused.value.details["needed_bytes"])) >= NEVER_FITS_BYTES
        assert 0 < int(str(refused.value.details["available_bytes"])) < NEVER_FITS_BYTES
        assert storage.get_zvol(PARENT, made.name) == made
        storage.delete_zvol(PARENT, made.name)

    def test_other_blocks(self, storage: Storage) -> None:
        """Another volblocksize is refused, says which there is, and leaves the zvol as it was."""
        made = make(storage, volblocksize=BLOCKS)
        with pytest.raises(AlreadyExists) as refused:
            storage.set_zvol_properties(
                PARENT, made.name, sparse=True, properties=PLAIN, volblocksize=BlockSize("16k")
            )
        assert refused.value.details["volblocksize_bytes"] == BLOCKS.size_bytes
        assert storage.get_zvol(PARENT, made.name) == made

    def test_not_ours(self, storage: Storage) -> None:
        """What is absent is said to be so; what bears no mark of ours is left alone."""
        for name, error in ((new_name(), NotFound), (FOREIGN, NotPermitted)):
            with pytest.raises(error):
                storage.set_zvol_properties(PARENT, name, sparse=True, properties=PLAIN, volblocksize=None)
