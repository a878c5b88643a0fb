"""What a link ties together, and the names that people give it."""

from fitting.errors import FittingError

# kind: (what x is, what y is); f_i is a model trained on data i, L_j the loss on data j.
KINDS: dict[str, tuple[str, str]] = {
    "train_to_train": ("L_0(f_0)", "L_1(f_1): two models, same N and D"),
    "train_to_test": ("L_0(f_0)", "L_1(f_0): one model, two evaluation sets"),
    "test_to_test": ("L_2(f_0)", "L_2(f_1): two models, one evaluation set"),
    "general": ("L_k(f_l)", "L_i(f_j)"),
}
METHODS = ("joint", "paper_ols", "free_E1", "odr")

# What is believed of kappa before the runs speak, for the joint method: (mean, sd).
KappaPrior = tuple[float, float]

# Train to train: root mean square of kappa - 1 over the 30 published links of six training sets
# (Brandfonbrener et al. 2024, the authors' table: .88 to 1.13). Links to tasks have .4 to 4.7.
NEAR_ONE: KappaPrior = (1.0, 0.066)


def default_prior(kind: str) -> KappaPrior | None:
    """`NEAR_ONE` from train to train, none elsewhere."""
    return NEAR_ONE if kind == "train_to_train" else None


def kind_of(name: str) -> str:
    """ "train_train", "train-to-train", ... -> "train_to_train"; a FittingError for others."""
    words = [w for w in name.replace("-", "_").split("_") if w != "to"]
    kind = "_to_".join(words) if len(words) == 2 else name
    if kind not in KINDS:
        raise FittingError(
            "bad_option", f"There is no kind of link {name!r}.", f"Use one of: {', '.join(KINDS)}."
        )
    return kind


def method_of(name: str) -> str:
    """The method's name as METHODS has it; "free_e1" is taken too."""
    found = {m.lower(): m for m in METHODS}.get(name.replace("-", "_").lower())
    if found is None:
        raise FittingError(
            "bad_option", f"There is no method {name!r}.", f"Use one of: {', '.join(METHODS)}."
        )
    return found
