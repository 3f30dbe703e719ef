"""Containers of this machine: a bundle, an overlay, a monitor, records; no daemon."""
