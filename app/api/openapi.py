"""The OpenAPI document, with what only the registry of laws knows: examples that run."""

from collections.abc import Callable
from typing import Any

from fastapi import FastAPI

from app.api.schemas.common import Problem
from app.services import laws

PROBLEM_STATUSES = {
    "4XX": "The request was refused: what was wrong, and what to do.",
    "5XX": "The service failed, or waits for its database.",
}
PREDICTION = {"fit": 1, "points": [{"N": 7e10, "D": 1.4e12}]}
ALLOCATION = {"fit": 1, "budget_flops": 1e21}
SHAPE = {
    "d_model": 2048, "n_layers": 24, "d_ff": 5632, "vocab_size": 32000, "n_heads": 16,
    "seq_len": 2048,
}  # fmt: skip
SETUP = {"batch_tokens": 524288, "gpus": 8}
SIZES = [(512, 8), (768, 12), (1024, 16), (1536, 24), (2048, 16), (2048, 32)]
CALIBRATION = {
    "hardware": "eight GPUs of ours",
    "measurements": [
        {
            "shape": {**SHAPE, "d_model": d, "n_layers": n, "d_ff": 2 * d, "n_heads": d // 64},
            "setup": SETUP,
            "seconds": 4e-9 * n * d * d,
        }
        for d, n in SIZES
    ],
}
TIME = {"gpu": "h100-sxm", "shape": SHAPE, "setup": SETUP, "tokens": 4e10}
PLAN = {
    "fit": 1,
    "machine": {"gpu": "h100-sxm"},
    "gpu_hours": 500,
    "shapes": {"family": SHAPE, "setup": SETUP, "depths": [12, 24]},
}
WSD = {
    "kind": "wsd", "steps": 3000, "peak_lr": 1e-3, "warmup_steps": 100, "cooldown_steps": 600,
}  # fmt: skip
CURVE_STEPS = list(range(300, 3001, 100))
CURVES = {
    "law": "annealing",
    "curves": [
        {
            "run": f"run-{cool}",
            "step": CURVE_STEPS,
            "loss": [
                2.6 + 9.0 / step**0.5 - 2e-4 * max(0, step - 3000 + cool) for step in CURVE_STEPS
            ],
            "schedule": {**WSD, "cooldown_steps": cool},
        }
        for cool in (300, 900)
    ],
    "draws": 20,
}
CURVE = {"fit": 1, "schedule": WSD, "steps": [1500, 3000]}
RANK = {"fit": 1, "schedules": {"long": WSD, "short": {**WSD, "cooldown_steps": 200}}}
OPTIMIZE = {"fit": 1, "steps": 3000, "peak_lr": 1e-3, "warmup_steps": 100}
TRUNK = {"kind": "constant", "steps": 2000, "peak_lr": 1e-3, "warmup_steps": 100}
NEXT = {"kind": "cosine", "steps": 1000, "peak_lr": 1e-3, "warmup_steps": 50}
CONTINUAL_STEPS = list(range(125, 1001, 125))
CONTINUAL = {
    "general": "english",
    "domain": "code",
    "curves": [
        {
            "run": f"{kind} after {start}",
            "role": role,
            "before": {**TRUNK, "steps": start},
            "schedule": {**NEXT, "kind": kind},
            "step": CONTINUAL_STEPS,
            "loss": [
                round(3.0 + (0.1 if role == "general" else -0.2) * (step / 100) ** 0.3
                      + 4.0 / (start + step) ** 0.5
                      - (0.1 * (step / 1000) ** 3 if kind == "cosine" else 0.0), 5)
                for step in CONTINUAL_STEPS
            ],
        }
        for role in ("general", "domain")
        for kind in ("constant", "cosine")
        for start in (1000, 2000)
    ],
    "draws": 10,
}  # fmt: skip
CONTINUED = {"fit": 1, "before": TRUNK, "schedule": NEXT, "steps": [500, 1000]}
CONTINUAL_PLAN = {"fit": 1, "general_weight": 0.3, "before": TRUNK, "steps": [500, 1000]}
FORECAST = {"fit": 1, "inputs": {"N": 1e9, "D": 2e10}, "project": "demo"}
LINK_PREDICTIONS = {
    "the source's loss was measured": {"source_loss": 2.75, "flops": 1e20},
    "it is itself a forecast, with its interval": {
        "source_loss": 2.75,
        "source_interval": [[2.74, 2.77]],
    },
}


def install(app: FastAPI) -> None:
    """Replace `app.openapi` by one that adds to what the framework makes, and keeps the result."""
    make = app.openapi

    def document() -> dict[str, Any]:
        if app.openapi_schema is None:
            app.openapi_schema = completed(make)
        return app.openapi_schema

    app.openapi = document  # type: ignore[method-assign]


def completed(make: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    document = make()
    schemas = document.setdefault("components", {}).setdefault("schemas", {})
    schemas["Problem"] = Problem.model_json_schema()
    # this service answers a request that does not match with a problem document
    for name in ("HTTPValidationError", "ValidationError"):
        schemas.pop(name, None)
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            responses = operation["responses"]
            responses.pop("422", None)
            for status, description in PROBLEM_STATUSES.items():
                responses[status] = _problem(description)
            if method == "post" and not path.endswith(("/cancel", "/retry")):
                operation.setdefault("parameters", []).append(IDEMPOTENCY_KEY)
    _set_examples(document)
    return document


IDEMPOTENCY_KEY = {
    "name": "Idempotency-Key",
    "in": "header",
    "required": False,
    "description": "Any text of yours: the same request with the same key is done once.",
    "schema": {"type": "string", "minLength": 1, "maxLength": 255, "pattern": "^[!-~]+$"},
}


def _problem(description: str) -> dict[str, Any]:
    schema = {"$ref": "#/components/schemas/Problem"}
    return {"description": description, "content": {"application/problem+json": {"schema": schema}}}


def _set_examples(document: dict[str, Any]) -> None:
    """Examples beside the schemas: each is a body that this service answers with a 2xx."""
    fits = {
        f"{name} to points": {"law": name, "points": laws.example_points(laws.find(name))}
        for name in laws.names()
    }
    # points that several laws can be fitted to
    several = next(name for name in laws.names() if len(laws.find(name).inputs) > 1)
    points = laws.example_points(laws.find(several))
    by_path: dict[str, dict[str, Any]] = {
        "/v1/compare": {"every law that can": {"points": points}},
        "/v1/fits": fits | {"the law that forecasts best": {"law": "auto", "points": points}},
        "/v1/predictions": {"one point": PREDICTION},
        "/v1/allocations": {"a budget in FLOPs": ALLOCATION, "GPU-hours of a machine": PLAN},
        "/v1/calibrations": {"measured steps": CALIBRATION},
        "/v1/predictions/time": {"by a data sheet": TIME},
        "/v1/curves/fit": {"two runs": CURVES},
        "/v1/curves/predict": {"another schedule": CURVE},
        "/v1/schedules/rank": {"two schedules of one peak": RANK},
        "/v1/schedules/optimize": {"so many steps": OPTIMIZE},
        "/v1/cpt/fit": {"two domains": CONTINUAL},
        "/v1/cpt/predict": {"a run that continues": CONTINUED},
        "/v1/cpt/plan": {"weights of the two losses": CONTINUAL_PLAN},
        "/v1/forecasts": {"of inputs": FORECAST},
        "/v1/links/{link_id}/predict": LINK_PREDICTIONS,
        "/v1/tasks/{task_id}/predict": {"from the task's own loss": {"loss": 2.3}},
        "/v1/links/{link_id}/translate": {"a fit of the source's runs": {"fit": 1}},
    }
    for path, examples in by_path.items():
        operation = document["paths"].get(path, {}).get("post")
        if operation:
            content = operation["requestBody"]["content"]["application/json"]
            content["examples"] = {name: {"value": value} for name, value in examples.items()}
