"""The half that runs on the SAN: standard library only; never imports zolder.client or zolder.cinder."""
