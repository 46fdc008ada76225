"""Cinder in one process: API, scheduler and volume service, no broker: `python -m lab.cinder_service CONFIG`.

It is what `cinder-api`, `cinder-scheduler` and `cinder-volume` do (cinder/cmd/*.py), under one launcher: the
transport `fake:/` carries their calls inside the process. Nothing here is for the product.
"""

# ruff: noqa: E402 - what is patched must be patched before anything is imported that uses it

from cinder import monkey_patch

monkey_patch.patch()

import shlex
import sys
import threading

import os_brick
from cinder import coordination, i18n, objects, rpc, service, utils, version
from cinder.common import config, constants
from cinder.db import migration
from oslo_config import cfg
from oslo_log import log
from oslo_privsep import priv_context
from oslo_service import service as oslo_service

CONF = cfg.CONF


class Backend(service.Service):
    """One of several volume services of this process.

    Cinder gives each a process of its own and keeps its id in the class (cinder/service.py): here only
    the one that started last would report that it is alive, and the others were down after a minute.
    """

    def report_state(self) -> None:
        """Report this one."""
        service.Service.service_id = self.origin_service_id
        super().report_state()


def main() -> None:
    """Serve until a signal ends it."""
    i18n.enable_lazy()
    objects.register_all()
    CONF(["--config-file", sys.argv[1]], project="cinder", version=version.version_string())
    config.set_middleware_defaults()
    log.setup(CONF, "cinder")
    priv_context.init(root_helper=shlex.split(utils.get_root_helper()))
    os_brick.setup(CONF)
    migration.db_sync()
    make_capabilities_plain()
    coordination.COORDINATOR.start()
    rpc.init(CONF)

    launcher = oslo_service.ServiceLauncher(CONF)
    launcher.launch_service(service.WSGIService("osapi_volume"))
    scheduler = service.Service.create(binary=constants.SCHEDULER_BINARY)
    # Its start waits for the first report of a back end, which a volume service below sends.
    threading.Thread(target=launcher.launch_service, args=(scheduler,), daemon=True).start()
    for backend in CONF.enabled_backends:
        launcher.launch_service(
            Backend.create(
                host=f"{CONF.host}@{backend}",
                service_name=backend,
                binary=constants.VOLUME_BINARY,
                coordination=True,
            )
        )
    launcher.wait()


def make_capabilities_plain() -> None:
    """Let the API show the scheduler's figures, as it does behind a broker.

    One would have made a plain dict of them; ``fake:/`` hands over the scheduler's own object, which lacks
    the one method that cinder/api/views/scheduler_stats.py calls.
    """
    from cinder.scheduler.host_manager import ReadOnlyDict  # noqa: PLC0415 - only after register_all() can it be

    ReadOnlyDict.copy = lambda figures: {**figures}


if __name__ == "__main__":
    main()
