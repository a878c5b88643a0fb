"""Every law under Huber's penalty, and the laws with two breaks under squares: SciPy agrees.

(The files of `laws/` hold the other laws to SciPy under squares.)
"""

import pytest

from fitting import LAWS, Law
from tests.fitting.second_method import agrees_with_scipy
from tests.fitting.test_every_law import truth

# Of the size of the noise: half of the points lie outside the zone of squares.
DELTA = 2e-3


@pytest.mark.parametrize("law", LAWS.values(), ids=LAWS.keys())
def test_huber(law: Law) -> None:
    agrees_with_scipy(law, truth(law), delta=DELTA)


def test_squares_with_two_breaks() -> None:
    agrees_with_scipy(LAWS["broken_2"], truth(LAWS["broken_2"]))
