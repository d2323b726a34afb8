"""Progress, interruption, and bad arguments of the builder."""

import datetime
import signal
import subprocess
import sys
import textwrap
import threading
import time

import numpy as np
import pytest

from resemb_ext import InterestGraph
from tests.processes import cpu_seconds


def events(n=300_000, items=2_000):
    rng = np.random.default_rng(0)
    return rng.integers(0, 500, n), rng.integers(1, items, n), rng.integers(0, 10**6, n)


def test_progress_runs_from_zero_to_total_on_the_calling_thread():
    calls, threads = [], set()

    def progress(done, total):
        calls.append((done, total))
        threads.add(threading.get_ident())

    InterestGraph.from_events(*events(), window=10, threads=2, progress=progress)
    done = [d for d, _ in calls]
    assert done == sorted(done) and len({t for _, t in calls}) == 1
    assert calls[0][0] == 0 and calls[-1][0] == calls[-1][1] > 0
    assert threads == {threading.get_ident()}


def test_progress_true_is_quiet_without_a_terminal(capsys):
    graph = InterestGraph.from_events([0, 0], [1, 2], progress=True)
    assert graph.num_edges == 5 and capsys.readouterr().err == ""


def test_exception_of_progress_stops_the_build():
    before = threading.active_count()

    def progress(done, total):
        if done:
            raise RuntimeError("enough")

    began = time.process_time()
    with pytest.raises(RuntimeError, match="enough"):
        InterestGraph.from_events(*events(1_000_000), window=3_000, threads=2, progress=progress)
    assert time.process_time() - began < 20  # the whole build takes minutes
    assert threading.active_count() == before


def test_other_python_threads_run_meanwhile():
    ticks = []
    stop = threading.Event()

    def tick():
        while not stop.wait(0.005):
            ticks.append(time.perf_counter())

    thread = threading.Thread(target=tick)
    thread.start()
    try:
        InterestGraph.from_events(*events(), window=40, threads=1)
    finally:
        stop.set()
        thread.join()
    assert len(ticks) >= 5


INTERRUPTED = """
    import os, resource, signal, sys, threading, time
    import numpy as np
    from resemb_ext.graph import InterestGraph

    # A parent that runs in the background hands down an ignored SIGINT.
    signal.signal(signal.SIGINT, signal.default_int_handler)

    rng = np.random.default_rng(0)
    n = 2_000_000
    log = rng.integers(0, 50, n), rng.integers(1, 5_000, n), rng.integers(0, 10**6, n)

    def tasks(expected=None):
        # A thread that was joined is listed a moment longer.
        until = time.monotonic() + 30
        while (found := len(os.listdir("/proc/self/task"))) != expected is not None and time.monotonic() < until:
            time.sleep(0.001)
        return found

    before = tasks()
    for attempt in range(3):
        try:
            print("building", flush=True)
            InterestGraph.from_events(*log, window=20_000, threads=3)
            sys.exit("the build ended")
        except KeyboardInterrupt:
            print("stopped", tasks(before) - before, flush=True)
    small = InterestGraph.from_events([0, 0], [1, 2])
    print("alive", small.num_edges, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024)
"""


@pytest.mark.full
@pytest.mark.skipif(sys.platform != "linux", reason="counts threads in /proc")
def test_ctrl_c_stops_promptly_and_leaves_nothing():
    child = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(INTERRUPTED)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    try:
        spent = []
        for _ in range(3):
            assert child.stdout.readline() == "building\n"
            time.sleep(0.6)
            sent = cpu_seconds(child.pid)
            child.send_signal(signal.SIGINT)
            assert child.stdout.readline() == "stopped 0\n"
            spent.append(cpu_seconds(child.pid) - sent)
        out, err = child.communicate(timeout=600)
    finally:
        child.kill()
        child.wait()
    assert child.returncode == 0, err
    assert out.startswith("alive 5 ")
    assert min(spent) < 2 and max(spent) < 10  # of three threads; the whole build takes minutes


GOOD = {"user": [0, 0, 1], "item": [1, 2, 3], "time": [1, 2, 3], "num_items": 4}


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"item": [1, -2, 3]}, IndexError, r"item\[1\] is -2, expected an id in \[0, num_items = 4\)"),
        ({"item": [1, 2, 4]}, IndexError, r"item\[2\] is 4"),
        ({"item": [5, 2, 9]}, IndexError, r"item\[0\] is 5"),
        ({"item": [1, 2, -1], "num_items": None}, IndexError, r"item\[2\] is -1"),
        ({"item": [1.0, 2.0, 3.0]}, TypeError, "item has dtype float64, expected integers"),
        ({"item": [True, False, True]}, TypeError, "item has dtype bool"),
        ({"item": ["a", "b", "c"]}, TypeError, "item has dtype"),
        ({"item": np.array([2**63, 1, 1], np.uint64)}, ValueError, r"item\[0\] is 9223372036854775808"),
        ({"item": [[1, 2, 3]]}, ValueError, r"item has shape \(1, 3\)"),
        ({"user": [0, 1]}, ValueError, "user has 2 entries, expected 3, as item has"),
        ({"user": [0.5, 1, 2]}, TypeError, "user has dtype float64"),
        ({"time": [0, 1]}, ValueError, "time has 2 entries, expected 3"),
        ({"time": [0, np.nan, 1]}, ValueError, r"time\[1\] is nan, expected a finite time"),
        ({"time": [0, 1, np.inf]}, ValueError, r"time\[2\] is inf"),
        ({"time": ["a", "b", "c"]}, TypeError, "time has dtype"),
        ({"num_items": 0}, ValueError, "num_items is 0"),
        ({"num_items": 4.0}, TypeError, "num_items is 4.0, expected an integer"),
        ({"user": [], "item": [], "time": None, "num_items": None}, ValueError, "num_items is None"),
        ({"item": [1, 2**40, 3], "num_items": None}, ValueError, r"item\[1\] is 1099511627776, far"),
        ({"window": 0}, ValueError, "window is 0, expected an integer >= 1"),
        ({"window": 2.5}, TypeError, "window is 2.5"),
        ({"window": True}, TypeError, "window is True"),
        ({"top_k": -1}, ValueError, "top_k is -1"),
        ({"min_count": 0}, ValueError, "min_count is 0"),
        ({"weighting": "pmi"}, ValueError, "weighting is 'pmi', expected one of \"count\", "),
        ({"decay": "linear"}, ValueError, "decay is 'linear', expected None"),
        ({"decay": 1.0}, ValueError, "decay is 1.0"),
        ({"damping": -0.5}, ValueError, "damping is -0.5"),
        ({"max_gap": -1}, ValueError, "max_gap is -1"),
        ({"max_gap": 3, "time": None}, ValueError, "max_gap is 3 but the events have no time"),
        ({"session_gap": "1h"}, TypeError, "session_gap is '1h'"),
        ({"session_gap": datetime.timedelta(1)}, TypeError, "expected a number as times are"),
        ({"category_edges": 2}, ValueError, "category_edges is 2 but category is None"),
        ({"category_edges": 2, "category": [1, 2]}, ValueError, "category has 2 entries, expected 4"),
        ({"category_weight": float("nan")}, ValueError, "category_weight is nan"),
        ({"windows": 3}, TypeError, "unexpected option 'windows', expected one of"),
        ({"self_weight": "min"}, ValueError, "self_weight is 'min'"),
        ({"self_weight": -1}, ValueError, "self_weight is -1"),
        ({"self_weight": float("nan")}, ValueError, "self_weight is nan"),
        ({"self_weight": None}, TypeError, "self_weight is None"),
        ({"directed": "yes"}, TypeError, "directed is 'yes'"),
        ({"padding_idx": 4}, ValueError, r"padding_idx is 4, expected an integer in \[0, 3\]"),
        ({"padding_idx": 2}, ValueError, r"item\[1\] is padding_idx = 2"),
        ({"threads": 0}, ValueError, "threads is 0"),
        ({"progress": 3}, TypeError, "progress is 3"),
    ],
)
def test_bad_arguments(change, error, message):
    InterestGraph.from_events(**GOOD)
    with pytest.raises(error, match=message):
        InterestGraph.from_events(**{**GOOD, **change})


@pytest.mark.parametrize("threads", [1, 4])
def test_first_bad_event_is_named_whatever_the_order(threads):
    user, item, time_ = events(400_000)
    item[[70_000, 200_000, 390_000]] = [-5, 2_000, -1]
    with pytest.raises(IndexError, match=r"item\[70000\] is -5"):
        InterestGraph.from_events(user, item, time_, num_items=2_000, threads=threads)
    stamps = time_.astype(float)
    stamps[[300_000, 150_000]] = np.nan
    with pytest.raises(ValueError, match=r"time\[150000\]"):
        InterestGraph.from_events(user, abs(item), stamps, num_items=2_001, threads=threads)


OUT_OF_MEMORY = """
import resource
from resemb_ext.graph import InterestGraph

resource.setrlimit(resource.RLIMIT_AS, (2**33, 2**33))
try:
    InterestGraph.from_events([0], [1], num_items=2**31 - 1)
except MemoryError:
    print("MemoryError")
"""


@pytest.mark.full
def test_too_many_items_for_memory_is_a_memory_error():
    done = subprocess.run([sys.executable, "-c", OUT_OF_MEMORY], capture_output=True, text=True)
    assert done.stdout == "MemoryError\n", done.stderr


def test_too_many_items_for_the_builder_are_refused():
    with pytest.raises(ValueError, match=r"a graph of events has at most 2\*\*31 - 1 items"):
        InterestGraph.from_events([0], [1], num_items=2**60)
