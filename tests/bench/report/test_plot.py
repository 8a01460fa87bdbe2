from __future__ import annotations

import itertools

from hypothesis import given
from hypothesis import strategies as st

from bench.report.plot import HEIGHT_PX, Dot, Line, Plot, Void, spread
from bench.report.scales import Scale
from bench.report.stacks import stack_of

OURS, FLASK = stack_of("pilotlight"), stack_of("flask")


def plot(*lines: Line, voids: tuple[Void, ...] = (), y: Scale | None = None) -> Plot:
    return Plot(
        key="key",
        title="title",
        description="description",
        x=Scale("linear", 0.0, 100.0),
        y=y or Scale("linear", 0.0, 10.0),
        x_label="x",
        y_label="y",
        lines=lines,
        voids=voids,
    )


def test_a_stroke_goes_through_its_dots() -> None:
    drawn = plot()
    assert drawn.path([Dot(0.0, 0.0), Dot(50.0, 10.0)]) == f"M0.0 {HEIGHT_PX}.0L500.0 0.0"
    assert (drawn.across(25.0), drawn.down(10.0)) == ("25.00%", "0.0")


def test_a_band_needs_an_interval_at_each_dot() -> None:
    whole = [Dot(0.0, 5.0, 4.0, 6.0), Dot(50.0, 5.0, 4.0, 6.0)]
    band = plot().band(whole)
    assert band is not None
    assert band.endswith("Z")
    assert band.count(" ") == 4
    assert plot().band([*whole, Dot(100.0, 5.0)]) is None
    assert plot().band(whole[:1]) is None


def test_names_stand_where_lines_reach_the_right_end_and_not_on_each_other() -> None:
    lines = (
        Line(OURS, ((Dot(0.0, 5.0), Dot(100.0, 5.0)),)),
        Line(stack_of("fastapi"), ((Dot(0.0, 5.1), Dot(100.0, 5.1)),)),
        Line(FLASK, ((Dot(0.0, 5.0), Dot(50.0, 5.0)),)),
    )
    (first, first_px), (second, second_px) = plot(*lines).labels()
    assert (first.name, second.name) == ("fastapi", "pilotlight")
    assert second_px - first_px >= 15


@given(st.lists(st.floats(0.0, 240.0), max_size=12).map(sorted))
def test_spread_keeps_apart_and_in_order(places: list[float]) -> None:
    moved = spread(places, 17.0, 240.0)
    assert all(after - before >= 17.0 - 1e-6 for before, after in itertools.pairwise(moved))
    assert all(place <= 240.0 for place in moved)


def test_loads_that_say_nothing_stand_above_each_other() -> None:
    voids = (Void(OURS, 50.0, ""), Void(FLASK, 50.0, ""), Void(FLASK, 60.0, ""))
    places = [place for _, place in plot(voids=voids).placed_voids()]
    assert places[0] == places[2] > places[1]
    assert plot(voids=voids).stacks == [OURS, FLASK]


def test_the_diagonal_bends_between_different_axes() -> None:
    drawn = plot(y=Scale("log", 1.0, 100.0)).diagonal_path()
    assert drawn.startswith("M10.0 240.0L")
    assert drawn.endswith("L1000.0 0.0")
    assert drawn.count("L") == 40
