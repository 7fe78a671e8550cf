"""For users' tests: the harness with virtual time and seeded faults, and the conformance suite that stores pass."""
