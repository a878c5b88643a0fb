"""Which column holds what: by its usual names, or as the caller says."""

from collections.abc import Mapping, Sequence

from app.errors import ServiceError, shortened

# Field -> the names that trackers, papers and spreadsheets give it, compared without case and with
# spaces, dots and dashes read as underscores. The first is ours and wins where several are there.
USUAL_NAMES: dict[str, tuple[str, ...]] = {
    "run": ("run", "run_id", "run_name", "name", "experiment", "trial"),
    "N": (
        "n",
        "params",
        "parameters",
        "n_params",
        "num_params",
        "n_parameters",
        "num_parameters",
        "param_count",
        "model_size",
        "n_total",
        "n_non_embedding",
        "n_blocks",
        "n_blocks_and_head",
    ),
    "D": (
        "d",
        "tokens",
        "n_tokens",
        "num_tokens",
        "train_tokens",
        "training_tokens",
        "tokens_seen",
        "total_tokens",
    ),
    "loss": (
        "loss",
        "val_loss",
        "valid_loss",
        "validation_loss",
        "eval_loss",
        "final_loss",
        "test_loss",
        "train_loss",
        "bpb",
        "bits_per_byte",
    ),
    "step": ("step", "steps", "global_step", "iteration", "iter", "iterations", "train_step"),
    "lr": ("lr", "learning_rate"),
    "tokens": (
        "tokens",
        "d",
        "n_tokens",
        "num_tokens",
        "train_tokens",
        "training_tokens",
        "tokens_seen",
    ),
    "flops": ("flops", "c", "compute", "total_flops", "training_flops", "train_flops"),
    "loss_unit": ("loss_unit", "unit"),
    "n_convention": ("n_convention",),
    "flops_convention": ("flops_convention",),
    "validation_set": ("validation_set", "val_set", "eval_set"),
}
BITS_PER_BYTE_NAMES = {"bpb", "bits_per_byte"}
NAMES_THAT_SAY_THE_CONVENTION = {
    "n_total": "total",
    "n_non_embedding": "non_embedding",
    "n_blocks": "blocks",
    "n_blocks_and_head": "blocks_and_head",
}


def plain(name: str) -> str:
    """A header without what people vary: `Val Loss`, `val-loss` and `val/loss` are `val_loss`."""
    name = name.strip().lower()
    return "".join("_" if mark in " .-/" else mark for mark in name)


def find_column(
    field: str, header: Sequence[str], chosen: Mapping[str, str], *, header_row: int | None
) -> str | None:
    """The column of `header` that holds `field`; None where there is none.

    A field that is not in `USUAL_NAMES` (an input of some law, such as U) is found by its own
    name. A mapping in `chosen` is binding: a column that it names must be there.
    """
    if field in chosen:
        column = chosen[field]
        if column not in header:
            raise ServiceError(
                "invalid",
                f"There is no column {shortened(column, 60)!r} for {field}.",
                f"The columns are {listed(header)}.",
                row=header_row,
                column=field,
                value=column,
            )
        return column
    names = USUAL_NAMES.get(field, (plain(field),))
    found = [column for column in header if plain(column) in names]
    if len(found) <= 1:
        return found[0] if found else None
    ours = [column for column in found if plain(column) == names[0]]
    if len(ours) == 1:
        return ours[0]
    raise ServiceError(
        "invalid",
        f"{len(found)} columns could hold {field}: {listed(found)}.",
        f"Say which: columns {{{field!r}: {found[0]!r}}}, or leave the others out.",
        row=header_row,
        column=field,
    )


def need_column(
    field: str, header: Sequence[str], chosen: Mapping[str, str], *, header_row: int | None
) -> str:
    """Like `find_column`, but refuses a table without the column."""
    column = find_column(field, header, chosen, header_row=header_row)
    if column is None:
        usual = ", ".join(USUAL_NAMES.get(field, (field,))[:6])
        raise ServiceError(
            "invalid",
            f"No column holds {field}. The columns are {listed(header)}.",
            f"Name it one of: {usual}; or say which column it is: columns {{{field!r}: NAME}}.",
            row=header_row,
            column=field,
        )
    return column


def listed(names: Sequence[str], most: int = 12) -> str:
    shown = ", ".join(repr(shortened(name, 40)) for name in names[:most])
    return shown + (f" and {len(names) - most} more" if len(names) > most else "")
