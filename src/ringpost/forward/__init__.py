"""What leaves: messages for contracts behind another store, posted to the door of their address, and their outcomes.

It must not know of the services that run beside it, nor of the door of this process.
"""
