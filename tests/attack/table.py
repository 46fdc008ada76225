"""All attacks, the floods last."""

from __future__ import annotations

from typing import Final

from tests.attack import table_bytes, table_guest, table_helper, table_requests, table_ssh

ATTACKS: Final = (
    *table_ssh.ATTACKS,
    *table_requests.ATTACKS,
    *table_bytes.ATTACKS,
    *table_guest.ATTACKS,
    *table_helper.ATTACKS,
    *table_guest.FLOODS,
)
