"""The configuration of one training run: read from JSON once, checked once, then trusted.

The recipe hash stands for everything that must not be mixed in one fit: architecture family,
data, optimizer with its hyper-parameters, schedule family, batch, sequence length, tokenizer. It
leaves out what a scaling law varies: the size of the model, the number of steps, the seed.
"""

import hashlib
import json
import math
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

SCHEDULES = ("constant", "wsd", "cosine", "linear", "step", "wsd-s")
OPTIMIZERS = ("muon", "adamw")
MOMENTA = ("reset", "carry")
PARALLEL = ("ddp", "fsdp")


DEVICES = ("cpu", "cuda")
RATE_MOST = 100.0  # Adam moves every weight by the rate at each step, and weights are about 1
MANY = 10**15  # steps, tokens or parameters: more than anybody trains


class ConfigError(ValueError):
    """The configuration cannot be trained; the message names the key, the value and the remedy."""


def check_number(
    name: str, value: Any, least: float, most: float, remedy: str = "", above: bool = False
) -> None:
    """Raise ConfigError unless `value` is a number from `least` (or `above` it) to `most`."""
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if not number or not least <= value <= most or (above and value == least):
        what = f"a number above {least:g}, {most:g} at most" if above else None
        what = what or f"a number from {least:g} to {most:g}"
        raise ConfigError(f"{name} is {value!r}; it must be {what}{remedy and '; '}{remedy}")


def check_whole(name: str, value: Any, least: int, remedy: str = "") -> None:
    """Raise ConfigError unless `value` is a whole number, `least` at least."""
    number = isinstance(value, int) and not isinstance(value, bool)
    if not number or not least <= value <= MANY:
        raise ConfigError(
            f"{name} is {value!r}; it must be a whole number, {least} at least"
            f"{remedy and '; '}{remedy}"
        )


@dataclass(frozen=True)
class ModelConfig:
    """Shape of a decoder-only transformer. `d_ff` is the width of the MLP's hidden layer."""

    d_model: int
    n_layers: int
    head_dim: int = 32
    d_ff: int = 0
    vocab_size: int = 256
    seq_len: int = 256
    mlp: str = "swiglu"
    tied: bool = False
    qk_norm: bool = True

    def __post_init__(self) -> None:
        if self.mlp not in ("swiglu", "relu2"):
            raise ConfigError(f"model.mlp is {self.mlp!r}; known: swiglu, relu2")
        for name in ("d_model", "n_layers", "head_dim", "vocab_size", "seq_len"):
            check_whole(f"model.{name}", getattr(self, name), 1)
        check_whole("model.d_ff", self.d_ff, 0, "0 is 8/3 or 4 times the width, as the MLP needs")
        if self.d_ff == 0:
            object.__setattr__(self, "d_ff", default_d_ff(self.d_model, self.mlp))
        if self.d_model % self.head_dim:
            raise ConfigError(
                f"model.d_model {self.d_model} is not a multiple of head_dim {self.head_dim}"
            )
        if self.head_dim % 2:
            raise ConfigError(f"model.head_dim {self.head_dim} is odd; rotary pairs need it even")


def default_d_ff(d_model: int, mlp: str) -> int:
    """8/3 of the width, rounded up to a multiple of 16, for SwiGLU; 4 times for ReLU^2."""
    return 16 * math.ceil(d_model * 8 / 3 / 16) if mlp == "swiglu" else 4 * d_model


@dataclass(frozen=True)
class Source:
    """A corpus by the folder that holds its manifest, with its share of the training sequences."""

    name: str
    path: str
    weight: float = 1.0


@dataclass(frozen=True)
class DataConfig:
    train: tuple[Source, ...]
    validation: tuple[Source, ...]

    def __post_init__(self) -> None:
        if not self.train:
            raise ConfigError("data.train is empty; name at least one corpus")
        if any(not 0 < source.weight < math.inf for source in self.train):
            raise ConfigError("every weight in data.train must be positive and finite")


@dataclass(frozen=True)
class OptimizerConfig:
    """`lr` is the peak rate at width `mup_base_d_model`; other widths follow from it (optim.py).

    `base_n_layers` is the depth at which it was tuned: with it other depths follow too (CompleteP);
    0 leaves depth alone.
    """

    name: str = "muon"
    lr: float = 6e-3
    weight_decay: float = 0.1
    betas: tuple[float, float] = (0.9, 0.95)
    eps: float = 1e-10
    momentum: float = 0.95
    clip: float = 1.0
    mup_base_d_model: int = 64
    base_n_layers: int = 0
    z_loss: float = 0.0

    def __post_init__(self) -> None:
        if self.name not in OPTIMIZERS:
            raise ConfigError(f"optimizer.name is {self.name!r}; known: {', '.join(OPTIMIZERS)}")
        usual = "peak rates that train are about 1e-4 to 1e-1"
        check_number("optimizer.lr", self.lr, 0, RATE_MOST, usual, above=True)
        check_number("optimizer.weight_decay", self.weight_decay, 0, 100, "0.1 is usual")
        if not isinstance(self.betas, tuple) or len(self.betas) != 2:
            raise ConfigError(f"optimizer.betas is {self.betas!r}; it must be two, [0.9, 0.95]")
        for name, value in (*zip(("betas[0]", "betas[1]"), self.betas, strict=True),
                            ("momentum", self.momentum)):  # fmt: skip
            check_number(f"optimizer.{name}", value, 0, 0.999999, "1 would never forget")
        check_number("optimizer.eps", self.eps, 0, 1, "1e-10 is the default", above=True)
        check_number("optimizer.clip", self.clip, 0, 1e30, "0 does not clip")
        check_whole("optimizer.mup_base_d_model", self.mup_base_d_model, 1)
        check_whole("optimizer.base_n_layers", self.base_n_layers, 0, "0 leaves depth alone")
        check_number("optimizer.z_loss", self.z_loss, 0, 1, "1e-4 is usual, 0 is none")


@dataclass(frozen=True)
class ScheduleConfig:
    """`steps` in all, of which the first `warmup_steps` rise and the last `cooldown_steps` fall.

    initial_fraction  of the peak rate, from which the warm-up rises: a continual run whose parent
                      ended at half its peak warms up from there
    drops             kind step: [[step, factor], ...]; after that step the rate is factor * peak
    periods           kind wsd-s: the steps at which a cool-down ends, the last of them `steps`
    """

    kind: str
    steps: int
    warmup_steps: int = 0
    cooldown_steps: int = 0
    final_fraction: float = 0.0
    initial_fraction: float = 0.0
    drops: tuple[tuple[int, float], ...] = ()
    periods: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        if self.kind not in SCHEDULES:
            raise ConfigError(f"schedule.kind is {self.kind!r}; known: {', '.join(SCHEDULES)}")
        check_whole("schedule.steps", self.steps, 1)
        check_whole("schedule.warmup_steps", self.warmup_steps, 0)
        check_whole("schedule.cooldown_steps", self.cooldown_steps, 0)
        for name in ("final_fraction", "initial_fraction"):
            share = "it is a share of the peak rate"
            check_number(f"schedule.{name}", getattr(self, name), 0, 1, share)
        if self.kind in ("wsd", "wsd-s") and not 0 < self.cooldown_steps <= self.steps:
            raise ConfigError(
                f"schedule.cooldown_steps is {self.cooldown_steps}; a {self.kind} run of "
                f"{self.steps} steps needs between 1 and that many"
            )
        object.__setattr__(self, "drops", tuple((int(at), float(to)) for at, to in self.drops))
        at = [step for step, _ in self.drops]
        if bool(at) != (self.kind == "step") or at != sorted({*at}):
            raise ConfigError(
                f"schedule.drops is {[list(drop) for drop in self.drops]}; a step schedule, and no "
                "other, needs [[step, factor], ...] with rising steps"
            )
        for _, factor in self.drops:
            check_number("a factor of schedule.drops", factor, 0, 1, "it is a share of the peak")
        self._check_periods()

    def _check_periods(self) -> None:
        ends = self.periods
        if self.kind != "wsd-s":
            if ends:
                raise ConfigError("schedule.periods is for kind wsd-s alone")
            return
        if not ends or list(ends) != sorted({*ends}) or ends[-1] != self.steps:
            raise ConfigError(
                f"schedule.periods is {list(ends)}; give rising steps that end with {self.steps}"
            )
        for begin, end in zip((0, *ends), ends, strict=False):
            if begin + self.warmup_steps >= end - self.cooldown_before(end):
                raise ConfigError(
                    f"the period of steps {begin + 1} to {end} is too short for its warm-up of "
                    f"{self.warmup_steps} and its cool-down of {self.cooldown_before(end)} steps"
                )

    def identity(self) -> dict[str, Any]:
        """What a checkpoint's schedule must agree in, as JSON gives it back. What later versions
        added is left out where it is not used, so that older checkpoints can be resumed."""
        later = ("initial_fraction", "drops", "periods")
        given = {k: v for k, v in asdict(self).items() if v or k not in later}
        document: dict[str, Any] = json.loads(json.dumps(given))
        return document

    def cooldown_before(self, end: int) -> int:
        """Steps of the cool-down that ends at `end`: the same share of all steps until then."""
        return max(1, round(self.cooldown_steps * end / self.steps))


@dataclass(frozen=True)
class EvaluateConfig:
    at_steps: tuple[int, ...] = ()
    tokens: int = 65536

    def __post_init__(self) -> None:
        check_whole("evaluate.tokens", self.tokens, 1)
        for step in self.at_steps:
            check_whole("a step of evaluate.at_steps", step, 0)


@dataclass(frozen=True)
class CheckpointConfig:
    """Resume checkpoints every so many steps (0: only when stopped), of which `keep` stay."""

    every_steps: int = 0
    branch_at_steps: tuple[int, ...] = ()
    keep: int = 2

    def __post_init__(self) -> None:
        check_whole(
            "checkpoint.every_steps", self.every_steps, 0, "0 writes them only when stopped"
        )
        check_whole("checkpoint.keep", self.keep, 1)
        for step in self.branch_at_steps:
            check_whole("a step of checkpoint.branch_at_steps", step, 1)


@dataclass(frozen=True)
class InitConfig:
    """Where the weights come from: a trunk that this run continues (branch: same steps, same
    optimizer state) or a trained model that it goes on from on other text (continual: step 0).

    `momentum` says what a continual run does with the optimizer's state: `reset` starts it afresh,
    `carry` takes the parent's over. It is part of the recipe.
    """

    checkpoint: str
    kind: str
    momentum: str = "reset"

    def __post_init__(self) -> None:
        if self.kind not in ("branch", "continual"):
            raise ConfigError(f"init.kind is {self.kind!r}; known: branch, continual")
        if self.momentum not in MOMENTA:
            raise ConfigError(f"init.momentum is {self.momentum!r}; known: {', '.join(MOMENTA)}")


@dataclass(frozen=True)
class Config:
    """`processes` is how many a worker starts for the run (launch.py). `parallel` matters to
    several alone: ddp, each holds all of the model; fsdp, each a shard."""

    model: ModelConfig
    data: DataConfig
    optimizer: OptimizerConfig
    schedule: ScheduleConfig
    batch_tokens: int
    seed: int = 0
    device: str = "cpu"
    threads: int = 1
    dtype: str = "float32"
    compile: bool = False
    deterministic: bool = False
    processes: int = 1
    parallel: str = "ddp"
    evaluate: EvaluateConfig = field(default_factory=EvaluateConfig)
    checkpoint: CheckpointConfig = field(default_factory=CheckpointConfig)
    init: InitConfig | None = None

    def __post_init__(self) -> None:
        for name, least in (("batch_tokens", 1), ("seed", 0), ("threads", 1), ("processes", 1)):
            check_whole(name, getattr(self, name), least)
        for name in ("compile", "deterministic"):
            if not isinstance(getattr(self, name), bool):
                raise ConfigError(f"{name} is {getattr(self, name)!r}; it must be true or false")
        if str(self.device).split(":")[0] not in DEVICES:
            raise ConfigError(f"device is {self.device!r}; known: {', '.join(DEVICES)}")
        if self.batch_tokens % self.model.seq_len:
            raise ConfigError(
                f"batch_tokens {self.batch_tokens} is not a multiple of "
                f"model.seq_len {self.model.seq_len}"
            )
        self._check_steps()
        if self.dtype not in ("float32", "bfloat16"):
            raise ConfigError(f"dtype is {self.dtype!r}; known: float32, bfloat16")
        if self.batch_sequences % self.processes:
            raise ConfigError(
                f"processes is {self.processes}, which cannot share the {self.batch_sequences} "
                "sequences of a step equally; choose a batch that is a multiple, or fewer processes"
            )
        if self.parallel not in PARALLEL:
            raise ConfigError(f"parallel is {self.parallel!r}; known: {', '.join(PARALLEL)}")
        if self.parallel == "fsdp" and self.optimizer.name == "muon":
            raise ConfigError(
                "parallel is 'fsdp', which cuts matrices into shards, and Muon needs them whole; "
                "set optimizer.name to 'adamw', or parallel to 'ddp' where the model fits one GPU"
            )

    def _check_steps(self) -> None:
        """Whatever is to happen at a step must come to pass."""
        steps = self.schedule.steps
        if self.schedule.warmup_steps > steps:
            raise ConfigError(
                f"schedule.warmup_steps is {self.schedule.warmup_steps}, longer than the run of "
                f"{steps} steps; warm up for at most that many, or train longer"
            )
        for name, at_steps in (
            ("evaluate.at_steps", self.evaluate.at_steps),
            ("checkpoint.branch_at_steps", self.checkpoint.branch_at_steps),
        ):
            late = [step for step in at_steps if step > steps]
            if late:
                raise ConfigError(
                    f"{name} names step {min(late)}, and the run ends at step {steps}; name steps "
                    "up to the last, or train longer"
                )

    @property
    def batch_sequences(self) -> int:
        return self.batch_tokens // self.model.seq_len


def read_config(path: str | Path) -> Config:
    """The configuration in the JSON file `path`. Raises ConfigError on an unknown or bad key."""
    try:
        document = json.loads(Path(path).read_text())
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path}: {error}") from error
    return parse_config(document)


def parse_config(document: dict[str, Any]) -> Config:
    """The same from a document that is already read."""
    document = dict(document)
    data = dict(_section(document, "data"))
    sources = {
        key: tuple(_build(Source, item, f"data.{key}") for item in data.get(key, ()))
        for key in ("train", "validation")
    }
    sections: dict[str, Any] = {
        "model": _build(ModelConfig, _section(document, "model"), "model"),
        "data": DataConfig(**sources),
        "optimizer": _build(OptimizerConfig, document.get("optimizer") or {}, "optimizer"),
        "schedule": _build(ScheduleConfig, _section(document, "schedule"), "schedule"),
        "evaluate": _build(EvaluateConfig, document.get("evaluate") or {}, "evaluate"),
        "checkpoint": _build(CheckpointConfig, document.get("checkpoint") or {}, "checkpoint"),
    }
    init = document.get("init")
    sections["init"] = _build(InitConfig, init, "init") if init else None
    config: Config = _build(Config, {**document, **sections}, "the configuration")
    return config


def _section(document: dict[str, Any], key: str) -> Any:
    if not isinstance(document.get(key), dict):
        raise ConfigError(f"the configuration needs an object {key!r}")
    return document[key]


def _build(kind: type, values: Any, where: str) -> Any:
    known = {each.name for each in fields(kind)}
    unknown = sorted(set(values) - known)
    if unknown:
        raise ConfigError(f"{where} has no key {unknown[0]!r}; known: {', '.join(sorted(known))}")
    tidy = {key: tuple(v) if isinstance(v, list) else v for key, v in values.items()}
    try:
        return kind(**tidy)
    except TypeError as error:
        raise ConfigError(f"{where}: {error}") from error


def recipe_hash(config: Config, corpora: dict[str, str], tokenizer: str) -> str:
    """sha256 of the recipe. `corpora` gives the digest of each training corpus by name.

    A trunk at constant rate and the branches that cool it down are one recipe (family "wsd"): the
    branch is the run that is fitted, and its trunk is its own first part.
    """
    family = "wsd" if config.schedule.kind == "constant" else config.schedule.kind
    model = asdict(config.model)
    for varied in ("d_model", "n_layers", "head_dim", "d_ff"):
        del model[varied]
    recipe: dict[str, Any] = {
        "model": model,
        "data": [[s.name, corpora[s.name], s.weight] for s in config.data.train],
        "tokenizer": tokenizer,
        "optimizer": {
            key: value
            for key, value in asdict(config.optimizer).items()
            if value or key != "base_n_layers"  # as it was before there was one
        },
        "schedule": {
            "family": family,
            "warmup_steps": config.schedule.warmup_steps,
            "final_fraction": config.schedule.final_fraction,
        },
        "batch_tokens": config.batch_tokens,
        "dtype": config.dtype,
        "init": None,
    }
    if config.init and config.init.kind == "continual":
        recipe["init"] = ["continual", config.init.momentum]
        recipe["schedule"]["initial_fraction"] = config.schedule.initial_fraction
    if config.schedule.drops:
        recipe["schedule"]["factors"] = [factor for _, factor in config.schedule.drops]
    return hashlib.sha256(json.dumps(recipe, sort_keys=True).encode()).hexdigest()
