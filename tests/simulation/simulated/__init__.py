"""A town of services on a machine whose time and chance follow from a seed."""
