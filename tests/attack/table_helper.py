"""Attacks on the root helper's socket: by other users, and by an agent that somebody has taken."""

from __future__ import annotations

from typing import Any, Final, TypeAlias

from tests.attack.ground import (
    INITIATOR,
    OTHER_PARENT,
    OTHER_PREFIX,
    PARENT,
    PREFIX,
    ROUTE,
    STRANGER,
    VIEW,
)
from tests.attack.model import REFUSED, Attack, Helper, line
from zolder import __version__

Asked: TypeAlias = tuple[str, dict[str, Any]]

NO_CONNECTION: Final = frozenset({"no connection"})
NOT_PERMITTED: Final = frozenset({"not_permitted"})
INVALID: Final = frozenset({"invalid_request"})
UNKNOWN: Final = frozenset({"unknown_method"})
BROKEN: Final = frozenset({"remote_protocol"})


def _hello(**changed: Any) -> bytes:  # noqa: ANN401 - hostile JSON is any JSON
    return line("hello", {"identity": "lab", "version": __version__, **changed})


def _holders(**changed: Any) -> Asked:  # noqa: ANN401 - as above
    return "read_holders", {"parent": PARENT, "zvol": "volume-own", **changed}


def _export(**changed: Any) -> Asked:  # noqa: ANN401 - as above
    right = {"parent": PARENT, "zvol": "volume-own", "initiator": STRANGER, "chap": None}
    return "open_export", {**right, **changed}


def _grow(**changed: Any) -> Asked:  # noqa: ANN401 - as above
    return "grow_export", {"parent": PARENT, "zvol": "volume-own", **changed}


def _device(**changed: Any) -> Asked:  # noqa: ANN401 - as above
    return "open_device", {"parent": PARENT, "zvol": "volume-own", "to_write": True, **changed}


def _devices(**changed: Any) -> tuple[Asked, Asked]:  # noqa: ANN401 - as above
    """Return what opens a device to be written, and to be read."""
    return _device(**changed), _device(to_write=False, **changed)


def _withdraw(**changed: Any) -> Asked:  # noqa: ANN401 - as above
    right = {"parent": PARENT, "zvol": "volume-own", "initiator": INITIATOR, "exporter": None}
    return "close_export", {**right, **changed}


def _recorded(*zvols: str) -> tuple[Asked, ...]:
    """Return what opens and what grows zvols with a record that a taken agent has written."""
    return tuple(ask for zvol in zvols for ask in (_export(zvol=zvol), _grow(zvol=zvol)))


_USERS: Final = ("nobody", "daemon", "sshd")

# Verbs of a connection that has introduced itself as identity lab.
_VERBS: Final[dict[str, tuple[frozenset[str], tuple[Asked, ...]]]] = {
    "look-below-parents-that-are-not-its-own": (
        NOT_PERMITTED,
        (
            _holders(parent=OTHER_PARENT, zvol="volume-theirs"),
            _holders(parent="data/secret", zvol="disk"),
            _holders(parent="data", zvol="volumes"),
            ("list_holders", {"parent": OTHER_PARENT}),
            ("list_holders", {"parent": "data"}),
            ("list_exports", {"parent": OTHER_PARENT}),
            ("list_exports", {"parent": "data/volumes2"}),
        ),
    ),
    "look-by-a-path-or-a-name-without-end": (
        INVALID,
        (
            _holders(zvol="../secret/disk"),
            _holders(zvol="/dev/vda"),
            _holders(zvol="volume-own@snap-own"),
            _holders(zvol="volume-own\0"),
            _holders(zvol="x" * 4000),
            _holders(parent=f"{PARENT}/../secret", zvol="disk"),
        ),
    ),
    "look-with-rights-of-its-own": (INVALID, (_holders(root="/tmp"), _holders(node="/dev/vda"))),  # noqa: S108 - in the SAN
    "export-a-zvol-without-a-mark": (
        NOT_PERMITTED,
        (_export(zvol="foreign"), _grow(zvol="foreign")),
    ),
    "export-a-received-zvol": (
        NOT_PERMITTED,
        (_export(zvol="received"), _grow(zvol="received")),
    ),
    "export-a-dataset-that-is-no-zvol": (
        NOT_PERMITTED,
        (_export(zvol="files"), _grow(zvol="files")),
    ),
    "export-what-is-not-there": (
        frozenset({"not_found"}),
        (_export(zvol="volume-none"), _grow(zvol="volume-none")),
    ),
    "export-what-is-the-others-or-nobodys": (
        NOT_PERMITTED,
        (
            _export(parent=OTHER_PARENT, zvol="volume-theirs"),
            _export(parent="data/secret", zvol="disk"),
            _grow(parent=OTHER_PARENT, zvol="volume-theirs"),
            _grow(parent="data/secret", zvol="disk"),
        ),
    ),
    "export-devices-and-paths": (
        INVALID,
        (
            _export(zvol="../secret/disk"),
            _export(zvol="/dev/vda"),
            _export(device="/dev/vda"),
            _export(serial="0" * 32),
            _export(read_only=False),
            _grow(zvol="../secret/disk"),
            _grow(device="/dev/vda"),
        ),
    ),
    "export-over-a-target-that-is-not-ours": (
        frozenset({"already_exists"}),
        (_export(zvol="volume-claimed"),),
    ),
    "export-to-whom-no-record-names": (
        NOT_PERMITTED,
        (
            _export(),
            _export(initiator=INITIATOR),
            _export(chap={"user": "zolder", "secret": "123456789012"}),
            _export(zvol="volume-taken"),
            _export(zvol=VIEW),
            _export(zvol="volume-claimed", chap={"user": "zolder", "secret": "123456789012"}),
        ),
    ),
    "export-by-a-record-beyond-its-policy": (
        NOT_PERMITTED,
        (
            *_recorded("record-with-the-others-prefix", "record-with-half-a-prefix"),
            _export(zvol="record-with-a-portal-for-all"),
            _export(zvol="record-with-a-portal-of-sshd"),
        ),
    ),
    "export-by-a-record-of-no-portals": (
        INVALID,
        (_export(zvol="record-without-a-portal"), _export(zvol="record-with-a-portal-twice")),
    ),
    # What is exported already grows whatever became of its portals; of these nothing is, and nothing comes.
    "grow-by-a-record-of-other-portals": (
        frozenset({"answered"}),
        (
            _grow(zvol="record-with-a-portal-for-all"),
            _grow(zvol="record-with-a-portal-of-sshd"),
            _grow(zvol="record-without-a-portal"),
            _grow(zvol="record-with-a-portal-twice"),
        ),
    ),
    "export-by-a-record-that-is-none": (
        frozenset({"backend"}),
        _recorded(
            "record-with-an-exporter-of-its-own",
            "record-with-a-path",
            "record-with-a-device",
            "record-without-sense",
            "record-of-lists-in-lists",
            "record-of-objects-in-objects",
            "record-of-a-number",
        ),
    ),
    "export-by-a-route-of-its-own": (
        INVALID,
        (
            _export(prefix=PREFIX),
            _export(prefix=OTHER_PREFIX),
            _export(portals=["0.0.0.0:3260"]),
            _export(route=ROUTE),
            _export(exporter="lio"),
            _grow(route=ROUTE),
        ),
    ),
    "export-with-malformed-names": (
        INVALID,
        (
            _export(initiator="iqn.2010-10.o:../../../core"),
            _export(initiator="nqn.2014-08.org.nvmexpress:uuid/../x"),
            _export(chap={"user": "u", "secret": "123456789012\nx"}),
            _export(chap={"user": "u", "secret": "123456789012", "target_user": "a\0"}),
        ),
    ),
    "close-the-others-export": (
        NOT_PERMITTED,
        (_withdraw(parent=OTHER_PARENT, zvol="volume-theirs"),),
    ),
    "close-a-target-that-is-not-ours": (
        frozenset({"unchanged", "not_permitted", "already_exists"}),
        (
            _withdraw(zvol="volume-taken", initiator=None),
            _withdraw(zvol="volume-taken", initiator=STRANGER),
            _withdraw(zvol="volume-claimed", initiator=None, exporter="lio"),
        ),
    ),
    "close-by-a-path": (
        INVALID,
        (_withdraw(zvol="../../core"), _withdraw(exporter="../lio"), _withdraw(exporter="targetcli")),
    ),
    "open-devices-of-what-is-not-ours": (
        NOT_PERMITTED,
        (
            *_devices(zvol="foreign"),
            *_devices(zvol="received"),
            *_devices(zvol="files"),
            *_devices(zvol=VIEW),
            *_devices(parent=OTHER_PARENT, zvol="volume-theirs"),
            *_devices(parent="data/secret", zvol="disk"),
            *_devices(parent="data", zvol="volumes"),
        ),
    ),
    "open-the-device-of-what-is-not-there": (frozenset({"not_found"}), _devices(zvol="volume-none")),
    "open-devices-by-a-path": (
        INVALID,
        (
            *_devices(zvol="../secret/disk"),
            *_devices(zvol="/dev/vda"),
            *_devices(zvol="volume-own@snap-own"),
            *_devices(path="/dev/vda"),
            _device(to_write=1),
            _device(to_write=None),
            _device(flags=2),
        ),
    ),
    "write-what-somebody-may-reach": (frozenset({"busy"}), (_device(),)),
    "write-by-a-record-that-is-none": (frozenset({"backend"}), (_device(zvol="record-of-a-number"),)),
    "ask-for-what-it-does-not-do": (
        UNKNOWN,
        (
            ("delete_zvol", {"parent": PARENT, "zvol": "volume-own"}),
            ("read_datasets", {"parent": PARENT, "looks": []}),
            ("run_program", {"program": 'zfs.sync.destroy("data/secret")'}),
            ("run", {"argv": ["id"]}),
            ("_read", {"parent": PARENT}),
            ("__init__", {"policy": {}}),
            ("hello", {"identity": "other", "version": __version__}),
        ),
    ),
}

# First words of a connection.
_WORDS: Final[dict[str, tuple[bytes, tuple[bytes, ...], frozenset[str]]]] = {
    "introduce-itself-as-nobody-known": (_hello(identity="admin"), (), frozenset({"backend"})),
    "introduce-itself-with-a-path": (_hello(identity="../lab"), (), REFUSED),
    "introduce-itself-with-a-newline": (_hello(identity="lab\n"), (), REFUSED),
    "introduce-itself-with-rights": (_hello(parents=["data/secret"], uid=0), (), REFUSED),
    "introduce-itself-from-another-version": (_hello(version="9.9"), (), frozenset({"version_mismatch"})),
    "say-a-clients-hello-to-the-helper": (
        line("hello", {"protocols": [1], "version": "0.1.0"}), (), REFUSED
    ),
    "ask-the-helper-before-hello": (line(*_holders()), (), BROKEN),
    "send-the-helper-garbage": (bytes(range(1, 256)) + b"\n", (), BROKEN),
    "send-the-helper-a-line-that-is-too-long": (b"x" * 300_000 + b"\n", (), BROKEN | {"closed"}),
    "send-the-helper-lists-in-lists": (b"[" * 100_000 + b"\n", (), BROKEN),
    "be-unknown-and-ask-all-the-same": (
        _hello(identity="admin") + line(*_holders()), (), REFUSED
    ),
    "be-the-other-and-read-labs-volume": (
        _hello(identity="other"), (line(*_holders()),), NOT_PERMITTED
    ),
    "be-the-other-and-export-labs-volume": (
        _hello(identity="other"), (line(*_export()),), NOT_PERMITTED
    ),
    "be-the-other-and-grow-labs-export": (
        _hello(identity="other"), (line(*_grow()),), NOT_PERMITTED
    ),
    "be-the-other-and-open-labs-device": (
        _hello(identity="other"), (line(*_device(to_write=False)),), NOT_PERMITTED
    ),
    "be-the-other-and-close-labs-export": (
        _hello(identity="other"), (line(*_withdraw()),), NOT_PERMITTED
    ),
}  # fmt: skip

# What must be granted, so that the refusals above are not those of a conversation that never works.
CONTROL: Final = Helper("zolder", _hello(), (line("list_exports", {"parent": PARENT}),))

ATTACKS: Final = (
    *(
        Attack(
            f"ask-the-helper-as-{user}", "helper", Helper(user, CONTROL.first, CONTROL.then), NO_CONNECTION
        )
        for user in _USERS
    ),
    *(
        Attack(
            f"helper-{name}", "helper", Helper("zolder", _hello(), tuple(line(*verb) for verb in verbs)), seen
        )
        for name, (seen, verbs) in _VERBS.items()
    ),
    *(
        Attack(name, "helper", Helper("zolder", first, then), seen)
        for name, (first, then, seen) in _WORDS.items()
    ),
)
