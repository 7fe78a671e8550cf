"""`ringpost dead`: what could not be handled, why, and what to do with it. Each command has a file of its own.

It must not know services: what it has to know of a request, a service has noted in the store.
"""
