"""Writes docs/support.md: each verb that Cinder may ask of a driver, and who does it.

`python -m tools.support` renews the page; tests/driver/test_support.py fails while page and code differ,
while a verb of Cinder's is left out, while one is called native that the driver does not define
(or the other way round), and while a test that is linked does not exist.
"""

from __future__ import annotations

import ast
import importlib
import inspect
import pkgutil
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from cinder import interface
from cinder.volume import driver as base

from zolder.cinder.driver import ZolderDriver

ROOT: Final = Path(__file__).parent.parent
PAGE: Final = ROOT / "docs/support.md"
HEAD: Final = """\
# What is supported

Each verb that Cinder (29) may ask of a volume driver, out of `cinder/interface` and
`cinder/volume/driver.py`, and who does it. Written by `python -m tools.support`; a test holds the page to the
code, and each link leads to the test that shows it.

- **native**: on the SAN, by Zolder.
- **generic**: by Cinder's own path, on purpose or until there is a native one; the reason is beside it.
- **not yet**: nobody does it.
- **never**: it has no meaning here.
"""
# Of these modules only what a volume driver may be asked; the rest are backup drivers and zone managers.
_INTERFACES: Final = "volume_"
_BASES: Final = (
    base.BaseVD,
    base.CloneableImageVD,
    base.MigrateVD,
    base.ManageableVD,
    base.ManageableSnapshotsVD,
    base.VolumeDriver,
)
# What a verb of Cinder's base class asks of the driver in its place.
_HOOKS: Final = {"get_volume_stats": "_update_volume_stats"}
# What Cinder's own base class is for itself.
_CINDERS_OWN: Final = frozenset(
    {"get_version", "init_capabilities", "initialized", "secure_file_operations_enabled", "set_initialized",
     "set_throttle", "supported"}
)  # fmt: skip


@dataclass(frozen=True)
class Cell:
    """Who does something: the word, and what is said of it."""

    how: str
    tests: tuple[str, ...] = ()
    reason: str = ""


def native(*tests: str, reason: str = "") -> Cell:
    """Return the cell of what Zolder does, with the tests that show it, each ``file::name``."""
    return Cell("native", tests, reason)


def generic(reason: str) -> Cell:
    """Return the cell of what Cinder does by itself."""
    return Cell("generic", (), reason)


def not_yet(reason: str) -> Cell:
    """Return the cell of what nobody does."""
    return Cell("not yet", (), reason)


def never(reason: str) -> Cell:
    """Return the cell of what has no meaning."""
    return Cell("never", (), reason)


_ATTACHES: Final = "through an attachment on the control node, which needs os-brick and root there"
_REPLICATION: Final = "replication is a later version's"
_OLD_GROUPS: Final = "Cinder asks for it only where the verbs of groups are not done"
_GROUPS: Final = "driver/test_groups.py::test_a_groups_life"
_BUSY_MEMBER: Final = "driver/test_groups.py::test_a_member_that_cannot_be_deleted_stays"
_ONE_MOMENT: Final = "lab/test_groups.py::test_one_writer_two_zvols"
_OPENS: Final = "driver/test_connections.py::test_an_attachment_opens_the_volume_to_one"
_READS: Final = "driver/test_snapshot_connections.py::test_a_snapshot_is_read_through_a_view"
_MANAGES: Final = "driver/test_adoption.py::test_a_volume_is_managed"
_MANAGES_SNAPSHOT: Final = "driver/test_adoption.py::test_a_snapshot_is_managed"

VERBS: Final[dict[str, dict[str, Cell]]] = {
    "Set-up and figures": {
        "do_setup": native("driver/test_setup.py::test_set_up_again_after_a_failure"),
        "check_for_setup_error": native("driver/test_setup.py::test_an_unfit_san"),
        "get_volume_stats": native("driver/test_stats.py::test_the_figures_are_the_sans"),
        "get_pool": native("driver/test_stats.py::test_the_pool_of_a_volume_is_the_parent"),
        "update_provider_info": native(
            "driver/test_reconciliation.py::test_a_san_that_forgot_all_has_it_again"
        ),
        "get_filter_function": generic("the option `filter_function`, sent with the figures"),
        "get_goodness_function": generic("the option `goodness_function`, sent with the figures"),
        "get_default_filter_function": generic("there is none: the scheduler's filters know the figures"),
        "get_default_goodness_function": generic("there is none: the scheduler's weighers know the figures"),
    },
    "Volumes": {
        "create_volume": native(
            "driver/test_volumes.py::test_a_volume_is_a_zvol_of_its_size",
            "lab/test_cinder.py::test_a_volume_is_a_zvol",
        ),
        "delete_volume": native(
            "driver/test_volumes.py::test_a_volume_goes_before_its_clones",
            "lab/test_put_aside.py::test_a_chain_that_is_deleted_from_its_beginning",
        ),
        "extend_volume": native(
            "driver/test_volumes.py::test_extending_grows_the_zvol",
            "lab/test_exports_cinder.py::test_it_grows_under_multipath",
        ),
        "create_volume_from_snapshot": native(
            "driver/test_volumes.py::test_a_volume_from_a_snapshot_is_its_clone"
        ),
        "create_cloned_volume": native("driver/test_volumes.py::test_a_volume_from_a_volume_is_its_clone"),
        "accept_transfer": generic("whose a volume is stands in Cinder's record alone"),
        "local_path": never("the control node has no device of a volume that is not attached"),
    },
    "Snapshots": {
        "create_snapshot": native("driver/test_volumes.py::test_a_volume_from_a_snapshot_is_its_clone"),
        "delete_snapshot": native("driver/test_volumes.py::test_a_snapshot_goes_before_its_clones"),
        "revert_to_snapshot": native(
            "driver/test_volumes.py::test_a_volume_goes_back_to_its_snapshot",
            "lab/test_revert.py::test_past_a_clone",
        ),
        "snapshot_revert_use_temp_snapshot": native(
            "driver/test_volumes.py::test_a_volume_goes_back_to_its_snapshot", reason="none is needed"
        ),
    },
    "Connections": {
        "validate_connector": native(
            "driver/test_connections.py::test_a_connector_without_an_initiator_is_refused"
        ),
        "create_export": native(_OPENS, "lab/test_exports_cinder.py::test_a_volumes_life_with_os_brick"),
        "initialize_connection": native(_OPENS, "lab/test_cinder.py::test_attachments_open_and_close"),
        "terminate_connection": native(
            "driver/test_connections.py::test_a_detachment_closes_it",
            "lab/test_exports_cinder.py::test_a_live_migration_in_cinder",
        ),
        "remove_export": native("driver/test_connections.py::test_a_failed_second_attachment_cuts_nobody"),
        "ensure_export": native("driver/test_connections.py::test_each_verb_is_one_request"),
        "create_export_snapshot": native(_READS),
        "initialize_connection_snapshot": native(_READS),
        "terminate_connection_snapshot": native(
            "driver/test_snapshot_connections.py::test_the_view_goes_with_the_reader"
        ),
        "remove_export_snapshot": native(
            "driver/test_snapshot_connections.py::test_what_a_failed_backup_left_goes"
        ),
    },
    "Groups": {
        "create_group": native(_GROUPS, reason="consistent ones; others by Cinder's own record"),
        "update_group": native(
            "driver/test_groups.py::test_a_group_across_zpools_is_refused",
            reason="consistent ones; others by Cinder's own record",
        ),
        "delete_group": native(_BUSY_MEMBER),
        "create_group_from_src": native(
            _GROUPS, "driver/test_groups.py::test_a_copy_that_fails_leaves_nothing"
        ),
        "create_group_snapshot": native(
            "driver/test_groups.py::test_one_moment_is_one_request",
            _ONE_MOMENT,
            reason="consistent ones; others one by one, on Cinder's generic path",
        ),
        "delete_group_snapshot": native(_BUSY_MEMBER),
        "create_consistencygroup": never(_OLD_GROUPS),
        "create_consistencygroup_from_src": never(_OLD_GROUPS),
        "delete_consistencygroup": never(_OLD_GROUPS),
        "update_consistencygroup": never(_OLD_GROUPS),
        "create_cgsnapshot": never(_OLD_GROUPS),
        "delete_cgsnapshot": never(_OLD_GROUPS),
    },
    "Manage": {
        "manage_existing": native(_MANAGES, "lab/test_adoption.py::test_contents"),
        "manage_existing_get_size": native(_MANAGES),
        "unmanage": native("driver/test_adoption.py::test_a_volume_is_given_back"),
        "get_manageable_volumes": native("driver/test_adoption.py::test_the_list_of_volumes"),
        "manage_existing_snapshot": native(
            _MANAGES_SNAPSHOT, "lab/test_adoption.py::test_a_snapshots_contents"
        ),
        "manage_existing_snapshot_get_size": native(_MANAGES_SNAPSHOT),
        "unmanage_snapshot": native(_MANAGES_SNAPSHOT),
        "get_manageable_snapshots": native("driver/test_adoption.py::test_the_list_of_snapshots"),
    },
    "Images and backups": {
        "copy_image_to_volume": native(
            "driver/test_images.py::test_an_image_becomes_a_volume",
            "lab/test_images.py::test_an_image_costs_what_is_in_it",
        ),
        "copy_image_to_encrypted_volume": native("driver/test_images.py::test_an_image_becomes_luks"),
        "copy_volume_to_image": native(
            "driver/test_images.py::test_a_volume_becomes_an_image",
            "lab/test_images.py::test_a_volume_becomes_an_image",
        ),
        "clone_image": native(
            "driver/test_images.py::test_clones_are_left_to_cinder",
            reason="left to Cinder's image-volume cache and `cinder://` locations, which clone volumes",
        ),
        "before_volume_copy": generic("nothing has to be done"),
        "after_volume_copy": generic("nothing has to be done"),
        "clear_download": generic("nothing is left to clear"),
        "backup_use_temp_snapshot": generic("the option `backup_use_temp_snapshot`"),
        "get_backup_device": generic(f"a snapshot where that option says so, read {_ATTACHES}"),
        "create_volume_from_backup": generic("Cinder creates a volume and restores into it"),
    },
    "Migration and types": {
        "migrate_volume": native(
            "driver/test_migration.py::test_to_another_pool",
            "driver/test_copying.py::test_a_kill_at_each_step",
            "lab/test_migration.py::test_lines_that_are_cut",
            reason=f"what is attached or goes to a SAN that is not in cinder.conf Cinder copies {_ATTACHES}",
        ),
        "update_migrated_volume": native("driver/test_migration.py::test_the_copy_takes_the_volumes_name"),
        "retype": native(
            "driver/test_types.py::test_retype_in_place",
            "driver/test_migration.py::test_retype_to_another_pool",
            "lab/test_types.py::test_retype",
            reason="in place what ZFS can change, and to another pool; Cinder migrates for the rest",
        ),
    },
    "Replication": {
        "enable_replication": not_yet(_REPLICATION),
        "disable_replication": not_yet(_REPLICATION),
        "failover_replication": not_yet(_REPLICATION),
        "get_replication_error_status": not_yet(_REPLICATION),
        "failover_host": not_yet(_REPLICATION),
        "failover": not_yet(_REPLICATION),
        "failover_completed": not_yet(_REPLICATION),
        "freeze_backend": generic("Cinder's API refuses what would change the back end"),
        "thaw_backend": generic("the same, taken back"),
    },
}  # fmt: skip

# What the scheduler, or Cinder's API, is told: the key of a pool's stats, or the driver's attribute.
CAPABILITIES: Final[dict[str, Cell]] = {
    "multiattach": native("driver/test_connections.py::test_the_volume_stays_open_while_somebody_is_left"),
    "online_extend_support": native("lab/test_exports_cinder.py::test_it_grows_under_multipath"),
    "thin_provisioning_support": native("driver/test_stats.py::test_thin_volumes_are_provisioned_only"),
    "thick_provisioning_support": native(
        "driver/test_volumes.py::test_thick_volumes_where_they_are_asked_for",
        reason="by back end (`san_thin_provision`) and by volume type (`zolder:provisioning`)",
    ),
    "consistent_group_snapshot_enabled": native(_ONE_MOMENT),
}  # fmt: skip


def verbs() -> set[str]:
    """Return each verb that Cinder may ask of a volume driver."""
    found = {
        name
        for kind in interfaces()
        for name, method in vars(kind).items()
        if inspect.isfunction(method) or isinstance(method, property)
    }
    found |= {name for kind in _BASES for name, method in vars(kind).items() if inspect.isfunction(method)}
    return {name for name in found - _CINDERS_OWN if not name.startswith("_")}


def interfaces() -> list[type]:
    """Return the classes of cinder/interface that a volume driver may implement."""
    found: list[type] = []
    for module in pkgutil.iter_modules(interface.__path__):
        if module.name.startswith(_INTERFACES):
            loaded = importlib.import_module(f"cinder.interface.{module.name}")
            found += [
                kind
                for kind in vars(loaded).values()
                if inspect.isclass(kind) and kind.__module__ == loaded.__name__
            ]
    return found


def defined() -> set[str]:
    """Return what the driver's own classes define over Cinder's."""
    return {
        name for kind in ZolderDriver.__mro__ if kind.__module__.startswith("zolder.") for name in vars(kind)
    }


def faults() -> list[str]:
    """Return what the tables say and the code, Cinder or the tests do not; empty if all is true."""
    cells = {verb: cell for topic in VERBS.values() for verb, cell in topic.items()}
    own = defined()
    said = [f"{verb}: Cinder has it, no table says who does it" for verb in sorted(verbs() - cells.keys())]
    said += [f"{verb}: Cinder has no such verb" for verb in sorted(cells.keys() - verbs())]
    for verb, cell in cells.items():
        if (cell.how == "native") != (_HOOKS.get(verb, verb) in own):
            said.append(f"{verb}: called {cell.how}, and the driver's own classes say otherwise")
    for name, cell in (cells | CAPABILITIES).items():
        if cell.how == "native" and not cell.tests:
            said.append(f"{name}: no test shows it")
        said += [f"{name}: there is no test {test}" for test in cell.tests if line_of(test) is None]
    return said


def line_of(test: str) -> int | None:
    """Return the line at which a test stands; None where there is none of that name."""
    path, _, name = test.partition("::")
    file = ROOT / "tests" / path
    if not file.is_file():
        return None
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.FunctionDef) and node.name == name:
            return node.lineno
    return None


def page() -> str:
    """Return the whole page."""
    lines = [HEAD]
    for topic, cells in VERBS.items():
        lines += [f"## {topic}", "", "| verb | by whom | shown by, or why |", "|---|---|---|"]
        lines += [_row(verb, cell) for verb, cell in cells.items()]
        lines.append("")
    lines += ["## Capabilities", "", "| what the scheduler is told | by whom | shown by |", "|---|---|---|"]
    lines += [_row(name, cell) for name, cell in CAPABILITIES.items()]
    return "\n".join([*lines, ""])


def _row(name: str, cell: Cell) -> str:
    shown = [f"[{test.partition('::')[2]}](../tests/{test.partition('::')[0]})" for test in cell.tests]
    return f"| `{name}` | {cell.how} | {'; '.join([*shown, *([cell.reason] if cell.reason else [])])} |"


if __name__ == "__main__":
    PAGE.write_text(page())
