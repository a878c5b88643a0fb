"""The scripts that install: a hiccup of an index is not the end."""

import subprocess
from pathlib import Path

import pytest

AGAIN = Path(__file__).resolve().parent.parent / "scripts" / "again.sh"
FLAKY = 'tries=0; flaky() { tries=$((tries + 1)); [ "$1" -le $tries ]; }; '


@pytest.mark.parametrize(
    ("succeeds_at", "tries", "code"), [(1, 1, 0), (2, 2, 0), (3, 3, 0), (4, 3, 1)]
)
def test_what_fails_is_tried_again_and_not_for_ever(
    succeeds_at: int, tries: int, code: int
) -> None:
    script = f"source {AGAIN}; {FLAKY} again flaky {succeeds_at}; echo $? $tries"
    done = subprocess.run(
        ["bash", "-uc", script],
        env={"AGAIN_AFTER": "0 0", "PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.split() == [str(code), str(tries)]
    assert done.stderr.count("once more") == tries - 1
