"""Zolder's lab: a real ZFS SAN and an initiator in two virtual machines, on any machine.

`python -m lab` is for people, `Lab` for tests, demo and bench. Not shipped with the product.
"""

from lab.errors import CommandFailed, LabError, TimedOut
from lab.lab import Lab
from lab.machine import Machine
from lab.remote import Completed

__all__ = ["CommandFailed", "Completed", "Lab", "LabError", "Machine", "TimedOut"]
