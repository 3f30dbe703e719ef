"""The client: images (and later containers) of this machine, without a daemon."""
