"""Who may log in to an iSCSI target: its ACLs in the kernel, and their CHAP credentials.

Each initiator has an ACL of its own on each target, with a secret of its own: a secret shared by a target's
initiators would let one that was shut out come back as another. Secrets pass through here into configfs, and
never into an error or a log. Not locked here: the caller holds the target's lock.
Source: drivers/target/iscsi/iscsi_target_configfs.c and iscsi_target_nego.c in the Linux tree.
"""

from __future__ import annotations

from typing import Final

from zolder.errors import InvalidRequest
from zolder.model import Chap
from zolder.names import InitiatorName
from zolder.san.configfs import Build, ConfigFs

# The kernel keeps CHAP names and secrets in 256 bytes and takes a value that begins with NULL as "none"
# (__DEF_NACL_AUTH_STR in iscsi_target_configfs.c).
_LONGEST_CHAP_BYTES: Final = 255
_NO_CHAP: Final = "NULL"


def check_chap(chap: Chap) -> None:
    """Make sure that the kernel can keep CHAP credentials as they are.

    :raises InvalidRequest: it cannot; the message does not show them.
    """
    if chap.is_mutual and (
        None in {chap.target_user, chap.target_secret} or chap.secret == chap.target_secret
    ):
        message = "mutual CHAP needs a user and a secret of the target, and the two secrets must differ"
        raise InvalidRequest(message)  # RFC 7143, 12.1.3
    for what, value in _credentials(chap):
        short = 0 < len(value.encode()) <= _LONGEST_CHAP_BYTES
        if not short or not value.isprintable() or value != value.strip() or value.startswith(_NO_CHAP):
            message = (
                f"CHAP {what}: 1 to {_LONGEST_CHAP_BYTES} bytes of printable characters are needed,"
                f" without white space around them, not beginning with {_NO_CHAP}"
            )
            raise InvalidRequest(message)


def ensure_acl(
    build: Build, tpg: str, initiator: InitiatorName, chap: Chap | None, *, read_only: bool = False
) -> None:
    """Let an initiator log in to a TPG that has its ``lun_0``, and reach that LUN.

    :param tpg: the TPG's path.
    :param chap: what the initiator must show; None clears what it had to show before.
    :raises BackendError: the kernel refuses a step.
    """
    acl = f"{tpg}/acls/{initiator}"
    # The TPG asks for a secret while any of its initiators has one, and before this ACL exists: no login may
    # slip in between an ACL and its secret.
    strict = chap is not None or _others_have_secrets(build.tree, tpg, initiator)
    build.attribute(f"{tpg}/attrib/authentication", "1" if strict else "0")
    build.folder(acl)
    if build.tree.exists(f"{acl}/attrib/authentication"):
        # Linux 5.19 and later decide for each initiator: one without a secret can go on logging in.
        build.attribute(f"{acl}/attrib/authentication", "1" if chap else "0")
    _ensure_credential(build, f"{acl}/auth/userid", chap.user if chap else None)
    _ensure_credential(build, f"{acl}/auth/password", chap.secret if chap else None)
    _ensure_credential(build, f"{acl}/auth/userid_mutual", chap.target_user if chap else None)
    _ensure_credential(build, f"{acl}/auth/password_mutual", chap.target_secret if chap else None)
    build.folder(f"{acl}/lun_0")
    build.link(f"{acl}/lun_0/lun_0", f"{tpg}/lun/lun_0")
    build.attribute(f"{acl}/lun_0/write_protect", "1" if read_only else "0")


def remove_acl(tree: ConfigFs, tpg: str, initiator: str) -> bool:
    """Shut an initiator out; the kernel ends its sessions (core_tpg_del_initiator_node_acl).

    :return: False where it had no ACL.
    :raises BackendError: the kernel refuses a step.
    """
    acl = f"{tpg}/acls/{initiator}"
    for lun in tree.folders(acl):
        if lun.startswith("lun_"):
            for link in tree.links(f"{acl}/{lun}"):
                tree.remove_link(f"{acl}/{lun}/{link}")
            tree.remove_folder(f"{acl}/{lun}")
    return tree.remove_folder(acl)


def list_initiators(tree: ConfigFs, tpg: str) -> tuple[InitiatorName, ...]:
    """Return who may log in to a TPG, sorted; names that Zolder would never have let in are left out.

    :raises BackendError: the ACLs cannot be listed.
    """
    return tuple(initiator for name in tree.folders(f"{tpg}/acls") if (initiator := _initiator(name)))


def _others_have_secrets(tree: ConfigFs, tpg: str, initiator: InitiatorName) -> bool:
    others = (name for name in tree.folders(f"{tpg}/acls") if name != initiator)
    return any(_credential(tree.find(f"{tpg}/acls/{name}/auth/userid")) for name in others)


def _credentials(chap: Chap) -> tuple[tuple[str, str], ...]:
    pairs = (
        ("user", chap.user),
        ("secret", chap.secret),
        ("user of the target", chap.target_user),
        ("secret of the target", chap.target_secret),
    )
    return tuple((what, value) for what, value in pairs if value is not None)


def _ensure_credential(build: Build, path: str, value: str | None) -> None:
    if _credential(build.tree.read(path)) != value:
        build.tree.write(path, value or _NO_CHAP)
        build.changed = True


def _credential(text: str | None) -> str | None:
    """Return a CHAP name or secret as the kernel shows it; None where there is none."""
    return None if text in {None, "", _NO_CHAP} else text


def _initiator(name: str) -> InitiatorName | None:
    try:
        return InitiatorName(name)
    except InvalidRequest:
        return None  # made by somebody else: Zolder lets in checked names only
