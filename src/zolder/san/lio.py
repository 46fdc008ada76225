"""iSCSI targets in the kernel (LIO): one target a zvol, closed but for its initiators.

An export is a target with one TPG, one LUN on a block backstore of its own (zolder.san.iblock), its portals,
and an ACL for each initiator with the LUN mapped into it (zolder.san.acl). It is built closed and enabled
last, so nobody sees a half-made one. Nothing is ever listed to find one export. A target of our name whose
LUN is somebody else's is never touched. Not locked here: the caller holds a lock for the zvol.
Sources: drivers/target/iscsi/iscsi_target_configfs.c and target_core_fabric_configfs.c in the Linux tree;
RFC 7143 for the words.
"""

from __future__ import annotations

import errno
import time
from pathlib import Path
from typing import Final

from zolder.errors import AlreadyExists, BackendError, InvalidRequest
from zolder.model import Chap
from zolder.names import LIO, InitiatorName, Portal, TargetPrefix, VolumeId, target_name, unit_serial
from zolder.san.acl import check_chap, ensure_acl, list_initiators, remove_acl
from zolder.san.addresses import taken
from zolder.san.configfs import Build, ConfigFs
from zolder.san.exporter import Exported, Exporter, Subject
from zolder.san.iblock import backstore_path, ensure_backstore, remove_backstore
from zolder.san.run import run

TARGET_ROOT: Final = Path("/sys/kernel/config/target")
_MODULES: Final = ("target_core_mod", "iscsi_target_mod")

# Closed: no login and no discovery without an ACL, and no ACL that makes itself.
_CLOSED: Final = (("generate_node_acls", "0"), ("demo_mode_discovery", "0"), ("cache_dynamic_acls", "0"))

_FIRST_PAUSE_SECONDS: Final = 0.005
_LONGEST_PAUSE_SECONDS: Final = 0.7


class Lio(Exporter):
    """The kernel's iSCSI targets below one configfs folder."""

    name = LIO

    def __init__(self, root: Path = TARGET_ROOT, *, tree: ConfigFs | None = None) -> None:
        """Speak to the LIO at ``root``; ``tree`` replaces the way there, for failure injection."""
        self._tree = tree or ConfigFs(root)

    def ensure_export(
        self,
        subject: Subject,
        *,
        device: Path,
        volume_id: VolumeId,
        portals: tuple[Portal, ...],
        initiator: InitiatorName,
        chap: Chap | None,
        read_only: bool,
    ) -> bool:
        """See ``Exporter``; LIO derives the NAA identifier from the serial."""
        if initiator.is_nqn:
            message = f"{initiator} is an NQN: iSCSI initiators have names of their own"
            raise InvalidRequest(message)
        if chap:
            check_chap(chap)
        self._load()
        target, backstore = _target(subject), _backstore(subject)
        linked = self._find_our_store(target, backstore)
        tpg = _tpg(target)
        with Build(self._tree) as build:
            store = ensure_backstore(
                build,
                backstore,
                device=device,
                serial=unit_serial(volume_id),
                linked=linked,
                read_only=read_only,
            )
            build.folder(f"iscsi/{target}")
            build.folder(tpg)
            for attribute, value in _CLOSED:
                build.attribute(f"{tpg}/attrib/{attribute}", value)
            build.folder(f"{tpg}/lun/lun_0")
            if not linked:
                build.link(f"{tpg}/lun/lun_0/{backstore}", store)
            ensure_acl(build, tpg, initiator, chap, read_only=read_only)
            self._ensure_portals(build, tpg, portals)
            build.attribute(f"{tpg}/enable", "1")
        return build.changed

    def remove_initiator(self, subject: Subject, initiator: InitiatorName) -> bool:
        """See ``Exporter``."""
        target = _target(subject)
        self._find_our_store(target, _backstore(subject))
        changed = remove_acl(self._tree, _tpg(target), initiator)
        if not self.initiators_of(subject):
            changed |= self.remove_export(subject)
        return changed

    def remove_export(self, subject: Subject) -> bool:
        """See ``Exporter``; its backstore goes along."""
        target, backstore = _target(subject), _backstore(subject)
        linked = self._find_our_store(target, backstore)
        changed = self._remove_target(target)
        return remove_backstore(self._tree, backstore, linked=linked) or changed

    def initiators_of(self, subject: Subject) -> tuple[InitiatorName, ...]:
        """See ``Exporter``."""
        return list_initiators(self._tree, _tpg(_target(subject)))

    def is_open(self, subject: Subject) -> bool:
        """See ``Exporter``."""
        return self._tree.exists(backstore_path(_backstore(subject)))

    def grow_export(self, subject: Subject, *, device: Path, seconds: float) -> None:
        """See ``Exporter``: nothing to do, for the kernel asks the device each time an initiator asks it."""

    def list_exports(self, prefix: TargetPrefix) -> tuple[Exported, ...]:
        """See ``Exporter``."""
        targets = (name for name in self._tree.folders("iscsi") if name.startswith(prefix))
        found = (self._find_export(prefix, target) for target in targets)
        return tuple(exported for exported in found if exported)

    def _find_export(self, prefix: TargetPrefix, target: str) -> Exported | None:
        """Return what a target exports; None where it has no LUN on a backstore of ours yet.

        One of our name in another HBA, as targetcli restores it, is ours as well (`_find_our_store`).
        """
        hba, _, backstore = (self._find_store(target) or "").rpartition("/")
        leaf = backstore.rpartition(":")[2]
        if not hba.startswith("core/iblock_") or target != f"{prefix}{leaf}":
            return None
        tpg = _tpg(target)
        portals = (_portal(name) for name in self._tree.folders(f"{tpg}/np"))
        return Exported(
            target=target,
            dataset=backstore.replace(":", "/"),
            initiators=list_initiators(self._tree, tpg),
            portals=tuple(portal for portal in portals if portal),
        )

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
            _listen(build, tpg, portal)
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


def _target(subject: Subject) -> str:
    return target_name(subject.prefix, subject.zvol)


def _backstore(subject: Subject) -> str:
    """Return the name of a zvol's backstore: its dataset, whose names have no colon of their own."""
    return subject.dataset.replace("/", ":")


def _tpg(target: str) -> str:
    return f"iscsi/{target}/tpgt_1"


def _listen(build: Build, tpg: str, portal: Portal) -> None:
    """Have a portal, which the kernel refuses while the last target that listened there is still closing.

    It then says EINVAL for its own EADDRINUSE (seen on 6.12 with six exports coming and going at once; the
    log has "kernel_bind() failed: -98"). A program that keeps the port, such as tgtd, looks the same. An
    address need not be here yet: iscsit_setup_np() binds freely (ip_sock_set_freebind; seen).

    :raises BackendError: it cannot be had.
    """
    pause = _FIRST_PAUSE_SECONDS
    while True:
        try:
            build.folder(f"{tpg}/np/{portal}")
        except BackendError as err:
            if err.details["errno"] != errno.EINVAL:
                raise
            if pause > _LONGEST_PAUSE_SECONDS:
                refusal = taken("LIO", portal, "tgtd")
                raise refusal from err
            time.sleep(pause)
            pause *= 2
        else:
            return


def _portal(name: str) -> Portal | None:
    try:
        return Portal(name)
    except InvalidRequest:
        return None  # made by somebody else: Zolder listens at checked addresses only
