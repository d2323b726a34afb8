"""One mixin of checks, run over every model, activation and embedding."""

import io

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from resemb_ext.models import DIN, DNN, MODELS, TorchBatch

ITEMS, CATEGORIES, DIM = 40, 6, 8


@pytest.fixture(autouse=True)
def one_thread():
    torch.set_num_threads(1)


def plain_table(rows: int = ITEMS) -> torch.nn.Module:
    return torch.nn.Embedding(rows, DIM, padding_idx=0)


def res_table() -> torch.nn.Module:
    from resemb_ext.graph import InterestGraph
    from resemb_ext.nn import ResEmbedding

    # A ring over items 1..: each row has itself and its two neighbours.
    rows = [[]] + [sorted({i, 1 + i % (ITEMS - 1), 1 + (i - 2) % (ITEMS - 1)})
                   for i in range(1, ITEMS)]  # fmt: skip
    indptr = np.cumsum([0] + [len(row) for row in rows])
    graph = InterestGraph.from_csr(indptr, np.concatenate(rows).astype(np.int32))
    return ResEmbedding(graph, DIM, padding_idx=0)


class CustomTable(torch.nn.Module):
    """An embedding module that is neither: only callable, with its size and padding."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding_dim, self.padding_idx = DIM, 0
        self.table = torch.nn.Parameter(torch.randn(ITEMS, DIM))

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        return self.table[ids] * (ids != 0).unsqueeze(-1)


def make_batch(rows: int = 12, longest: int = 7, seed: int = 0) -> TorchBatch:
    draw = torch.Generator().manual_seed(seed)
    lengths = torch.randint(0, longest + 1, (rows,), generator=draw)
    lengths[rows // 2] = 0
    total = int(lengths.sum())
    return TorchBatch(
        target=torch.randint(1, ITEMS, (rows,), generator=draw),
        history=torch.randint(1, ITEMS, (total,), generator=draw),
        offsets=lengths.cumsum(0) - lengths,
        label=torch.arange(rows).remainder(2).float(),
        target_category=torch.randint(1, CATEGORIES, (rows,), generator=draw),
        history_category=torch.randint(1, CATEGORIES, (total,), generator=draw),
    )


def take(batch: TorchBatch, rows: list[int]) -> TorchBatch:
    """The given rows of a batch, histories copied."""
    lengths, index = batch.lengths(), torch.tensor(rows)
    pieces = [torch.arange(int(batch.offsets[r]), int(batch.offsets[r] + lengths[r])) for r in rows]
    positions = torch.cat(pieces) if pieces else torch.empty(0, dtype=torch.int64)
    return TorchBatch(
        target=batch.target[index],
        history=batch.history[positions],
        offsets=lengths[index].cumsum(0) - lengths[index],
        label=batch.label[index],
        target_category=batch.target_category[index],
        history_category=batch.history_category[positions],
    )


VARIANTS = {
    "dnn": (DNN, {}),
    "dnn-sum-dice": (DNN, {"pooling": "sum", "activation": "dice"}),
    "dnn-relu-dropout": (DNN, {"activation": "relu", "dropout": 0.1}),
    "din": (DIN, {}),
    "din-dice": (DIN, {"activation": "dice", "attention_hidden": (16, 8)}),
    "din-softmax": (DIN, {"softmax": True}),
}
TABLES = {"plain": plain_table, "res": res_table, "custom": CustomTable}


class ModelChecks:
    """What must hold for any model over any embedding module."""

    cls: type[torch.nn.Module]
    options: dict

    @pytest.fixture(params=list(TABLES))
    def item(self, request):
        torch.manual_seed(0)
        return TABLES[request.param]()

    def build(self, item, category: bool = False) -> torch.nn.Module:
        table = plain_table(CATEGORIES) if category else None
        return self.cls(item, category_embedding=table, **self.options)

    @pytest.mark.parametrize("category", [False, True])
    def test_gives_one_finite_logit_per_row(self, item, category):
        batch = make_batch()
        logits = self.build(item, category)(batch)
        assert logits.shape == (len(batch),) and logits.dtype == torch.float32
        assert torch.isfinite(logits).all()

    def test_takes_numpy_batches(self, item):
        model, batch = self.build(item).eval(), make_batch()

        class Arrays:
            target = batch.target.numpy()
            history = batch.history.numpy()
            offsets = batch.offsets.numpy()

        assert torch.equal(model(Arrays()), model(batch))

    def test_all_histories_may_be_empty(self, item):
        model, batch = self.build(item), make_batch(longest=0)
        loss = F.binary_cross_entropy_with_logits(model(batch), batch.label)
        loss.backward()
        assert torch.isfinite(loss)
        assert all(torch.isfinite(p.grad).all() for p in model.parameters() if p.grad is not None)

    def test_rows_do_not_depend_on_one_another(self, item):
        model, batch = self.build(item, category=True), make_batch(rows=20)
        model(batch)  # moves Dice's statistics off their start
        model.eval()
        whole = model(batch)
        for rows in ([3], [19, 0, 7], [10]):
            torch.testing.assert_close(model(take(batch, rows)), whole[rows])

    def test_padding_inside_a_history_changes_nothing(self, item):
        model, batch = self.build(item).eval(), make_batch()
        lengths = batch.lengths()
        padded = [
            torch.cat([torch.zeros(2, dtype=torch.int64), batch.history[s : s + n],
                       torch.zeros(3, dtype=torch.int64)])
            for s, n in zip(batch.offsets.tolist(), lengths.tolist(), strict=True)
        ]  # fmt: skip
        longer = TorchBatch(
            batch.target,
            torch.cat(padded),
            (lengths + 5).cumsum(0) - (lengths + 5),
        )
        torch.testing.assert_close(model(longer), model(batch))

    def test_shared_histories_score_as_copies(self, item):
        model, batch = self.build(item, category=True).eval(), make_batch()
        row = torch.tensor([5, 5, 0, 11, 6, 6, 6])
        copies = take(batch, row.tolist())
        shared = TorchBatch(
            target=copies.target,
            history=batch.history,
            offsets=batch.offsets,
            target_category=copies.target_category,
            history_category=batch.history_category,
            history_row=row,
        )
        torch.testing.assert_close(model(shared), model(copies))

    def test_gradient_reaches_every_parameter(self, item):
        model, batch = self.build(item, category=True), make_batch(rows=64)
        F.binary_cross_entropy_with_logits(model(batch), batch.label).backward()
        for name, parameter in model.named_parameters():
            assert parameter.grad is not None, name
            if self.options.get("softmax") and name == "attention.rest.layers.0.bias":
                continue  # a softmax does not see what is added to all of its scores
            assert parameter.grad.abs().sum() > 0, name

    def test_history_matters(self, item):
        model, batch = self.build(item).eval(), make_batch()
        other = TorchBatch(batch.target, batch.history.flip(0), batch.offsets)
        moved = (model(batch) - model(other)).abs() > 0
        assert moved[batch.lengths() > 0].any()
        assert not moved[batch.lengths() == 0].any()

    def test_overfits_a_small_batch(self, item):
        model, batch = self.build(item), make_batch(rows=24, seed=3)
        optimizer = torch.optim.Adam(model.parameters(), lr=0.02)
        for _ in range(150):
            optimizer.zero_grad()
            F.binary_cross_entropy_with_logits(model(batch), batch.label).backward()
            optimizer.step()
        model.eval()
        with torch.inference_mode():
            scores = model(batch)
        positive, negative = scores[batch.label == 1], scores[batch.label == 0]
        assert positive.min() > negative.max()  # AUC 1.0

    def test_saves_and_loads(self, item):
        model, batch = self.build(item, category=True), make_batch()
        model(batch)
        model.eval()
        file = io.BytesIO()
        torch.save(model.state_dict(), file)
        expected = model(batch)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(1.0)
        assert not torch.equal(model(batch), expected)
        file.seek(0)
        model.load_state_dict(torch.load(file, weights_only=True))
        assert torch.equal(model(batch), expected)

    def test_missing_category_is_an_error(self, item):
        batch = make_batch()
        bare = TorchBatch(batch.target, batch.history, batch.offsets)
        with pytest.raises(ValueError, match="category"):
            self.build(item, category=True)(bare)


for _name, (_cls, _options) in VARIANTS.items():
    _title = "Test" + "".join(part.capitalize() for part in _name.split("-"))
    globals()[_title] = type(_title, (ModelChecks,), {"cls": _cls, "options": _options})


def test_every_model_is_checked():
    assert set(MODELS.values()) == {cls for cls, _ in VARIANTS.values()}


@pytest.mark.parametrize("cls", [DNN, DIN])
def test_bad_options_are_named(cls):
    with pytest.raises(ValueError, match="activation"):
        cls(plain_table(), activation="swish")
    with pytest.raises(ValueError, match="dropout"):
        cls(plain_table(), dropout=1.0)
    with pytest.raises(ValueError, match="hidden"):
        cls(plain_table(), hidden=(0,))
    with pytest.raises(TypeError, match="embedding_dim"):
        cls(torch.nn.Identity())


def test_bad_batches_are_named():
    batch = make_batch()
    with pytest.raises(ValueError, match="offsets must have one entry per sample"):
        TorchBatch(batch.target, batch.history, batch.offsets[:-1])
    with pytest.raises(ValueError, match="label must have shape"):
        TorchBatch(batch.target, batch.history, batch.offsets, label=batch.label[:2])
    with pytest.raises(ValueError, match="one-dimensional"):
        TorchBatch(batch.target, batch.history.view(1, -1), batch.offsets)
    with pytest.raises(TypeError, match="has no target"):
        TorchBatch.of(object())
