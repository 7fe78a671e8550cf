"""The verbs (call, send, publish), tickets, and the transport that carries calls to another process.

It must not know how a service handles what it receives.
"""
