"""Our walk through the OCI distribution specification, 1.1 and `dev`, section by section.

Each test is named by the sentence of behaviour that it holds. Where the specification leaves a choice, the
test accepts every lawful answer, unless this registry promises a particular one.
"""
