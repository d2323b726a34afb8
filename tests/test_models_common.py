"""One mixin of checks, run over every model, option and embedding."""

import copy
import io
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from resemb_ext.metrics import auc
from resemb_ext.models import (
    DIEN,
    DIN,
    DNN,
    FM,
    MODELS,
    PNN,
    DeepFM,
    TorchBatch,
    WideDeep,
)

ITEMS, CATEGORIES, USERS, CONTEXT, DENSE, DIM = 40, 6, 15, (4, 3), 2, 8


pytestmark = pytest.mark.usefixtures("one_thread")


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
    """An embedding module that is neither: only callable, with its sizes and padding."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding_dim, self.num_embeddings, self.padding_idx = DIM, ITEMS, 0
        self.table = torch.nn.Parameter(torch.randn(ITEMS, DIM))

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        return self.table[ids] * (ids != 0).unsqueeze(-1)


def make_batch(rows: int = 12, longest: int = 7, seed: int = 0) -> TorchBatch:
    draw = torch.Generator().manual_seed(seed)
    lengths = torch.randint(0, longest + 1, (rows,), generator=draw)
    lengths[rows // 2] = 0
    total = int(lengths.sum())

    def ids(high: int, *shape: int) -> torch.Tensor:
        return torch.randint(1, high, shape, generator=draw)

    return TorchBatch(
        target=ids(ITEMS, rows),
        history=ids(ITEMS, total),
        offsets=lengths.cumsum(0) - lengths,
        label=torch.arange(rows).remainder(2).float(),
        target_category=ids(CATEGORIES, rows),
        history_category=ids(CATEGORIES, total),
        user=ids(USERS, rows),
        context=torch.stack([ids(high, rows) for high in CONTEXT], dim=1),
        dense=torch.randn(rows, DENSE, generator=draw),
    )


def take(batch: TorchBatch, rows: list[int]) -> TorchBatch:
    """The given rows of a batch, histories copied."""
    lengths, index = batch.lengths(), torch.tensor(rows)
    pieces = [torch.arange(int(batch.offsets[r]), int(batch.offsets[r] + lengths[r])) for r in rows]
    positions = torch.cat(pieces) if pieces else torch.empty(0, dtype=torch.int64)
    of_rows = ("target", "label", "target_category", "user", "context", "dense")
    return TorchBatch(
        history=batch.history[positions],
        offsets=lengths[index].cumsum(0) - lengths[index],
        history_category=batch.history_category[positions],
        **{name: getattr(batch, name)[index] for name in of_rows},
    )


def pad(batch: TorchBatch, length: int = 9, before: int = 1) -> TorchBatch:
    """The same batch with padded histories: ``before`` padding ids, the history, more of them."""

    def spread(values: torch.Tensor) -> torch.Tensor:
        out = torch.zeros(batch.histories, length, dtype=torch.int64)
        starts, lengths = batch.offsets.tolist(), batch.lengths().tolist()
        for row, (start, size) in enumerate(zip(starts, lengths, strict=True)):
            out[row, before : before + size] = values[start : start + size]
        return out

    return replace(
        batch,
        history=spread(batch.history),
        history_category=spread(batch.history_category),
        offsets=None,
    )


VARIANTS = {
    "dnn": (DNN, {}),
    "dnn-sum-dice": (DNN, {"pooling": "sum", "activation": "dice"}),
    "dnn-relu-dropout": (DNN, {"activation": "relu", "dropout": 0.1}),
    "din": (DIN, {}),
    "din-dice": (DIN, {"activation": "dice", "attention_hidden": (16, 8)}),
    "din-softmax": (DIN, {"softmax": True}),
    "fm": (FM, {}),
    "wide-deep": (WideDeep, {}),
    "deep-fm": (DeepFM, {"activation": "relu"}),
    "pnn-inner": (PNN, {}),
    "pnn-outer": (PNN, {"product": "outer"}),
    "pnn-kernel": (PNN, {"product": "kernel"}),
    "dien": (DIEN, {}),
    "dien-dice-no-auxiliary": (DIEN, {"activation": "dice", "auxiliary_weight": 0}),
}
TABLES = {"plain": plain_table, "res": res_table, "custom": CustomTable}


def loss_of(model: torch.nn.Module, batch: TorchBatch) -> torch.Tensor:
    """The loss as the training loop makes it."""
    loss = F.binary_cross_entropy_with_logits(model(batch), batch.label)
    auxiliary = model.auxiliary_loss() if hasattr(model, "auxiliary_loss") else None
    return loss if auxiliary is None else loss + auxiliary


class ModelChecks:
    """What must hold for any model over any embedding module."""

    cls: type[torch.nn.Module]
    options: dict

    @pytest.fixture(params=list(TABLES))
    def item(self, request):
        torch.manual_seed(0)
        return TABLES[request.param]()

    def build(self, item, category: bool = False, profile: bool = False) -> torch.nn.Module:
        more = {}
        if profile:
            more = {
                "user_embedding": plain_table(USERS),
                "context_embeddings": [plain_table(rows) for rows in CONTEXT],
                "dense": DENSE,
            }
        table = plain_table(CATEGORIES) if category else None
        return self.cls(item, category_embedding=table, **more, **self.options)

    @pytest.mark.parametrize("category", [False, True])
    @pytest.mark.parametrize("profile", [False, True])
    def test_gives_one_finite_logit_per_row(self, item, category, profile):
        batch = make_batch()
        logits = self.build(item, category, profile)(batch)
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
        model, batch = self.build(item, category=True), make_batch(longest=0)
        loss = loss_of(model, batch)
        loss.backward()
        assert torch.isfinite(loss)
        assert all(torch.isfinite(p.grad).all() for p in model.parameters() if p.grad is not None)

    def test_rows_do_not_depend_on_one_another(self, item):
        model, batch = self.build(item, category=True, profile=True), make_batch(rows=20)
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

    def test_padded_histories_score_as_jagged_ones(self, item):
        model, batch = self.build(item, category=True, profile=True), make_batch()
        model(batch)
        model.eval()
        expected = model(batch)
        torch.testing.assert_close(model(pad(batch)), expected)
        torch.testing.assert_close(model(pad(batch, before=0)), expected)
        empty = replace(pad(batch), history=torch.zeros(12, 0, dtype=torch.int64),
                        history_category=torch.zeros(12, 0, dtype=torch.int64))  # fmt: skip
        none = replace(batch, history=batch.history[:0], history_category=batch.history[:0],
                       offsets=torch.zeros(12, dtype=torch.int64))  # fmt: skip
        torch.testing.assert_close(model(empty), model(none))

    @pytest.mark.parametrize("form", ["jagged", "padded"])
    def test_shared_histories_score_as_copies(self, item, form):
        model, batch = self.build(item, category=True, profile=True).eval(), make_batch()
        row = torch.tensor([5, 5, 0, 11, 6, 6, 6])
        copies = take(batch, row.tolist())
        source = batch if form == "jagged" else pad(batch)
        shared = replace(
            copies,
            history=source.history,
            offsets=source.offsets,
            history_category=source.history_category,
            history_row=row,
        )
        torch.testing.assert_close(model(shared), model(copies))

    @pytest.mark.parametrize("form", ["jagged", "padded"])
    def test_gradient_reaches_every_parameter(self, item, form):
        if form == "padded" and self.options.get("activation") == "dice":
            pytest.skip("Dice does not train on padded histories")
        model, batch = self.build(item, category=True, profile=True), make_batch(rows=64)
        loss_of(model, batch if form == "jagged" else pad(batch)).backward()
        for name, parameter in model.named_parameters():
            assert parameter.grad is not None, name
            softmax = self.options.get("softmax") or self.cls is DIEN
            if softmax and name == "attention.rest.layers.0.bias":
                continue  # a softmax does not see what is added to all of its scores
            assert parameter.grad.abs().sum() > 0, name

    def test_padding_and_absent_items_get_no_gradient(self):
        model, batch = self.build(plain_table(), category=True), make_batch(rows=5)
        loss_of(model, batch).backward()
        touched = torch.cat([batch.history, batch.target])
        absent = torch.ones(ITEMS, dtype=torch.bool)
        absent[touched] = False
        assert not model.item_embedding.weight.grad[absent].any()

    def test_history_matters(self, item):
        model, batch = self.build(item).eval(), make_batch()
        other = replace(batch, history=batch.history.flip(0))
        moved = (model(batch) - model(other)).abs() > 0
        assert moved[batch.lengths() > 0].any()
        assert not moved[batch.lengths() == 0].any()

    def test_profile_matters(self):
        model, batch = self.build(plain_table(), profile=True).eval(), make_batch()
        before = model(batch)
        for change in (
            {"user": batch.user % (USERS - 1) + 1},
            {"context": batch.context.flip(1).clamp(max=2) % 3},
            {"dense": batch.dense + 1},
        ):
            assert (model(replace(batch, **change)) != before).any(), change

    def test_overfits_a_small_batch(self, item):
        model, batch = self.build(item), make_batch(rows=24, seed=3)
        optimizer = torch.optim.Adam(model.parameters(), lr=0.02)
        for _ in range(150):
            optimizer.zero_grad()
            loss_of(model, batch).backward()
            optimizer.step()
        model.eval()
        with torch.inference_mode():
            scores = model(batch)
        assert auc(batch.label.numpy(), scores.numpy()) == 1.0

    def test_saves_and_loads(self, item):
        model, batch = self.build(item, category=True, profile=True), make_batch()
        model(batch)
        model.eval()
        file = io.BytesIO()
        torch.save(model.state_dict(), file)
        expected = model(batch)
        other = self.build(copy.deepcopy(item), category=True, profile=True)
        statistics = [  # those of the graph come with the item table, not with the state
            tensor for name, tensor in other.named_buffers()
            if tensor.is_floating_point() and not name.startswith("item_embedding.")
        ]  # fmt: skip
        with torch.no_grad():
            for tensor in (*other.parameters(), *statistics):
                tensor.add_(1.0)
        other.eval()
        assert not torch.equal(other(batch), expected)
        file.seek(0)
        other.load_state_dict(torch.load(file, weights_only=True))
        assert torch.equal(other(batch), expected)

    def test_compiles_in_one_graph(self):
        """Padded histories have static shapes; aot_eager traces as inductor does."""
        model, batch = self.build(plain_table(), category=True, profile=True), pad(make_batch())
        model.eval()
        torch._dynamo.reset()
        compiled = torch.compile(model, backend="aot_eager", fullgraph=True)
        with torch.no_grad():
            torch.testing.assert_close(compiled(batch), model(batch))

    @pytest.mark.slow
    @pytest.mark.parametrize("form", ["jagged", "padded"])
    def test_compiles_and_trains(self, item, form):
        if form == "padded" and self.options.get("activation") == "dice":
            pytest.skip("Dice does not train on padded histories")
        batch = make_batch() if form == "jagged" else pad(make_batch())
        model = self.build(item, category=True, profile=True)
        if self.options.get("dropout"):
            model.eval()  # inductor draws other random numbers
        if self.cls is DIEN:  # nor are negatives drawn
            shape, items = batch.history.shape, torch.arange(batch.history.numel())
            batch = replace(batch, history_negative=(items % (ITEMS - 1) + 1).view(shape))
            if batch.history_category is not None:
                kinds = items % (CATEGORIES - 1) + 1
                batch = replace(batch, history_negative_category=kinds.view(shape))
        torch._dynamo.reset()
        compiled = torch.compile(model)
        results = []
        for run in (model, compiled):
            model.zero_grad()
            logits = run(batch)
            loss = F.binary_cross_entropy_with_logits(logits, batch.label)
            more = getattr(model, "auxiliary_loss", lambda: None)()
            (loss if more is None else loss + more).backward()
            grads = [p.grad.clone() for p in model.parameters() if p.grad is not None]
            results.append((logits.detach(), grads))
        torch.testing.assert_close(results[1], results[0], rtol=1e-4, atol=1e-5)

    def test_missing_fields_are_errors(self, item):
        batch = make_batch()
        bare = TorchBatch(batch.target, batch.history, batch.offsets)
        with pytest.raises(ValueError, match="category"):
            self.build(item, category=True)(bare)
        full = self.build(item, profile=True)
        for field, text in (("user", "has no user"), ("context", "context must have 2 columns"),
                            ("dense", "dense must have 2 columns")):  # fmt: skip
            with pytest.raises(ValueError, match=text):
                full(replace(batch, **{field: None}))

    def test_looks_up_each_table_once(self):
        calls = []

        class Counting(torch.nn.Embedding):
            def forward(self, ids):
                calls.append(self)
                return super().forward(ids)

        class NoBag(Counting):
            """As a table whose lookups an optimizer watches: a hook makes pooling call it."""

            def __init__(self, *args, **kwargs):
                super().__init__(*args, **kwargs)
                self.register_forward_hook(lambda *_: None)

        item, category = NoBag(ITEMS, DIM, padding_idx=0), NoBag(CATEGORIES, DIM, padding_idx=0)
        self.cls(item, category_embedding=category, **self.options)(make_batch())
        assert calls.count(item) == 1 and calls.count(category) == 1


for _name, (_cls, _options) in VARIANTS.items():
    _title = "Test" + "".join(part.capitalize() for part in _name.split("-"))
    globals()[_title] = type(_title, (ModelChecks,), {"cls": _cls, "options": _options})


def test_every_model_is_checked():
    assert set(MODELS.values()) == {cls for cls, _ in VARIANTS.values()}


@pytest.mark.parametrize("cls", [DNN, DIN, WideDeep, DeepFM, PNN, DIEN])
def test_bad_options_are_named(cls):
    with pytest.raises(ValueError, match="activation"):
        cls(plain_table(), activation="swish")
    with pytest.raises(ValueError, match="dropout"):
        cls(plain_table(), dropout=1.0)
    with pytest.raises(ValueError, match="hidden"):
        cls(plain_table(), hidden=(0,))
    with pytest.raises(ValueError, match="dense"):
        cls(plain_table(), dense=-1)
    with pytest.raises(TypeError, match=r"item_embedding must be .* embedding_dim"):
        cls(torch.nn.Identity())
    with pytest.raises(TypeError, match=r"context_embeddings\[1\] must be .* embedding_dim"):
        cls(plain_table(), context_embeddings=[plain_table(), torch.nn.Identity()])


def test_bad_options_of_single_models_are_named():
    with pytest.raises(ValueError, match="product must be one of"):
        PNN(plain_table(), product="cross")
    with pytest.raises(ValueError, match="auxiliary_weight"):
        DIEN(plain_table(), auxiliary_weight=-1)
    with pytest.raises(ValueError, match="pooling"):
        DNN(plain_table(), pooling="max")
    wide = torch.nn.Embedding(9, DIM + 1)
    for cls in (FM, DeepFM, PNN):
        with pytest.raises(ValueError, match="user_embedding must have the embedding_dim"):
            cls(plain_table(), user_embedding=wide)
    unsized = CustomTable()
    del unsized.num_embeddings
    for cls in (FM, DeepFM, WideDeep):
        with pytest.raises(TypeError, match="item_embedding must have an integer num_embeddings"):
            cls(unsized)


def test_bad_batches_are_named():
    batch = make_batch()
    with pytest.raises(ValueError, match="offsets must have one entry per sample"):
        TorchBatch(batch.target, batch.history, batch.offsets[:-1])
    with pytest.raises(ValueError, match="offsets must come with"):
        TorchBatch(batch.target, batch.history)
    with pytest.raises(ValueError, match="offsets must come with"):
        TorchBatch(batch.target, batch.history.view(1, -1), batch.offsets)
    with pytest.raises(ValueError, match="history must have one entry per sample"):
        TorchBatch(batch.target, batch.history.view(1, -1))
    with pytest.raises(ValueError, match="label must have shape"):
        TorchBatch(batch.target, batch.history, batch.offsets, label=batch.label[:2])
    with pytest.raises(ValueError, match="target must be one-dimensional"):
        TorchBatch(batch.target.view(1, -1), batch.history, batch.offsets)
    with pytest.raises(ValueError, match="context must have shape"):
        replace(batch, context=batch.user)
    with pytest.raises(ValueError, match="dense must have shape"):
        replace(batch, dense=batch.dense[:3])
    with pytest.raises(TypeError, match="has no target"):
        TorchBatch.of(object())


def test_padded_histories_need_a_padding_idx():
    table = torch.nn.Embedding(ITEMS, DIM)
    for cls in MODELS.values():
        with pytest.raises(ValueError, match="padding_idx"):
            cls(table)(pad(make_batch()))


def test_dice_refuses_to_train_on_padded_histories():
    for cls in (DIN, DIEN):
        model = cls(plain_table(), activation="dice")
        with pytest.raises(ValueError, match="Dice cannot train on padded"):
            model(pad(make_batch()))
        model.eval()(pad(make_batch()))
