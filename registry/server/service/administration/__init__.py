"""Accounts, teams, tokens and grants: what is there, and each change with its line in the audit log."""
