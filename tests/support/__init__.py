"""Programs and models that several test files use."""
