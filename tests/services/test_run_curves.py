"""The trainer's schedules as the laws of the whole curve read them."""

from typing import Any

import numpy as np
import pytest
from sqlalchemy import Connection

from app.errors import ServiceError
from app.importers import read_rows
from app.services import imports
from app.services.run_curves import as_stages, loss_unit
from fitting.curves import Schedule
from workers.proxy.config import ScheduleConfig
from workers.proxy.schedule import lr_factor


@pytest.mark.parametrize(
    "spec",
    [
        {"kind": "constant", "steps": 90, "warmup_steps": 10},
        {"kind": "constant", "steps": 90, "warmup_steps": 10, "initial_fraction": 0.5},
        {"kind": "wsd", "steps": 90, "warmup_steps": 10, "cooldown_steps": 30},
        {"kind": "wsd", "steps": 90, "warmup_steps": 10, "cooldown_steps": 85},
        {
            "kind": "wsd", "steps": 90, "warmup_steps": 10, "cooldown_steps": 30,
            "initial_fraction": 0.3, "final_fraction": 0.1,
        },
        {"kind": "cosine", "steps": 90, "warmup_steps": 10, "final_fraction": 0.1},
        {"kind": "cosine", "steps": 90, "warmup_steps": 10, "initial_fraction": 0.2},
        {"kind": "linear", "steps": 90, "warmup_steps": 0},
        {"kind": "step", "steps": 90, "warmup_steps": 5, "drops": [[72, 0.3], [81, 0.1]]},
        {
            "kind": "wsd-s", "steps": 120, "warmup_steps": 6, "cooldown_steps": 24,
            "periods": [40, 80, 120], "final_fraction": 0.05,
        },
    ],
    ids=lambda spec: f"{spec['kind']}-{len(spec)}",
)  # fmt: skip
def test_a_schedule_read_from_a_run_is_the_one_it_was_trained_with(spec: dict[str, Any]) -> None:
    config = ScheduleConfig(**spec)
    trained = [lr_factor(config, step) for step in range(1, config.steps + 1)]
    read = Schedule.from_dict(as_stages(spec, 3e-3)).rates()
    np.testing.assert_allclose(read, 3e-3 * np.array(trained), rtol=1e-12, atol=1e-18)


def test_losses_of_two_units_are_not_one_curve_fit(connection: Connection) -> None:
    ids = []
    for unit in ("nats/token", "bits/byte"):
        row = {"run": unit, "N": 1e8, "D": 2e9, "loss": 3.2}
        brought = imports.store(
            connection, "units", read_rows([row], loss_unit=unit), validation_set="c4"
        )
        ids += brought.run_ids
    assert [loss_unit(connection, [one], "c4") for one in ids] == ["nats/token", "bits/byte"]
    assert loss_unit(connection, ids, None) is None
    with pytest.raises(ServiceError, match="bits/byte and nats/token"):
        loss_unit(connection, ids, "c4")
