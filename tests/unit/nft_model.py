"""A stand-in for nft(8): what it does with our one table, and that it refuses every other text.

It prints what nft 1.1.3 was seen to print (recorded/nftables-1.1.3).
"""

from __future__ import annotations

import json
import re
from pathlib import Path

from zolder.errors import BackendError
from zolder.san.run import Finished

RECORDED = Path(__file__).parent / "recorded/nftables-1.1.3"
_TABLE = re.compile(
    r"table inet zolder \{\n"
    r" +set portals4 \{ type ipv4_addr \. inet_service; (?:elements = \{ (?P<four>[0-9., ]+) \})? ?\}\n"
    r" +set portals6 \{ type ipv6_addr \. inet_service; (?:elements = \{ (?P<six>[0-9a-f:., ]+) \})? ?\}\n"
    r" +chain input \{\n"
    r" +type filter hook input priority -300; policy accept;\n"
    r" +ip daddr \. tcp dport @portals4 tcp flags & \(syn \| ack\) == syn drop\n"
    r" +ip6 daddr \. tcp dport @portals6 tcp flags & \(syn \| ack\) == syn drop\n"
    r" +\}\n\}\n"
)
_REPLACE = "table inet zolder\ndelete table inet zolder\n"


class Nft:
    """What is loaded; None is no table."""

    def __init__(self, *, installed: bool = True) -> None:
        """Begin with no table of ours."""
        self.installed = installed
        self.four: list[str] | None = None
        self.six: list[str] | None = None
        self.scripts: list[str] = []
        self.refuses = False

    @property
    def shut(self) -> list[str]:
        """The addresses and ports that are shut, as the rules have them."""
        return sorted([*(self.four or ()), *(self.six or ())])

    def __call__(self, argv: list[str], *, text: str | None = None) -> Finished:
        """Run nft."""
        if not self.installed:
            message = "cannot run nft: No such file or directory"
            raise BackendError(message) from FileNotFoundError()
        if self.refuses:
            return Finished(tuple(argv), 1, "", "Error: Could not process rule: Operation not supported")
        match argv:
            case ["nft", "-j", "list", "tables", "inet"]:
                return self._said(argv, "list-tables" if self.four is not None else "list-tables-none")
            case ["nft", "-j", "list", "table", "inet", "zolder"] if self.four is not None:
                return self._said(argv, "list-table")
            case ["nft", "-f", "-"] if text:
                self._load(text)
                return Finished(tuple(argv), 0, "", "")
        message = f"no such call: {argv}"
        raise AssertionError(message)

    def _load(self, text: str) -> None:
        self.scripts.append(text)
        assert text.startswith(_REPLACE)
        self.four = self.six = None
        if rest := text.removeprefix(_REPLACE):
            found = _TABLE.fullmatch(rest)
            assert found, rest
            self.four = found["four"].split(", ") if found["four"] else []
            self.six = found["six"].split(", ") if found["six"] else []

    def _said(self, argv: list[str], name: str) -> Finished:
        said = json.loads((RECORDED / f"{name}.json").read_text())
        for entry in said["nftables"]:
            if "set" in entry:
                elements = (self.four if entry["set"]["name"] == "portals4" else self.six) or []
                pairs = [element.split(" . ") for element in elements]
                entry["set"].pop("elem")
                if pairs:  # a set without elements is shown without a list of them
                    entry["set"]["elem"] = [{"concat": [address, int(port)]} for address, port in pairs]
        return Finished(tuple(argv), 0, json.dumps(said), "")
