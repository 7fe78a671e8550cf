"""Decisions, sans-IO: a message and its life, deadlines, retries, leases, keys. Values in, values out.

It must not know asyncio, sockets, clocks, random numbers, logging or drivers: time and chance come in as arguments.
"""
