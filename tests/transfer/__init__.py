"""Moving images between places."""
