"""Runs a script with os-brick at hand: `python3 -I -S with_brick.py SCRIPT`, in the script's folder."""

import json
import os
import socket
import sys
from pathlib import Path

with socket.socket(socket.AF_UNIX) as server:
    server.connect("/run/zolder-lab/brick.sock")
    socket.send_fds(server, [json.dumps([str(Path.cwd()), sys.argv[1]]).encode()], [0, 1, 2])
    # The streams are the script's own now: nobody who waits for their end is to wait for us.
    for stream in (0, 1, 2):
        os.close(stream)
    sys.exit(0 if server.recv(1) else 1)
