import numpy as np

from cvjax.evaluate.power_law import PowerLaw
from cvjax.visualize.scaling import plot_scaling
from tests.visualize.figures import read, texts

LAW = PowerLaw(0.3, 40.0, 0.5, 20.0, 0.6, 0)
RUNGS = [(n, d, 1.1 * float(LAW(n, d))) for n in (1e4, 4e4, 1.6e5) for d in (200.0, 800.0)]


def test_dots_are_measured_and_lines_are_the_law(tmp_path, saved):
    plot_scaling(tmp_path / "scaling.png", RUNGS, LAW)
    assert (read(tmp_path / "scaling.png") < 0.5).any()
    by_size, by_data = saved[0].axes
    assert (by_size.get_xlabel(), by_data.get_xlabel()) == ("parameters", "training images")
    assert by_size.get_xscale() == by_size.get_yscale() == by_data.get_xscale() == "log"
    for axes, held in ((by_size, (200, 800)), (by_data, (1e4, 4e4, 1.6e5))):
        lines, dots = axes.lines[::2], axes.lines[1::2]
        assert [dot.get_label() for dot in dots] == [f"{value:,.0f}" for value in held]
        for value, line, dot in zip(held, lines, dots, strict=True):
            measured = sorted((r[0], r[2]) if axes is by_size else (r[1], r[2]) for r in RUNGS if value in r)
            np.testing.assert_allclose(sorted(zip(*dot.get_data())), measured)
            x, y = line.get_data()
            np.testing.assert_allclose(y, LAW(x, value) if axes is by_size else LAW(value, x))
            assert line.get_color() is not None and np.allclose(line.get_color(), dot.get_color())
    assert {"parameters", "training images", "test loss", "10,000", "800"} <= set(texts(saved[0]))
