"""`docs/results.md`, a function of the committed JSON alone."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from .cells import ONCE, Cell, all_cells

_NAMES = {"auc": "AUC", "gauc": "gAUC", "logloss": "logloss"}
_MODELS = {"wide_deep": "Wide&Deep", "deepfm": "DeepFM"}
_LINKS = {
    "amazon-beauty": "Amazon reviews of beauty products, every user and item with at least 5 events",
    "ml-1m": "MovieLens 1M (Harper & Konstan 2015)",
}


def render(content: dict[str, Any]) -> str:
    """The page.

    Args:
        content: of the file, see ``store.read``.

    Raises:
        ValueError: it holds no cells.
    """
    cells = content["cells"]
    if not cells:
        raise ValueError("the results hold no cells; run python -m benchmarks.real_logs first")
    parts = [
        "# Res-embedding on real logs",
        "Rendered by `python -m benchmarks.real_logs --report` from "
        "[`benchmarks/results/real_logs.json`](../benchmarks/results/real_logs.json): change those, "
        "not this page.",
        "## Untuned",
        "One set of options for both embeddings: the defaults of `resemb train`, but for what the "
        "protocol below names. Nothing was searched for either. A plain embedding that is not tuned "
        "flatters Res-embedding: a search over its learning rate and its L2 could close a "
        "difference below, or turn it. And Res-embedding has twice the table parameters, C and R of "
        "one size, without a control of equal size or with a random graph. So what follows shows what "
        "the package does on real input. It is no evidence for or against the paper's claims.",
        _table(*_results(cells)),
        "Test metrics, mean ± standard deviation over seeds. *res - plain*: difference of test "
        "gAUC, paired by seed, with its 95 % t interval over seeds where there are several. "
        "*radius*: aggregation radius of the item vectors, over the separation of the domains and "
        "against random domains of the same sizes (1: the categories say nothing about the "
        "vectors). *epochs*: passes made, and in brackets the one that was kept. *samples/s* of "
        f"training, {_side_by_side(cells)}: indicative only.",
        *_not_run(cells),
        "### Differences",
        _table(*_differences(cells)),
        "Test, res minus plain. *over seeds*: the t interval says how much training varies. *over "
        "users*: the normal interval says how much the choice of test users does, the trained "
        "models given (ratio estimator, seeds averaged per user). Neither covers the other, nor "
        "the choice of options. For logloss, below 0 is better. *seen*: gAUC over targets with "
        "a training event.",
        "### What the untuned tables say",
        _verdict(cells),
        *_caveats(cells),
        "### Protocol",
        _bullets(_protocol(content)),
        "### Environment",
        _bullets(_environment(cells)),
    ]
    return "\n\n".join(parts) + "\n"


def _table(head: Sequence[str], numbers_from: int, rows: Iterable[Sequence[str]]) -> str:
    lines = ["| " + " | ".join(head) + " |"]
    lines.append("|" + "---|" * numbers_from + "---:|" * (len(head) - numbers_from))
    lines += ["| " + " | ".join(row) + " |" for row in rows]
    return "\n".join(lines)


def _bullets(texts: Iterable[str]) -> str:
    return "\n".join(f"- {text}" for text in texts)


def _results(cells: list[dict[str, Any]]) -> tuple[list[str], int, list[list[str]]]:
    head = ["log", "split", "model", "category", "embedding", "AUC", "gAUC", "logloss"]
    head += ["res - plain, gAUC", "radius", "epochs", "samples/s", "parameters"]
    rows = []
    for cell in cells:
        for arm in ("plain", "res"):
            runs = [run for run in cell["runs"] if run["embedding"] == arm]
            test = cell["summary"]["arms"][arm]["test"]
            gain = cell["summary"]["difference"]["test"]["gauc"]
            rows.append(
                [
                    *_where(cell),
                    arm,
                    *(_spread(test[metric]) for metric in _NAMES),
                    _interval(gain) if arm == "res" else "",
                    _mean(runs, "aggregation_radius", ".3f"),
                    f"{_mean(runs, 'epochs', '.1f')} ({_mean(runs, 'best_epoch', '.1f')})",
                    _mean(runs, "samples_per_s", ",.0f"),
                    _mean(runs, "parameters", ",.0f"),
                ]
            )
    return head, 5, rows


def _differences(cells: list[dict[str, Any]]) -> tuple[list[str], int, list[list[str]]]:
    head = ["log", "split", "model", "category", "seeds", "gAUC, over seeds", "gAUC, over users"]
    head += ["AUC", "logloss", "gAUC, seen"]
    rows = []
    for cell in cells:
        gain = cell["summary"]["difference"]
        rows.append(
            [
                *_where(cell),
                str(gain["test"]["gauc"]["n"]),
                _interval(gain["test"]["gauc"]),
                _interval(cell["gauc_over_users"]),
                _interval(gain["test"]["auc"]),
                _interval(gain["test"]["logloss"]),
                _interval(gain["test_seen"]["gauc"]),
            ]
        )
    return head, 4, rows


def _where(cell: dict[str, Any]) -> list[str]:
    return [cell["log"], cell["split"], _model(cell), "yes" if cell["category"] else "no"]


def _model(cell: dict[str, Any]) -> str:
    return _MODELS.get(cell["model"], cell["model"].upper())


def _not_run(cells: list[dict[str, Any]]) -> list[str]:
    """One paragraph that names cells which are not there; none where all are."""
    have = {Cell(*(cell[name] for name in ("log", "split", "model", "category"))) for cell in cells}
    missing: dict[str, list[str]] = {}
    for cell in all_cells():
        if cell not in have:
            where = missing.setdefault(f"{cell.log} ({cell.split})", [])
            where.append(_cell_name(cell.key))
    if not missing:
        return []
    return ["Not run yet: " + "; ".join(f"{where}: {_list(names)}" for where, names in missing.items()) + "."]


def _spread(value: dict[str, Any]) -> str:
    if value["mean"] is None:
        return "-"
    text = f"{value['mean']:.4f}"
    return text if value["std"] is None else f"{text} ± {value['std']:.4f}"


def _interval(value: dict[str, Any]) -> str:
    if value["mean"] is None:
        return "-"
    text = f"{value['mean']:+.4f}"
    return text if value["low"] is None else f"{text} [{value['low']:+.4f}, {value['high']:+.4f}]"


def _mean(runs: list[dict[str, Any]], key: str, form: str) -> str:
    values = [run[key] for run in runs]
    if any(value is None for value in values):
        return "-"
    mean = sum(values) / len(values)
    # One seed has whole epochs.
    return format(mean, ".0f" if form == ".1f" and len(values) == 1 else form)


def _side(cell: dict[str, Any]) -> int:
    """1 or -1 where every interval of the gAUC difference excludes 0 on that side, else 0."""
    intervals = [cell["summary"]["difference"]["test"]["gauc"], cell["gauc_over_users"]]
    signs = {
        1 if value["low"] > 0 else -1 if value["high"] < 0 else 0 for value in intervals if value["low"] is not None
    }
    return signs.pop() if len(signs) == 1 else 0


def _verdict(cells: list[dict[str, Any]]) -> str:
    texts = []
    for log, split in dict.fromkeys((cell["log"], cell["split"]) for cell in cells):
        sides = {
            _side_name: [_cell_name(c) for c in cells if (c["log"], c["split"]) == (log, split) and _side(c) == side]
            for side, _side_name in ((1, "above"), (-1, "below"), (0, "undecided"))
        }
        found = [f"{name} in {_list(where)}" for name, where in sides.items() if where]
        texts.append(f"on {log} ({split}) it is " + ", ".join(found))
    return (
        "In test gAUC, Res-embedding against the plain embedding, both untuned: "
        + "; ".join(texts)
        + ". (Undecided: an interval, over seeds or over users, holds 0, or the two disagree; with one "
        "seed there is only that over users, which knows nothing of the spread of training.)"
    )


def _cell_name(cell: dict[str, Any]) -> str:
    return _model(cell) + (" with category" if cell["category"] else "")


def _list(texts: list[str]) -> str:
    return texts[0] if len(texts) == 1 else ", ".join(texts[:-1]) + " and " + texts[-1]


def _caveats(cells: list[dict[str, Any]]) -> list[str]:
    capped = [
        f"{cell['log']} {cell['split']} {_cell_name(cell)} ({run['embedding']})"
        for cell in cells
        for run in cell["runs"]
        if run["stopped"] == "epochs"
    ]
    texts = []
    if capped:
        texts.append(
            f"{len(capped)} of {sum(len(cell['runs']) for cell in cells)} runs ended at the cap on "
            "epochs rather than by early stopping, so they may not have converged, and a difference "
            "between them also measures which embedding learns faster: "
            + ", ".join(
                f"{name} x {capped.count(name)}" if capped.count(name) > 1 else name for name in dict.fromkeys(capped)
            )
            + "."
        )
    if any(cell["log"] == "ml-1m" for cell in cells):
        texts.append(
            "ml-1m is no log of interests that come and go: its users rated lists in one sitting "
            "(a median of 67 minutes for all ratings of a user, a third of the gaps 0 s), so what "
            "follows what is mostly the order of a page, and the graph learns that order. Its "
            "times are partly reconstructed."
        )
    if any(cell["split"] == "leave-last-out" for cell in cells):
        texts.append(
            "Under leave-last-out other users' later events are in training and in the graph; "
            "where times are known, see the time split as well. amazon-beauty has an order of "
            "events but no times, so it has no time split here."
        )
    texts.append(
        "Rows of different models or logs are not meant to be compared: logs differ in epochs, "
        "histories and seeds (below), and logloss also depends on the share of positives among "
        "the candidates, which is that of neither training nor any real traffic."
    )
    return texts


def _protocol(content: dict[str, Any]) -> list[str]:
    cells, usual = content["cells"], content["defaults"]
    texts = []
    for log in dict.fromkeys(cell["log"] for cell in cells):
        of_log = [cell for cell in cells if cell["log"] == log]
        data = of_log[0]["data"]
        texts.append(
            f"**{log}**: {_LINKS.get(log, log)}; {data['users']:,} users, {data['items']:,} items, "
            f"{data['events']:,} events, {data['categories']:,} categories; each event is a "
            "positive, whatever its rating."
        )
        for split in dict.fromkeys(cell["split"] for cell in of_log):
            texts.append(_split_text(split, [c for c in of_log if c["split"] == split], usual))
    texts += [
        "**Negatives** are drawn by an item's training events to the power "
        f"{usual['negative_power']} among the items that the user does not know: from training "
        f"for training ({usual['train_negatives']} per event, drawn once per seed and the same for "
        "both embeddings), from the whole log for validation and test. These are "
        "drawn once, the same for all models, embeddings and seeds; their hashes are in the JSON. "
        "gAUC is taken within the candidates of a user.",
        "**Histories** are a user's most recent events before the target, held-out ones included "
        "where they come before it.",
        f"**Graph**: from training events only; co-occurrence counts within {usual['window']} "
        f"events of a user, the {usual['top_k']} strongest neighbours kept, link "
        f"`{usual['link']}`. It holds the edge from a training target to the last item of "
        "its own history too: cross-fitting is not used.",
        f"**Model**: embeddings of {usual['dim']}, for categories too where they are given; hidden "
        f"layers {_numbers(usual['hidden'])}, DIN's attention {_numbers(usual['attention_hidden'])}, "
        f"{usual['activation']}; dropout {usual['dropout']:g}. Both embeddings start with the same "
        "layers after them.",
        f"**Training**: dense Adam (`torch.optim.Adam`, fused), batches of {usual['batch_size']:,}, "
        f"learning rate {usual['embedding_lr']:g} for the tables and {usual['lr']:g} for the rest, L2 "
        f"(Adam's weight decay, on whole tables) {usual['embedding_l2']:g} for the tables and "
        f"{usual['residual_l2']:g} for Res-embedding's residual, {usual['l2']:g} for the rest. All "
        "options that both embeddings have are equal; the residual's L2 and its start at "
        f"{usual['residual_scale']:g} of the centre's scale are Res-embedding's alone.",
        f"**Early stopping** on validation {_NAMES[usual['metric']]}, for both; test is scored once, "
        "with the kept epoch.",
    ]
    return texts


def _split_text(split: str, cells: list[dict[str, Any]], usual: dict[str, Any]) -> str:
    data = cells[0]["data"]
    parts = data["split"]
    how = {
        "leave-last-out": "a user's last event is the test target, the one before it the validation target",
        "time": "events cut by time into shares of " + " / ".join(f"{share:g}" for share in parts["fractions"] or ()),
    }[split]
    text = (
        f"{cells[0]['log']}, **{split}**: {how}; {parts['train']:,} training, {parts['valid']:,} "
        f"validation and {parts['test']:,} test events; {data['negatives']['eval']} negatives per "
        f"validation and test event ({data['samples']['test']:,} test candidates). "
    )

    def option(cell: dict[str, Any], name: str) -> Any:
        return cell["changes"].get(name, usual[name])

    def shared(name: str, form: str = "{}") -> str:
        """The option, by model where the models differ."""
        values = {cell["model"]: form.format(option(cell, name)) for cell in cells}
        if len(set(values.values())) == 1:
            return next(iter(values.values()))
        return " and ".join(f"{value} ({model.upper()})" for model, value in values.items())

    main = [cell for cell in cells if cell["model"] not in ONCE]
    once = [cell for cell in cells if cell["model"] in ONCE]
    seeds = sorted({seed for cell in main or cells for seed in option(cell, "seed")})
    alone = (
        f" {_list([_model(cell) for cell in once])}: once, with category, seed "
        f"{', '.join(map(str, option(once[0], 'seed')))}."
        if main and once
        else ""
    )
    return text + (
        f"At most {shared('max_history')} events of history, {shared('epochs')} epochs, patience "
        f"{shared('patience')}; {'seeds' if len(seeds) > 1 else 'seed'} "
        f"{', '.join(map(str, seeds))}.{alone}"
    )


def _numbers(values: list[int]) -> str:
    return " and ".join(map(str, values))


def _side_by_side(cells: list[dict[str, Any]]) -> str:
    workers = sorted({cell["environment"]["workers"] for cell in cells})
    threads = sorted({cell["environment"]["threads"] for cell in cells})
    return (
        f"with {' or '.join(map(str, threads))} thread{'s' if threads != [1] else ''} and "
        f"{' or '.join(map(str, workers))} cell{'s' if workers != [1] else ''} at a time"
    )


def _environment(cells: list[dict[str, Any]]) -> list[str]:
    def distinct(pick: Any) -> str:
        return ", ".join(dict.fromkeys(str(pick(cell["environment"])) for cell in cells))

    return [
        f"{distinct(lambda e: e['machine']['cpu'])}, kernels: {distinct(lambda e: e['isa'])}; torch "
        f"{distinct(lambda e: e['versions']['torch'])}, Python "
        f"{distinct(lambda e: e['versions']['python'])}, resemb_ext "
        f"{distinct(lambda e: e['versions']['resemb_ext'])}.",
        f"commit {distinct(lambda e: str(e['commit'])[:12] + ('+' if str(e['commit']).endswith('+') else ''))}"
        + (
            " (+: with uncommitted changes)"
            if any(str(cell["environment"]["commit"]).endswith("+") for cell in cells)
            else ""
        )
        + f"; {sum(cell['wall_s'] for cell in cells) / 60:,.0f} minutes of cells in all.",
    ]
