"""The door: one function of a request, with two hosts (our own protocol, ASGI), and what runs services.

It must not know how a store keeps messages.
"""
