"""systemd's units of the root helper. They depend on where zolder-san lies and on nothing else. No I/O."""

from __future__ import annotations

from typing import Final

from zolder.san.setup.host import USER
from zolder.san.setup.tree import HEADING

SOCKET: Final = "zolder-helper.socket"
SERVICE: Final = "zolder-helper.service"
SOCKET_FILE: Final = f"etc/systemd/system/{SOCKET}"
SERVICE_FILE: Final = f"etc/systemd/system/{SERVICE}"
# What `systemctl enable` makes of WantedBy.
ENABLED_LINK: Final = f"etc/systemd/system/sockets.target.wants/{SOCKET}"

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


def service_unit(executable: str) -> str:
    """Return the helper's service."""
    return _SERVICE_UNIT.replace("EXECUTABLE", executable)
