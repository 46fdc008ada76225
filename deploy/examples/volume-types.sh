#!/bin/sh
# Volume types for one back end, to be picked from (docs/volume-types.md). An administrator's credentials are needed.
set -eu

type() {  # NAME PROPERTY...
    name=$1
    shift
    openstack volume type create "$name" --property volume_backend_name=zolder
    for property; do openstack volume type set "$name" --property "$property"; done
}

# What most instances want: thin, and compressed at next to no price.
type general zolder:provisioning=thin provisioning:type=thin zolder:compression=lz4

# Space that is there when it is needed. The scheduler reads provisioning:type.
type reserved zolder:provisioning=thick provisioning:type=thick

# A database that writes pages of 16 KiB and keeps them in its own memory.
type database zolder:volblocksize=16k zolder:primarycache=metadata zolder:logbias=latency

# Large files, read and written in sequence, seldom read again.
type archive zolder:volblocksize=128k zolder:compression=zstd zolder:secondarycache=none zolder:logbias=throughput

# Scratch space that may lose its last seconds at a power cut: needs daring_properties = ["sync=disabled"] in san.toml.
type scratch zolder:sync=disabled zolder:compression=off

# A limit that Nova keeps, not the SAN.
openstack volume qos create limited --consumer front-end --property total_iops_sec_per_gb=10
openstack volume qos associate limited general
