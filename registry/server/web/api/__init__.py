"""The HTTP API for accounts: `/api/v1/`, described by `/api/v1/openapi.json`."""
