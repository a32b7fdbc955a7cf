"""The sample's command: python -m chassis_sample."""

from chassis import create_cli

from .main import Settings

run = create_cli("chassis_sample.main:create_service", settings=Settings)

if __name__ == "__main__":
    run(prog_name="sample")
