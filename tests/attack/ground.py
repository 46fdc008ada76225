"""What the attacks are aimed at: volumes of two identities, and much that is nobody's of Zolder.

Laid once: by root in the SAN, and through the agent with real keys. Among it are traps that only a hole would
spring: files in the agent's home that sshd and shells run where they are let.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from tests.attack.floods import MAX_CHANNELS
from tests.attack.line import Line, word_of
from tests.attack.model import PROOF_COMMAND, SECRET, frame

if TYPE_CHECKING:
    from lab import Machine

MIB: Final = 2**20
PARENT: Final = "data/volumes"
OTHER_PARENT: Final = "data/other"
PREFIX: Final = "iqn.2010-10.org.openstack:"
OTHER_PREFIX: Final = "iqn.2010-10.org.openstack.other:"
PORTAL: Final = "192.168.77.1:3260"
ROUTE: Final = {"exporter": "lio", "prefix": PREFIX, "portals": [PORTAL]}
INITIATOR: Final = "iqn.2004-10.org.zolder:compute"
STRANGER: Final = "iqn.2004-10.org.zolder:somebody"
OWN_ID: Final = "11111111-1111-4111-8111-111111111111"
TAKEN_ID: Final = "22222222-2222-4222-8222-222222222222"
THEIR_ID: Final = "33333333-3333-4333-8333-333333333333"
FRESH_ID: Final = "44444444-4444-4444-8444-444444444444"
# The mark that unmarked datasets inherit: it proves nothing.
INHERITED_ID: Final = "55555555-5555-4555-8555-555555555555"
# The snapshot that somebody reads, and the name of the clone through which.
VIEW_ID: Final = "66666666-6666-4666-8666-666666666666"
VIEW: Final = f"zolder-view-{VIEW_ID}"
TAKEN_TARGET: Final = f"{PREFIX}volume-taken"


def record_of(route: Any) -> str:  # noqa: ANN401 - hostile JSON is any JSON
    """Return what a zvol's own record says where the stranger alone is to reach it over a route."""
    grant = {"initiator": STRANGER, "attachments": [], "unnamed": True, "chap": False}
    return json.dumps({"route": route, "grants": [grant]}, separators=(",", ":"))


# Volumes of lab's with the record that a taken agent has written on each; the first is right in itself, and
# the target of its name is somebody else's.
RECORDS: Final = {
    "volume-claimed": record_of(ROUTE),
    "record-with-the-others-prefix": record_of({**ROUTE, "prefix": OTHER_PREFIX}),
    "record-with-half-a-prefix": record_of({**ROUTE, "prefix": "iqn.2010-10.org:"}),
    "record-with-a-portal-for-all": record_of({**ROUTE, "portals": ["0.0.0.0:3260"]}),
    "record-with-a-portal-of-sshd": record_of({**ROUTE, "portals": [PORTAL, "192.168.77.1:22"]}),
    "record-without-a-portal": record_of({**ROUTE, "portals": []}),
    "record-with-a-portal-twice": record_of({**ROUTE, "portals": [PORTAL, PORTAL]}),
    "record-with-an-exporter-of-its-own": record_of({**ROUTE, "exporter": "../targetcli"}),
    "record-with-a-path": record_of({**ROUTE, "prefix": "iqn.2010-10.org.openstack:../../core/"}),
    "record-with-a-device": record_of({**ROUTE, "device": "/dev/vda"}),
    "record-without-sense": "x" * 8191,
    "record-of-lists-in-lists": "[" * 8191,
    "record-of-objects-in-objects": '{"a":' * 1600,
    "record-of-a-number": "9" * 8191,
}

_RECORD: Final = "\n".join(
    f"runuser -u zolder -- zfs set 'zolder:export={text}' {PARENT}/{zvol}" for zvol, text in RECORDS.items()
)
_ZFS: Final = f"""
zfs set zolder:volume={INHERITED_ID} zolder:snapshot=inherited {PARENT}
zfs create -s -V 16M {PARENT}/foreign
zfs create -o mountpoint=none {PARENT}/files
zfs snapshot {PARENT}/foreign@kept
zfs snapshot {PARENT}/volume-own@autosnap
zfs send -p {PARENT}/volume-own@snap-own | zfs receive -u {PARENT}/received
zfs create -o mountpoint=none -o zolder:note={SECRET} data/secret
zfs create -s -V 16M -o volmode=dev data/secret/disk
zfs snapshot data/secret@kept
udevadm settle
for disk in data/secret/disk {PARENT}/foreign {OTHER_PARENT}/volume-theirs; do
    node=$(for zd in /dev/zd*; do if [ "$(/lib/udev/zvol_id "$zd")" = "$disk" ]; then echo "$zd"; fi; done)
    test -b "$node"
    echo {SECRET} | dd of="$node" bs=4096 conv=sync,fsync status=none
    [ "$disk" != data/secret/disk ] || secret_node=$node
done
{_RECORD}
"""
_TARGET: Final = f"""
cd /sys/kernel/config/target
mkdir -p core/iblock_77/foreign-disk
echo "udev_path=$secret_node" > core/iblock_77/foreign-disk/control
echo "$secret_node" > core/iblock_77/foreign-disk/udev_path
echo 1 > core/iblock_77/foreign-disk/enable
for target in {TAKEN_TARGET} {PREFIX}volume-claimed; do
    portal_group=iscsi/$target/tpgt_1
    mkdir -p "$portal_group/lun/lun_0" "$portal_group/np/{PORTAL}" "$portal_group/acls/{STRANGER}"
    ln -s /sys/kernel/config/target/core/iblock_77/foreign-disk "$portal_group/lun/lun_0/foreign"
    echo {SECRET} > "$portal_group/acls/{STRANGER}/auth/password"
    echo 1 > "$portal_group/enable"
done
cd /
"""
_FILES: Final = f"""
umask 077
echo {SECRET} | tee /root/secret /etc/secret-of-root > /var/tmp/secret-of-root
home=$(getent passwd zolder | cut -d: -f6)
install -d -o zolder -g zolder -m 700 "$home/.ssh"
for file in .ssh/rc .ssh/environment .profile .bashrc .shrc; do
    printf '%s\\ntouch /tmp/zolder-was-here\\n' '{PROOF_COMMAND}' > "$home/$file"
done
cat > "$home/.ssh/authorized_keys"
chown -R zolder:zolder "$home"
sed -i '/^\\[identity.other\\]$/a max_channels = {MAX_CHANNELS}' /etc/zolder/san.toml
"""


def lay(san: Machine, greeted: Callable[[str], Line], stranger: Path) -> None:
    """Lay the ground on a SAN that nobody has used.

    :param greeted: returns a channel of a key's.
    :param stranger: a key's public half that only the agent's own home lists.
    """
    san.succeed(f"set -eu\n{_FILES}", input=stranger.read_text())
    lab, other = greeted("agent"), greeted("other")
    for parent in (PARENT, "data/more", "fast/volumes"):
        ask(lab, "get_figures", parent=parent)
    ask(other, "get_figures", parent=OTHER_PARENT)
    for line, parent, zvol, volume_id, mib in (
        (lab, PARENT, "volume-own", OWN_ID, 64),
        (lab, PARENT, "volume-taken", TAKEN_ID, 16),
        (other, OTHER_PARENT, "volume-theirs", THEIR_ID, 64),
    ):
        zvol_of = {"parent": parent, "zvol": zvol}
        ask(line, "create_zvol", **zvol_of, volume_id=volume_id, volsize_bytes=mib * MIB, sparse=True)
    for number, zvol in enumerate(RECORDS):
        volume_id = f"77777777-7777-4777-8777-{number:012x}"
        zvol_of = {"parent": PARENT, "zvol": zvol}
        ask(lab, "create_zvol", **zvol_of, volume_id=volume_id, volsize_bytes=MIB, sparse=True)
    ask(lab, "create_snapshot", parent=PARENT, zvol="volume-own", snapshot="snap-own")
    ask(other, "create_snapshot", parent=OTHER_PARENT, zvol="volume-theirs", snapshot="snap-theirs")
    # By standard input: the records are longer than what one command line of the lab may be.
    san.succeed("sh -eus", input=f"{_ZFS}{_TARGET}", timeout_seconds=180)
    for line, parent, zvol, prefix in (
        (lab, PARENT, "volume-own", PREFIX),
        (other, OTHER_PARENT, "volume-theirs", OTHER_PREFIX),
    ):
        ask(
            line,
            "export_zvol",
            parent=parent,
            zvol=zvol,
            initiator=INITIATOR,
            route={**ROUTE, "prefix": prefix},
            attachment=None,
            chap={"user": "zolder", "secret": SECRET},
        )
    ask(
        lab,
        "export_snapshot",
        parent=PARENT,
        zvol="volume-own",
        snapshot="snap-own",
        initiator=INITIATOR,
        view_id=VIEW_ID,
        route=ROUTE,
        attachment=None,
        chap=None,
    )
    san.succeed("udevadm settle; zpool sync")


def ask(line: Line, method: str, **params: Any) -> None:  # noqa: ANN401 - JSON
    """Ask for something that must be granted."""
    line.send(json.dumps(frame(method, params)).encode() + b"\n")
    while word_of(received := line.read_line(60) or b"") == "notice":
        pass
    assert word_of(received) in {"changed", "unchanged", "answered"}, f"{method} {params}: {received!r}"


# One fact of each kind that the ground must have in a dump, as the beginning of its name.
SEEN: Final = (
    f"datasets {PARENT}/foreign volsize",
    f"datasets {PARENT}/volume-own@autosnap guid",
    "datasets data/secret zolder:note",
    f"datasets {OTHER_PARENT}/volume-theirs zolder:volume",
    f"datasets {PARENT}/record-of-a-number zolder:export",
    f"datasets {PARENT}/{VIEW} zolder:view",
    "zpools data guid",
    f"allow {PARENT}",
    "file /root/secret",
    "file /etc/zolder/san.toml",
    "file /run/zolder/locks",
    "file /run/zolder-helper.socket",
    "file /var/lib/zolder/.ssh/rc",
    "file /dev/zd0",
    f"target /sys/kernel/config/target/iscsi/{TAKEN_TARGET}/tpgt_1/lun/lun_0/foreign",
    f"attribute /sys/kernel/config/target/iscsi/{TAKEN_TARGET}/tpgt_1/acls/{STRANGER}/auth/password",
    "socket 00000000:0016",
    "socket /run/zolder-helper.socket",
    "process 0 helper",
    "process 0 systemd",
    "agents",
    "module zfs",
    "mount 0",
    "content /etc/zolder/authorized_keys",
    "content /etc/shadow",
)
