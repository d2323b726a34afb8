"""Options of training (``FitConfig``) and of a whole run (``RunConfig``)."""

from __future__ import annotations

import dataclasses
import json
import math
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from resemb_ext.data.columns import FIELDS
from resemb_ext.data.kinds import SUFFIXES
from resemb_ext.data.splits import HOWS
from resemb_ext.graph import WEIGHTINGS
from resemb_ext.models import MODELS
from resemb_ext.optim.moments import STATES

from .log_writers import check_name
from .model_options import lacking_options, parse_own_options
from .options import check, from_mapping, option

AUTO_SPLIT = "auto"
AUTO_TABLES = "auto"
FLOAT_STATE = "float32"
SMOOTHING_STRENGTHS = (0.0, 1.0, 3.0, 10.0, 30.0, 100.0, 300.0, 1000.0)
LARGE_TABLE = 100_000  # items above which "auto" steps the rows of a batch alone


@dataclass(frozen=True, kw_only=True)
class FitConfig:
    """How a model is trained. Every option is documented in its field's ``help``.

    The optimizer is Adam. With ``table_optimizer="dense"`` it is ``torch.optim.Adam`` (fused) for
    every parameter, and each L2 below is its coupled weight decay, of the whole table at every step. Where tables
    are of 16 bits or ``state`` is not "float32", it is ``rx.optim.Adam``, which makes the same step.
    With ``"lazy"``, embeddings give sparse gradients and ``rx.optim.Adam`` steps the rows of the
    batch alone, with an L2 as ``decay`` says; the rest of the model keeps ``torch.optim.Adam``. Dense
    and lazy Adam are different algorithms. ``"auto"`` is dense in a run of up to ``LARGE_TABLE`` items
    and lazy above; ``fit`` takes what the model's embeddings give.

    Raises:
        TypeError: an option has the wrong type.
        ValueError: an option is outside its limits, or does not go with another.
    """

    epochs: int = option(20, "most passes over the training samples", low=1)
    patience: int = option(3, "stop after this many epochs without a better validation metric", low=1)
    metric: str = option("gauc", "validation metric that stops training and picks the epoch", choices=("gauc", "auc"))
    batch_size: int = option(1024, "training samples a step", low=1)
    eval_batch_size: int = option(16384, "rows a batch when scoring", low=1)
    lr: float = option(3e-3, "learning rate of everything but the embeddings", above=0)
    l2: float = option(0.0, "L2 (Adam weight decay) of everything but the embeddings", low=0)
    embedding_lr: float = option(5e-3, "learning rate of embedding tables", above=0)
    embedding_l2: float = option(3e-5, "L2 of embedding tables", low=0)
    central_lr: float | None = option(
        None, "learning rate of Res-embedding's central table (default: embedding_lr)", above=0
    )
    central_l2: float | None = option(None, "L2 of Res-embedding's central table (default: embedding_l2)", low=0)
    residual_lr: float | None = option(
        None, "learning rate of Res-embedding's residual table (default: embedding_lr)", above=0
    )
    residual_l2: float = option(3e-4, "L2 of Res-embedding's residual table; it keeps the residual small", low=0)

    table_optimizer: str = option(
        AUTO_TABLES,
        "Adam of embedding tables: dense (every row at each step), lazy (rows of the batch), or auto "
        f"(dense up to {LARGE_TABLE:,} items, lazy and in backward above; the default)",
        choices=(AUTO_TABLES, "dense", "lazy"),
    )
    decay: str | None = option(
        None,
        "with the lazy table optimizer, the L2 of tables: touched (rows of the batch, in the loss; "
        "the default) or global (each step shrinks the whole table by 1 - lr L2)",
        choices=("touched", "global"),
    )
    in_backward: bool = option(
        False, "with the lazy table optimizer, step the tables inside backward: less time and memory"
    )

    state: str = option(
        FLOAT_STATE,
        "how Adam keeps its moments of tables: "
        "float32 takes 8 bytes a number, the others 1 to 5; compact is the one recommended, see docs/optimizers.md",
        choices=tuple(STATES),
    )
    save_every: float = option(
        300.0,
        "seconds between saves of the last checkpoint within an epoch; each epoch's end saves too",
        low=0,
        free=True,
    )

    def __post_init__(self) -> None:
        check(self)
        if not self.lazy:
            for name in ("decay", "in_backward"):
                if getattr(self, name):
                    raise ValueError(
                        f"{name}: needs table_optimizer lazy, found {self.table_optimizer}"
                        + ("; dense Adam's L2 is of the whole table" if name == "decay" else "")
                    )
        if self.decay == "global":
            for name, (lr, l2) in self.table_rates().items():
                if lr * l2 >= 1:
                    raise ValueError(
                        f"decay: global shrinks a table by 1 - lr L2 at each step, but {name}_lr "
                        f"{lr:g} times {name}_l2 {l2:g} is {lr * l2:g}; expected below 1"
                    )

    @property
    def lazy(self) -> bool:
        """Whether embeddings give sparse gradients and only the rows of a batch are stepped; not while it is "auto"."""
        return self.table_optimizer == "lazy"

    def table_rates(self) -> dict[str, tuple[float, float]]:
        """Learning rate and L2 of each kind of table: "embedding", "central", "residual"."""

        def either(value: float | None, default: float) -> float:
            return default if value is None else value

        return {
            "embedding": (self.embedding_lr, self.embedding_l2),
            "central": (either(self.central_lr, self.embedding_lr), either(self.central_l2, self.embedding_l2)),
            "residual": (either(self.residual_lr, self.embedding_lr), self.residual_l2),
        }

    def to_dict(self) -> dict[str, Any]:
        """The options by name, in JSON's types."""
        values = dataclasses.asdict(self)
        return {k: list(v) if isinstance(v, tuple) else v for k, v in values.items()}


@dataclass(frozen=True, kw_only=True)
class RunConfig(FitConfig):
    """A whole run: log, split, samples, graph, model, arms, seeds, and the training of each arm."""

    data: str = option(
        "simulated",
        f"log file ({', '.join(SUFFIXES)}; all but .parquet also with .gz, .bz2 or .zst), folder of its parts or of "
        "ready-made samples, simulated, or simulated-null (no domains)",
        free=True,
    )
    user_column: str | None = option(None, "user column of the log file (default: guessed)")
    item_column: str | None = option(None, "item column of the log file (default: guessed)")
    time_column: str | None = option(None, "time column of the log file (default: guessed)")
    category_column: str | None = option(None, 'category column of the log file, "-" for none (default: guessed)')
    label_column: str | None = option(None, '0/1 label column of the log file, "-" for none (default: guessed)')
    session_column: str | None = option(
        None, 'session column of the log file, "-" for none (default: guessed); graph edges stay within sessions'
    )
    history_separator: str | None = option(
        None,
        'what parts the ids of histories in ready-made samples, "[]" for lists in brackets (default: found in them)',
    )
    delimiter: str | None = option(
        None, "what parts a text file's values, tab for a tab (default: by its suffix and first lines)"
    )
    drop_null: bool = option(False, "leave out rows without a user, item, time, label or session")
    sim_seed: int = option(0, "seed of the simulated log", low=0, high=2**63 - 1)
    split: str = option(
        AUTO_SPLIT,
        "how events are held out for validation and test; auto is time for a log with labels, of which gAUC needs "
        "several rows a user, else leave-last-out",
        choices=(AUTO_SPLIT, *HOWS),
    )
    max_history: int = option(50, "most recent events kept as a sample's history", low=1)
    train_negatives: int = option(1, "sampled negatives per training event (unlabelled logs)", low=1)
    eval_negatives: int = option(20, "sampled negatives per validation and test event (unlabelled logs)", low=1)
    negative_power: float = option(0.75, "negatives are drawn by training popularity to this power", low=0, high=16)
    eval_seed: int = option(
        0, "seed of the evaluation candidates, the same for all arms and seeds", low=0, high=2**63 - 1
    )

    graph: str | None = option(None, "saved interest graph, built from this log's training events", free=True)
    allow_future_edges: bool = option(
        False,
        "take the saved graph although it was built from other events than the training events, so "
        "that it may know held-out ones",
    )
    cross_fit: int = option(
        0,
        "folds of users; a training batch holds one fold and uses the graph built without it, "
        "evaluation the whole graph (0: one graph for all)",
        low=0,
    )
    window: int = option(3, "graph: events of a user at most this far apart are joined", low=1)
    top_k: int = option(10, "graph: neighbours kept per item, itself not counted", low=1)
    min_count: int = option(1, "graph: fewest co-occurrences of an edge", low=1)
    max_gap: float | None = option(None, "graph: longest time between two joined events, in the log's unit", low=0)
    session_gap: float | None = option(None, "graph: a longer time between two events ends a session", low=0)
    weighting: str = option("count", "graph: weight of an edge", choices=WEIGHTINGS)
    keep_counts: bool = option(
        False, "graph: keep the counts of all pairs in the run's graph.npz, 12 bytes a pair; resemb grow needs them"
    )
    damping: float = option(0.0, "graph: weights are divided by popularity to this power", low=0)
    link: str = option("average", "link weights of Res-embedding", choices=("average", "gcn", "attention", "given"))
    graph_weights: str = option("float32", "dtype of the link weights", choices=("float32", "float16"))
    hops: int = option(1, "hops of the link gcn", low=1, high=8)
    heads: int = option(1, "heads of the link attention; they share the dimension", low=1)
    edge_dropout: float = option(0.0, "share of edges dropped in training, of the link attention", low=0, below=1)

    smooth: str = option(
        "off",
        "after training, smooth the item table over the graph, rare items most: off, auto (strength by validation) or "
        "a strength in events",
    )
    swap: float = option(
        0.0, "probability that an id of a training batch is swapped for a neighbour in the graph", low=0, high=1
    )
    fresh_embeddings: bool = option(False, "draw the embedding tables anew at the start of every epoch but the first")

    model: str = option("dnn", "model", choices=tuple(MODELS))
    model_options: tuple[str, ...] = option(
        (), "options of this model alone, each NAME=VALUE, say softmax=true for din"
    )
    embedding: str = option(
        "both", "arms: plain nn.Embedding, Res-embedding, or both", choices=("plain", "res", "both")
    )
    category: bool = option(False, "give the category of target and history to the model")
    dim: int = option(32, "embedding dimension", low=1)
    table_dtype: str = option(
        "float32",
        "numbers of embedding tables; bfloat16 takes half the memory and is rounded at random at each step",
        choices=("float32", "bfloat16"),
    )
    hidden: tuple[int, ...] = option((64, 32), "hidden layers of the output MLP", low=1)
    attention_hidden: tuple[int, ...] = option((36,), "hidden layers of DIN's attention MLP", low=1)
    activation: str = option("prelu", "activation", choices=("relu", "prelu", "dice"))
    dropout: float = option(0.0, "share of hidden activations dropped", low=0, below=1)
    init_std: float = option(0.05, "standard deviation of the embeddings at the start", above=0)
    residual_scale: float = option(0.1, "residual table's start relative to init_std", low=0)

    seed: tuple[int, ...] = option((0,), "seeds: one run of each arm per seed", low=0, high=2**63 - 1)
    threads: int | None = option(None, "CPU threads (default: torch's, or one where that measures faster)", low=1)
    out: str | None = option(
        None, "run folder (default: runs/DATE-TIME-data-model under the current folder)", free=True
    )
    log_to: tuple[str, ...] = option(
        (),
        "also log losses and metrics to tensorboard[=FOLDER], wandb[=PROJECT], mlflow[=FOLDER or URI]; without a place: "
        "into the run folder, wandb offline",
        free=True,
    )
    overwrite: bool = option(False, "replace the results of an earlier run in the folder", free=True)

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.seed:
            raise ValueError("seed must name at least one seed, found none")
        if len(set(self.seed)) < len(self.seed):
            raise ValueError(f"seed must not repeat, found {list(self.seed)}")
        for name in self.log_to:
            check_name(name)
        if len({name.partition("=")[0] for name in self.log_to}) < len(self.log_to):
            raise ValueError(f"log_to must name a logger once, found {list(self.log_to)}")
        if not self.attention_hidden:
            raise ValueError("attention_hidden must name at least one layer, found none")
        _ = self.own_model_options  # refuses unknown ones
        defaults = {field.name: field.default for field in dataclasses.fields(self)}
        for name in lacking_options(self.model):
            if getattr(self, name) != defaults[name]:
                raise ValueError(
                    f"{name}: model {self.model} has no such option; leave it at {defaults[name]!r}, "
                    f"found {getattr(self, name)!r}"
                )
        _ = self.smoothing_strengths  # refuses other words
        if self.allow_future_edges and self.graph is None:
            raise ValueError("allow_future_edges: needs graph, a saved one")
        if self.keep_counts and self.graph is not None:
            raise ValueError(
                "keep_counts: is of a graph built from the log; graph names a saved one, which has them or not"
            )
        if self.keep_counts and self.embedding == "plain":
            raise ValueError("keep_counts: needs the arm res, a plain embedding has no graph")
        if self.cross_fit == 1:
            raise ValueError("cross_fit must be 0 or at least 2, found 1")
        if self.cross_fit and self.graph is not None:
            raise ValueError("cross_fit: builds its graphs from the log; leave out graph")
        if self.cross_fit and self.in_backward:
            raise ValueError(
                "cross_fit: lookups over several graphs are not stepped in backward; leave out in_backward"
            )
        if self.cross_fit and self.swap:
            raise ValueError("cross_fit: swaps go over one graph; leave out swap")
        if self.simulated:
            for name in (*(f"{field}_column" for field in FIELDS), "delimiter", "drop_null"):
                if getattr(self, name) not in (None, False):
                    raise ValueError(f"{name} is for log files; data is {self.data}")

    @property
    def own_model_options(self) -> dict[str, Any]:
        """``model_options`` by name."""
        return parse_own_options(self.model, self.model_options)

    @property
    def smoothing_strengths(self) -> tuple[float, ...]:
        """Strengths of smoothing to choose from by validation, in events; empty where nothing is smoothed."""
        if self.smooth == "off":
            return ()
        if self.smooth == "auto":
            return SMOOTHING_STRENGTHS
        try:
            strength = float(self.smooth)
        except ValueError:
            strength = math.nan
        if not (math.isfinite(strength) and strength > 0):
            raise ValueError(f"smooth must be off, auto or a number of events above 0; found {self.smooth!r}")
        return (strength,)

    def column(self, field: str) -> str | Literal[False] | None:
        """The column named for a field of the log: False where "-" leaves it out, None to guess."""
        name = getattr(self, f"{field}_column")
        return False if name == "-" else name

    @property
    def simulated(self) -> bool:
        """Whether the log is simulated, so that its truth is known."""
        return self.data in ("simulated", "simulated-null")

    @property
    def arms(self) -> tuple[str, ...]:
        """The embeddings to train, in order."""
        return ("plain", "res") if self.embedding == "both" else (self.embedding,)

    def fit_config(self) -> FitConfig:
        """The training part alone."""
        names = [field.name for field in dataclasses.fields(FitConfig)]
        return FitConfig(**{name: getattr(self, name) for name in names})

    @classmethod
    def saved(cls, values: Mapping[str, Any], **changes: Any) -> RunConfig:
        """Options as a run kept them, with ``changes``; what its model has no option for is left out.

        Args:
            values: kept options by name.
            changes: options that are given anew.

        Raises:
            ValueError, TypeError: as the constructor.
        """
        options = {**values, **changes}
        model = options.get("model", cls.model)
        known = isinstance(model, str) and model in MODELS  # the constructor refuses others
        for name in lacking_options(model) if known else ():
            if name not in changes:
                options.pop(name, None)
        return cls(**options)

    @classmethod
    def build(cls, file: Path | str | None = None, **values: Any) -> RunConfig:
        """Options from a file, overridden by ``values``.

        Args:
            file: TOML or JSON, one option a line or key; None for no file.
            values: options by name.

        Raises:
            FileNotFoundError: there is no such file.
            ValueError: the file cannot be read, or an option is unknown or outside its limits.
            TypeError: an option has the wrong type.
        """
        options = {} if file is None else read_config(file)
        options.update(from_mapping(cls, values, "the arguments"))
        return cls(**options)


def read_config(file: Path | str) -> dict[str, Any]:
    """Reads options of a run from a ``.toml`` or ``.json`` file.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the suffix is neither, the text does not parse, or an option is unknown.
    """
    path = Path(file)
    if not path.is_file():
        raise FileNotFoundError(f"no configuration file {path}")
    values: Any
    try:
        if path.suffix == ".json":
            values = json.loads(path.read_text(encoding="utf-8"))
        elif path.suffix == ".toml":
            if sys.version_info < (3, 11):
                raise ValueError("TOML needs Python 3.11 or later; write the file as JSON")
            import tomllib

            values = tomllib.loads(path.read_text(encoding="utf-8"))
        else:
            raise ValueError("a configuration file must end in .toml or .json")
    except RecursionError as error:
        raise ValueError(f"{path}: it is nested too deeply") from error
    except ValueError as error:  # both decoders raise subclasses of ValueError
        raise ValueError(f"{path}: {error}") from error
    if not isinstance(values, Mapping):
        raise ValueError(f"{path}: expected options by name, found {type(values).__name__}")
    return from_mapping(RunConfig, values, str(path))
