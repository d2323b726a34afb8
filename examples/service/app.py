"""A bundle of ``resemb export --table`` behind HTTP: POST /score, GET /healthz."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Annotated, Any, Protocol

import numpy as np
from fastapi import FastAPI, HTTPException, Response
from pydantic import BaseModel, Field, StrictInt, StrictStr

from .batching import Batcher, Full, Stopping

log = logging.getLogger("resemb.service")

#: Raw ids are text, or integers of 64 bits.
RawId = Annotated[StrictInt, Field(ge=-(2**63), lt=2**64)] | StrictStr


class Row(BaseModel):
    """A row to score: a target and its history, oldest event first, in raw ids."""

    target: RawId
    history: list[RawId] = []


class Request(BaseModel):
    """The body of POST /score."""

    rows: list[Row] = Field(min_length=1)


class ServedBundle(Protocol):
    """What the service needs of a bundle."""

    about: dict[str, Any]

    @property
    def version(self) -> int: ...

    def refresh(self) -> bool: ...

    def score(self, targets: Any, histories: Any) -> Any: ...


@dataclass(frozen=True)
class Settings:
    """How the service behaves.

    Attributes:
        max_batch: rows that are scored at a time.
        max_waiting: rows that may wait; beyond it a request gets status 503.
        max_rows: rows of a request; a larger one gets status 413.
        poll_s: seconds between looks for a new version of the table.
    """

    max_batch: int = 512
    max_waiting: int = 4096
    max_rows: int = 1024
    poll_s: float = 1.0


class Refresher:
    """Takes new versions of the table while requests are served.

    Attributes:
        error: why the newest version was not taken, or None.
    """

    def __init__(self, bundle: ServedBundle, poll_s: float) -> None:
        self._bundle, self._poll_s = bundle, poll_s
        self.error: str | None = None

    async def run(self) -> None:
        """Looks for a new version again and again, until it is cancelled."""
        while True:
            await asyncio.sleep(self._poll_s)
            await self.once()

    async def once(self) -> None:
        """Looks for a new version; one that cannot be read leaves the one before in force."""
        try:
            if await asyncio.to_thread(self._bundle.refresh):
                log.info("serving version %d of the table", self._bundle.version)
            self.error = None
        except (ValueError, OSError) as error:
            reason = " ".join(str(error).split())
            if reason != self.error:
                log.error("the newest version of the table is not taken: %s", reason)
            self.error = reason


def create_app(bundle: ServedBundle, settings: Settings | None = None) -> FastAPI:
    """The service.

    Args:
        bundle: ``Bundle.open(...)`` of the bundle's library.
        settings: default ``Settings()``.
    """
    chosen = settings or Settings()
    batcher = Batcher(bundle.score, max_batch=chosen.max_batch, max_waiting=chosen.max_waiting)
    refresher = Refresher(bundle, chosen.poll_s)

    @contextlib.asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        batcher.start()
        looking = asyncio.create_task(refresher.run())
        yield
        looking.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await looking
        await batcher.stop()

    app = FastAPI(title="resemb", lifespan=lifespan)

    @app.post("/score")
    async def score(request: Request) -> dict[str, Any]:
        """Logits and probabilities, one a row; ``version`` is that of the table that scored them all."""
        if len(request.rows) > chosen.max_rows:
            raise HTTPException(413, f"rows: found {len(request.rows)}, expected at most {chosen.max_rows}")
        try:
            found = await batcher.submit([row.target for row in request.rows], [row.history for row in request.rows])
        except (Full, Stopping) as error:
            raise HTTPException(503, str(error), headers={"Retry-After": "1"}) from None
        except TypeError as error:  # ids of another type than the table's
            raise HTTPException(422, str(error)) from None
        probability = np.exp(-np.logaddexp(0, -found.logit.astype(np.float64)))
        return {"logit": found.logit.tolist(), "probability": probability.tolist(), "version": found.version}

    @app.get("/healthz")
    async def healthz(response: Response) -> dict[str, Any]:
        """What is served; status 503 where nothing is scored any more.

        A version of the table that cannot be read is named in ``error``, and the one before goes on serving: a fault of
        the publisher must not take every service away.
        """
        response.status_code = 200 if batcher.running else 503
        return {
            "status": "ok" if batcher.running else "stopping",
            "error": refresher.error,
            "model": bundle.about["model"],
            "version": bundle.version,
            "waiting_rows": batcher.waiting,
            "scored_rows": batcher.rows,
            "batches": batcher.batches,
        }

    return app
