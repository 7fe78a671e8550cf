"""What two services agree on: contracts, operations, events, problems, and how their types read and write JSON.

It knows nothing of clocks, I/O, stores or HTTP.
"""
