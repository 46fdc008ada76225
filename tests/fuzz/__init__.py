"""Fuzzing of whatever reads bytes from elsewhere: ``make fuzz`` runs it, `tests.fuzz.targets` lists it."""
