"""QEMU's control socket: one command at a time, and jobs that are waited for by their events.

QEMU serves one client of the socket at once; a second one waits until the first has closed it.
Source: QEMU, docs/interop/qmp-spec.rst and qapi/job.json.
"""

from __future__ import annotations

import json
import socket
from collections import deque
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from lab.errors import LabError

TIMEOUT_SECONDS = 60.0


class Qmp:
    """A connection to one machine's QEMU; use it as a context manager."""

    def __init__(self, path: Path) -> None:
        """Connect and leave the negotiation mode.

        :raises LabError: when QEMU does not answer.
        """
        self._path = path
        self._events: deque[dict[str, Any]] = deque()
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.settimeout(TIMEOUT_SECONDS)
        try:
            self._socket.connect(str(path))
            self._reader = self._socket.makefile("rb")
            self._read()  # the greeting
            self.execute("qmp_capabilities")
        except OSError as err:
            self._socket.close()
            raise LabError(f"QEMU does not answer at {path}: {err}; `python -m lab down` clears up") from err

    def __enter__(self) -> Self:
        """Return itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close the connection."""
        self.close()

    def close(self) -> None:
        """Close the connection; QEMU then serves the next client."""
        self._reader.close()
        self._socket.close()

    def execute(self, command: str, **arguments: object) -> Any:  # noqa: ANN401 - its shape is the command's
        """Run one command and return its result.

        :param arguments: with underscores for QEMU's hyphens.
        :raises LabError: when QEMU refuses it or has gone.
        """
        request: dict[str, object] = {"execute": command}
        if arguments:
            request["arguments"] = {name.replace("_", "-"): value for name, value in arguments.items()}
        self._socket.sendall(json.dumps(request).encode() + b"\n")
        while True:
            answer = self._read()
            if "event" in answer:
                self._events.append(answer)
            elif "error" in answer:
                raise LabError(f"QEMU refused {command}: {answer['error']['desc']}")
            else:
                return answer["return"]

    def run_job(self, command: str, job: str, **arguments: object) -> None:
        """Run a command that makes a job, and wait for the job's end.

        :raises LabError: when the job failed.
        """
        self.execute(command, job_id=job, **arguments)
        while True:
            event = self._events.popleft() if self._events else self._read()
            data = event.get("data", {})
            if (
                event.get("event") == "JOB_STATUS_CHANGE"
                and data["id"] == job
                and data["status"] == "concluded"
            ):
                break
        (ended,) = (entry for entry in self.execute("query-jobs") if entry["id"] == job)
        self.execute("job-dismiss", id=job)
        if "error" in ended:
            raise LabError(f"QEMU could not do {command}: {ended['error']}")

    def _read(self) -> dict[str, Any]:
        line = self._reader.readline()
        if not line:
            raise LabError(f"QEMU closed {self._path}; see console.log and qemu.log beside it")
        message: dict[str, Any] = json.loads(line)
        return message
