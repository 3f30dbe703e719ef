"""Bytes by digest, nothing else: no names, no rights, no HTTP."""
