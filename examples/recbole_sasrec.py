"""SASRec in RecBole 1.2.1, plain and with a Res-embedding, on the MovieLens sample that RecBole brings along.

pip install "resemb_ext[recbole]"
python examples/recbole_sasrec.py
python examples/recbole_sasrec.py --model GRU4Rec --epochs 20

Two lines differ: the import, and the call between the model and its trainer. Both models start with the same vectors
and see the same batches. The last lines are RecBole's own metrics on its test part.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from pathlib import Path

import recbole as framework
import torch
from recbole.config import Config
from recbole.data import create_dataset, data_preparation
from recbole.utils import get_model, get_trainer, init_seed

from resemb_ext.integrations import recbole


def train(model_name: str, epochs: int, res: bool, folder: str) -> dict[str, float]:
    options = {
        "data_path": str(Path(framework.__file__).parent / "dataset_example"),
        "checkpoint_dir": folder,
        "epochs": epochs,
        "train_neg_sample_args": None,
        "user_inter_num_interval": "[0,100]",
        "show_progress": False,
        "use_gpu": False,
        "state": "ERROR",
    }
    config = Config(model=model_name, dataset="ml-100k", config_dict=options)
    init_seed(config["seed"], config["reproducibility"])
    train_data, valid_data, test_data = data_preparation(config, create_dataset(config))
    init_seed(config["seed"], config["reproducibility"])
    model = get_model(config["model"])(config, train_data.dataset).to(config["device"])
    if res:
        print(recbole.replace_embeddings(model, train_data))
    trainer = get_trainer(config["MODEL_TYPE"], config["model"])(config, model)
    init_seed(config["seed"], config["reproducibility"])
    trainer.fit(train_data, valid_data, verbose=False)
    return trainer.evaluate(test_data)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="SASRec", choices=["SASRec", "GRU4Rec", "BERT4Rec"])
    parser.add_argument("--epochs", type=int, default=5)
    given = parser.parse_args()
    sys.argv = sys.argv[:1]  # RecBole reads the command line too
    os.environ["TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD"] = "1"  # RecBole's checkpoints hold its configuration
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)  # RecBole writes its logs where it runs
        for arm, res in (("plain", False), ("res", True)):
            print(arm, dict(train(given.model, given.epochs, res, folder)))


if __name__ == "__main__":
    main()
