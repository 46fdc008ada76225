"""The lab's command line: `python -m lab VERB`. See `python -m lab --help`."""

from __future__ import annotations

import argparse
import importlib
import json
import os
import shlex
import sys
import time

from lab.errors import LabError
from lab.lab import Lab

# Verbs of their own modules, which bring their own arguments and are imported only when asked for.
ELSEWHERE = {"cinder": "lab.cinder", "cluster": "lab.cluster", "demo": "lab.demo", "tempest": "lab.tempest"}


def parser() -> argparse.ArgumentParser:
    """Return the command line's grammar."""
    top = argparse.ArgumentParser(prog="python -m lab", description=__doc__)
    verbs = top.add_subparsers(dest="verb", required=True, metavar="VERB")
    verbs.add_parser("build", help="build what is missing in the cache")
    verbs.add_parser(
        "up", help="start both machines from the golden state, and install the working tree's code"
    )
    verbs.add_parser("down", help="end both machines")
    verbs.add_parser("reset", help="bring both machines back to the golden state")
    verbs.add_parser("install", help="put the working tree's code on the SAN")
    for verb, text in (("status", "say what runs"), ("env", "print how to reach the machines, for a shell")):
        verbs.add_parser(verb, help=text).add_argument("--json", action="store_true", help="as a JSON object")
    ssh = verbs.add_parser("ssh", help="open a root shell in a machine, or run a command there")
    ssh.add_argument("machine", choices=["san", "compute"])
    ssh.add_argument("command", nargs=argparse.REMAINDER, help="after --: words of the command")
    for verb in ELSEWHERE:
        verbs.add_parser(verb, help=f"see `python -m lab {verb} --help`", add_help=False)
    return top


def main(argv: list[str]) -> int:
    """Run one verb and return the exit status."""
    if argv[:1] and argv[0] in ELSEWHERE:
        status: int = importlib.import_module(ELSEWHERE[argv[0]]).main(argv[1:])
        return status
    arguments = parser().parse_args(argv)
    lab = Lab.default()
    started = time.monotonic()
    match arguments.verb:
        case "build":
            print(f"{lab.build().folder} is ready ({time.monotonic() - started:.1f} s)")
        case "up":
            lab.up()
            print(f"san and compute are up ({time.monotonic() - started:.1f} s)")
        case "down":
            lab.down()
        case "reset":
            lab.reset()
            print(f"san and compute are as new ({time.monotonic() - started:.1f} s)")
        case "install":
            print("installed" if lab.install() else "up to date already")
        case "status":
            return show_status(lab, as_json=arguments.json)
        case "env":
            show_environment(lab, as_json=arguments.json)
        case "ssh":
            open_shell(lab, arguments.machine, arguments.command)
    return 0


def show_status(lab: Lab, *, as_json: bool) -> int:
    """Print what runs; exit status 0 if the lab is up, 3 if it is not."""
    machines = {
        name: {"running": machine.is_running(), "ssh_port": machine.ssh_port}
        for name, machine in lab.machines().items()
    }
    up = lab.is_up()
    if as_json:
        print(json.dumps({"lab": lab.name, "up": up, "machines": machines, "folder": str(lab.folder)}))
    else:
        print(f"lab {lab.name}: {'up' if up else 'down'}")
        for name, entry in machines.items():
            doing = "running" if entry["running"] else "off"
            print(f"  {name}: {doing}, ssh on 127.0.0.1 port {entry['ssh_port']}")
    return 0 if up else 3


def show_environment(lab: Lab, *, as_json: bool) -> None:
    """Print how to reach the machines."""
    environment = lab.environment()
    if as_json:
        print(json.dumps(environment))
    else:
        for name, value in environment.items():
            print(f"export ZOLDER_LAB_{name.upper()}={shlex.quote(value)}")


def open_shell(lab: Lab, name: str, words: list[str]) -> None:
    """Become the ssh that runs a command, or a shell, in a machine."""
    command = words[1:] if words[:1] == ["--"] else words
    machine = lab.machine(name)
    argv = machine.remote.ssh_command(shared=False)
    if command:
        # As ssh itself does: the guest's shell reads the words. One word may hold a whole line.
        argv += ["--", *command]
    elif sys.stdin.isatty():
        argv.append("-t")
    os.execvp(argv[0], argv)  # noqa: S606 - no shell is wanted here


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except LabError as error:
        sys.exit(f"lab: {error}")
    except KeyboardInterrupt:
        sys.exit(130)
