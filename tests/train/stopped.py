"""Runs that are stopped like a process that dies."""

import pytest

import resemb_ext as rx
from resemb_ext.train import loop as loop_module
from resemb_ext.train import prepare as prepare_module
from resemb_ext.train import run

SMALL = {"epochs": 2, "batch_size": 256, "dim": 8, "hidden": (8,), "progress": False, "threads": 1}


class Stopped(Exception):
    """Stands for a process that dies."""


def simulate_little(patch):
    """Lets the built-in simulation, which runs without a log train on, make few events."""
    whole = rx.data.simulate
    patch.setattr(
        prepare_module.data, "simulate", lambda **o: whole(users=120, items=100, domains=4, events_per_user=(5, 9), **o)
    )


def stop_after(monkeypatch, saves):
    """Lets trainings save some times and then raises after, or instead of, a save."""
    left, whole = [saves], loop_module._Training.save

    def save(self):
        left[0] -= 1
        if left[0] < 0:
            raise Stopped
        whole(self)

    monkeypatch.setattr(loop_module._Training, "save", save)


def stopped_run(tmp_path, monkeypatch, **options):
    """A run folder of two saves."""
    with monkeypatch.context() as patch:
        stop_after(patch, 2)
        with pytest.raises(Stopped):
            run(**{**SMALL, **options}, out=str(tmp_path))
