"""The HTTP API for accounts, asked over HTTP as a script would."""
