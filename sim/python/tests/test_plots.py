"""Plots show what `inspect` counts; without matplotlib it is said what is needed."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest

import cptr


def trace() -> cptr.Trace:
    return cptr.Trace(np.random.default_rng(0).random((300, 3, 8)).argsort(-1)[..., :2], layer_ids=[1, 2, 5])


def test_plots():
    pytest.importorskip("matplotlib").use("Agg")
    made = trace()
    curve = made.plot_hit_curve()
    lines = {line.get_label(): line.get_xydata() for line in curve.get_lines()}
    points = cptr.inspect(made, cache=[2, 8]).rows[0]["cache"]
    for name in ("lru", "lfu", "belady"):
        assert lines[name][0].tolist() == [2, pytest.approx(100 * points[0][name])]
        assert lines[name][-1].tolist() == [8, pytest.approx(100 * points[1][name])]
    heat = made.plot_experts()
    image = heat.get_images()[0].get_array()
    assert image.shape == (3, 8) and image.sum(1).tolist() == pytest.approx([200] * 3)
    assert [label.get_text() for label in heat.get_yticklabels()] == ["1", "2", "5"]
    assert made.plot_experts(heat) is heat


def test_without_matplotlib():
    code = "import sys; sys.modules['matplotlib'] = None; import cptr; cptr.Trace([[[0]]]).plot_experts()"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 1 and "UnsupportedError: plots need matplotlib: pip install" in done.stderr
