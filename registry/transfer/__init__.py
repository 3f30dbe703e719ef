"""Talking to other servers."""
