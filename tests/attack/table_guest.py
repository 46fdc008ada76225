"""Attacks by local users of the SAN: by anybody, and by the agent's own user where somebody has taken it.

What the delegation gives the agent's user it may do by hand, too: make, snapshot and destroy below the
parents. What is tried here is all around that.
"""

from __future__ import annotations

from typing import Final

from tests.attack.ground import PARENT, TAKEN_TARGET
from tests.attack.model import PROOF_COMMAND, Attack, Command, Flood, line

FAILED: Final = frozenset({"failed"})
# How the kernel, ZFS, systemd and the tools say no; a tool that is missing says other things.
NO: Final = (
    r"(?i)permission denied|not permitted|insufficient privileges|must be (run as )?(super-?user|root)"
    # a parent that has zvols is replaced by none (docs/security.md has what remains)
    r"|destination has children"
    # what a namespace of its own does not even see
    r"|cannot open 'data/secret/disk': dataset does not exist"
    r"|access denied|authentication|only root|needs root|as root|read-only file system|failed to connect to"
)
_TREE: Final = "/sys/kernel/config/target"
_HELPER: Final = "$(pgrep -o -f 'zolder.san.cli.*helper$')"
_WRITE: Final = "echo evil >> {}"
_SERVE: Final = "zolder-san serve --identity lab"

# Each with whether the agent's user tries it, who may more than nobody; else nobody does, since it may.
_FILES: Final[dict[str, tuple[str, bool]]] = {
    "read-roots-secret": ("cat /root/secret", True),
    "read-sshds-host-key": ("cat /etc/ssh/zolder-lab/san", True),
    "write-the-policy": (_WRITE.format("/etc/zolder/san.toml"), True),
    "add-a-key": (_WRITE.format("/etc/zolder/authorized_keys"), True),
    "replace-the-keys-folder": ("mv /etc/zolder /etc/zolder.old", True),
    "change-the-agents-code": (_WRITE.format("/usr/local/lib/zolder/zolder/san/policy.py"), True),
    "replace-the-agents-code": ("ln -sfn /tmp /usr/local/lib/zolder", True),
    "change-the-launcher": (_WRITE.format("/usr/local/bin/zolder-san"), True),
    "change-sshds-settings": (_WRITE.format("/etc/ssh/sshd_config.d/00-zolder.conf"), True),
    "change-the-helpers-unit": (_WRITE.format("/etc/systemd/system/zolder-helper.service"), True),
    "plant-a-timed-job": ("echo '* * * * * root id' > /etc/cron.d/evil || touch /etc/cron.evil", True),
    "plant-a-udev-rule": ("touch /etc/udev/rules.d/99-evil.rules", True),
    "plant-a-library": ("echo /tmp/evil.so > /etc/ld.so.preload", True),
    "remove-the-helpers-socket": ("rm -f /run/zolder-helper.socket", True),
    "replace-the-helpers-socket": ("mv /run/zolder-helper.socket /run/zolder-helper.away", True),
    "read-the-exports-secrets": ("cat /var/lib/zolder-helper/secrets/*", True),
    "plant-a-secret": (_WRITE.format("/var/lib/zolder-helper/secrets/data:volumes:volume-own"), True),
    "forge-which-secrets-are-missing": (_WRITE.format("/run/zolder-helper/secrets-missing"), True),
    "hold-roots-locks": ("cat /run/zolder-helper/locks", True),
    "look-into-the-locks": ("ls /run/zolder", False),
    "plant-an-index": ("touch /run/zolder/index/evil", False),
    "look-into-the-agents-home": ("ls -la /var/lib/zolder", False),
    "change-a-parents-record": ("echo 1 > /var/lib/zolder/parents/data:volumes", False),
}
_KERNEL: Final[dict[str, tuple[str, bool]]] = {
    "read-a-zvol": ("dd if=/dev/zd0 bs=4096 count=1", True),
    "make-a-target": (f"mkdir {_TREE}/iscsi/iqn.2010-10.org.openstack:evil", True),
    "open-a-target-to-all": (
        f"echo 1 > {_TREE}/iscsi/{TAKEN_TARGET}/tpgt_1/attrib/generate_node_acls", True
    ),
    "read-a-chap-secret": (
        f"cat {_TREE}/iscsi/{TAKEN_TARGET}/tpgt_1/acls/*/auth/password", True
    ),
    "kill-the-helper": (f"kill -9 {_HELPER}", True),
    "read-the-helpers-memory": (f"cat /proc/{_HELPER}/mem", True),
    "kill-an-agent": ("kill -9 $(pgrep -o -f 'serve --identit[y]')", False),
    "load-a-module": ("modprobe -v dummy || rmmod target_core_iblock", True),
    "set-a-kernel-parameter": ("sysctl -w kernel.core_pattern='|/tmp/evil'", True),
    "mount-something": ("mount -t tmpfs none /etc/zolder", True),
    "make-a-device": ("mknod /tmp/evil b 230 0", True),
    "become-root-with-su": ("su -c id root < /dev/null", True),
    "become-root-by-setuid": ("setpriv --reuid 0 id", True),
    "join-the-group-of-disks": ("setpriv --regid 6 --clear-groups id", True),
    "stop-the-helpers-unit": ("systemctl --no-ask-password stop zolder-helper.service", True),
    "reboot-the-san": ("systemctl --no-ask-password reboot", True),
}  # fmt: skip
_ZFS: Final[dict[str, tuple[str, bool]]] = {
    "destroy-a-dataset-outside": ("zfs destroy data/secret/disk", True),
    "snapshot-a-dataset-outside": ("zfs snapshot data/secret@evil", True),
    "make-a-dataset-in-the-zpool": ("zfs create data/evil", True),
    "send-a-dataset-outside": ("zfs send data/secret@kept", True),
    "receive-a-dataset-outside": (
        f"zfs send {PARENT}/volume-own@snap-own | zfs receive data/secret/evil", True
    ),
    "receive-over-a-dataset-outside": (
        f"zfs send {PARENT}/volume-own@snap-own | zfs receive -F data/secret/disk", True
    ),
    "receive-in-place-of-the-parent": (
        f"zfs send {PARENT}/volume-own@snap-own | zfs receive -F {PARENT}", True
    ),
    "rename-the-parent": (f"zfs rename {PARENT} data/gone", True),
    "snapshot-the-parent": (f"zfs snapshot {PARENT}@evil", True),
    "let-the-parents-zvols-be-partitioned": (f"zfs set volmode=full {PARENT}", True),
    "give-the-parent-a-mount-point": (f"zfs set mountpoint=/etc {PARENT}", True),
    "move-a-volume-out-of-the-parents": (f"zfs rename {PARENT}/volume-own data/secret/moved", True),
    "move-a-dataset-into-a-parent": (f"zfs rename data/secret/disk {PARENT}/volume-moved", True),
    "delegate-to-itself": (f"zfs allow -u zolder rename,send {PARENT}", True),
    "delegate-the-zpool-to-all": ("zfs allow -e destroy data", True),
    "run-a-channel-program-that-destroys": (
        "echo 'zfs.sync.destroy(\"data/secret/disk\")' | zfs program data -", True
    ),
    "export-the-zpool": ("zpool export data", True),
    "destroy-the-zpool": ("zpool destroy fast", True),
    "set-a-zpools-property": ("zpool set comment=evil data", True),
    "take-a-disk-offline": ("zpool offline fast $(zpool list -vHP fast | grep -om1 '/dev/[^ \t]*')", True),
    "destroy-from-a-namespace": ("unshare -Ur zfs destroy data/secret/disk", True),
}  # fmt: skip
_OURS: Final[dict[str, tuple[str, bool]]] = {
    "install": ("zolder-san install", True),
    "authorize-a-key": (
        ("echo 'ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIB1oWJm1tyCkPzyhbcYqQpyvqHx3NQOPAhpkZDmOoaBh x' |"
        " zolder-san authorize evil --key - --parent data/secret"),
        True,
    ),
    "revoke-an-identity": ("zolder-san revoke other", True),
    "run-a-helper-of-its-own": (
        "timeout 10 zolder-san helper --socket /run/zolder-helper.socket", True
    ),
}  # fmt: skip


def _attacks(group: str, table: dict[str, tuple[str, bool]], says: str = NO) -> list[Attack]:
    return [
        Attack(f"{name}-as-{user}", group, Command(user, script), FAILED, says=says)
        for name, (script, agent) in table.items()
        for user in ("zolder" if agent else "nobody",)
    ]


_HELLO_AND_DELETE: Final = (
    line("hello", {"protocols": [1], "version": "0.1.0"})
    + line("delete_snapshot", {"parent": PARENT, "zvol": "volume-own", "snapshot": "snap-own"})
).decode()
ATTACKS: Final = (
    *_attacks("file", _FILES),
    *_attacks("kernel", _KERNEL),
    *_attacks("zfs", _ZFS),
    *_attacks("set-up", _OURS, says=r"(?i)root|permission|not permitted"),
    Attack(
        "run-an-agent-as-nobody",
        "set-up",
        # It speaks, and can do nothing: an answer to the second request would make this succeed.
        Command(
            "nobody",
            f"said=$(printf '%s' '{_HELLO_AND_DELETE}' | {_SERVE}); echo \"$said\";"
            ' echo "$said" | grep -q \'"changed"\'',
        ),
        FAILED,
        says=r'"error"',
    ),
    Attack(
        "log-in-to-the-agents-user-by-a-shell",
        "set-up",
        Command("nobody", f"su -s /bin/sh -c '{PROOF_COMMAND}' zolder < /dev/null"),
        FAILED,
        says=NO,
    ),
)

_STOOD: Final = frozenset({"stood"})
FLOODS: Final = (
    Attack("open-a-thousand-connections", "flood", Flood("half_open", 1000), _STOOD),
    Attack("write-one-byte-a-second", "flood", Flood("slow", 4), _STOOD),
    Attack("stay-idle-before-hello", "flood", Flood("idle", 4), _STOOD),
    Attack("open-more-channels-than-allowed", "flood", Flood("beyond_limit", 6), _STOOD, key="other"),
    Attack("read-no-answers", "flood", Flood("unread", 150), _STOOD),
    Attack("send-lines-without-an-end", "flood", Flood("endless", 8), _STOOD),
    Attack("hang-up-again-and-again", "flood", Flood("dropped", 10), _STOOD),
    Attack("crowd-the-helpers-socket", "flood", Flood("helper_crowd", 200), _STOOD),
)
