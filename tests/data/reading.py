"""Logs as the tests read them."""

from __future__ import annotations

import warnings

from resemb_ext.data import read_log


def items_of(log):
    return log.items.decode(log.item).tolist()


def quietly(*args, **options):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        return read_log(*args, **options)
