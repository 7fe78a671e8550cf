"""The command line: what a person types to run services, use their operations and look after their messages.

It must not decide anything that another program could need.
"""
