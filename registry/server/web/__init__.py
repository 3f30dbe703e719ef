"""HTTP in, HTTP out: parse a request into values, call a service, render what it says."""
