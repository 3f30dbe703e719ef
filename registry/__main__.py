"""`python -m registry` is the command `hythe`."""

from registry.cli.main import run

if __name__ == "__main__":
    run()
