"""`python -m tests.bench`: this registry and a peer, measured side by side in one run."""
