"""The Cinder driver: the only room that imports cinder, oslo and os_brick."""
