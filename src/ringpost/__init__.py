"""Ringpost: an operation is written once and reached in both ways, called or sent."""

__version__ = "0.1.0"
