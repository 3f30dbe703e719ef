"""Tower one: the registry."""
