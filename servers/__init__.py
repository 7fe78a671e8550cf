"""Real servers from wheels, on loopback and in folders of their own, for the tests and the measurements."""
