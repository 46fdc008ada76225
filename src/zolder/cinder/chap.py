"""CHAP: one secret a volume, kept by Cinder in ``provider_auth``, and from it one for each initiator.

The volume's own secret never leaves Cinder's database and this process: an initiator is given the HMAC of its
name under it, so that one that was detached cannot log in under another's name. The user is each initiator's
own, too (zolder.names.chap_user). Secrets are never logged.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
from typing import Final

from zolder.errors import InvalidRequest
from zolder.model import Chap, Route
from zolder.names import NVMET, InitiatorName, ZvolName, chap_user, target_name

# 128 bits; RFC 7143 12.1.3 asks for 96 at least, and initiators take 32 characters everywhere.
_SECRET_CHARACTERS: Final = 32
_METHOD: Final = "CHAP"


def new_provider_auth(zvol: ZvolName) -> str:
    """Return a fresh value for a volume's or snapshot's ``provider_auth``: ``CHAP user secret``."""
    return f"{_METHOD} {zvol} {secrets.token_hex(_SECRET_CHARACTERS // 2)}"


def takes_chap(route: Route) -> bool:
    """Say whether a route has any use for ``provider_auth``, which a volume of iSCSI's time may still have.

    NVMe over Fabrics has not: its keys are DH-HMAC-CHAP's, which os-brick does not know (cinder.settings).
    """
    return route.exporter != NVMET


def chap_for(
    provider_auth: str | None, route: Route, zvol: ZvolName, initiator: InitiatorName
) -> Chap | None:
    """Return what one initiator logs in with at a zvol's target, or None where it does so without CHAP.

    :raises InvalidRequest: ``provider_auth`` is not of Cinder's form; the value is not shown.
    """
    if not provider_auth or not takes_chap(route):
        return None
    words = provider_auth.split()
    if len(words) != 3 or words[0] != _METHOD:  # noqa: PLR2004 - method, user, secret
        message = "provider_auth is not of the form CHAP USER SECRET"
        raise InvalidRequest(message)
    digest = hmac.new(words[2].encode(), initiator.encode(), hashlib.sha256).hexdigest()
    user = chap_user(target_name(route.prefix, zvol), initiator)
    return Chap(user, digest[:_SECRET_CHARACTERS])
