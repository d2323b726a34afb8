"""One mixin of checks, run over every model, option and embedding."""

import copy
import io
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from resemb_ext.metrics import auc
from resemb_ext.models import DIEN, DIN, DNN, FM, MODELS, PNN, DeepFM, TorchBatch, WideDeep
from resemb_ext.testing.models import (
    CATEGORIES,
    CONTEXT,
    DENSE,
    DIM,
    ITEMS,
    USERS,
    CustomTable,
    make_batch,
    pad,
    plain_table,
    res_table,
    take,
)

pytestmark = pytest.mark.usefixtures("one_thread")


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
        model, batch = self.build(item, category=True, profile=True), make_batch(samples=20)
        model(batch)  # moves Dice's statistics off their start
        model.eval()
        whole = model(batch)
        for rows in ([3], [19, 0, 7], [10]):
            torch.testing.assert_close(model(take(batch, rows)), whole[rows])

    def test_padding_inside_a_history_changes_nothing(self, item):
        model, batch = self.build(item).eval(), make_batch()
        lengths = batch.lengths()
        padded = [
            torch.cat([torch.zeros(2, dtype=torch.int64), batch.history[s : s + n], torch.zeros(3, dtype=torch.int64)])
            for s, n in zip(batch.offsets.tolist(), lengths.tolist(), strict=True)
        ]
        longer = TorchBatch(batch.target, torch.cat(padded), (lengths + 5).cumsum(0) - (lengths + 5))
        torch.testing.assert_close(model(longer), model(batch))

    def test_padded_histories_score_as_jagged_ones(self, item):
        model, batch = self.build(item, category=True, profile=True), make_batch()
        model(batch)
        model.eval()
        expected = model(batch)
        torch.testing.assert_close(model(pad(batch)), expected)
        torch.testing.assert_close(model(pad(batch, before=0)), expected)
        empty = replace(
            pad(batch),
            history=torch.zeros(12, 0, dtype=torch.int64),
            history_category=torch.zeros(12, 0, dtype=torch.int64),
        )
        none = replace(
            batch,
            history=batch.history[:0],
            history_category=batch.history[:0],
            offsets=torch.zeros(12, dtype=torch.int64),
        )
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
        model, batch = self.build(item, category=True, profile=True), make_batch(samples=64)
        loss_of(model, batch if form == "jagged" else pad(batch)).backward()
        for name, parameter in model.named_parameters():
            assert parameter.grad is not None, name
            softmax = self.options.get("softmax") or self.cls is DIEN
            if softmax and name == "attention.rest.layers.0.bias":
                continue  # a softmax does not see what is added to all of its scores
            assert parameter.grad.abs().sum() > 0, name

    def test_padding_and_absent_items_get_no_gradient(self):
        model, batch = self.build(plain_table(), category=True), make_batch(samples=5)
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

    @pytest.mark.one_in(3)
    def test_overfits_a_small_batch(self, item):
        model, batch = self.build(item), make_batch(samples=24, seed=3)
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
            tensor
            for name, tensor in other.named_buffers()
            if tensor.is_floating_point() and not name.startswith("item_embedding.")
        ]
        with torch.no_grad():
            for tensor in (*other.parameters(), *statistics):
                tensor.add_(1.0)
        other.eval()
        assert not torch.equal(other(batch), expected)
        file.seek(0)
        other.load_state_dict(torch.load(file, weights_only=True))
        assert torch.equal(other(batch), expected)

    @pytest.mark.full
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
        for field, text in (
            ("user", "has no user"),
            ("context", "context must have 2 columns"),
            ("dense", "dense must have 2 columns"),
        ):
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
