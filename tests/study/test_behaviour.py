"""Behaviour models: probabilities that sum to one, the right one chosen, estimates of known truths."""

from __future__ import annotations

import numpy as np
import pytest

from resemb_ext import data
from resemb_ext.study.delay import page as delay_page
from resemb_ext.study.delay.drawing import draw, draw_like
from resemb_ext.study.delay.dwell import dwell_tail, estimate_dwell, pairs_by_lag, share_by_gap
from resemb_ext.study.delay.experiment import choices, tied_share
from resemb_ext.study.methods.behaviour import MODELS, Sequences, fit, fit_all
from resemb_ext.study.methods.domains import clusters, communities_of, first_meetings, halves, permuted, sequences

SIZE = {"users": 3000, "items": 900, "domains": 12, "events_per_user": (10, 16)}


@pytest.mark.parametrize("name", MODELS)
def test_next_domain_law_sums_to_one(name: str) -> None:
    model = fit(name, draw("markov", users=60, events=6, domains=4, seed=3))
    past = [2, 2, 0, 1]
    total = 0.0
    for last in range(4):
        case = Sequences(np.zeros(5, dtype=np.int64), np.array([*past, last]), 4)
        total += float(np.exp(model.score(case)[-1]))
    assert total == pytest.approx(1, abs=1e-9)


def test_mixture_is_the_dirichlet_multinomial_distribution() -> None:
    from scipy.special import gammaln

    events = draw("mixture", users=50, events=7, domains=3, seed=1)
    model = fit("mixture", events)
    alpha = model.values["mass"] * model.shares
    counts = np.zeros((50, 3))
    np.add.at(counts, (events.user, events.domain), 1)
    expected = gammaln(alpha.sum()) - gammaln(alpha.sum() + 7) + (gammaln(alpha + counts) - gammaln(alpha)).sum(axis=1)
    found = np.bincount(events.user, model.score(events))
    np.testing.assert_allclose(found, expected, rtol=1e-9)


@pytest.mark.one_in(2)
@pytest.mark.parametrize("name", ["mixture", "delay+mixture"])
def test_shares_of_interests_are_those_of_the_highest_likelihood(name: str) -> None:
    """Against a search over all parameters at once; half an event for each share on both sides."""
    from scipy import optimize, special

    shares = np.array([0.6, 0.3, 0.1])
    like = draw("independent", users=150, events=9, domains=3, seed=4)
    stay = 0.3 if name == "delay+mixture" else 0.0
    events = draw_like(like, stay=stay, mass=0.8, shares=shares, seed=1)

    def lack(x: np.ndarray) -> float:
        shares = special.softmax(np.append(x[2:], 0.0))
        kept = special.expit(x[0]) if stay else 0.0
        total = 0.0
        for user in range(150):
            seen, last = np.zeros(3), -1
            for place, domain in enumerate(events.domain[events.user == user]):
                p = (seen[domain] + np.exp(x[1]) * shares[domain]) / (place + np.exp(x[1]))
                if place:
                    p = kept * (domain == last) + (1 - kept) * p
                total += np.log(p)
                seen[domain] += 1
                last = int(domain)
        return -total - 0.5 * float(np.log(shares).sum())

    best = optimize.minimize(lack, [-1.0, 0.0, 1.0, 0.5], method="BFGS")
    model = fit(name, events)
    np.testing.assert_allclose(model.shares, special.softmax(np.append(best.x[2:], 0)), atol=2e-3)
    assert model.values["mass"] == pytest.approx(np.exp(best.x[1]), rel=0.01)
    height = model.loglik + 0.5 * float(np.log(model.shares).sum())
    assert height == pytest.approx(-best.fun, abs=0.01)
    assert model.loglik == pytest.approx(model.score(events).sum())


@pytest.mark.one_in(4)
@pytest.mark.parametrize("model", MODELS[:4])
def test_right_model_is_chosen_in_95_of_100_logs(model: str) -> None:
    found = choices(model, range(100), users=200)
    assert found["logs"] == 100
    assert found["right"] >= 95, found


def test_heldout_interval_covers_no_difference_to_itself() -> None:
    events = draw("delay", users=100, seed=2)
    found = fit_all(events, draw("delay", users=100, seed=2))
    own = found["models"]["delay"]["against_delay"]
    assert own == {"mean": 0.0, "low": 0.0, "high": 0.0}
    assert found["models"]["independent"]["against_delay"]["low"] > 0


def test_stay_beyond_fixed_interests_is_seen_where_there_is_one() -> None:
    for model in ("delay", "mixture"):
        events = draw(model, users=1000, seed=5)
        found = fit_all(events.where(events.user < 500), events.where(events.user >= 500))
        worth = found["stay_beyond_interests"]
        if model == "delay":
            assert worth["low"] > 0.05
        else:
            assert abs(worth["mean"]) < 0.002


@pytest.mark.parametrize("stay", [0.8, 0.9])
def test_dwell_is_recovered_with_known_and_estimated_domains(stay: float) -> None:
    """3,000 users with 10 to 16 events each, 900 items, 12 domains."""
    log, truth = data.simulate(**SIZE, stay=stay, seed=1)
    first, second = halves(log)
    crossed = [sequences(second, communities_of(first)), sequences(first, communities_of(second))]
    for parts in ([sequences(log, truth.domain)], crossed):
        found = estimate_dwell(parts, resamples=20)
        for way in ("by_stays", "by_decay"):
            assert found[way]["value"] == pytest.approx(1 / (1 - stay), rel=0.05)


def test_decay_outlasts_wrong_domains_of_a_quarter_of_the_items() -> None:
    log, truth = data.simulate(**SIZE, stay=0.8, seed=2)
    domain = truth.domain.copy()
    wrong = np.random.default_rng(0).random(len(domain)) < 0.25
    domain[wrong & (domain >= 0)] = permuted(domain)[wrong & (domain >= 0)]
    found = estimate_dwell([sequences(log, domain)], resamples=20)
    assert found["by_stays"]["value"] < 3.5
    assert found["by_decay"]["value"] == pytest.approx(5, rel=0.1)


def test_null_log_and_random_domains_show_no_effect() -> None:
    """Drawing without replacement puts the null log's excess just below 0."""
    null, truth = data.simulate(**SIZE, null=True, seed=1)
    first, second = halves(null)
    crossed = [sequences(second, communities_of(first)), sequences(first, communities_of(second))]
    log, real = data.simulate(**SIZE, stay=0.9, seed=1)
    random = [sequences(log, permuted(real.domain))]
    for parts in ([sequences(null, truth.domain)], crossed, random):
        excess = estimate_dwell(parts, resamples=20)["excess"]
        assert abs(excess["value"]) < 0.006
    circular = estimate_dwell([sequences(null, communities_of(null))], resamples=20)
    assert circular["excess"]["value"] > 0.01, "domains of the same events explain themselves"


def test_domains_are_counted_without_numbers_that_none_has() -> None:
    """Categories are numbered from 1: a domain 0 that does not exist would be paid for in the BIC."""
    log, truth = data.simulate(users=60, items=120, domains=4, seed=1)
    numbers = np.where(truth.domain < 0, -1, 10 * truth.domain + 1)
    found, plain = sequences(log, numbers), sequences(log, truth.domain)
    np.testing.assert_array_equal(found.domain, plain.domain)
    assert found.domains == plain.domains == 4
    parameters = {name: fit(name, found).parameters for name in MODELS}
    assert parameters == {"independent": 3, "delay": 4, "markov": 15, "mixture": 4, "delay+mixture": 5}


@pytest.mark.parametrize(("power", "error"), [(0.0, 1e-3), (1.2, 0.012)])
def test_chance_by_lag_of_the_delay_model_is_that_of_its_chain(power: float, error: float) -> None:
    """Exact for domains of one size; near by for sizes of which the largest is 30 times the smallest."""
    shares = np.arange(1.0, 19.0) ** -power
    shares /= shares.sum()
    step = np.tile(shares, (18, 1))
    np.fill_diagonal(step, 0)
    step *= 0.4 / step.sum(axis=1, keepdims=True)
    np.fill_diagonal(step, 0.6)
    # Events by the chain's probabilities, as many of each pair as it says.
    lasting = np.linalg.matrix_power(step, 500)[0]
    count = np.rint(lasting[:, None] * step * 200_000).astype(int).ravel()
    pairs = np.repeat(np.arange(18 * 18), count)
    domain = np.stack([pairs // 18, pairs % 18], axis=1).ravel()
    model = fit("delay", Sequences(np.repeat(np.arange(len(pairs)), 2), domain, 18))
    lags = np.array([1, 2, 3, 5, 10, 20])
    expected = [lasting @ np.diag(np.linalg.matrix_power(step, k)) for k in lags]
    np.testing.assert_allclose(model.share(lags), expected, atol=error)
    assert np.abs(model.share(lags)[0] - expected[0]) < 1e-3


def test_pairs_by_lag_by_hand() -> None:
    events = Sequences(np.array([0, 0, 0, 1, 1]), np.array([1, -1, 1, 0, 0]), 2)
    pairs, same = pairs_by_lag([events], 2)
    np.testing.assert_array_equal(pairs, [[0, 1], [1, 0]])
    np.testing.assert_array_equal(same, [[0, 1], [1, 0]])


def test_share_by_gap_by_hand() -> None:
    time = np.array([0, 30, 700])
    events = Sequences(np.zeros(3, dtype=np.int64), np.array([0, 0, 1]), 2, time)
    found = share_by_gap(events)
    np.testing.assert_array_equal(found["pairs"][:4], [1, 0, 2, 0])
    assert found["share"][0] == 1 and found["share"][2] == 0 and found["mean_lag"][2] == 1.5
    with pytest.raises(ValueError, match="time"):
        share_by_gap(Sequences(np.zeros(2, dtype=np.int64), np.zeros(2, dtype=np.int64), 1))


@pytest.mark.parametrize("heavy", [False, True])
def test_tail_of_stays(heavy: bool) -> None:
    rng = np.random.default_rng(4)
    users, events = 2000, 40
    stays = rng.geometric(0.3, (users, events))
    if heavy:
        stays = np.ceil(rng.pareto(1.2, (users, events))).astype(int)
    moves = np.zeros((users, events), dtype=np.int64)
    ends = np.cumsum(stays, axis=1)
    rows, columns = np.nonzero(ends < events)
    moves[rows, ends[rows, columns]] = rng.integers(1, 50, len(rows))
    domain = (np.cumsum(moves, axis=1) % 50).ravel()
    found = dwell_tail(Sequences(np.repeat(np.arange(users), events), domain, 50))
    assert found["verdict"] == ("heavier" if heavy else "geometric")


def test_logs_drawn_with_the_fitted_stays_and_interests_are_of_that_model() -> None:
    like = draw("mixture", users=1500, events=30, domains=8, mass=3.0, seed=1)
    drawn = draw_like(like, stay=0.4, mass=3.0, shares=like.shares, seed=5)
    np.testing.assert_array_equal(drawn.user, like.user)
    np.testing.assert_allclose(drawn.shares, like.shares, atol=0.02)
    values = fit("delay+mixture", drawn).values
    assert values["stay"] == pytest.approx(0.4, abs=0.02)
    assert values["mass"] == pytest.approx(3.0, rel=0.1)
    again = draw_like(like, stay=0.4, mass=3.0, shares=like.shares, seed=6)
    assert not np.array_equal(drawn.domain, again.domain)


def test_unlike_interests_alone_look_heavy_and_drawn_logs_show_it() -> None:
    """Geometric stays of users with unlike interests give b below 1; so do the drawn logs beside them."""
    like = draw("mixture", users=1500, events=30, domains=4, mass=0.7, seed=2)
    events = draw_like(like, stay=0.3, mass=0.7, shares=like.shares, seed=0)
    tail, model = dwell_tail(events), fit("delay+mixture", events)
    shapes = [
        dwell_tail(draw_like(events, **model.values, shares=model.shares, seed=seed))["shape"] for seed in range(20)
    ]
    assert tail["verdict"] == "heavier"
    assert delay_page._beyond(tail, {"shapes": shapes}) is False
    assert delay_page._beyond({**tail, "shape": 0.3}, {"shapes": shapes}) is True
    assert delay_page._beyond(tail, None) is None


def test_short_histories_cannot_tell_the_tail() -> None:
    found = dwell_tail(draw("delay", users=60, events=4, stay=0.7, seed=0))
    assert found["verdict"] == "cannot tell"


def test_bad_input_is_named() -> None:
    with pytest.raises(ValueError, match="model must be one of"):
        fit("hmm", draw("delay"))
    with pytest.raises(ValueError, match="model must be one of"):
        draw("hmm")
    single = Sequences(np.arange(3), np.zeros(3, dtype=np.int64), 2)
    with pytest.raises(ValueError, match="2 events"):
        fit("delay", single)
    with pytest.raises(ValueError, match="two events in a row"):
        estimate_dwell([single])


def test_returns_and_clusters_and_ties() -> None:
    log, _ = data.simulate(users=30, items=90, domains=3)
    twice = data.Log.from_arrays(
        np.concatenate([log.user, log.user]),
        np.concatenate([log.item, log.item]),
        np.concatenate([log.time, log.time + 10**9]),
        users=log.users,
        items=log.items,
    )
    kept = first_meetings(twice)
    np.testing.assert_array_equal(kept.item, log.item)
    np.testing.assert_array_equal(kept.time, log.time)
    tied = Sequences(np.array([0, 0, 0, 1]), np.zeros(4, dtype=np.int64), 1, np.array([5, 5, 6, 6]))
    assert tied_share(tied) == 0.5
    vectors = np.array([[0.0, 0.0], [1.0, 0.0], [5.0, 0.1], [0.0, 2.0]])
    found = clusters(vectors, 2)
    assert found[0] == -1 and found[1] == found[2] != found[3]
    with pytest.raises(ValueError, match="number must lie in 1 to 1"):
        clusters(np.ones((1, 2)), 2)
