"""Broken twins of the store in memory, by the chapters of the suite: each breaks one promise."""
