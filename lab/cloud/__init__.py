"""An OpenStack without Nova on this machine: database, broker, Keystone, Glance and Cinder, on the lab's SAN.

Each is its own program from its own packages, as a site runs it; see docs/tempest.md. They live as long as
the command that brought them up (lab.cloud.service), and so leave nothing behind.
"""
