"""iSCSI targets in the kernel (LIO): one target a zvol, closed but for its initiators.

An export is a target with one TPG, one LUN on a block backstore of its own (zolder.san.iblock), its portals,
and an ACL for each initiator with the LUN mapped into it (zolder.san.acl). It is built closed and enabled
last, so nobody sees a half-made one; what a killed process left behind is adopted by the next
``ensure_export`` and removed by ``remove_export``. Nothing is ever listed to find one export. A target of
our name whose LUN is somebody else's is never touched. Not locked here: the caller holds a lock for the
target. Sources: drivers/target/iscsi/iscsi_target_configfs.c and target_core_fabric_configfs.c in the Linux
tree; RFC 7143 for the words.
"""

from __future__ import annotations

import errno
import time
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Final

from zolder.errors import AlreadyExists, BackendError, InvalidRequest
from zolder.model import Chap
from zolder.names import InitiatorName, Portal
from zolder.san.acl import check_chap, ensure_acl, list_initiators, remove_acl
from zolder.san.configfs import Build, ConfigFs
from zolder.san.iblock import backstore_path, ensure_backstore, find_device, find_serial, remove_backstore
from zolder.san.run import run

TARGET_ROOT: Final = Path("/sys/kernel/config/target")
_MODULES: Final = ("target_core_mod", "iscsi_target_mod")

# Closed: no login and no discovery without an ACL, and no ACL that makes itself.
_CLOSED: Final = (("generate_node_acls", "0"), ("demo_mode_discovery", "0"), ("cache_dynamic_acls", "0"))

_FIRST_PAUSE_SECONDS: Final = 0.005
_LONGEST_PAUSE_SECONDS: Final = 0.7


@dataclass(frozen=True, slots=True)
class LioExport:
    """A target whose LUN is there, as the kernel has it now, whoever made it."""

    target: str
    backstore: str
    device: Path | None
    serial: str | None
    initiators: tuple[InitiatorName, ...]
    portals: tuple[Portal, ...]


class Lio:
    """The kernel's iSCSI targets below one configfs folder."""

    def __init__(self, root: Path = TARGET_ROOT, *, tree: ConfigFs | None = None) -> None:
        """Speak to the LIO at ``root``; ``tree`` replaces the way there, for failure injection."""
        self._tree = tree or ConfigFs(root)

    def ensure_export(
        self,
        target: str,
        *,
        backstore: str,
        device: Path,
        serial: str,
        portals: tuple[Portal, ...],
        initiator: InitiatorName,
        chap: Chap | None,
    ) -> bool:
        """Let an initiator reach a device through its target; return whether that changed anything.

        Other initiators of the target stay as they are. What this call made is taken back if it fails.

        :param device: the whole disk (``/dev/zdN``), held open by the caller until this returns, so that its
            number cannot come to mean another zvol.
        :param serial: the SCSI unit serial, from which LIO derives the NAA identifier too.
        :param portals: where the target listens, exactly.
        :param chap: what the initiator must show; an earlier secret of its is replaced.
        :raises AlreadyExists: a target or a backstore of that name belongs to something else.
        :raises Busy: the device is claimed by somebody else.
        :raises InvalidRequest: the kernel cannot keep such CHAP credentials.
        :raises BackendError: LIO is not loaded, or the kernel refuses a step.
        """
        if chap:
            check_chap(chap)
        self._load()
        linked = self._find_our_store(target, backstore)
        tpg = _tpg(target)
        with Build(self._tree) as build:
            store = ensure_backstore(build, backstore, device=device, serial=serial, linked=linked)
            build.folder(f"iscsi/{target}")
            build.folder(tpg)
            for attribute, value in _CLOSED:
                build.attribute(f"{tpg}/attrib/{attribute}", value)
            build.folder(f"{tpg}/lun/lun_0")
            if not linked:
                build.link(f"{tpg}/lun/lun_0/{backstore}", store)
            ensure_acl(build, tpg, initiator, chap)
            self._ensure_portals(build, tpg, portals)
            build.attribute(f"{tpg}/enable", "1")
        return build.changed

    def remove_initiator(
        self, target: str, *, backstore: str, initiator: InitiatorName
    ) -> tuple[bool, tuple[InitiatorName, ...]]:
        """Close a target to one initiator and end its sessions; the last one takes the export along.

        :return: whether that changed anything, and the initiators that may still log in.
        :raises AlreadyExists: the target belongs to something else.
        :raises BackendError: the kernel refuses a step.
        """
        self._find_our_store(target, backstore)
        changed = remove_acl(self._tree, _tpg(target), initiator)
        remaining = self.initiators_of(target)
        if not remaining:
            changed |= self.remove_export(target, backstore=backstore)
        return changed, remaining

    def remove_export(self, target: str, *, backstore: str) -> bool:
        """Remove a target, whoever is logged in, and its backstore; return False where both are absent.

        :raises AlreadyExists: the target belongs to something else.
        :raises BackendError: the kernel refuses a step.
        """
        linked = self._find_our_store(target, backstore)
        changed = self._remove_target(target)
        return remove_backstore(self._tree, backstore, linked=linked) or changed

    def has_backstore(self, backstore: str) -> bool:
        """Return whether a backstore of that name of ours is there."""
        return self._tree.exists(backstore_path(backstore))

    def find_export(self, target: str) -> LioExport | None:
        """Return what a target exports; None where it is absent or has no LUN yet.

        :raises BackendError: the tree cannot be read.
        """
        store = self._find_store(target)
        if store is None:
            return None
        portals = (_portal(name) for name in self._tree.folders(f"{_tpg(target)}/np"))
        return LioExport(
            target=target,
            backstore=PurePosixPath(store).name,
            device=find_device(self._tree, store),
            serial=find_serial(self._tree, store),
            initiators=self.initiators_of(target),
            portals=tuple(portal for portal in portals if portal),
        )

    def list_exports(self, prefix: str) -> tuple[LioExport, ...]:
        """Return the exports whose target's name begins with ``prefix``, sorted; the cost grows with them.

        :raises BackendError: the tree cannot be read.
        """
        targets = (name for name in self._tree.folders("iscsi") if name.startswith(prefix))
        return tuple(export for target in targets if (export := self.find_export(target)))

    def initiators_of(self, target: str) -> tuple[InitiatorName, ...]:
        """Return who may log in to a target, sorted; none where it is absent.

        :raises BackendError: the tree cannot be read.
        """
        return list_initiators(self._tree, _tpg(target))

    def _load(self) -> None:
        """Have LIO and its iSCSI side in the kernel."""
        tree = self._tree
        if not tree.root.is_dir():
            finished = run(["modprobe", "-a", *_MODULES])
            if not tree.root.is_dir():
                message = f"LIO is not in the kernel: as root, run `modprobe -a {' '.join(_MODULES)}`"
                raise BackendError(message, stderr=finished.stderr)
        if not tree.exists("iscsi"):
            # The kernel loads iscsi_target_mod itself for a folder of this name.
            tree.make_folder("iscsi")

    def _find_store(self, target: str) -> str | None:
        """Return the path of the backstore that a target's LUN links to."""
        lun = f"{_tpg(target)}/lun/lun_0"
        links = self._tree.links(lun)
        return self._tree.find_link(f"{lun}/{links[0]}") if links else None

    def _find_our_store(self, target: str, backstore: str) -> str | None:
        """Return the path of the backstore that a target's LUN links to, if the target is ours or absent.

        :raises AlreadyExists: the target has what Zolder never makes.
        """
        store = self._find_store(target)
        if store is not None:
            hba, _, name = store.rpartition("/")
            if name != backstore or not hba.startswith("core/iblock_"):
                message = f"target {target} exists and exports {store}, not our {backstore}"
                raise AlreadyExists(message, target=target, backstore=store)
        tpgs = (name for name in self._tree.folders(f"iscsi/{target}") if name.startswith("tpgt_"))
        luns = self._tree.folders(f"{_tpg(target)}/lun")
        if strange := [*(set(tpgs) - {"tpgt_1"}), *(set(luns) - {"lun_0"})]:
            message = f"target {target} has what Zolder never makes: {', '.join(sorted(strange))}"
            raise AlreadyExists(message, target=target)
        return store

    def _ensure_portals(self, build: Build, tpg: str, portals: tuple[Portal, ...]) -> None:
        for portal in portals:
            _listen(build, f"{tpg}/np/{portal}")
        for name in self._tree.folders(f"{tpg}/np"):
            if name not in portals:
                build.changed |= self._tree.remove_folder(f"{tpg}/np/{name}")

    def _remove_target(self, target: str) -> bool:
        tree, tpg = self._tree, _tpg(target)
        if tree.find(f"{tpg}/enable") == "1":
            # Ends every session and lets none in any more (iscsit_tpg_disable_portal_group).
            tree.write(f"{tpg}/enable", "0")
        for initiator in tree.folders(f"{tpg}/acls"):
            remove_acl(tree, tpg, initiator)
        for link in tree.links(f"{tpg}/lun/lun_0"):
            tree.remove_link(f"{tpg}/lun/lun_0/{link}")
        tree.remove_folder(f"{tpg}/lun/lun_0")
        for portal in tree.folders(f"{tpg}/np"):
            tree.remove_folder(f"{tpg}/np/{portal}")
        changed = tree.remove_folder(tpg)
        return tree.remove_folder(f"iscsi/{target}") or changed


def _tpg(target: str) -> str:
    return f"iscsi/{target}/tpgt_1"


def _listen(build: Build, path: str) -> None:
    """Have a portal, which the kernel refuses while the last target that listened there is still closing.

    It then says EINVAL for its own EADDRINUSE (seen on 6.12 with six exports coming and going at once; the
    log has "kernel_bind() failed: -98"). A program that keeps the port, such as tgtd, looks the same.
    """
    pause = _FIRST_PAUSE_SECONDS
    while True:
        try:
            build.folder(path)
        except BackendError as err:
            if err.details["errno"] != errno.EINVAL:
                raise
            if pause > _LONGEST_PAUSE_SECONDS:
                message = (
                    f"LIO cannot listen at {path.rpartition('/')[2]}: does another program hold the port?"
                )
                raise BackendError(message, path=path, errno=errno.EINVAL) from err
            time.sleep(pause)
            pause *= 2
        else:
            return


def _portal(name: str) -> Portal | None:
    try:
        return Portal(name)
    except InvalidRequest:
        return None  # made by somebody else: Zolder listens at checked addresses only
