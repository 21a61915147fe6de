"""The settings that are compared: read, or made of what a server offers."""

from pathlib import Path
from typing import Any

import pytest
from pydantic import TypeAdapter, ValidationError

from decoders.request import DecodingRequest
from server.bench.methods import Setting, offered, read_settings, with_plain
from server.calibration.errors import CalibrationError
from server.config import Name

ENGINES: dict[str, Any] = {
    "base": {"guides": ["polite"], "cache_methods": ["kvmerger", "snapkv"]},
    "small": {"guides": [], "cache_methods": []},
}


def catalogue(*methods: str, engines: dict[str, Any] = ENGINES) -> dict[str, Any]:
    layer = [{"method": one, "offered": True} for one in methods] + [{"method": "auto", "offered": False}]
    return {"default_engine": "base", "engines": engines, "layers": {"all": layer}}


def test_what_is_offered_is_compared_over_all_layers() -> None:
    have = ("plain", "ead", "majority", "mbr", "best_of_n", "equilibrium", "genarm", "kvmerger", "snapkv")
    made = offered(catalogue(*have), [])
    assert made[0] == Setting(name="plain")
    assert len(made) >= 10
    layers = {layer for one in made for layer in one.decoding}
    assert layers == {"sequence", "logits", "cache"}
    for one in made:
        DecodingRequest.model_validate(one.decoding)
    assert "auto" not in {one.method() for one in made}


def test_a_server_with_little_offers_little() -> None:
    bare = {"base": {"guides": [], "cache_methods": []}}
    assert [one.name for one in offered(catalogue("plain", engines=bare), [])] == ["plain"]


def test_the_longest_names_that_a_server_has_are_settings_too() -> None:
    engine, guide, preset = ("x" * 63 + end for end in "egp")
    longest = TypeAdapter(Name).validate_python
    with pytest.raises(ValidationError):
        longest(engine + "x")
    engines = {"base": {"guides": [longest(guide)], "cache_methods": []}, longest(engine): ENGINES["small"]}
    small = {"sequence": {"method": "plain", "engine": "base"}}
    cards = [{"id": f"{'m' * 100}:{longest(preset)}", "decoding": small}]
    names = [one.name for one in offered(catalogue("plain", "genarm", engines=engines), cards)]
    assert names == ["plain", f"plain {engine}", f":{preset}", f"genarm {guide}"]


def test_presets_are_settings_and_none_is_there_twice() -> None:
    full = DecodingRequest.model_validate({"cache": {"method": "kvmerger", "budget": 0.5}})
    cards = [
        {"id": "demo"},
        {"id": "demo:half", "decoding": full.model_dump(mode="json", exclude_none=True)},
        {"id": "demo:odd", "decoding": {"cache": {"method": "kvmerger", "budget": 0.3}, "report": False}},
        {"id": "demo:small", "decoding": {"sequence": {"method": "plain", "engine": "small"}}},
    ]
    names = [one.name for one in offered(catalogue("plain", "kvmerger"), cards)]
    assert names == ["plain", "plain small", ":half", ":odd"]


def test_a_file_of_settings_and_its_errors(tmp_path: Path) -> None:
    path = tmp_path / "s.yaml"
    path.write_text(
        "settings:\n- {name: hot, request: {temperature: 0.9}}\n"
        "- {name: half, decoding: {cache: {method: kvmerger}}}\n"
    )
    assert [one.name for one in with_plain(read_settings(path))] == ["plain", "hot", "half"]
    for text, says in {
        "{": "cannot be read",
        "{}": "a list of settings is needed",
        "[{decoding: {}}]": "setting 1, name: Field required",
        "[{name: a}, {name: b, decodng: {}}]": "setting 2, decodng: Extra inputs",
        "[{name: a, decoding: {sequences: {}}}]": "must hold sequence, logits or cache",
        "[{name: a, request: {stream: true}}]": "stream is the bench's own",
    }.items():
        path.write_text(text)
        with pytest.raises(CalibrationError, match=says):
            read_settings(path)
    with pytest.raises(CalibrationError, match="two settings have the name 'a'"):
        with_plain([Setting(name="a"), Setting(name="a")])


def test_the_questions_extraction_goes_to_methods_that_compare_answers() -> None:
    extract = {"type": "last_line"}
    voting = Setting(name="v", decoding={"sequence": {"method": "majority", "candidates": 4}})
    assert voting.extracting(extract)["sequence"]["extract"] == extract
    own = Setting(name="o", decoding={"sequence": {"method": "majority", "extract": {"type": "whole"}}})
    assert own.extracting(extract) == own.decoding
    greedy = Setting(name="g", decoding={"cache": {"method": "kvmerger"}})
    assert greedy.extracting(extract) == greedy.decoding
    assert (voting.chooses(), greedy.chooses()) == (True, False)
