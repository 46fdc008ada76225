"""What a volume's verbs cost: the limit, the ``zfs`` command, the draft of 2012 and the driver, side by side.

`python -m bench` (or `make bench`) measures on the lab's SAN and writes bench/results.json. Not shipped.
"""
