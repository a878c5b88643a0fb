"""Every law: each module of this folder that defines LAW is found here, by being here."""

import importlib
import pkgutil

from fitting.errors import FittingError
from fitting.law import Law


def _find() -> dict[str, Law]:
    found: dict[str, Law] = {}
    for module in sorted(pkgutil.iter_modules(__path__), key=lambda m: m.name):
        law = getattr(importlib.import_module(f"{__name__}.{module.name}"), "LAW", None)
        if law is None:
            continue
        for one in law if isinstance(law, tuple) else (law,):
            if one.name in found:
                raise TypeError(f"two laws are called {one.name!r}; see fitting/laws/{module.name}")
            found[one.name] = one
    return found


LAWS: dict[str, Law] = _find()


def get_law(name: str) -> Law:
    """The law of that name; a FittingError that lists the known ones if there is none."""
    if name not in LAWS:
        raise FittingError(
            "unknown_law", f"There is no law {name!r}.", f"Known laws: {', '.join(LAWS)}.", law=name
        )
    return LAWS[name]
