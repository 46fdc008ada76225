"""Answers for Neutron, of which there is none: `python -m lab.cloud.network PORT`.

Tempest asks for networks before classes of tests that never use one, and cleans up after them. It is told
that there are none, and that whatever it deletes is gone.
"""

from __future__ import annotations

import json
import sys
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from lab.cloud.service import LOOPBACK


class Nothing(BaseHTTPRequestHandler):
    """Lists are empty, and deletions succeed."""

    def do_GET(self) -> None:
        """Answer with an empty list of what was asked for, as `/v2.0/security-groups?...`."""
        kind = self.path.partition("?")[0].rpartition("/")[2].replace("-", "_")
        body = json.dumps({kind: []}).encode()
        self.send_response(HTTPStatus.OK)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_DELETE(self) -> None:
        """Say that it is gone."""
        self.send_response(HTTPStatus.NO_CONTENT)
        self.end_headers()


if __name__ == "__main__":
    ThreadingHTTPServer((LOOPBACK, int(sys.argv[1])), Nothing).serve_forever()
