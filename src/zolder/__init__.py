"""Zolder: block storage for OpenStack on ZFS."""

__version__ = "0.1.0"
