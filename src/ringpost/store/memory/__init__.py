"""The store of tests: as the others, but gone with its process."""
