"""Make a layer's archive into a directory, whoever wrote it. docs/unpacking.md says what is promised."""
