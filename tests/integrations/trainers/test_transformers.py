"""Hugging Face's Trainer with a small CTR model and data in memory."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

import resemb_ext as rx
from tests.integrations.conftest import framework
from tests.integrations.trainers import sample

transformers = framework("transformers", __file__)

from resemb_ext.integrations.transformers import ResEmbeddingTrainer, SparseTables, load_graphs  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore")


class Model(torch.nn.Module):
    """The interface that the Trainer asks for: named inputs, a dict with the loss."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        torch.set_num_threads(1)
        self.ctr = sample.swapped(kind)

    def forward(self, history: torch.Tensor, target: torch.Tensor, labels: torch.Tensor) -> dict[str, torch.Tensor]:
        logits = self.ctr(history, target)
        return {"loss": torch.nn.functional.binary_cross_entropy_with_logits(logits, labels), "logits": logits}


def data() -> list[dict[str, torch.Tensor]]:
    return [dict(zip(("history", "target", "labels"), row, strict=True)) for row in sample.samples()]


def trainer(cls: Any, model: Any, folder: Path, epochs: int = 3, **options: Any) -> Any:
    settings = transformers.TrainingArguments(
        str(folder),
        num_train_epochs=epochs,
        per_device_train_batch_size=16,
        per_device_eval_batch_size=32,
        report_to=[],
        use_cpu=True,
        logging_steps=1,
        save_strategy="epoch",
        eval_strategy="epoch",
        disable_tqdm=True,
        **{"learning_rate": 0.5, "optim": "sgd", "max_grad_norm": 0.05, **options},
    )
    return cls(model=model, args=settings, train_dataset=data(), eval_dataset=data())


def losses(made: Any, key: str = "loss") -> list[float]:
    return [entry[key] for entry in made.state.log_history if key in entry]


def test_an_identity_graph_gives_the_metrics_of_a_plain_table(tmp_path: Path) -> None:
    plain, same = Model("plain"), Model("identity")
    same.ctr.item.residual.requires_grad_(False)  # C alone is the table then
    runs = [
        trainer(cls, model, tmp_path / name)
        for cls, model, name in ((transformers.Trainer, plain, "plain"), (ResEmbeddingTrainer, same, "same"))
    ]
    for run in runs:
        run.train()
    assert type(runs[1].optimizer.optimizer) is rx.optim.SGD
    for key in ("loss", "eval_loss", "grad_norm"):
        assert losses(runs[0], key) == pytest.approx(losses(runs[1], key), abs=1e-6)
        assert len(losses(runs[1], key)) >= 3


@pytest.mark.parametrize("optim", ["adamw_torch_fused", "adagrad"])
def test_the_real_graph_trains_saves_and_resumes(optim: str, tmp_path: Path) -> None:
    rate = 0.2 if optim == "adagrad" else 0.05
    options = {"optim": optim, "learning_rate": rate, "weight_decay": 0.01, "warmup_steps": 2, "epochs": 4}
    whole = Model("res")
    first = trainer(ResEmbeddingTrainer, whole, tmp_path / "run", **options)
    first.train()
    kept = losses(first)
    assert sum(kept[-6:]) < 0.9 * sum(kept[:6])
    assert whole.ctr.item.sparse and type(first.optimizer.optimizer).__module__.startswith("resemb_ext")
    assert [p.name[-4:] for p in (tmp_path / "run").rglob("*graph*")].count(".npz") == 1
    (graph,) = load_graphs(tmp_path / "run" / "checkpoint-12").values()
    again = Model("plain")
    rx.replace_embeddings(again, {"item": graph}, sparse=True)
    second = trainer(ResEmbeddingTrainer, again, tmp_path / "run", **options)
    second.train(resume_from_checkpoint=str(tmp_path / "run" / "checkpoint-12"))
    assert losses(second)[-12:] == kept[-12:] and losses(second, "eval_loss")[-2:] == losses(first, "eval_loss")[-2:]
    for a, b in zip(again.parameters(), whole.parameters(), strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("sequence", [False, True])
def test_a_given_scheduler_goes_on_with_the_optimizer_that_it_was_given_with(sequence: bool, tmp_path: Path) -> None:
    lr_scheduler, runs = torch.optim.lr_scheduler, []
    for cls, kind in ((transformers.Trainer, "plain"), (ResEmbeddingTrainer, "identity")):
        model = Model(kind)
        if kind == "identity":
            model.ctr.item.residual.requires_grad_(False)
        made = trainer(cls, model, tmp_path / kind, epochs=1)
        made.optimizer = given = torch.optim.SGD(model.parameters(), lr=0.5)
        made.lr_scheduler = lr_scheduler.StepLR(given, 1, 0.3)
        if sequence:
            parts = [lr_scheduler.ConstantLR(given, 0.1, 2), made.lr_scheduler]
            made.lr_scheduler = lr_scheduler.SequentialLR(given, parts, [2])
        made.train()
        runs.append(made)
    assert type(runs[1].optimizer.optimizer) is rx.optim.SGD
    rates = [run.optimizer.param_groups[0]["lr"] for run in runs]
    assert rates[0] == rates[1] < 0.1
    assert losses(runs[0]) == pytest.approx(losses(runs[1]), abs=1e-6)


def test_a_given_optimizer_and_a_trainer_of_ones_own(tmp_path: Path) -> None:
    class Own(transformers.Trainer):
        def compute_loss(self, model: Any, inputs: Any, **kwargs: Any) -> Any:
            return super().compute_loss(model, inputs, **kwargs)

    class Mine(SparseTables, Own):
        pass

    model = Model("res")
    given = rx.optim.Adam(model.parameters(), lr=0.01, bias_correction="row")
    made = trainer(Mine, model, tmp_path, epochs=1)
    made.optimizer = given
    made.train()
    assert made.optimizer.optimizer is given and model.ctr.item.central in given.state
    with pytest.raises(TypeError, match="expected Adam, AdamW, SGD, Adagrad"):
        trainer(Mine, Model("res"), tmp_path, epochs=1, optim="rmsprop").train()


def test_dense_tables_keep_the_optimizer_of_the_trainer(tmp_path: Path) -> None:
    model = Model("plain")
    rx.replace_embeddings(model, {"item": sample.graph()})
    made = trainer(ResEmbeddingTrainer, model, tmp_path, epochs=1)
    made.train()
    assert type(made.optimizer.optimizer) is torch.optim.SGD


class Pretrained(transformers.PreTrainedModel):
    config_class = transformers.PretrainedConfig

    def __init__(self, config: Any) -> None:
        super().__init__(config)
        self.item = torch.nn.Embedding(sample.H, sample.D, padding_idx=0)
        self.top = torch.nn.Linear(2 * sample.D, 1)
        self.post_init()

    def forward(self, history: torch.Tensor, target: torch.Tensor, labels: torch.Tensor) -> dict[str, torch.Tensor]:
        logits = self.top(torch.cat([self.item(history).mean(1), self.item(target)], 1))[:, 0]
        return {"loss": torch.nn.functional.binary_cross_entropy_with_logits(logits, labels), "logits": logits}


class OverGraph(Pretrained):
    """Swaps in its constructor, so that ``from_pretrained`` finds C and R."""

    def __init__(self, config: Any) -> None:
        super().__init__(config)
        rx.replace_embeddings(self, {"item": sample.graph()}, sparse=True)


def test_pretrained_models_are_saved_and_loaded(tmp_path: Path) -> None:
    model = OverGraph(transformers.PretrainedConfig())
    trainer(ResEmbeddingTrainer, model, tmp_path / "run", epochs=1).train()
    rows = sample.samples()[:]
    expected = model.eval()(*rows)["logits"]
    loaded = OverGraph.from_pretrained(tmp_path / "run" / "checkpoint-6")
    assert torch.equal(loaded.eval()(*rows)["logits"], expected)
    rx.restore_embeddings(model)
    model.save_pretrained(tmp_path / "plain")
    plain = Pretrained.from_pretrained(tmp_path / "plain")
    torch.testing.assert_close(plain.eval()(*rows)["logits"], expected)
