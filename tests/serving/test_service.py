"""The example service: batches, limits, versions while it serves, and its end."""

from __future__ import annotations

import asyncio
import importlib.util
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from examples.service.batching import Batcher, Full, Stopping
from resemb_ext.serving import SavedModel
from resemb_ext.serving.lite.bundle import Bundle
from resemb_ext.serving.publish import publish_rows
from tests.serving.runtimes import needs_onnx

HAS_SERVE = all(importlib.util.find_spec(name) for name in ("fastapi", "uvicorn"))
needs_serve = pytest.mark.skipif(not HAS_SERVE, reason='needs FastAPI: pip install -e ".[serve]"')


@dataclass
class Found:
    logit: np.ndarray
    version: int = 0


class Counting:
    """Scores a row by its target; waits where told."""

    def __init__(self):
        self.sizes, self.go = [], threading.Event()
        self.go.set()

    def __call__(self, targets, histories):
        self.go.wait(10)
        if "bad" in targets:
            raise TypeError("bad id")
        self.sizes.append(len(targets))
        assert len(targets) == len(histories)
        return Found(np.array(targets, np.float32), len(self.sizes))


def batched(work, **options):
    """Runs ``work(batcher, score)`` in an event loop, and stops the batcher behind it."""
    score = Counting()

    async def run():
        batcher = Batcher(score, **{"max_batch": 8, "max_waiting": 20, **options})
        batcher.start()
        assert batcher.running
        try:
            return await work(batcher, score)
        finally:
            score.go.set()
            await batcher.stop()
            assert not batcher.running and batcher.waiting == 0

    return asyncio.run(run()), score


def test_each_request_gets_its_own_scores():
    async def work(batcher, score):
        async def one(k):
            targets = [10 * k + j for j in range(1 + k % 3)]
            answer = await batcher.submit(targets, [[]] * len(targets))
            assert answer.logit.tolist() == targets

        for _ in range(5):
            await asyncio.gather(*(one(k) for k in range(9)))

    _, score = batched(work)
    assert max(score.sizes) <= 8 and len(score.sizes) < 45


def test_what_waits_is_one_batch_and_a_large_request_one_alone():
    async def work(batcher, score):
        score.go.clear()
        tasks = [asyncio.create_task(batcher.submit([0], [[]]))]
        await asyncio.sleep(0.05)  # the first is being scored
        tasks += [
            asyncio.create_task(batcher.submit([k] * size, [[]] * size)) for k, size in enumerate((2, 3, 9, 1, 1))
        ]
        await asyncio.sleep(0.05)
        assert batcher.waiting == 16
        score.go.set()
        return [len(answer.logit) for answer in await asyncio.gather(*tasks)]

    sizes, score = batched(work)
    assert sizes == [1, 2, 3, 9, 1, 1] and score.sizes == [1, 5, 9, 2]


def test_too_many_rows_are_refused_at_once():
    async def work(batcher, score):
        score.go.clear()
        first = asyncio.create_task(batcher.submit([1], [[]]))
        await asyncio.sleep(0.05)
        second = asyncio.create_task(batcher.submit([2] * 20, [[]] * 20))
        await asyncio.sleep(0)
        with pytest.raises(Full, match="20 rows wait, of at most 20"):
            await batcher.submit([3], [[]])
        score.go.set()
        await asyncio.gather(first, second)
        assert (await batcher.submit([4] * 30, [[]] * 30)).logit.shape == (
            30,
        )  # nothing waits: taken whatever its size

    batched(work)


def test_a_bad_request_fails_alone():
    async def work(batcher, score):
        score.go.clear()
        tasks = [asyncio.create_task(batcher.submit([raw], [[]])) for raw in (1, 2, "bad", 3)]
        await asyncio.sleep(0.05)
        score.go.set()
        return await asyncio.gather(*tasks, return_exceptions=True)

    found, _ = batched(work)
    assert [f.logit.tolist() if not isinstance(f, Exception) else str(f) for f in found] == [[1], [2], "bad id", [3]]


def test_requests_whose_client_has_gone_are_not_scored():
    async def work(batcher, score):
        score.go.clear()
        tasks = [asyncio.create_task(batcher.submit([0], [[]]))]
        await asyncio.sleep(0.05)  # the first is being scored
        tasks += [asyncio.create_task(batcher.submit([k], [[]])) for k in (1, 2, 3)]
        await asyncio.sleep(0.05)
        tasks[2].cancel()
        await asyncio.sleep(0)
        score.go.set()
        await asyncio.gather(*tasks, return_exceptions=True)

    _, score = batched(work)
    assert score.sizes == [1, 2]


def test_stopping_answers_what_waits_and_takes_no_more():
    async def work(batcher, score):
        score.go.clear()
        tasks = [asyncio.create_task(batcher.submit([k], [[]])) for k in range(4)]
        await asyncio.sleep(0.05)
        stop = asyncio.create_task(batcher.stop())
        await asyncio.sleep(0)
        with pytest.raises(Stopping):
            await batcher.submit([9], [[]])
        score.go.set()
        await stop
        return [answer.logit.tolist() for answer in await asyncio.gather(*tasks)]

    assert batched(work)[0] == [[0], [1], [2], [3]]


# The service in a process of its own.


def ask(port, path, body=None):
    """Status and JSON of a request."""
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(
        f"http://127.0.0.1:{port}{path}", data, {"Content-Type": "application/json"} if data else {}
    )
    try:
        with urllib.request.urlopen(request, timeout=30) as answer:
            return answer.status, json.load(answer)
    except urllib.error.HTTPError as error:
        return error.code, json.load(error)


def until(condition, seconds=20):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.05)


@needs_onnx
@needs_serve
@pytest.mark.full
def test_it_scores_checks_and_takes_new_versions(copied, trained, tmp_path):
    from examples.service.load import serving

    items = SavedModel.load(trained, "res", 0).items
    known = items.values.tolist()
    rows = [
        {"target": known[3], "history": known[:6]},
        {"target": "nobody's"},
        {"target": known[5], "history": ["nobody's"]},
    ]
    opened, table = Bundle.open(copied), copied / "items.table"

    def expected():
        found = opened.score([row["target"] for row in rows], [row.get("history", []) for row in rows])
        return found.logit, found.probability

    with serving(copied, "--poll", "0.1", "--max-rows", "5") as (process, port):
        status, health = ask(port, "/healthz")
        assert status == 200 and (health["status"], health["version"], health["model"]) == ("ok", 0, "DIN")
        mapped = Path(f"/proc/{process.pid}/maps").read_text()
        assert "libtorch" not in mapped and "onnxruntime" in mapped
        status, found = ask(port, "/score", {"rows": rows})
        assert status == 200 and found["version"] == 0
        np.testing.assert_allclose(found["logit"], expected()[0], rtol=1e-6)
        np.testing.assert_allclose(found["probability"], expected()[1], rtol=1e-6)
        for body, status in (
            ({"rows": rows * 2}, 413),
            ({"rows": []}, 422),
            ({"rows": [{"target": 3}]}, 422),  # the run's ids are text
            ({"rows": [{"target": None}]}, 422),
            ({"rows": [{"target": "a", "history": "b"}]}, 422),
            ({"rows": [{"target": 2**70}]}, 422),
            ({}, 422),
        ):
            assert ask(port, "/score", body)[0] == status
        publish_rows(table, np.array([4, items.oov]), np.full((2, 4), 0.5, np.float32))
        until(lambda: ask(port, "/healthz")[1]["version"] == 1)
        opened.refresh()
        status, found = ask(port, "/score", {"rows": rows})
        assert status == 200 and found["version"] == 1
        np.testing.assert_allclose(found["logit"], expected()[0], rtol=1e-6)
        # A version that cannot be read leaves the one before in force, and is said.
        other = Path(shutil.copytree(copied, tmp_path / "other")) / "items.table"
        publish_rows(other, np.array([4]), np.zeros((1, 4), np.float32))
        whole, delta = other.with_name("items.table.d") / "00000002.delta", copied / "items.table.d" / "00000002.delta"
        delta.write_bytes(whole.read_bytes()[:-1])
        os.replace(other.with_name("items.table.d") / "HEAD", copied / "items.table.d" / "HEAD")
        until(lambda: ask(port, "/healthz")[1]["error"])
        status, health = ask(port, "/healthz")
        assert status == 200 and health["version"] == 1 and "cut off" in health["error"]
        assert ask(port, "/score", {"rows": rows})[0] == 200
        os.replace(whole, delta)
        until(lambda: ask(port, "/healthz")[1]["version"] == 2)
        assert ask(port, "/healthz")[1]["error"] is None
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) in (0, -signal.SIGTERM)


@needs_onnx
@needs_serve
@pytest.mark.full
def test_requests_beyond_the_queue_get_503_and_those_taken_are_answered_at_the_end(copied, trained):
    from examples.service.load import bodies, client, serving

    known = SavedModel.load(trained, "res", 0).items.values.tolist()
    requests = bodies(known, 16, 40, 4, seed=0)
    with serving(copied, "--max-waiting", "40", "--max-batch", "40") as (process, port):
        seen = asyncio.run(client(port, requests, 24, 3.0))
        assert set(seen.statuses) == {200, 503} and min(seen.statuses.values()) > 0

        async def ended_meanwhile():
            work = asyncio.create_task(client(port, requests, 4, 1.5))
            await asyncio.sleep(0.5)
            process.send_signal(signal.SIGTERM)
            with pytest.raises((ConnectionError, asyncio.IncompleteReadError)):  # then the connections are closed
                await work

        asyncio.run(ended_meanwhile())
        assert process.wait(20) in (0, -signal.SIGTERM)


@needs_onnx
@needs_serve
@pytest.mark.full
def test_the_load_test_reports(bundle, tmp_path):
    out = tmp_path / "load.json"
    command = [sys.executable, "-m", "examples.service.load", bundle, "--seconds", "3", "--every", "0.3", "--out", out]
    done = subprocess.run(command, capture_output=True, text=True, cwd=Path(__file__).resolve().parents[2], timeout=120)
    assert done.returncode == 0, done.stderr
    found = json.loads(out.read_text())
    assert found["requests"] > 20 and set(found["statuses"]) == {"200"} and found["versions"] >= 2
    assert found["answers_of_an_older_version_than_before"] == 0
    assert 0 < found["p50_ms"] <= found["p99_ms"] <= found["max_ms"]
    assert "requests_per_s" in done.stdout and "p99_ms" in done.stdout


@needs_serve
@pytest.mark.full
def test_what_cannot_be_served_is_one_line(tmp_path):
    command = [sys.executable, "-m", "examples.service", tmp_path]
    done = subprocess.run(command, capture_output=True, text=True, cwd=Path(__file__).resolve().parents[2])
    assert done.returncode == 2 and done.stderr.startswith("examples.service: error:") and done.stderr.count("\n") == 1
