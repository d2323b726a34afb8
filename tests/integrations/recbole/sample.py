"""RecBole's own sample data, small models on it, and atomic files of a test's own."""

import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pandas as pd
import recbole
import torch
from recbole.config import Config
from recbole.data import create_dataset, data_preparation
from recbole.utils import get_model, get_trainer, init_seed

SAMPLES = Path(recbole.__file__).parent / "dataset_example"
_SEQUENTIAL = {"MAX_ITEM_LIST_LENGTH": 10, "train_neg_sample_args": None, "loss_type": "CE"}
_SMALL = {
    "SASRec": {**_SEQUENTIAL, "hidden_size": 8, "inner_size": 16, "n_layers": 1},
    "GRU4Rec": {**_SEQUENTIAL, "hidden_size": 8, "num_layers": 1},
    "BERT4Rec": {**_SEQUENTIAL, "hidden_size": 8, "inner_size": 16, "n_layers": 1},
    "DIN": {
        "MAX_ITEM_LIST_LENGTH": 10,
        "mlp_hidden_size": [16],
        "load_col": {"inter": ["user_id", "item_id", "timestamp"], "item": ["item_id", "release_year", "class"]},
        "eval_args": {"split": {"LS": "valid_and_test"}, "order": "TO", "mode": "uni20"},
        "metrics": ["GAUC", "NDCG"],
        "valid_metric": "GAUC",
    },
    "BPR": {},
    "DeepFM": {"mlp_hidden_size": [16]},
    "FM": {},
}


def prepare(model: str, folder: Path, dataset: str = "ml-100k", **options: Any) -> SimpleNamespace:
    """A configuration and RecBole's data of it; of ml-100k the users with at most 25 events.

    Returns:
        config, dataset, train, valid, test.
    """
    given: dict[str, Any] = {"data_path": str(SAMPLES)} if dataset == "ml-100k" else {}
    given |= {"user_inter_num_interval": "[0,25]"} if dataset == "ml-100k" else {}
    given |= {"checkpoint_dir": str(folder), "use_gpu": False, "show_progress": False, "state": "ERROR"}
    given |= {"epochs": 2, "train_batch_size": 512, "embedding_size": 8, "metric_decimal_place": 10}
    config = _config(model, dataset, given | _SMALL[model] | options)
    data = unsplit(config)
    train, valid, test = data_preparation(config, data)
    return SimpleNamespace(config=config, dataset=data, train=train, valid=valid, test=test)


def unsplit(config: Config) -> Any:
    """RecBole's data set before it is split; random numbers are those of the configuration's seed."""
    init_seed(config["seed"], config["reproducibility"])
    return create_dataset(config)


def _config(model: str, dataset: str, options: dict[str, Any]) -> Config:
    arguments, sys.argv = sys.argv, sys.argv[:1]  # RecBole reads options from the command line
    try:
        return Config(model=model, dataset=dataset, config_dict=options)
    finally:
        sys.argv = arguments


def build(data: SimpleNamespace) -> torch.nn.Module:
    """A model for the data, with the weights of the configuration's seed."""
    init_seed(data.config["seed"], data.config["reproducibility"])
    return get_model(data.config["model"])(data.config, data.train.dataset)


def trainer_of(data: SimpleNamespace, model: torch.nn.Module) -> Any:
    """RecBole's trainer; every random number after it is that of the configuration's seed."""
    trainer = get_trainer(data.config["MODEL_TYPE"], data.config["model"])(data.config, model)
    data.train.generator.manual_seed(data.config["seed"])
    init_seed(data.config["seed"], data.config["reproducibility"])
    return trainer


def atomic(folder: Path, name: str, events: pd.DataFrame, **more: pd.DataFrame) -> dict[str, str]:
    """Writes atomic files; columns are named ``field:type``.

    Returns:
        The options of a configuration that name them.
    """
    (folder / name).mkdir(parents=True)
    for suffix, table in {"inter": events, **more}.items():
        table.to_csv(folder / name / f"{name}.{suffix}", sep="\t", index=False)
    return {"dataset": name, "data_path": str(folder), "load_col": None}
