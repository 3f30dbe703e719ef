"""Moving in from docker's own registry, and out again."""
