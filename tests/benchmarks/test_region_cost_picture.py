"""The picture of what detectors cost."""

import pytest

from benchmarks.region_cost.bars import plot_region_costs


def test_a_panel_for_each_kind_and_a_bar_for_each_method(tmp_path):
    path = tmp_path / "costs.png"
    plot_region_costs(path, ["one", "other"], {"GFLOPs": [2000, 3], "seconds": [1.5, 0.01]}, title="costs")
    assert path.stat().st_size > 5_000
    with pytest.raises(ValueError, match="seconds must be a number above 0 for each of 2 methods, received"):
        plot_region_costs(path, ["one", "other"], {"GFLOPs": [1, 2], "seconds": [1, 0]})
