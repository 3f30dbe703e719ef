"""Hythe: a private container registry, and the client that pulls and runs what it holds."""

__version__ = "0.1.0"
