"""What a service is and how it works: handlers, context, the one pipeline, the worker that claims, handles and settles.

It must not know HTTP.
"""
