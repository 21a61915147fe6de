"""From answers to figures, and from figures to the choice."""

from pathlib import Path

import pytest
import yaml

from server.calibration import preset
from server.calibration.data import read_prompts
from server.calibration.errors import CalibrationError
from server.calibration.quality import Proportion
from server.calibration.settings import EadSettings
from server.calibration.show import curve, sentence, table
from server.calibration.state import Answer, State
from server.calibration.summary import Row, Speed, Summary, choose_quality, choose_share, rate, summarise
from server.calibration.sweep import Setting, Sweep
from server.config import ServeSettings

OF = 100


def row(name: str, share: float, hits: int, speed: float = 2.0) -> Row:
    threshold = float(name.removeprefix("ead ")) if name.startswith("ead") else None
    sequence = {"method": "plain", "engine": name}
    if threshold is not None:
        sequence = {"method": "ead", "small": "small", "large": "base", "threshold": threshold}
    figures = Speed(speed, speed - 0.1, speed + 0.1, 4)
    return Row(
        Setting(name, sequence, threshold), share, Proportion(hits, OF), 0.5, 1.0, 9.0, 40.0, 0, figures
    )


ROWS = (
    row("small", 0.0, 40), row("ead 2", 0.2, 60), row("ead 1", 0.4, 85), row("ead 0.5", 0.6, 80),
    row("ead 0.25", 0.9, 89), row("large", 1.0, 90),
)  # fmt: skip
SUMMARY = Summary(ROWS, "accuracy", Proportion(98, OF))


@pytest.mark.parametrize(
    ("most", "name"),
    [(0.0, "small"), (0.19, "small"), (0.2, "ead 2"), (0.5, "ead 1"), (0.99, "ead 0.25"), (1.0, "large")],
)
def test_the_share_chosen_is_the_greatest_not_above(most: float, name: str) -> None:
    assert choose_share(ROWS, most).setting.name == name


@pytest.mark.parametrize(
    ("least", "name"),
    [(0.1, "small"), (0.6, "ead 2"), (0.94, "ead 1"), (0.95, "ead 0.25"), (0.99, "large"), (1.0, "large")],
)
def test_the_quality_chosen_is_the_cheapest_that_reaches_it(least: float, name: str) -> None:
    assert choose_quality(ROWS, least).setting.name == name


def test_a_quality_that_nothing_has_is_an_error() -> None:
    with pytest.raises(CalibrationError, match=r"no setting has 1\.1 times .*; at most 1\.000"):
        choose_quality(ROWS, 1.1)
    with pytest.raises(CalibrationError, match="nothing right"):
        choose_quality((row("small", 0.0, 5), row("large", 1.0, 0)), 0.5)


def test_table_curve_and_sentence_say_what_was_measured() -> None:
    lines = table(SUMMARY).splitlines()
    assert lines[0].split()[0] == "setting"
    assert [line.split()[0] for line in lines[1:7]] == ["small", "ead", "ead", "ead", "ead", "large"]
    assert "40.0%  0.850 (0.767 to 0.907)" in lines[3]
    assert "same answer to 98 of 100 prompts" in lines[-1]
    drawn = curve(SUMMARY, ROWS[2])
    assert [drawn.count(mark, drawn.index("\n")) for mark in ("*", "|")] == [1, 13]
    assert drawn.splitlines()[1].endswith("l")
    assert drawn.splitlines()[13].startswith(" 0.400 |s")
    said = sentence(SUMMARY, ROWS[2])
    assert "threshold 1 bits: 40.0% of the tokens" in said
    assert "0.850 of 100 (at 95% at least 0.767), 0.944 of the large model's (at least 0.852)" in said
    assert "faster" not in said
    assert "faster" in sentence(SUMMARY, row("ead 1", 0.4, 85, speed=0.5))


def test_a_written_preset_is_what_serve_reads(tmp_path: Path) -> None:
    path = tmp_path / "preset.yaml"
    preset.require_writable(path)
    preset.write(path, preset.preset(SUMMARY, ROWS[2], "mine", ("s\nm", "l"), 8))
    preset.require_writable(path)  # its own it may write again
    settings = ServeSettings(**yaml.safe_load(path.read_text(encoding="utf-8")))
    served = settings.preset_table()["demo:mine"]
    assert served.decoding.sequence.method == "ead"
    assert served.decoding.sequence.threshold == 1.0
    assert "40%" in served.description
    path.write_text("port: 8000\n", encoding="utf-8")
    with pytest.raises(CalibrationError, match="exists and is not of decant calibrate"):
        preset.require_writable(path)


def said(prompt: int, setting: str, tokens: list[int], engines: dict[str, int], **more: object) -> Answer:
    known = {"text": "", "round": 0, "session": 1, "finish": "stop", "began": 0.0, "ended": 2.0}
    return Answer(
        **{**known, **more, "prompt": prompt, "setting": setting, "tokens": tokens, "engines": engines}
    )


def test_a_sweep_is_summed_up(tmp_path: Path) -> None:
    data = tmp_path / "data"
    data.write_text('{"prompt": "a"}\n{"prompt": "b"}\n', encoding="utf-8")
    options = EadSettings(data=data, thresholds=1)
    with State(tmp_path / "s", "ead", options.measured(), "d") as state:
        sweep = Sweep(options, read_prompts(data), state)
        assert not sweep.is_complete()
        state.set_engines({"small": "little", "large": "big"})
        state.set_thresholds([0.5])
        for name in ("small, traced", "small"):
            state.add(said(0, name, [1, 9], {"little": 2}))
            state.add(said(1, name, [5, 6], {"little": 2}))
        state.add(said(0, "ead 0.5", [1, 2, 3, 9], {"little": 3, "big": 1}, switches=2, recomputed=7))
        state.add(said(1, "ead 0.5", [5, 6], {"big": 2}, finish="length", ended=4.0))
        for name in ("large, traced", "large"):
            state.add(said(0, name, [1, 2, 3, 4], {"big": 4}))
            assert not sweep.is_complete()
            state.add(said(1, name, [5, 6] if name == "large" else [5, 7], {"big": 2}))
        assert sweep.is_complete()
        summary = summarise(sweep, "exact")
    small, ead, large = summary.rows
    assert summary.measure == "agreement"
    assert summary.itself == Proportion(1, 2)
    assert [one.share for one in summary.rows] == [0.0, 0.5, 1.0]
    assert [one.quality for one in summary.rows] == [Proportion(1, 2), Proportion(1, 2), Proportion(2, 2)]
    assert (small.prefix, ead.prefix, large.prefix) == (0.625, 0.875, 1.0)
    assert (ead.switches, ead.recomputed, ead.tokens, ead.cut) == (1.0, 3.5, 3.0, 1)
    assert small.speed == Speed(2 / 3, 2 / 3, 2 / 3, 1)  # 4 tokens in 2 s beside 6 in 2 s
    assert ead.speed == Speed(0.5, 0.5, 0.5, 1)  # 6 in 4 s


def test_a_divided_round_has_no_rate() -> None:
    whole = [said(i, "small", [1], {"s": 5}, began=1.0 + i, ended=3.0 + i) for i in range(2)]
    assert rate(whole) == pytest.approx(10 / 3)
    assert rate([whole[0], said(1, "small", [1], {"s": 5}, session=2)]) is None
