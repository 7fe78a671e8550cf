"""Outbox tables in databases of the programs' own, and the relay that brings what stands in them to the store.

It must not know clients, services or HTTP.
"""
