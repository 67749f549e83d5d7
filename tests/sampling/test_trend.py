"""Trends: straight lines through the last two values."""

from __future__ import annotations

import torch

from animatediff.sampling.trend import Trend, known


def test_a_line_is_continued() -> None:
    values = {step: torch.tensor([2.0, -1.0]) * step + torch.tensor([1.0, 5.0]) for step in (0, 2, 5, 9)}
    trend: Trend | None = None
    for step in (0, 2, 5):
        trend = known(trend, step, values[step])
    assert trend is not None
    assert torch.allclose(trend.at(9), values[9])
    assert torch.equal(trend.at(5), values[5])
    assert torch.allclose(trend.at(9, share=0.5), (values[5] + values[9]) / 2)
    assert torch.equal(trend.at(9, share=0), values[5])


def test_one_value_stays_as_it_is() -> None:
    value = torch.tensor([3.0])
    assert torch.equal(Trend(4, value).at(7), value)
    again = known(Trend(4, value), 0, value + 1)
    assert again.slope is None, "an earlier step begins anew"
