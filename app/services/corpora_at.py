"""The corpora that a specification names -> what the planner needs to know of them."""

from collections.abc import Mapping, Sequence
from typing import Any

from app.services import corpora
from app.services.documents import CorpusError
from app.services.errors import ServiceError
from app.settings import Settings


def listed(settings: Settings) -> list[dict[str, Any]]:
    """The manifests of the corpora under `corpus_dir`, by name."""
    try:
        return corpora.list_corpora(settings.corpus_dir)
    except CorpusError as error:
        raise ServiceError(
            "conflict",
            f"A corpus in {settings.corpus_dir} cannot be read: {error}.",
            "Build it again with `scalewright corpus build`, or remove its folder.",
            column="corpora",
        ) from None


def paths(settings: Settings, names: Sequence[str]) -> dict[str, str]:
    """name -> folder. Raises ServiceError for a corpus that has not been built here."""
    known = {manifest["name"]: manifest["path"] for manifest in listed(settings)}
    for name in names:
        if name not in known:
            there = ", ".join(sorted(known)) or "none yet"
            raise ServiceError(
                "invalid",
                f"There is no corpus {name!r} in {settings.corpus_dir} (there is: {there}).",
                "Build it with `scalewright corpus build`, or name another.",
                column="corpora",
                value=name,
            )
    return {name: known[name] for name in names}


def unique_tokens(settings: Settings, names: Sequence[str]) -> dict[str, float]:
    """name -> training tokens in the corpus."""
    return {
        manifest["name"]: float(manifest["tokens"]["train"])
        for manifest in listed(settings)
        if manifest["name"] in names
    }


def with_validation(
    settings: Settings, spec: Mapping[str, Any], more: Sequence[str]
) -> dict[str, Any]:
    """The spec with the corpora `more` among its validation sets, where they are here and have the
    tokenizer that it trains with: links between sweeps need the same texts evaluated in all."""
    given = spec.get("corpora") or {}
    train = [corpus["name"] for corpus in given.get("train", ())]
    known = {manifest["name"]: manifest["tokenizer"] for manifest in listed(settings)}
    mine = next((known[name] for name in train if name in known), None)
    names = list(given.get("validation", ()))
    names += [name for name in more if name not in names and known.get(name, 0) == mine]
    return {**spec, "corpora": {**given, "validation": names}}


def with_vocabulary(settings: Settings, spec: Mapping[str, Any]) -> dict[str, Any]:
    """The spec with model.vocab_size filled in from its corpora, or checked against them."""
    train = [corpus["name"] for corpus in (spec.get("corpora") or {}).get("train", ())]
    sizes = {
        manifest["name"]: int(manifest["tokenizer"]["vocab_size"])
        for manifest in listed(settings)
        if manifest["name"] in train
    }
    if len(set(sizes.values())) > 1:
        raise ServiceError(
            "invalid",
            f"The training corpora have different vocabularies: {sizes}.",
            "Build them with one tokenizer.",
            column="corpora",
        )
    model = dict(spec.get("model") or {})
    if sizes:
        found = next(iter(sizes.values()))
        given = model.setdefault("vocab_size", found)
        if given < found:
            raise ServiceError(
                "invalid",
                f"model.vocab_size is {given}, and the corpora hold ids up to {found - 1}.",
                f"Use {found}, or leave it out.",
                column="model.vocab_size",
                value=given,
            )
    return {**spec, "model": model}


def check_one_tokenizer(settings: Settings, names: Sequence[str], folders: Sequence[str]) -> None:
    """ServiceError if the corpora `names` are not in the tokens of those in `folders`: a model
    that goes on with other tokens has to learn its alphabet again."""
    manifests = listed(settings)
    before = {m["tokenizer"].get("digest") for m in manifests if m["path"] in folders}
    for manifest in manifests:
        if manifest["name"] in names and before - {manifest["tokenizer"].get("digest")}:
            raise ServiceError(
                "invalid",
                f"Corpus {manifest['name']!r} has another tokenizer than the parent's text.",
                "Build it with the parent's tokenizer: `corpus build --tokenizer tokenizer.json`.",
                column="corpora",
                value=manifest["name"],
            )
