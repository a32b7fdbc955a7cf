"""Its own OpenAPI document, taken at its word: by Schemathesis, which is asked for all checks."""

import os
import re
import sys
from pathlib import Path

from tests.scale import FULL
from tests.service import Finished

from .attacked import ITEM, Attacked

CASES = 2000 if FULL else 200
# Of each operation and phase; so many are more than enough for the cases above.
EXAMPLES = 400 if FULL else 10


def test_every_answer_is_as_documented_and_invalid_input_is_refused(
    attacked: Attacked, tmp_path: Path
) -> None:
    with attacked.serving() as running:
        for _ in range(5):
            assert running.client.post("/items", json=ITEM).status_code == 201
        command = [
            f"{Path(sys.executable).parent}/schemathesis",
            "run",
            f"{running.client.base_url}/openapi.json",
            "--checks=all",
            "--continue-on-failure",
            f"--max-examples={EXAMPLES}",
            "--no-color",
            # The same cases on each run of the small size, others on each of the full one.
            *([] if FULL else ["--seed=1"]),
        ]
        finished = Finished.of(command, tmp_path, dict(os.environ))
        running.check_that_it_is_whole()

    said = finished.check()
    generated = re.search(r"(\d+) generated", said)
    assert generated is not None, said
    print(f"{generated[0]} by {re.findall('Seed: .*', said)}")
    assert int(generated[1]) >= CASES
