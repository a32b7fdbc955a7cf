"""The service's command: python -m bank."""

from chassis import create_cli

from .main import Settings

run = create_cli("bank.main:create_service", settings=Settings)

if __name__ == "__main__":
    run(prog_name="bank")
