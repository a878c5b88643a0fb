"""One dial gives the ladders on which the trainer was tried, with their counts of parameters."""

import pytest

from app.api.schemas.sweeps import EXAMPLE, SweepIn
from app.services.errors import ServiceError
from app.services.ladder import ladder
from app.services.run_config import model_shape, parameter_counts
from app.services.sweep_plan import plan_sweep
from tests.services.conftest import SPEC

# (width, layers, parameters of the blocks as they were published)
GPU = [
    (256, 4, 3.1e6),
    (384, 6, 10.6e6),
    (512, 8, 25e6),
    (640, 10, 49e6),
    (768, 12, 85e6),
    (1024, 16, 201e6),
    (1280, 20, 393e6),
]
# likewise
TINY = [
    (16, 2, 6.7e3),
    (24, 2, 13.8e3),
    (32, 2, 23.6e3),
    (48, 2, 55e3),
    (64, 2, 100e3),
    (96, 2, 221e3),
    (128, 2, 389e3),
]
ROUNDED_DOWN = {32: {"d_ff": 80}, 128: {"d_ff": 336}}  # the hidden layer there; here 96 and 352


@pytest.mark.parametrize(("rungs", "low", "high"), [(TINY, 16, 128), (GPU, 256, 1280)])
def test_the_ladders_that_were_tried(
    rungs: list[tuple[int, int, float]], low: int, high: int
) -> None:
    sizes = ladder({"from": low, "to": high, "sizes": 7})
    assert [(s["d_model"], s["n_layers"]) for s in sizes] == [rung[:2] for rung in rungs]
    assert sizes == ladder({"from": low, "to": high})
    for size, (_, _, blocks) in zip(sizes, rungs, strict=True):
        shape = model_shape({**size, **ROUNDED_DOWN.get(size["d_model"], {})})
        assert parameter_counts(shape)["blocks"] == pytest.approx(blocks, rel=0.025)


def test_heads() -> None:
    heads = {s["d_model"]: s["head_dim"] for s in ladder({"from": 16, "to": 2048})}
    assert (heads[24], heads[32], heads[256], heads[640], heads[768]) == (8, 16, 64, 64, 128)


def test_fewer_sizes_are_spread_evenly() -> None:
    def widths(sizes: int) -> list[int]:
        return [s["d_model"] for s in ladder({"from": 16, "to": 128, "sizes": sizes})]

    assert widths(2) == [16, 128]
    assert widths(4) == [16, 32, 64, 128]
    assert widths(3) == [16, 48, 128]  # 45.3 is asked for


@pytest.mark.parametrize(
    ("asked", "says"),
    [
        ({"from": 20, "to": 128}, "ladder.from is 20"),
        ({"from": 128, "to": 32}, "from 128 to 32"),
        ({"from": 32, "to": 64, "sizes": 5}, "3 rungs from 32 to 64: 32, 48, 64"),
        ({"from": 32, "to": 64, "sizes": 1}, "ladder.sizes is 1"),
    ],
)
def test_what_is_refused(asked: dict[str, int], says: str) -> None:
    with pytest.raises(ServiceError, match=says):
        ladder(asked)


def test_a_sweep_is_the_one_that_names_its_sizes() -> None:
    paths = {"code": "/corpora/code", "english": "/corpora/english"}
    plain = {key: value for key, value in SPEC.items() if key != "sizes"}
    asked = {"from": 32, "to": 64, "sizes": 2}
    sizes = [{"d_model": d, "n_layers": 2, "head_dim": 16} for d in (32, 64)]
    by_ladder = plan_sweep("s", {**plain, "ladder": asked}, paths=paths)
    assert by_ladder == plan_sweep("s", {**plain, "sizes": sizes}, paths=paths)
    asked_for = {**{k: v for k, v in EXAMPLE.items() if k != "sizes"}, "ladder": asked}
    assert SweepIn.model_validate(asked_for).spec()["ladder"] == asked
    with pytest.raises(ServiceError, match="both sizes and a ladder"):
        plan_sweep("s", {**SPEC, "ladder": asked}, paths=paths)
