"""What HTTP carries, sans-IO: headers, problems, tickets, events as bytes and back; shared by door and client.

It must not know who listens or who connects.
"""
