"""Each model against DeepCTR-Torch: the same weights in, the same logits out.

Where the two differ, on purpose:

- DeepCTR keeps raw dense features out of the products of FM, DeepFM and PNN and feeds them to the
  MLP; ours makes each a field x_k v_k, as Rendle does. So these are compared without dense features
  (the FM with zero v_k, where only the linear weights are left).
- DeepCTR has one first-order weight for an item as target and in a history; ours has two, here equal.
- PNN "outer" of DeepCTR is our "kernel"; the paper's superposition has no counterpart there and is
  compared with its formula.
- DeepCTR's normalised attention averages over padding where a history is empty; ours gives zero.
- nn.GRU writes its update gate the other way round: its rows have the other sign.
- DeepCTR's AUGRU has one bias where two are meant (it registers the second under the first's name);
  ours has two, here equal.
- Dice keeps the unbiased variance in DeepCTR's moving averages, the batch's own in ours.
"""

from itertools import combinations

import pytest
import torch

from resemb_ext.models import DIEN, DIN, DNN, FM, PNN, DeepFM, Dice, TorchBatch, WideDeep

SIZES = {"item": 30, "category": 7, "user": 11, "context0": 5, "context1": 4}
DIM, DENSE, ROWS, LONGEST, HIDDEN = 4, 3, 16, 6, (9, 5)
EVENTS = ("item", "category")
OTHERS = ("user", "context0", "context1")
# Order of the fields here and there; here's is that of FieldModel and DNN.
OURS = ("hist_item", "item", "hist_category", "category", *OTHERS)
THEIRS = ("item", "category", *OTHERS, "hist_item", "hist_category")


@pytest.fixture(scope="module")
def deepctr():
    """DeepCTR-Torch, kept from asking the network for a newer version of itself."""
    reason = 'needs DeepCTR-Torch: pip install -e ".[test]"'
    requests = pytest.importorskip("requests", reason=reason)

    def refuse(*_, **__):
        raise requests.ConnectionError("not in tests")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(requests, "get", refuse)
        yield pytest.importorskip("deepctr_torch.models", reason=reason, exc_type=ImportError)


@pytest.fixture(scope="module")
def data():
    """A padded batch, one history empty, and history lengths."""
    draw = torch.Generator().manual_seed(1)
    lengths = torch.randint(1, LONGEST + 1, (ROWS,), generator=draw)
    lengths[3] = 0
    real = torch.arange(LONGEST) < lengths.unsqueeze(1)

    def ids(high, *shape):
        return torch.randint(1, high, shape, generator=draw)

    events = {
        f"{prefix}{name}": ids(SIZES[name], ROWS, LONGEST) * real
        for prefix in ("hist_", "neg_hist_")
        for name in EVENTS
    }
    single = {name: ids(size, ROWS) for name, size in SIZES.items()}
    dense = torch.randn(ROWS, DENSE, generator=draw)
    batch = TorchBatch(
        target=single["item"],
        history=events["hist_item"],
        target_category=single["category"],
        history_category=events["hist_category"],
        user=single["user"],
        context=torch.stack([single["context0"], single["context1"]], dim=1),
        dense=dense,
        history_negative=events["neg_hist_item"],
        history_negative_category=events["neg_hist_category"],
    )
    return batch, {**events, **single, "dense": dense, "length": lengths}


def ours(cls, dense=DENSE, **options):
    torch.manual_seed(0)
    tables = {name: torch.nn.Embedding(size, DIM, padding_idx=0) for name, size in SIZES.items()}
    model = cls(
        tables["item"],
        category_embedding=tables["category"],
        user_embedding=tables["user"],
        context_embeddings=[tables["context0"], tables["context1"]],
        dense=dense,
        **options,
    )
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(std=0.5)
        for table in tables.values():
            table.weight[0] = 0
    return model, tables


def columns(dense=True, negatives=False):
    from deepctr_torch.inputs import DenseFeat, SparseFeat, VarLenSparseFeat

    found = [SparseFeat(name, size, DIM) for name, size in SIZES.items()]
    for prefix in ("hist_", "neg_hist_") if negatives else ("hist_",):
        for name in EVENTS:
            feature = SparseFeat(prefix + name, SIZES[name], DIM, embedding_name=name)
            found.append(VarLenSparseFeat(feature, LONGEST, "mean", length_name="length"))
    return [*found, DenseFeat("dense", DENSE)] if dense else found


def score(theirs, values):
    """Their logits: all features side by side in one float matrix."""
    x = torch.zeros(ROWS, max(end for _, end in theirs.feature_index.values()))
    for name, (start, end) in theirs.feature_index.items():
        x[:, start:end] = values[name].reshape(ROWS, -1).float()
    theirs.eval()
    with torch.no_grad():
        return theirs(x).squeeze(1)


def check(model, theirs, data, rows=slice(None)):
    batch, values = data
    with torch.no_grad():
        mine = model.eval()(batch)
    got = score(theirs, values)
    assert mine.std() > 0.1  # no comparison of constants
    torch.testing.assert_close(mine[rows], got[rows], rtol=1e-4, atol=1e-5)


@torch.no_grad()
def copy_tables(theirs, tables):
    for name, table in tables.items():
        theirs.embedding_dict[name].weight.copy_(table.weight)


@torch.no_grad()
def copy_linear(theirs, first_order, dense=DENSE):
    tables = {"item": first_order.item, "category": first_order.category, "user": first_order.user}
    tables |= {f"context{i}": table for i, table in enumerate(first_order.context)}
    for name, table in tables.items():
        table.weight[0] = 0
        table.weight.copy_(table.weight[:, :1].expand_as(table.weight))
        theirs.linear_model.embedding_dict[name].weight.copy_(table.weight[:, :1])
    if dense:
        theirs.linear_model.weight.copy_(first_order.dense.unsqueeze(1))
    theirs.out.bias += first_order.bias


@torch.no_grad()
def copy_layers(mlp, linears, final, order=None):
    """An MLP's layers; ``order``: for each of their input columns, ours."""
    layers = [layer for layer in mlp.layers if isinstance(layer, torch.nn.Linear)]
    for mine, other in zip(layers, [*linears, final], strict=True):
        weight = mine.weight if order is None or mine is not layers[0] else mine.weight[:, order]
        other.weight.copy_(weight)
        if other.bias is not None:
            other.bias.copy_(mine.bias)
    return layers[-1].bias


@torch.no_grad()
def copy_mlp(theirs, mlp, order=None, final="dnn_linear"):
    theirs.out.bias += copy_layers(mlp, theirs.dnn.linears, getattr(theirs, final), order)


def column_order(source=OURS, wanted=THEIRS, extra=0):
    """Our column at each of their columns: blocks of fields, then ``extra`` in the same order."""
    blocks = [torch.arange(DIM) + DIM * source.index(name) for name in wanted]
    return torch.cat([*blocks, torch.arange(extra) + DIM * len(source)])


def test_dnn(deepctr, data):
    model, tables = ours(DNN, activation="relu", hidden=HIDDEN)
    theirs = deepctr.WDL([], columns(), HIDDEN, task="regression")
    copy_tables(theirs, tables)
    copy_mlp(theirs, model.mlp, column_order(extra=DENSE))
    check(model, theirs, data)


def test_wide_deep(deepctr, data):
    model, tables = ours(WideDeep, activation="relu", hidden=HIDDEN)
    theirs = deepctr.WDL(columns(), columns(), HIDDEN, task="regression")
    copy_tables(theirs, tables)
    copy_linear(theirs, model.wide)
    copy_mlp(theirs, model.mlp, column_order(extra=DENSE))
    check(model, theirs, data)


def test_fm(deepctr, data):
    model, tables = ours(FM)
    with torch.no_grad():
        model.dense_vectors.zero_()
    theirs = deepctr.DeepFM(columns(), columns(dense=False), dnn_hidden_units=(), task="regression")
    copy_tables(theirs, tables)
    copy_linear(theirs, model.first_order)
    check(model, theirs, data)


def test_deepfm(deepctr, data):
    model, tables = ours(DeepFM, dense=0, activation="relu", hidden=HIDDEN)
    features = columns(dense=False)
    theirs = deepctr.DeepFM(features, features, dnn_hidden_units=HIDDEN, task="regression")
    copy_tables(theirs, tables)
    copy_linear(theirs, model.first_order, dense=0)
    copy_mlp(theirs, model.mlp, column_order())
    check(model, theirs, data)


@pytest.mark.parametrize("product", ["inner", "kernel"])
def test_pnn(deepctr, data, product):
    model, tables = ours(PNN, dense=0, activation="relu", hidden=HIDDEN, product=product)
    outer = product == "kernel"
    theirs = deepctr.PNN(columns(dense=False), HIDDEN, use_inner=not outer, use_outter=outer, task="regression")
    copy_tables(theirs, tables)
    mine = list(combinations(OURS, 2))
    pairs = list(combinations(THEIRS, 2))
    at = [mine.index(p) if p in mine else mine.index(p[::-1]) for p in pairs]
    order = torch.cat([column_order(), torch.tensor(at) + DIM * len(OURS)])
    copy_mlp(theirs, model.mlp, order)
    if outer:
        with torch.no_grad():
            for place, (pair, one) in enumerate(zip(pairs, at, strict=True)):
                kernel = model.kernel[one]
                # Theirs is [second, pair, first].
                theirs.outterproduct.kernel[:, place] = kernel.T if pair in mine else kernel
    check(model, theirs, data)


def test_pnn_outer_is_the_paper_s_superposition():
    model, _ = ours(PNN, product="outer", hidden=HIDDEN)
    vectors = torch.randn(ROWS, model.fields, DIM)
    matrix = torch.zeros(ROWS, DIM, DIM)
    for i in range(model.fields):
        for j in range(model.fields):
            matrix += vectors[:, i].unsqueeze(2) * vectors[:, j].unsqueeze(1)
    torch.testing.assert_close(model.products(vectors), matrix.flatten(1), rtol=1e-4, atol=1e-5)


@torch.no_grad()
def copy_attention(unit, attention):
    local = attention.local_att
    local.dnn.linears[0].weight.copy_(unit.first.weight)
    local.dnn.linears[0].bias.copy_(unit.first.bias)
    local.dense.bias.copy_(copy_layers(unit.rest, local.dnn.linears[1:], local.dense))


@torch.no_grad()
def copy_dice(mine, other):
    mine.running_mean.normal_()
    mine.running_var.uniform_(0.5, 2)
    other.alpha.copy_(mine.alpha.reshape(other.alpha.shape))
    other.bn.running_mean.copy_(mine.running_mean)
    other.bn.running_var.copy_(mine.running_var)


@pytest.mark.parametrize("softmax", [False, True])
@pytest.mark.parametrize("activation", ["relu", "dice"])
def test_din(deepctr, data, softmax, activation):
    from deepctr_torch.layers.activation import Dice as TheirDice

    model, tables = ours(DIN, activation=activation, hidden=HIDDEN, attention_hidden=(8, 6), softmax=softmax)
    theirs = deepctr.DIN(
        columns(),
        list(EVENTS),
        dnn_hidden_units=HIDDEN,
        dnn_activation="relu",
        att_hidden_size=(8, 6),
        att_activation=activation,
        att_weight_normalization=softmax,
        task="regression",
    )
    copy_tables(theirs, tables)
    copy_attention(model.attention, theirs.attention)
    # Ours: interest, target, profile, dense. Theirs has the interest after the profile.
    interest = ("hist_item", "hist_category")
    source = (*interest, *EVENTS, *OTHERS)
    order = column_order(source, (*EVENTS, *OTHERS, *interest), DENSE)
    copy_mlp(theirs, model.mlp, order)
    if activation == "dice":
        attention = theirs.attention.local_att.dnn.activation_layers
        mine = [m for m in model.attention.modules() if isinstance(m, Dice)]
        for one, other in zip(mine, attention, strict=True):
            copy_dice(one, other)
        mine = [m for m in model.mlp.layers if isinstance(m, Dice)]
        # Their DIN cannot be built with Dice in its output MLP: it asks for three dimensions there.
        theirs.dnn.activation_layers = torch.nn.ModuleList(TheirDice(n, dim=2) for n in HIDDEN)
        for one, other in zip(mine, theirs.dnn.activation_layers, strict=True):
            copy_dice(one, other)
    filled = data[1]["length"] > 0
    check(model, theirs, data, filled if softmax else slice(None))


def test_dice(deepctr):
    from deepctr_torch.layers.activation import Dice as TheirDice

    mine, other, values = Dice(5), TheirDice(5, dim=2), torch.randn(20, 5) * 2 + 1
    with torch.no_grad():
        mine.alpha.normal_()
        other.alpha.copy_(mine.alpha)
    torch.testing.assert_close(mine(values), other(values))
    torch.testing.assert_close(mine.running_mean, other.bn.running_mean)
    biased, unbiased = values.var(0, correction=0), values.var(0)
    torch.testing.assert_close(mine.running_var, 0.9 + 0.1 * biased)
    torch.testing.assert_close(other.bn.running_var, 0.9 + 0.1 * unbiased)


def test_dien(deepctr, data):
    model, tables = ours(DIEN, activation="relu", hidden=HIDDEN, attention_hidden=(8, 6))
    theirs = deepctr.DIEN(
        columns(negatives=True),
        list(EVENTS),
        gru_type="AUGRU",
        use_negsampling=True,
        dnn_hidden_units=HIDDEN,
        dnn_activation="relu",
        att_hidden_units=(8, 6),
        att_activation="relu",
        att_weight_normalization=True,
        task="regression",
    )
    copy_tables(theirs, tables)
    copy_attention(model.attention, theirs.interest_evolution.attention)
    size = model.event_size
    sign = torch.ones(3 * size)
    sign[size : 2 * size] = -1
    gru, augru = theirs.interest_extractor.gru, theirs.interest_evolution.interest_evolution.rnn
    with torch.no_grad():
        model.evolution.input.bias.copy_(model.evolution.state.bias)
        for unit, other, suffix, factor in (
            (model.extractor, gru, "_l0", sign),
            (model.evolution, augru, "", torch.ones(3 * size)),
        ):
            for layer, name in ((unit.input, "ih"), (unit.state, "hh")):
                rows = factor.unsqueeze(1)
                getattr(other, f"weight_{name}{suffix}").copy_(layer.weight * rows)
                getattr(other, f"bias_{name}{suffix}").copy_(layer.bias * factor)
        net = theirs.interest_extractor.auxiliary_net.linears
        bias = copy_layers(model.auxiliary, net[:-1], net[-1])
        net[-1].bias.copy_(bias)
    copy_mlp(theirs, model.mlp, final="linear")
    check(model, theirs, data)
    model.train()(data[0])
    score(theirs, data[1])
    torch.testing.assert_close(model.auxiliary_loss(), theirs.aux_loss.squeeze())
