"""systemd's units: the root helper's, and those that bring exports back at boot. No I/O.

They depend on where zolder-san lies and on nothing else.
"""

from __future__ import annotations

from typing import Final

from zolder.san.setup.host import USER
from zolder.san.setup.tree import HEADING

SOCKET: Final = "zolder-helper.socket"
SERVICE: Final = "zolder-helper.service"
SOCKET_FILE: Final = f"etc/systemd/system/{SOCKET}"
SERVICE_FILE: Final = f"etc/systemd/system/{SERVICE}"
PORTALS: Final = "zolder-portals.service"
RESTORE: Final = "zolder-restore.service"
PORTALS_FILE: Final = f"etc/systemd/system/{PORTALS}"
RESTORE_FILE: Final = f"etc/systemd/system/{RESTORE}"
# What `systemctl enable` makes of WantedBy.
ENABLED_LINK: Final = f"etc/systemd/system/sockets.target.wants/{SOCKET}"
BOOT_LINKS: Final = {
    PORTALS: f"etc/systemd/system/sysinit.target.wants/{PORTALS}",
    RESTORE: f"etc/systemd/system/multi-user.target.wants/{RESTORE}",
}

SOCKET_UNIT: Final = f"""\
{HEADING}: where the agents reach the root helper.
[Unit]
Description=Zolder's root helper: its socket
Documentation=man:systemd.socket(5)

[Socket]
ListenStream=/run/zolder-helper.socket
SocketMode=0660
SocketUser=root
SocketGroup={USER}
Backlog=128
RemoveOnStop=yes

[Install]
WantedBy=sockets.target
"""

_SERVICE_UNIT: Final = f"""\
{HEADING}: what the kernel keeps for root, behind fixed verbs. See docs/security.md of Zolder.
[Unit]
Description=Zolder's root helper
Requires=zolder-helper.socket
After=zolder-helper.socket zfs.target systemd-modules-load.service
# Exports wait for it: however often it fails, it is tried again, and the socket is never given up.
StartLimitIntervalSec=0

[Service]
Type=simple
ExecStart=EXECUTABLE helper
# Each connection's process ends behind the request that it is doing.
TimeoutStopSec=60
Restart=on-failure
RestartSec=1
# A process of one connection that the kernel kills for its memory takes no other connection with it.
OOMPolicy=continue
# CHAP secrets pass through it: they never lie in a core file.
LimitCORE=0
UMask=0077
KeyringMode=private
# CHAP secrets, which root alone reads; its locks, and the list of exports whose secrets are missing, which
# every agent reads. Both stay when the service stops.
StateDirectory=zolder-helper
StateDirectoryMode=0700
RuntimeDirectory=zolder-helper
RuntimeDirectoryMode=0755
RuntimeDirectoryPreserve=yes
# Room for TasksMax connections at once, and an end of it before the machine's own.
MemoryMax=2G
TasksMax=512

# CAP_SYS_ADMIN: LIO shows and takes CHAP secrets only then. The others: who holds a zvol stands in others'
# /proc/PID/fd.
CapabilityBoundingSet=CAP_SYS_ADMIN CAP_SYS_PTRACE CAP_DAC_READ_SEARCH
NoNewPrivileges=yes

ProtectSystem=strict
ProtectHome=yes
PrivateTmp=yes
ProtectClock=yes
ProtectHostname=yes
ProtectKernelLogs=yes
ProtectKernelModules=yes
ProtectControlGroups=yes
LockPersonality=yes
MemoryDenyWriteExecute=yes
RestrictNamespaces=yes
RestrictRealtime=yes
RestrictSUIDSGID=yes
RestrictAddressFamilies=AF_UNIX
SystemCallArchitectures=native
SystemCallFilter=@system-service
SystemCallFilter=~@clock @cpu-emulation @debug @module @mount @obsolete @raw-io @reboot @swap
SystemCallFilter=~@privileged @resources
SystemCallErrorNumber=EPERM
DevicePolicy=closed
DeviceAllow=/dev/zfs rw
DeviceAllow=block-zvol rw

# Not here, each for a reason:
# PrivateNetwork: a target's portals belong to the network namespace of whoever makes them: the machine's.
# ProtectKernelTunables: targets are made in /sys/kernel/config, which it makes read-only.
# PrivateDevices: it hides /dev/zfs and the zvols. DevicePolicy above lets these through, and no others.
"""


_CONFINED: Final = """\
RuntimeDirectory=zolder-helper
RuntimeDirectoryMode=0755
RuntimeDirectoryPreserve=yes
NoNewPrivileges=yes
ProtectSystem=strict
ProtectHome=yes
ProtectClock=yes
ProtectHostname=yes
ProtectKernelLogs=yes
ProtectControlGroups=yes
LockPersonality=yes
MemoryDenyWriteExecute=yes
RestrictNamespaces=yes
RestrictRealtime=yes
RestrictSUIDSGID=yes
SystemCallArchitectures=native
SystemCallFilter=@system-service
SystemCallFilter=~@clock @cpu-emulation @debug @module @mount @obsolete @raw-io @reboot @swap
SystemCallErrorNumber=EPERM
DevicePolicy=closed
"""

_PORTALS_UNIT: Final = f"""\
{HEADING}: no initiator comes in before all exports stand. See docs/operations.md of Zolder.
[Unit]
Description=Zolder: shut the portals until exports are restored
DefaultDependencies=no
After=local-fs.target nftables.service
Before=network-pre.target tgt.service rtslib-fb-targetctl.service shutdown.target
Wants=network-pre.target
Conflicts=shutdown.target

[Service]
Type=oneshot
RemainAfterExit=yes
ExecStart=EXECUTABLE restore --shut-only
# nft's table.
CapabilityBoundingSet=CAP_NET_ADMIN
RestrictAddressFamilies=AF_UNIX AF_NETLINK
{_CONFINED}\

[Install]
WantedBy=sysinit.target
"""

_RESTORE_UNIT: Final = f"""\
{HEADING}: exports come back as the zvols say. See docs/operations.md of Zolder.
[Unit]
Description=Zolder: restore exports
After={PORTALS} zfs-import.target zfs-volumes.target zfs.target systemd-modules-load.service
# Targets listen at addresses, which come with network-online.target; where it fails, at those that are there.
After=network-online.target tgt.service rtslib-fb-targetctl.service {SOCKET}
Wants=network-online.target

[Service]
Type=oneshot
RemainAfterExit=yes
ExecStart=EXECUTABLE restore
# It may wait for secrets, and many exports take their time.
TimeoutStartSec=infinity
# CHAP secrets pass through it: they never lie in a core file.
LimitCORE=0
UMask=0077
KeyringMode=private
StateDirectory=zolder-helper
StateDirectoryMode=0700
# As the helper, and CAP_NET_ADMIN for nft's table.
CapabilityBoundingSet=CAP_SYS_ADMIN CAP_SYS_PTRACE CAP_DAC_READ_SEARCH CAP_NET_ADMIN
RestrictAddressFamilies=AF_UNIX AF_NETLINK
DeviceAllow=/dev/zfs rw
DeviceAllow=block-zvol rw
{_CONFINED}\

[Install]
WantedBy=multi-user.target
"""


def portals_unit(executable: str) -> str:
    """Return the service that shuts the portals early at boot."""
    return _PORTALS_UNIT.replace("EXECUTABLE", executable)


def restore_unit(executable: str) -> str:
    """Return the service that restores exports at boot."""
    return _RESTORE_UNIT.replace("EXECUTABLE", executable)


def service_unit(executable: str) -> str:
    """Return the helper's service."""
    return _SERVICE_UNIT.replace("EXECUTABLE", executable)
