"""The verbs without await, for threads and scripts: a portal onto the asynchronous client, computed from it."""
