"""What stands on a zvol about its export: read with care, written before anything is opened or closed.

The record is a user property, believed only where it is the zvol's own (``local``). The agent's user may
write it, so root takes it for no more than a request (zolder.san.root). An export is opened after its record
was written and closed after it was cleared: whatever is cut short, the record says how it is to end.
"""

from __future__ import annotations

from zolder.errors import BackendError, InvalidRequest, NotPermitted
from zolder.model import Access
from zolder.names import VolumeId, ZvolName
from zolder.san import libzfs
from zolder.san.libzfs import EXPORT_RECORD, VIEW_MARK, Properties
from zolder.san.lzc import ZfsError
from zolder.san.zpool import Zpool, find_mark, local, refuse_foreign
from zolder.wish import Wish, accesses_of, read_wish, write_wish


def find_record(found: Properties, dataset: str) -> Wish | None:
    """Return what a dataset's own record says, where it has one.

    :raises BackendError: it has one that Zolder did not write.
    """
    text = local(found, EXPORT_RECORD, dataset)
    if text is None:
        return None
    try:
        return read_wish(text)
    except InvalidRequest as err:
        message = (
            f"{dataset} has a {EXPORT_RECORD} that Zolder did not write ({err.message}): look at it with"
            f" 'zfs get {EXPORT_RECORD} {dataset}' and remove it with 'zfs inherit {EXPORT_RECORD} {dataset}'"
        )
        raise BackendError(message, dataset=dataset) from err


def accesses_in(dataset: str, found: Properties) -> list[Access]:
    """Return the attachments on record for a dataset; none where it is not ours or no request can name it."""
    try:
        exported_id(found, dataset)
        wish = find_record(found, dataset)
        return accesses_of(ZvolName(dataset.rpartition("/")[2]), wish) if wish else []
    except (InvalidRequest, NotPermitted, BackendError):
        return []  # `zolder-san check` names a record that Zolder did not write


def write_record(zpool: Zpool, dataset: str, wish: Wish | None) -> None:
    """Have a zvol say who is to reach it; None or a wish without grants clears that.

    :raises InvalidRequest: there are more attachments than a property has room for.
    :raises NotFound: the zvol is proven absent.
    """
    text = write_wish(wish) if wish and wish.grants else None
    try:
        libzfs.library().set_property(dataset, EXPORT_RECORD, text)
    except ZfsError as err:
        zpool.explain(err)


def exported_id(found: Properties, dataset: str) -> tuple[VolumeId, bool]:
    """Return the id that an exported zvol's serial derives from, and whether it is a snapshot's view.

    :raises NotPermitted: it bears no mark of ours, or is no zvol.
    """
    volume, view = find_mark(dataset, found), find_mark(dataset, found, VIEW_MARK)
    mark = volume or view
    if mark is None or "volsize" not in found:
        refuse_foreign(dataset)
    return mark, volume is None
