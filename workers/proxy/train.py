"""Train one model: `python -m workers.proxy.train CONFIG.json --out DIR [--resume CHECKPOINT]`.

Prints JSON lines on stdout (docs/trainer.md lists them) and keeps checkpoints in DIR. SIGTERM
finishes the step, writes a resume checkpoint and exits 0 with status "stopped". A configuration
that cannot be trained is one sentence on stderr and exit status 2.

On a CPU the same configuration gives the same losses bit for bit, whether a run went through, was
killed and resumed, or went on from its trunk: a step depends on the checkpointed tensors and on
(seed, step), and on nothing else.

Under `python -m torch.distributed.run` several processes train one model; see distributed.py.
"""

import argparse
import contextlib
import gc
import os
import sys
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from workers.proxy import checkpoint, fused
from workers.proxy.config import Config, ConfigError, read_config, recipe_hash
from workers.proxy.data import AHEAD, Batches, Corpus, Validation
from workers.proxy.distributed import ALONE, Group, assign, joined, whole
from workers.proxy.model import Transformer, costs
from workers.proxy.optim import Optimizer, logit_scale
from workers.proxy.probe import part_rms, probe
from workers.proxy.process import (
    StopFlag,
    die_with_parent,
    fingerprint,
    keep_memory,
    peak_flops,
)
from workers.proxy.schedule import lr_factor
from workers.proxy.telemetry import Telemetry, emit

EVALUATION_TOKENS = 8192  # of one forward pass; fixed, so that a loss depends on nothing else
Forward = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]  # losses and log Z of all tokens
LOOK_EVERY = 50  # steps between two looks at the size of updates and at signs of instability


def train(
    config: Config, out: Path, resume: Path | None, stop: StopFlag, group: Group = ALONE
) -> str:
    """Run `config` to its end, or to a stop; the status that was emitted."""
    device = group.device(config.device)
    if device.type == "cuda" and not torch.cuda.is_available():
        raise ConfigError(
            f"device is {config.device!r}, and torch {torch.__version__} finds no GPU here; set it "
            'to "cpu", or train where nvidia-smi lists one, with a build of torch for CUDA'
        )
    torch.set_num_threads(config.threads)
    if config.deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.use_deterministic_algorithms(True)
    if device.type == "cuda":
        torch.set_float32_matmul_precision("high")
    out.mkdir(parents=True, exist_ok=True)

    # data
    corpora = [Corpus(source, config.model.seq_len) for source in config.data.train]
    check_vocabulary(config, corpora)
    splits = [corpus.split("train") for corpus in corpora]
    weights = [source.weight for source in config.data.train]
    share = group.share(config.batch_sequences)
    batches = Batches(splits, weights, config.batch_sequences, config.seed)
    validations = [
        Validation.load(source, config.model.seq_len, config.evaluate.tokens)
        for source in config.data.validation
    ]
    recipe = recipe_hash(config, {c.name: c.digest for c in corpora}, corpora[0].tokenizer)

    # model and optimizer
    torch.manual_seed(config.seed)
    model = Transformer(
        config.model,
        logit_scale(config.optimizer, config.model.d_model),
        config.optimizer.base_n_layers,
        # compiled, the plain formulas are fused by the compiler; and a GPU has kernels of its own
        fuse=device.type == "cpu"
        and config.dtype == "float32"
        and not config.compile
        and fused.suits(config.model),
    )
    model.initialise(config.seed)
    counted = costs(model)
    sharded = config.parallel == "fsdp" and group.size > 1
    if sharded:
        group.shard(model, device)  # from the CPU, layer by layer: it need never fit the device
    model.to(device)
    optimizer = Optimizer(model, config.optimizer)
    identity = {
        "recipe": recipe,
        "model": asdict(config.model),
        "seed": config.seed,
        "tokenizer": corpora[0].tokenizer,
        "schedule": config.schedule.identity(),
    }
    first = restore(config, resume, identity, model, optimizer)
    averaging = model if sharded else group.averaging(model, device)
    # one shape to train and one to evaluate: code that takes any would be slower
    forward: Forward = torch.compile(averaging, dynamic=False) if config.compile else averaging
    autocast = (
        torch.autocast(device.type, dtype=torch.bfloat16)
        if config.dtype == "bfloat16"
        else contextlib.nullcontext()
    )

    emit(
        "start",
        step=first,
        recipe=recipe,
        params=counted.params,
        flops_per_token=counted.flops_per_token,
        fingerprint=fingerprint(
            device, config.threads, config.dtype, config.compile, processes=group.size
        ),
        corpus_digest="+".join(corpus.digest for corpus in corpora),
        unique_tokens=batches.unique_tokens(config.schedule.steps),
    )

    def save(step: int, kind: str) -> None:
        if not (group.first or sharded):
            return
        tensors = {f"model.{name}": value for name, value in model.state_dict().items()}
        tensors |= {f"optimizer.{name}": value for name, value in optimizer.state().items()}
        if sharded:  # one at a time: all of them need not fit the device
            tensors = {name: whole(value).cpu() for name, value in tensors.items()}
        if not group.first:
            return
        tensors["rng"] = torch.get_rng_state()
        try:
            written = checkpoint.write(out, step, kind, tensors, identity)
        except OSError as error:
            if kind != "resume":  # a run that others start from, or its result, needs the file
                raise
            print(f"no checkpoint at step {step}: {error}", file=sys.stderr, flush=True)
            return
        emit(
            "checkpoint",
            step=step,
            kind=kind,
            path=str(written.path.resolve()),
            sha256=written.sha256,
            bytes=written.bytes,
        )
        if kind == "resume":
            checkpoint.drop_old(out, config.checkpoint.keep)

    peak = peak_flops(device, config.dtype)
    telemetry = Telemetry(
        device,
        config.batch_tokens,
        config.optimizer.clip,
        counted.flops_per_token["exact"],
        peak and peak * group.size,
    )
    steps, evaluate_at = config.schedule.steps, {*config.evaluate.at_steps, config.schedule.steps}
    every, branch_at = config.checkpoint.every_steps, set(config.checkpoint.branch_at_steps)
    if first == 0 and 0 in evaluate_at:
        evaluate(forward, autocast, validations, 0, config, device, group)
    gc.collect()
    gc.freeze()  # what lives until the end need not be looked at again (nanochat, base_train.py)

    for step in range(first + 1, steps + 1):
        ids = to_device(torch.from_numpy(batches.batch(step, share)), device)
        if step + AHEAD <= steps:
            batches.expect(step + AHEAD, share)
        lr = config.optimizer.lr * lr_factor(config.schedule, step)
        with autocast:
            losses, log_z = forward(ids[:, :-1], ids[:, 1:])
            loss = losses.mean()
            penalty = config.optimizer.z_loss
            objective = loss + penalty * log_z.square().mean() if penalty else loss
        torch.autograd.backward(objective)
        look = group.first and not sharded and step % LOOK_EVERY == 0
        if look:
            telemetry.record_extra(step, signs(model, ids))
            before = {name: p.detach().clone() for name, p in model.named_parameters()}
        grad_norm, nonfinite = optimizer.step(lr)
        optimizer.zero_grad()
        loss, mean_log_z = group.mean(torch.stack((loss.detach(), log_z.detach().mean())))
        telemetry.record(step, lr, loss, grad_norm, mean_log_z, nonfinite)
        if look:
            telemetry.record_extra(step, sizes(model, before))

        stop_requested, due = group.any(stop.requested, telemetry.due)
        stopping = stop_requested and step < steps
        saving = stopping or step in branch_at or (every and step % every == 0 and step < steps)
        if due or saving or step in evaluate_at:
            telemetry.flush()
            if telemetry.diverged:
                emit("end", step=step, status="diverged", message=telemetry.diverged)
                return "diverged"
        if step in evaluate_at:
            evaluate(forward, autocast, validations, step, config, device, group)
        if step in branch_at:
            save(step, "branch")
        if stopping or (every and step % every == 0 and step < steps):
            save(step, "resume")
        if stopping:
            emit("end", step=step, status="stopped", message="stopped on request")
            return "stopped"
        if saving or step in evaluate_at:
            telemetry.resume()

    save(steps, "final")
    emit("end", step=steps, status="finished", message="", spikes=telemetry.spikes)
    return "finished"


def check_vocabulary(config: Config, corpora: list[Corpus]) -> None:
    for corpus in corpora:
        if corpus.vocab_size > config.model.vocab_size:
            raise ConfigError(
                f"corpus {corpus.name} has {corpus.vocab_size} token ids and model.vocab_size is "
                f"{config.model.vocab_size}; raise it to {corpus.vocab_size}"
            )
        if corpus.tokenizer != corpora[0].tokenizer:
            raise ConfigError(f"corpora {corpora[0].name} and {corpus.name} differ in tokenizer")


def restore(
    config: Config,
    resume: Path | None,
    identity: dict[str, Any],
    model: Transformer,
    optimizer: Optimizer,
) -> int:
    """Load what the run goes on from; the number of steps that are already done."""
    if resume is not None:
        path = checkpoint.newest_resume(resume)
        tensors, about = checkpoint.read(path)
        must_agree(path, about, identity, ("recipe", "model", "seed", "schedule"))
    elif config.init is not None:
        path = Path(config.init.checkpoint)
        tensors, about = checkpoint.read(path)
        if config.init.kind == "continual":
            known = (
                "model",
                *(key for key in ("tokenizer",) if key in about),
            )  # older ones lack it
            must_agree(path, about, identity, known)
            load_weights(model, checkpoint.strip(tensors, "model"))
            if config.init.momentum == "carry":
                carry_momentum(path, tensors, optimizer)
            return 0
        must_agree(path, about, identity, ("recipe", "model", "seed"))
        start = config.schedule.steps - config.schedule.cooldown_steps
        if about["step"] > start:
            raise ConfigError(
                f"{path} is at step {about['step']}, after the cool-down starts ({start})"
            )
    else:
        return 0
    load_weights(model, checkpoint.strip(tensors, "model"))
    optimizer.load(checkpoint.strip(tensors, "optimizer"))
    torch.set_rng_state(tensors["rng"])
    return int(about["step"])


def load_weights(model: Transformer, tensors: dict[str, Tensor]) -> None:
    """Raises KeyError where the names differ; the identity was compared before."""
    for name, value in model.state_dict().items():
        assign(value, tensors[name])


def carry_momentum(path: Path, tensors: dict[str, Tensor], optimizer: Optimizer) -> None:
    """Go on with the parent's optimizer state, its counters of steps included."""
    try:
        optimizer.load(checkpoint.strip(tensors, "optimizer"))
    except (KeyError, ValueError, RuntimeError) as error:
        raise ConfigError(
            f"{path} was written by another optimizer, whose momentum cannot be carried over; "
            'set init.momentum to "reset"'
        ) from error


def must_agree(path: Path, about: Any, identity: dict[str, Any], keys: tuple[str, ...]) -> None:
    for key in keys:
        if about.get(key) != identity[key]:
            raise ConfigError(
                f"{path} was written by a run with another {key}: {about.get(key)} there, "
                f"{identity[key]} here"
            )


def to_device(ids: Tensor, device: torch.device) -> Tensor:
    if device.type == "cuda":
        return ids.pin_memory().to(device, non_blocking=True)
    return ids


@torch.no_grad()
def evaluate(
    forward: Forward,
    autocast: contextlib.AbstractContextManager[Any],
    validations: list[Validation],
    step: int,
    config: Config,
    device: torch.device,
    group: Group,
) -> None:
    """Emit the loss on every validation set, in nats a token, summed in double precision. Of
    several processes each does every so manieth part.

    Compiled, every part is made as long as the longest, by repeating its sequences, whose losses
    are left out: a compiler makes code for each shape that it meets."""
    most = max(1, EVALUATION_TOKENS // config.model.seq_len)
    if config.compile:
        most = min(most, max((len(each.ids) for each in validations), default=1))
    for validation in validations:
        total = torch.zeros((), dtype=torch.float64, device=device)
        parts = torch.split(validation.ids, most)
        rounds = -(-len(parts) // group.size)
        for i in range(group.rank, rounds * group.size, group.size):
            # as many forward passes everywhere, for shards are put together in each
            part = parts[i % len(parts)]
            tokens = part[:, 1:].numel()
            if config.compile:
                part = part[torch.arange(most) % len(part)]
            ids = to_device(part, device)
            with autocast:
                losses, _ = forward(ids[:, :-1], ids[:, 1:])
            if i < len(parts):
                total += losses[:tokens].double().sum()
        loss = float(group.sum(total)) / validation.tokens
        if loss != loss or loss == float("inf"):
            continue  # a diverged run; its points say so
        emit(
            "evaluation",
            step=step,
            train_tokens=step * config.batch_tokens,
            validation_set=validation.name,
            loss=loss,
            tokens=validation.tokens,
            bytes=validation.bytes,
        )


@torch.no_grad()
def signs(model: Transformer, ids: Tensor) -> dict[str, Tensor]:
    """Of the weights and gradients that the next update is made from; see probe.py."""
    gradients = ((n, p.grad) for n, p in model.named_parameters() if p.grad is not None)
    rms = {f"grad_rms_{part}": value for part, value in part_rms(gradients).items()}
    return {**rms, **probe(model, ids[:, :-1])}


@torch.no_grad()
def sizes(model: Transformer, before: dict[str, Tensor]) -> dict[str, Tensor]:
    """Root mean square of the parameters of each part, and of what the last step added to them."""
    now = list(model.named_parameters())
    updates = ((name, p - before[name]) for name, p in now)
    return {
        **{f"param_rms_{part}": value for part, value in part_rms(now).items()},
        **{f"update_rms_{part}": value for part, value in part_rms(updates).items()},
    }


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m workers.proxy.train", description=__doc__)
    parser.add_argument("config", type=Path)
    parser.add_argument("--out", type=Path, required=True, help="folder for checkpoints")
    parser.add_argument("--resume", type=Path, help="a checkpoint, or a folder of them")
    given = parser.parse_args(arguments)
    die_with_parent()
    keep_memory()
    stop = StopFlag()
    try:
        config = read_config(given.config)
        with joined(config) as group:
            train(config, given.out, given.resume, stop, group)
    except ConfigError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
