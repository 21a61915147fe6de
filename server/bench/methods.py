"""The settings that are compared: the caller's own, or what a server offers."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Final

import yaml
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from decoders.registry import METHODS
from decoders.registry import name as method_name
from server.calibration.errors import CalibrationError

PLAIN: Final = "plain"
CANDIDATES: Final = 4  # of the methods that choose, in the default settings
GUIDE_WEIGHT: Final = 0.5
BUDGET: Final = 0.5  # of the cache methods
NAME: Final = 80  # characters at most: a server's own names have 64, and a word goes before them
OURS: Final = ("messages", "prompt", "model", "stream", "n", "decoding", "cache_salt", "max_tokens")
# Methods that compare answers by what the question's matcher extracts, unless the setting says otherwise.
EXTRACTING: Final = frozenset(method_name(one) for one in METHODS if "extract" in one.model_fields)


def _named(name: str) -> str:
    if not name.strip() or not name.isprintable():
        raise ValueError("must be printable text")
    return name


def _free(request: dict[str, Any]) -> dict[str, Any]:
    for field in request:
        if field in OURS:
            raise ValueError(f"{field} is the bench's own; a setting may give any other field of a request")
    return request


def _layers(decoding: dict[str, Any]) -> dict[str, Any]:
    for layer, method in decoding.items():
        if layer not in ("sequence", "logits", "cache") or not isinstance(method, dict):
            raise ValueError("must hold sequence, logits or cache, each an object with a method")
    return decoding


class Setting(BaseModel):
    """One way of answering. A server judges what is in `decoding`; what it refuses is reported as refused."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: Annotated[str, Field(min_length=1, max_length=NAME), AfterValidator(_named)]
    model: str | None = Field(default=None, max_length=256, description="Model id, if not the bench's.")
    decoding: Annotated[dict[str, Any], AfterValidator(_layers)] = Field(
        default_factory=dict, description="The request's `decoding`, without report."
    )
    request: Annotated[dict[str, Any], AfterValidator(_free)] = Field(
        default_factory=dict, description="Further fields of the request, for example temperature or top_p."
    )

    def method(self) -> str | None:
        """The sequence layer's method, if it names one."""
        name = self.decoding.get("sequence", {}).get("method")
        return name if isinstance(name, str) else None

    def chooses(self) -> bool:
        """Whether answers are sampled and compared, which greedy decoding gives nothing to compare."""
        return self.method() in EXTRACTING

    def extracting(self, extract: Mapping[str, Any] | None) -> dict[str, Any]:
        """`decoding` with this extraction, where a method compares answers and the setting has none."""
        sequence = self.decoding.get("sequence", {})
        if extract is None or not self.chooses() or "extract" in sequence:
            return self.decoding
        return {**self.decoding, "sequence": {**sequence, "extract": dict(extract)}}


def read_settings(path: Path) -> list[Setting]:
    """The settings in a YAML file: a list, or an object `settings` that holds one.

    Raises CalibrationError, which names setting and field.
    """
    try:
        given = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise CalibrationError(f"settings {path} cannot be read: {' '.join(str(error).split())}") from None
    listed = given.get("settings") if isinstance(given, dict) else given
    if not isinstance(listed, list) or not listed:
        raise CalibrationError(f"settings {path}: a list of settings is needed, each with name and decoding")
    try:
        return TypeAdapter(list[Setting]).validate_python(listed)
    except ValidationError as error:
        first = error.errors(include_input=False)[0]
        number, *field = first["loc"]
        at = f"setting {int(number) + 1}" + "".join(f", {part}" for part in field)
        raise CalibrationError(f"settings {path}, {at}: {first['msg']}") from None


def with_plain(settings: Sequence[Setting]) -> list[Setting]:
    """The settings after plain decoding, which all are compared with.

    Raises CalibrationError for a name that occurs twice.
    """
    names = [one.name for one in settings]
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise CalibrationError(f"two settings have the name {twice!r}; every one needs its own")
    plain = [one for one in settings if one.name == PLAIN] or [Setting(name=PLAIN)]
    return [*plain, *(one for one in settings if one.name != PLAIN)]


def offered(catalogue: Mapping[str, Any], cards: Sequence[Mapping[str, Any]]) -> list[Setting]:
    """Settings over all layers of what a server offers, plain decoding first.

    Args:
        catalogue: the answer of GET /v1/decoding/methods.
        cards: those of GET /v1/models; presets bring their `decoding`.
    """
    have = {one["method"] for methods in catalogue["layers"].values() for one in methods if one["offered"]}
    default, engines = catalogue["default_engine"], catalogue["engines"]
    found = [Setting(name=PLAIN)]
    found += [
        _one(f"plain {name}", sequence={"method": "plain", "engine": name})
        for name in engines
        if name != default
    ]
    found += [_preset(card) for card in cards if card.get("decoding")]
    switching = [one for one in found if one.method() == "ead"]
    if "ead" in have and not switching and len(engines) == 2:
        found.append(_one("ead", sequence={"method": "ead"}))
    if "speculative" in have:
        found.append(_one("speculative", sequence={"method": "speculative"}))
    found += [
        _one(name, sequence=sequence) for name, sequence in _choosing().items() if sequence["method"] in have
    ]
    if "genarm" in have:
        found += [
            _one(f"genarm {guide}", logits={"method": "genarm", "weights": {guide: GUIDE_WEIGHT}})
            for guide in engines[default]["guides"]
        ]
    caches = [name for name in engines[default]["cache_methods"] if name in have]
    found += [_one(f"{name} {BUDGET:g}", cache={"method": name, "budget": BUDGET}) for name in caches]
    if caches and "majority" in have:
        both = {
            "sequence": _choosing()[f"majority {CANDIDATES}"],
            "cache": {"method": caches[0], "budget": BUDGET},
        }
        found.append(Setting(name=f"majority {CANDIDATES} + {caches[0]} {BUDGET:g}", decoding=both))
    return _distinct(found)


def _choosing() -> dict[str, dict[str, Any]]:
    n = CANDIDATES
    return {
        f"majority {n}": {"method": "majority", "candidates": n},
        f"mbr {n}": {"method": "mbr", "candidates": n},
        f"best_of {n}": {"method": "best_of_n", "candidates": n, "reward": {"type": "logprob"}},
        f"equilibrium {n}": {"method": "equilibrium", "candidates": n},
    }


def _one(name: str, **layers: dict[str, Any]) -> Setting:
    return Setting(name=name, decoding=layers)


def _preset(card: Mapping[str, Any]) -> Setting:
    """A preset's own method objects, without what is merely their defaults' spelling."""
    layers = {layer: method for layer, method in card["decoding"].items() if isinstance(method, dict)}
    return Setting(name=f":{str(card['id']).rpartition(':')[2]}", decoding=layers)


def _distinct(settings: Sequence[Setting]) -> list[Setting]:
    """Each way of answering once, under its first name."""
    seen: dict[str, Setting] = {}
    for one in settings:
        seen.setdefault(json.dumps(_essence(one.decoding), sort_keys=True), one)
    return list(seen.values())


def _essence(decoding: Mapping[str, Any]) -> dict[str, Any]:
    """The methods with the parameters that are not their defaults."""
    fields = {method_name(one): one.model_fields for one in METHODS}
    return {
        layer: {
            name: value
            for name, value in method.items()
            if (known := fields.get(method["method"], {}).get(name)) is None or known.default != value
        }
        for layer, method in decoding.items()
    }
