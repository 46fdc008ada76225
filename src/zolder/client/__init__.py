"""The half that carries requests to a SAN: knows frames and channels, no verbs of Cinder."""
