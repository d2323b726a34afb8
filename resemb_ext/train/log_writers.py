"""The loggers that have names: TensorBoard, Weights & Biases, MLflow."""

from __future__ import annotations

import importlib
import json
import os
import uuid
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from .loggers import LoggedRun, RunLogger

_PROJECT = "resemb"


def make_logger(name: str) -> RunLogger:
    """A logger by its name, as ``check_name`` takes it.

    Raises:
        ImportError: its package is missing.
    """
    kind, _, where = name.partition("=")
    make, module = _KINDS[kind]
    try:
        importlib.import_module(module)
    except ImportError as error:
        raise ImportError(
            f'log_to: {kind} needs the package {module} ({error}); pip install "resemb_ext[log]"'
        ) from error
    return make(where or None)


def check_name(name: str) -> None:
    """ValueError for what names no logger."""
    kind, equals, where = name.partition("=")
    if kind not in _KINDS or (equals and not where):
        wanted = ", ".join(f"{known} or {known}=WHERE" for known in _KINDS)
        raise ValueError(f"log_to is {name!r}, expected {wanted}")


def _key(arm: str, seed: int) -> str:
    return f"{arm}-seed{seed}"


class TensorBoardLogger(RunLogger):
    """Event files, in a folder for each arm and seed.

    Args:
        where: folder that holds one of the run's name; None: ``logged/tensorboard`` in the run folder.
    """

    def __init__(self, where: str | None = None) -> None:
        self._where = where
        self._writers: dict[str, Any] = {}

    def begin(self, run: LoggedRun) -> None:
        if self._where is None:
            self._folder = run.place / "tensorboard"
        else:
            self._folder = Path(run.kept.setdefault("folder", str(Path(self._where).absolute() / run.folder.name)))
        self._folder.mkdir(parents=True, exist_ok=True)
        self._config = run.config

    def _writer(self, key: str, first: int) -> Any:
        from torch.utils.tensorboard import SummaryWriter

        if key not in self._writers:
            # Steps from the first on are purged: a process that was killed may have written them.
            self._writers[key] = SummaryWriter(str(self._folder / key), purge_step=first)
            if first == 1:
                self._writers[key].add_text("config", _code(self._config), 0)
        return self._writers[key]

    def epoch(self, arm: str, seed: int, epoch: int, values: Mapping[str, float]) -> None:
        writer = self._writer(_key(arm, seed), epoch)
        for name, value in values.items():
            writer.add_scalar(name, value, epoch)
        writer.flush()

    def arm_done(self, arm: str, seed: int, values: Mapping[str, float]) -> None:
        key, last = _key(arm, seed), int(values["epochs"])
        writer = self._writer(key, last + 1)
        for name, value in values.items():
            if not name.startswith("valid/"):  # that is a curve
                writer.add_scalar(name if "/" in name else f"result/{name}", value, last)
        writer.close()
        del self._writers[key]

    def end(self, result: Mapping[str, Any]) -> None:
        from torch.utils.tensorboard import SummaryWriter

        with SummaryWriter(str(self._folder)) as writer:
            writer.add_text("summary", _code(result["summary"]), 0)

    def close(self, finished: bool) -> None:
        for writer in self._writers.values():
            writer.close()
        self._writers = {}


class WandbLogger(RunLogger):
    """A run of Weights & Biases for each arm and seed, in one group; offline unless WANDB_MODE says otherwise.

    Args:
        where: PROJECT or ENTITY/PROJECT; None: "resemb".
    """

    def __init__(self, where: str | None = None) -> None:
        *entity, self._project = (where or _PROJECT).split("/")
        self._entity = entity[0] if entity else None
        self._runs: dict[str, Any] = {}

    def begin(self, run: LoggedRun) -> None:
        self._run = run
        run.kept.setdefault("ids", {})
        run.place.mkdir(exist_ok=True)

    def _of(self, key: str) -> Any:
        import wandb

        if key not in self._runs:
            ids = self._run.kept["ids"]
            ids.setdefault(key, uuid.uuid4().hex[:12])
            self._runs[key] = wandb.init(
                project=self._project,
                entity=self._entity,
                dir=str(self._run.place),
                group=self._run.folder.name,
                name=f"{self._run.folder.name} {key}",
                id=ids[key],
                resume="allow",
                config=dict(self._run.config),
                mode=os.environ.get("WANDB_MODE", "offline"),
                reinit="create_new",
                settings=wandb.Settings(console="off", silent=True),
            )
        return self._runs[key]

    def epoch(self, arm: str, seed: int, epoch: int, values: Mapping[str, float]) -> None:
        self._of(_key(arm, seed)).log(dict(values), step=epoch)

    def arm_done(self, arm: str, seed: int, values: Mapping[str, float]) -> None:
        key = _key(arm, seed)
        run = self._of(key)
        run.summary.update({f"best/{name}" if name.startswith("valid/") else name: v for name, v in values.items()})
        self._runs.pop(key).finish()

    def close(self, finished: bool) -> None:
        runs, self._runs = self._runs, {}
        for run in runs.values():
            run.finish(exit_code=0 if finished else 1)


class MlflowLogger(RunLogger):
    """A run of MLflow for each arm and seed, in the experiment MLFLOW_EXPERIMENT_NAME or "resemb".

    Args:
        where: tracking URI, or folder of a file store; None: ``logged/mlruns`` in the run folder.
    """

    def __init__(self, where: str | None = None) -> None:
        self._where = where
        self._open: set[str] = set()

    def begin(self, run: LoggedRun) -> None:
        from mlflow.tracking import MlflowClient

        if self._where is None:
            uri = (run.place / "mlruns").absolute().as_uri()
        elif "://" in self._where or self._where == "databricks":
            uri = self._where
        else:
            uri = run.kept.setdefault("uri", Path(self._where).absolute().as_uri())
        if uri.startswith("file:"):
            # Without it MLflow refuses its own file store.
            os.environ.setdefault("MLFLOW_ALLOW_FILE_STORE", "true")
        self._client = MlflowClient(tracking_uri=uri)
        name = os.environ.get("MLFLOW_EXPERIMENT_NAME", _PROJECT)
        found = self._client.get_experiment_by_name(name)
        self._experiment = self._client.create_experiment(name) if found is None else found.experiment_id
        self._run = run
        run.kept.setdefault("ids", {})

    def _of(self, key: str) -> str:
        ids = self._run.kept["ids"]
        if key not in ids:
            name = self._run.folder.name
            made = self._client.create_run(self._experiment, run_name=f"{name} {key}", tags={"resemb.run": name})
            ids[key] = made.info.run_id
            for option, value in self._run.config.items():
                self._client.log_param(ids[key], option, value)
        elif key not in self._open:
            self._client.update_run(ids[key], status="RUNNING")
        self._open.add(key)
        return str(ids[key])

    def epoch(self, arm: str, seed: int, epoch: int, values: Mapping[str, float]) -> None:
        run = self._of(_key(arm, seed))
        for name, value in values.items():
            self._client.log_metric(run, name, value, step=epoch)

    def arm_done(self, arm: str, seed: int, values: Mapping[str, float]) -> None:
        key = _key(arm, seed)
        run = self._of(key)
        for name, value in values.items():
            self._client.log_metric(run, f"best/{name}" if name.startswith("valid/") else name, value)
        self._client.set_terminated(run, "FINISHED")
        self._open.discard(key)

    def close(self, finished: bool) -> None:
        for key in sorted(self._open):
            self._client.set_terminated(self._run.kept["ids"][key], "FINISHED" if finished else "KILLED")
        self._open = set()


_KINDS: dict[str, tuple[Callable[[str | None], RunLogger], str]] = {
    "tensorboard": (TensorBoardLogger, "tensorboard"),
    "wandb": (WandbLogger, "wandb"),
    "mlflow": (MlflowLogger, "mlflow"),
}


def _code(value: Any) -> str:
    """JSON as an indented block of Markdown."""
    return "\n".join(f"    {line}" for line in json.dumps(value, indent=2, default=str).splitlines())
