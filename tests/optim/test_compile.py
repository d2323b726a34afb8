"""torch.compile and export of modules that an optimizer is tied to: as without the compiler."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from resemb_ext import InterestGraph, ResEmbedding, models, optim
from resemb_ext.testing.models import CATEGORIES, DIM, make_batch, plain_table, res_table
from resemb_ext.testing.problems import make_graph

H, D = 40, 8
OPTIMIZERS: dict[str, tuple[Any, dict[str, Any]]] = {
    "adam": (optim.Adam, {"lr": 0.1}),
    "sgd": (optim.SGD, {"lr": 0.1}),
    "momentum": (optim.SGD, {"lr": 0.1, "momentum": 0.9}),
    "adagrad": (optim.Adagrad, {"lr": 0.1}),
    "rowwise": (optim.RowwiseAdagrad, {"lr": 0.1}),
    "row": (optim.Adam, {"lr": 0.1, "bias_correction": "row"}),
    "adamw": (optim.AdamW, {"lr": 0.1}),
    "compact": (optim.Adam, {"lr": 0.1, "state": "compact", "seed": 3}),
    "half": (optim.AdamW, {"lr": 0.1, "state": "bfloat16", "seed": 3}),
    "global": (optim.AdamW, {"lr": 0.1, "weight_decay": 0.3, "decay": "global"}),
}
LINKS = ("average", "gcn", "attention", "given", "plain")


@pytest.fixture(autouse=True)
def fresh_compiler() -> Iterator[None]:
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


class Net(nn.Module):
    """Two lookups of one table and a bag, as a model with history and target has them."""

    def __init__(self, link: str) -> None:
        super().__init__()
        torch.manual_seed(0)
        if link == "plain":
            self.item: nn.Module = nn.Embedding(H, D, sparse=True)
        else:
            graph = InterestGraph.from_csr(*make_graph(np.random.default_rng(0), H, 4))
            self.item = ResEmbedding(graph, D, link=link, sparse=True)
        self.out = nn.Linear(D, 1)

    def pool(self, history: Tensor) -> Tensor:
        return self.item(history).mean(1) if isinstance(self.item, nn.Embedding) else self.item.bag(history)

    def forward(self, history: Tensor, target: Tensor) -> Tensor:
        return self.out(self.pool(history) + self.item(history).sum(1).tanh() * self.item(target)).square().sum()


class Broken(Net):
    """With a graph break between the lookups, and one inside a context that cannot be resumed."""

    def forward(self, history: Tensor, target: Tensor) -> Tensor:
        pooled = self.item(history).mean(1)
        torch._dynamo.graph_break()
        try:
            torch._dynamo.graph_break()
            return self.out(pooled * self.item(target)).square().sum()
        finally:
            self.seen = len(target)


def draw(step: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(step)
    return torch.randint(1, H, (6, 3), generator=generator), torch.randint(1, H, (6,), generator=generator)


def tied(kind: str, model: nn.Module, in_backward: bool = True) -> Any:
    build, options = OPTIMIZERS[kind]
    optimizer = build(model.parameters(), **options)
    if options.get("decay") == "global":
        optimizer.attach(model)
    if in_backward:
        optimizer.step_in_backward(model)
    return optimizer


def train(model: nn.Module, optimizer: Any, run: Callable[..., Tensor], steps: int = 3) -> None:
    for step in range(steps):
        run(*draw(step)).backward()
        optimizer.step()
        optimizer.zero_grad()


def check_same(one: nn.Module, other: nn.Module, tolerance: float = 1e-6) -> None:
    for (name, a), b in zip(one.state_dict().items(), other.state_dict().values(), strict=True):
        if isinstance(a, Tensor):
            torch.testing.assert_close(
                a, b, rtol=10 * tolerance, atol=tolerance, msg=lambda text, name=name: f"{name}: {text}"
            )


def compare(net: type[Net], kind: str, link: str, backend: str, in_backward: bool = True) -> None:
    ordinary, model = net(link), net(link)
    train(ordinary, optimizer := tied(kind, ordinary, in_backward), ordinary)
    compiled_optimizer = tied(kind, model, in_backward)
    train(model, compiled_optimizer, torch.compile(model, backend=backend))
    check_same(model, ordinary)
    for p, q in zip(model.item.parameters(recurse=False), ordinary.item.parameters(recurse=False), strict=True):
        assert compiled_optimizer.state[p].get("step") == optimizer.state[q].get("step") == 3


@pytest.mark.one_in(3)
@pytest.mark.parametrize("link", ["average", "attention", "plain"])
def test_a_table_is_stepped_once_a_pass(link: str) -> None:
    compare(Net, "adam", link, "eager")


# Dynamo alone, which breaks graphs; AOTAutograd, which gives a graph one backward; and the kernels of inductor.
# Every link meets both of the former; Net with eager is test_a_table_is_stepped_once_a_pass.
@pytest.mark.full
@pytest.mark.parametrize(
    ("link", "net", "backend"),
    [
        *((link, net, backend) for link in LINKS for net, backend in ((Net, "aot_eager"), (Broken, "eager"))),
        *(("average", Broken, "aot_eager"), ("average", Net, "inductor"), ("attention", Broken, "inductor")),
    ],
)
def test_links(link: str, net: type[Net], backend: str) -> None:
    # The scores' first gradients are zero but for rounding, which Adam would lift to whole steps.
    compare(net, "momentum" if link == "attention" else "row", link, backend)


@pytest.mark.full
@pytest.mark.parametrize(
    ("kind", "in_backward"),
    # Every one is compiled in test_a_compiled_step; these are states of each form, and both ways to decay.
    [*((kind, True) for kind in ("adam", "rowwise", "compact", "global")), ("adam", False), ("global", False)],
)
def test_optimizers(kind: str, in_backward: bool) -> None:
    compare(Net, kind, "average", "aot_eager", in_backward)


@pytest.mark.full
@pytest.mark.parametrize(("link", "backend"), [*((link, "aot_eager") for link in LINKS), ("average", "eager")])
def test_a_compiled_part(link: str, backend: str) -> None:
    """The embedding itself, compiled in place."""
    ordinary, model = Net(link), Net(link)
    train(ordinary, tied("adam", ordinary), ordinary)
    optimizer = tied("adam", model)
    model.item.compile(backend=backend)
    train(model, optimizer, model)
    check_same(model, ordinary)


# The step is the same code whatever the link: the others meet one optimizer. After backward, one of each way to treat
# rows without a gradient.
@pytest.mark.full
@pytest.mark.parametrize(
    ("link", "kind", "in_backward"),
    [
        *(("average", kind, True) for kind in OPTIMIZERS),
        *(("average", kind, False) for kind in ("adam", "momentum", "global")),
        *((link, "adam", in_backward) for link in ("attention", "plain") for in_backward in (True, False)),
    ],
)
def test_a_compiled_step(link: str, kind: str, in_backward: bool) -> None:
    """Loss, backward and optimizer inside one compiled function."""
    ordinary, model = Net(link), Net(link)
    train(ordinary, tied(kind, ordinary, in_backward), ordinary)
    optimizer = tied(kind, model, in_backward)

    @torch.compile(backend="eager")
    def step(history: Tensor, target: Tensor) -> None:
        model(history, target).backward()
        optimizer.step()
        optimizer.zero_grad()

    for number in range(3):
        step(*draw(number))
    check_same(model, ordinary)


#: Outside the slow group: attention over histories, first-order weights beside layers, and a recurrent model, which takes
#: AOTAutograd long. Every model is compiled in tests/models/test_common.py, and every kind of step above.
USUAL = {("din", "eager"), ("din", "aot_eager"), ("deepfm", "aot_eager"), ("dien", "eager")}


def model_cases() -> list[object]:
    """Every model with every backend."""
    return [
        pytest.param(name, backend, marks=[] if (name, backend) in USUAL else [pytest.mark.slow])
        for name in models.MODELS
        for backend in ("eager", "aot_eager", "inductor")
    ]


@pytest.mark.full
@pytest.mark.parametrize(("name", "backend"), model_cases())
def test_every_model(name: str, backend: str) -> None:
    tables = []
    for compiled in (False, True):
        torch.manual_seed(0)
        item, category = res_table(), plain_table(CATEGORIES)
        item.sparse = category.sparse = True
        model = models.MODELS[name](item, category_embedding=category)
        model.eval()  # without negatives drawn, which the compiler would draw otherwise
        # Adam would lift gradients that are zero but for rounding to whole steps.
        optimizer = optim.SGD(model.parameters(), lr=0.01, momentum=0.9)
        optimizer.step_in_backward(model)
        run = torch.compile(model, backend=backend) if compiled else model
        for seed in range(3):
            run(make_batch(seed=seed)).square().sum().backward()
            optimizer.step()
            optimizer.zero_grad()
        assert optimizer.state[item.central]["step"] == optimizer.state[category.weight]["step"] == 3
        tables.append(model)
    assert item.embedding_dim == DIM
    check_same(*tables, tolerance=1e-5)


def test_one_graph_is_refused_with_the_way_out() -> None:
    model = Net("average")
    tied("adam", model)
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(torch._dynamo.exc.Unsupported, match=r"call optimizer\.step\(\) after it instead"):
        torch.compile(model, backend="eager", fullgraph=True)(*draw(0))
    check_same(model, model.__class__("average"))
    assert before.keys() == model.state_dict().keys()


@pytest.mark.one_in(2)
@pytest.mark.parametrize("link", ["average", "attention"])
def test_a_tied_module_can_be_exported(link: str) -> None:
    model = Net(link)
    train(model, tied("global", model), model)
    model.eval()
    with torch.no_grad():
        expected = model(*draw(5))
        program = torch.export.export(model, draw(5), strict=False)
        torch.testing.assert_close(program.module()(*draw(5)), expected)
