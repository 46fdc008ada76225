"""``zolder``: the operators' command on a control node. It reads Cinder's database and asks the SAN."""
