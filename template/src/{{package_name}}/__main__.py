"""The service's command, for python -m."""

from .cli import run

if __name__ == "__main__":
    run()
