"""Bad input is refused with the row, the value and the remedy."""

import numpy as np
import pytest

from fitting import FittingError, Runs, fit, get_law

N = np.array([1e7, 1e8, 1e9])
D = np.array([1e9, 1e10, 1e11])
LOSS = np.array([3.5, 3.0, 2.5])


@pytest.mark.parametrize("value", [0.0, -1.0, np.nan, np.inf])
@pytest.mark.parametrize("which", ["N", "loss"])
def test_names_the_row_and_the_remedy(which: str, value: float) -> None:
    n, loss = N.copy(), LOSS.copy()
    (n if which == "N" else loss)[1] = value
    with pytest.raises(FittingError) as caught:
        Runs({"N": n, "D": D}, loss)
    assert caught.value.kind == "bad_value"
    assert "row 2 of 3" in caught.value.message and which in caught.value.message
    assert caught.value.details["row"] == 1
    assert "mask" in caught.value.hint


@pytest.mark.parametrize("scale", [1e300, 1e-300])
def test_a_number_beyond_any_run_is_refused(scale: float) -> None:
    """Fits were made of them that overflowed, and could not be read back or drawn."""
    with pytest.raises(FittingError, match="row 2 of 3") as caught:
        Runs({"N": N, "D": np.array([1e9, scale, 1e11])}, LOSS)
    assert caught.value.details["column"] == "D" and "1e+60" in caught.value.hint


def test_text_is_refused() -> None:
    with pytest.raises(FittingError, match="not a number"):
        Runs({"N": ["a", "b", "c"], "D": D}, LOSS)


def test_a_masked_point_may_be_anything() -> None:
    runs = Runs({"N": N, "D": D}, [3.5, np.nan, 2.5], masked={1: "diverged"})
    assert runs.n_used == 2 and runs.unmasked().loss.tolist() == [3.5, 2.5]


def test_integers_do_not_wrap() -> None:
    runs = Runs({"N": np.array([6_900_000_000]), "D": np.array([276_000_000_000])}, [2.2])
    assert runs.compute()[0] == pytest.approx(6 * 6.9e9 * 2.76e11)


def test_mixed_conventions_are_refused() -> None:
    with pytest.raises(FittingError) as caught:
        Runs({"N": N, "D": D}, LOSS, n_convention=["total", "blocks", "total"])
    assert caught.value.kind == "mixed_conventions" and "blocks, total" in caught.value.message


def test_is_read_only_and_digested() -> None:
    runs = Runs({"N": N, "D": D}, LOSS)
    with pytest.raises(ValueError):
        runs.loss[0] = 1.0
    assert runs.digest == Runs({"D": D, "N": N}, LOSS).digest
    assert runs.digest != Runs({"N": N, "D": D}, LOSS + 1e-15).digest


def test_too_few_points() -> None:
    with pytest.raises(FittingError) as caught:
        fit(get_law("chinchilla"), Runs({"N": N, "D": D}, LOSS))
    assert caught.value.kind == "too_few_points"
    assert "5 parameters and 3 points" in caught.value.message


def test_constant_loss() -> None:
    n = np.geomspace(1e7, 1e9, 8)
    with pytest.raises(FittingError, match=r"All 8 losses are 2\.5"):
        fit(get_law("chinchilla"), Runs({"N": n, "D": n * 20}, np.full(8, 2.5)))


def test_missing_input() -> None:
    with pytest.raises(FittingError) as caught:
        fit(get_law("chinchilla"), Runs({"N": np.geomspace(1, 9, 8)}, np.linspace(3, 2, 8)))
    assert caught.value.kind == "missing_input"


def test_unknown_law() -> None:
    with pytest.raises(FittingError, match="chinchilla"):
        get_law("chincilla")
