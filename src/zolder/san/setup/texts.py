"""The text of each file that a set-up writes; functions put in what differs between machines. No I/O."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from zolder.names import DatasetName, Identity
from zolder.san.confinement import NO_ENVIRONMENT
from zolder.san.setup.host import USER
from zolder.san.setup.tree import HEADING

POLICY_FILE: Final = "etc/zolder/san.toml"
KEYS_FILE: Final = "etc/zolder/authorized_keys"
VERSION_FILE: Final = "etc/zolder/version"
# Of two files of sshd's that say the same thing, the first counts (sshd_config(5)).
SSHD_FILE: Final = "etc/ssh/sshd_config.d/00-zolder.conf"
TMPFILES_FILE: Final = "etc/tmpfiles.d/zolder.conf"
MODULES_FILE: Final = "etc/modules-load.d/zolder.conf"
EARLY_RULES_FILE: Final = "etc/udev/rules.d/10-zolder.rules"
LATE_RULES_FILE: Final = "etc/udev/rules.d/90-zolder.rules"

STATE_FOLDER: Final = "var/lib/zolder"
RUN_FOLDER: Final = "run/zolder"

MODULES: Final = ("target_core_mod", "target_core_iblock", "iscsi_target_mod")
# A kernel without these exports over iSCSI alone; systemd-modules-load passes over what is not there.
MORE_MODULES: Final = ("nvmet", "nvmet-tcp")

POLICY: Final = """\
# What each identity may do on this SAN: root's, and nobody else may write it.
#
# 'zolder-san authorize' adds a table; this is one, with all that can stand in it:
#
# [identity.cinder]
# role = "volumes"                                   # or "read-only", which needs the parents alone
# parents = ["data/volumes"]                         # the datasets below which its volumes live
# portals = ["192.0.2.1:3260"]                       # where its targets listen
# target_prefixes = ["iqn.2010-10.org.openstack:"]   # what the names of its targets begin with
# shared_parents = ["data/volumes"]                  # where another identity may have the same
# max_volume_gib = 4096                              # limits below each parent; without a line there is none
# max_volumes = 2000
# max_total_gib = 65536
"""

KEYS: Final = f"""\
{HEADING}, which adds and removes keys ('authorize', 'revoke'): a line each, and what it runs fixed in it.
"""

TMPFILES: Final = f"""\
{HEADING}: what the agents share (locks, the index), and what they must remember.
d /{RUN_FOLDER} 0700 {USER} {USER} -
d /{STATE_FOLDER} 0700 {USER} {USER} -
"""

MODULES_LOAD: Final = "\n".join(
    (f"{HEADING}: the kernel's iSCSI and NVMe targets.", *MODULES, *MORE_MODULES, "")
)

# All may stand behind Match (sshd_config(5)); MaxStartups, UsePAM and PermitUserEnvironment may not. Keys
# that an AuthorizedKeysCommand or a certificate authority vouches for have no forced command: none is let in.
_CONFINED: Final = f"""\
    ChrootDirectory none
    AuthorizedKeysCommand none
    TrustedUserCAKeys none
    DisableForwarding yes
    AllowAgentForwarding no
    AllowTcpForwarding no
    AllowStreamLocalForwarding no
    X11Forwarding no
    PermitTunnel no
    PermitTTY no
    PermitUserRC no
    ClientAliveInterval 15
    ClientAliveCountMax 3
    MaxSessions 10
    AcceptEnv {NO_ENVIRONMENT}
"""


def login_name(identity: Identity) -> str:
    """Return the user that logs in with a password for an identity."""
    return f"{USER}-{identity}"


def sshd_config(executable: str, passwords: Iterable[Identity]) -> str:
    """Return sshd's drop-in.

    :param passwords: the identities that may log in with a password.
    """
    keys = f"""\
{HEADING}: what {USER} may do is one program, which answers typed requests. See sshd_config(5).
Match User {USER}
    # Else another file's command for everybody would stand above those of the keys.
    ForceCommand none
    AuthorizedKeysFile /{KEYS_FILE}
    PubkeyAuthentication yes
    PasswordAuthentication no
    KbdInteractiveAuthentication no
    AuthenticationMethods publickey
{_CONFINED}"""
    others = "".join(
        f"""
Match User {login_name(identity)}
    ForceCommand {executable} serve --identity {identity}
    AuthorizedKeysFile none
    PubkeyAuthentication no
    PasswordAuthentication yes
    KbdInteractiveAuthentication no
    AuthenticationMethods password
    PermitEmptyPasswords no
{_CONFINED}"""
        for identity in sorted(set(passwords))
    )
    return f"{keys}{others}\nMatch all\n"


def early_rules(parents: Iterable[DatasetName]) -> str:
    """Return the udev rules that come before all that would look into a zvol.

    A guest's disk is the guest's: blkid would read it, LVM and md would assemble what they find in it,
    multipath would claim it. zvol_id, which is OpenZFS's, says which dataset a device is.
    """
    ours = "".join(f'RESULT=="{parent}/*", ENV{{ZOLDER}}="1"\n' for parent in sorted(parents))
    return f"""\
{HEADING}: nothing on this machine looks into what guests keep on their volumes.
SUBSYSTEM!="block", GOTO="zolder_end"
KERNEL!="zd*", GOTO="zolder_end"
ACTION=="remove", GOTO="zolder_end"
PROGRAM!="zvol_id $devnode", GOTO="zolder_end"
{ours}ENV{{ZOLDER}}!="1", GOTO="zolder_end"
# blkid, and with it all that goes by ID_FS_TYPE: LVM, md, btrfs, bcache
ENV{{UDEV_DISABLE_PERSISTENT_STORAGE_RULES_FLAG}}="1"
# LVM and what else heeds device-mapper's own flags
ENV{{DM_UDEV_DISABLE_DISK_RULES_FLAG}}="1"
ENV{{DM_UDEV_DISABLE_OTHER_RULES_FLAG}}="1"
ENV{{DM_MULTIPATH_DEVICE_PATH}}="0"
ENV{{UDISKS_IGNORE}}="1"
LABEL="zolder_end"
"""


LATE_RULES: Final = f"""\
{HEADING}: no look at a volume each time it is closed, which makes it busy; no unit of systemd for it.
SUBSYSTEM!="block", GOTO="zolder_late_end"
ENV{{ZOLDER}}!="1", GOTO="zolder_late_end"
OPTIONS+="nowatch"
ENV{{SYSTEMD_READY}}="0"
LABEL="zolder_late_end"
"""
