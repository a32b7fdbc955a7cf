"""How much is run: some of each kind, or every combination (CHASSIS_TEST_SCALE=full)."""

import os

FULL = os.environ.get("CHASSIS_TEST_SCALE", "small") == "full"
