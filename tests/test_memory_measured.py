"""The forecast of memory against what real trainings take at their peak; minutes, in processes of their own."""

import sys
from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks.memory import TOLERANCE, Case, make_model, measure
from selftaught.models.shape import shape_of

CASE = Case(name="", model="")
CASES = {
    "large vocabulary": replace(CASE, dtype="bfloat16", micro_batch_tokens=400),
    "wide layers": CASE,
    "one key head": replace(CASE, dtype="bfloat16", lora_rank=16),
}


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the memory of a process is read from /proc")
@pytest.mark.parametrize("name", CASES)
def test_the_forecast_is_within_15_percent_of_the_measured_peak(name: str, tmp_path: Path) -> None:
    make_model(name, tmp_path)
    case = replace(CASES[name], name=name, model=str(tmp_path))
    assert case.forecast(shape_of(case.model)).bytes == pytest.approx(measure(case).peak, rel=TOLERANCE)
