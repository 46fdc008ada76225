"""Setting up a SAN: ``zolder-san install``, ``authorize``, ``revoke`` and ``list``, all of them root's."""
