"""How much is run: some of each kind, or every combination (CHASSIS_TEST_SCALE=full)."""

import os

SCALE = os.environ.get("CHASSIS_TEST_SCALE", "small")
FULL = SCALE == "full"
# A second run, with other versions: a few cases of each test of the small size.
SAMPLE = SCALE == "sample"
CASES_FOR_ONE = 8
