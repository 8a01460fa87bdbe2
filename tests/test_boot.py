from __future__ import annotations

import subprocess
import sys
import threading
import time

import pytest

from handler.boot import BootTimeline


def test_the_timeline_begins_with_the_process() -> None:
    timeline = BootTimeline()
    (interpreter,) = timeline.phases
    assert (interpreter.name, interpreter.start_s) == ("interpreter", 0.0)
    assert interpreter.end_s is not None
    assert 0.0 < interpreter.end_s <= timeline.elapsed_s()


def test_the_age_of_a_process_counts_from_its_start() -> None:
    code = "import time; from handler.boot import process_age_s; print(process_age_s(), time.monotonic())"
    before_s = time.monotonic()
    child = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    age_s, then_s = map(float, child.stdout.split())
    # The tick of the start and the fork itself: well below the second that a coarser clock would be off by.
    assert before_s - 0.02 <= then_s - age_s <= before_s + 0.25


def test_phases_stand_in_the_order_they_began_and_nest() -> None:
    timeline = BootTimeline()
    with timeline.phase("outer"), timeline.phase("inner"):
        open_phases = timeline.phases
    assert [(phase.name, phase.end_s) for phase in open_phases[1:]] == [("outer", None), ("inner", None)]
    _, outer, inner = timeline.phases
    assert outer.end_s is not None
    assert inner.end_s is not None
    assert outer.start_s <= inner.start_s <= inner.end_s <= outer.end_s


def test_a_phase_that_failed_stays_open() -> None:
    timeline = BootTimeline()
    with pytest.raises(ZeroDivisionError), timeline.phase("weights"):
        raise ZeroDivisionError
    assert timeline.phases[-1].end_s is None
    assert timeline.ready_s is None


def test_ready_is_a_moment() -> None:
    timeline = BootTimeline()
    before_s = timeline.elapsed_s()
    timeline.mark_ready()
    assert timeline.ready_s is not None
    assert before_s <= timeline.ready_s <= timeline.elapsed_s()


def test_each_device_has_phases_of_its_own() -> None:
    timeline = BootTimeline()
    views = {device: timeline.for_device(device) for device in ("cuda:0", "cuda:1")}
    with timeline.phase("bind"), views["cuda:0"].phase("weights"), views["cuda:1"].phase("weights"):
        pass
    assert [(phase.name, phase.device) for phase in timeline.phases[1:]] == [
        ("bind", None),
        ("weights", "cuda:0"),
        ("weights", "cuda:1"),
    ]
    assert views["cuda:0"].phases == timeline.phases
    assert all(phase.end_s is not None for phase in timeline.phases)


def test_the_first_device_that_is_ready_counts() -> None:
    timeline = BootTimeline()
    timeline.for_device("cuda:1").mark_ready()
    ready_s = timeline.ready_s
    assert ready_s is not None
    timeline.for_device("cuda:0").mark_ready()
    assert timeline.ready_s == ready_s


def test_what_the_process_does_once_is_recorded_once() -> None:
    timeline = BootTimeline()
    with timeline.for_device("cuda:0").process_phase("import_torch"):
        pass
    phases = timeline.phases
    with timeline.process_phase("import_torch"):
        pass
    assert [(phase.name, phase.device) for phase in phases] == [("interpreter", None), ("import_torch", None)]
    assert timeline.phases == phases


def test_threads_may_write_side_by_side() -> None:
    timeline = BootTimeline()
    barrier = threading.Barrier(4)

    def work(name: str) -> None:
        barrier.wait()
        for number in range(50):
            with timeline.phase(f"{name}-{number}"):
                pass

    threads = [threading.Thread(target=work, args=(str(number),)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(timeline.phases) == 201
    assert all(phase.end_s is not None for phase in timeline.phases)
