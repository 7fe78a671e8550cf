"""Where messages wait: the port that every store fulfils, and the adapters.

It must not know services, handlers or HTTP.
"""
