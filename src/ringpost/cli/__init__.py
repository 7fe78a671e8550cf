"""The command line. It must not decide anything that another program could need."""
