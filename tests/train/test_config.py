"""Options: types, limits, files, flags."""

import dataclasses
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

import resemb_ext as rx
from resemb_ext.cli.train import GROUPS
from resemb_ext.testing.strategies import examples
from resemb_ext.train import FitConfig, RunConfig, read_config


def test_defaults_are_valid_and_documented():
    config = RunConfig()
    assert config.data == "simulated" and config.arms == ("plain", "res")
    for field in dataclasses.fields(RunConfig):
        assert field.metadata["help"], field.name


def test_every_option_has_one_flag():
    named = [name for group in GROUPS.values() for name in group]
    assert sorted(named) == sorted(field.name for field in dataclasses.fields(RunConfig))


def test_round_trip_through_json(tmp_path):
    config = RunConfig(seed=(3, 4), hidden=(8,), central_lr=1e-4, data="log.csv", label_column="-")
    file = tmp_path / "config.json"
    file.write_text(json.dumps(config.to_dict()))
    assert RunConfig.build(file) == config


def test_flags_override_the_file(tmp_path):
    file = tmp_path / "config.toml"
    file.write_text('epochs = 3\nlr = 1\nhidden = [16, 8]\nbatch-size = 7\nmodel = "din"\n')
    config = RunConfig.build(file, epochs=5)
    assert (config.epochs, config.lr, config.hidden) == (5, 1.0, (16, 8))
    assert (config.batch_size, config.model) == (7, "din")


def test_one_number_stands_for_a_tuple():
    assert RunConfig(seed=4).seed == (4,)


def test_a_model_has_options_of_its_own():
    assert RunConfig(model="din", model_options=("softmax=true",)).own_model_options == {"softmax": True}
    assert RunConfig(model_options=("pooling=sum",)).own_model_options == {"pooling": "sum"}


@pytest.mark.parametrize(
    ("model", "options"),
    [
        ("fm", {"hidden": (7, 9)}),
        ("fm", {"activation": "dice"}),
        ("fm", {"dropout": 0.5}),
        ("dnn", {"attention_hidden": (8,)}),
    ],
)
def test_options_that_a_model_lacks_are_refused(model, options):
    (name,) = options
    with pytest.raises(ValueError, match=f"^{name}: model {model} has no such option"):
        RunConfig(model=model, **options)
    assert getattr(RunConfig(model="din", **options), name) == options[name]


def test_kept_options_that_the_model_lacks_are_left_out():
    kept = {**RunConfig(model="fm", dim=8).to_dict(), "hidden": [7], "dropout": 0.5}
    assert RunConfig.saved(kept) == RunConfig(model="fm", dim=8)
    assert RunConfig.saved({**kept, "model": "dnn"}).hidden == (7,)
    with pytest.raises(ValueError, match="dropout: model fm has no such option"):
        RunConfig.saved(kept, dropout=0.5)


def test_every_model_is_a_choice():
    for name in rx.models.MODELS:
        assert RunConfig(model=name).model == name


def test_training_part():
    config = RunConfig(epochs=4, residual_lr=0.5)
    assert config.fit_config() == FitConfig(epochs=4, residual_lr=0.5)


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"epochs": 0}, ValueError, "epochs must be at least 1, found 0"),
        ({"epochs": 1.5}, TypeError, "epochs must be an integer, found 1.5"),
        ({"epochs": True}, TypeError, "epochs must be an integer, found True"),
        ({"epochs": None}, TypeError, "epochs must be an integer, found None"),
        ({"lr": 0}, ValueError, "lr must be above 0"),
        ({"lr": float("nan")}, ValueError, "lr must be finite"),
        ({"lr": "fast"}, TypeError, "lr must be a number, found 'fast'"),
        ({"dropout": 1}, ValueError, "dropout must be below 1"),
        ({"model": "dcn9"}, ValueError, "model must be one of dnn, din.*; found 'dcn9'"),
        ({"hidden": (8, 0)}, ValueError, "hidden must be at least 1"),
        ({"hidden": "64"}, TypeError, "hidden must be a list"),
        ({"category": "yes"}, TypeError, "category must be true or false"),
        ({"seed": ()}, ValueError, "seed must name at least one"),
        ({"seed": (1, 1)}, ValueError, "seed must not repeat"),
        ({"attention_hidden": ()}, ValueError, "attention_hidden must name at least one"),
        ({"model_options": ("x",)}, ValueError, "model_options must be NAME=VALUE, found 'x'"),
        (
            {"model": "din", "model_options": ("pool=1",)},
            ValueError,
            "model_options: din has no option 'pool'; its own: softmax",
        ),
        (
            {"model": "din", "model_options": ("softmax=3",)},
            TypeError,
            "model_options: softmax must be like False, found 3",
        ),
        ({"model_options": ("pooling=sum", "pooling=mean")}, ValueError, "model_options: pooling is given twice"),
        ({"user_column": "u"}, ValueError, "user_column is for log files"),
        ({"session_column": "s"}, ValueError, "session_column is for log files"),
        ({"lr": 10**400}, ValueError, "lr must be finite, found an integer of 1329 bits"),
        ({"dim": 2**31}, ValueError, "dim must be at most 2147483647, found 2147483648"),
        ({"hidden": (4, 10**12)}, ValueError, "hidden must be at most 2147483647"),
        ({"max_history": 10**30}, ValueError, "max_history must be at most 2147483647"),
        ({"train_negatives": 10**5000}, ValueError, "train_negatives must be at most 2147483647"),
        ({"seed": 2**63}, ValueError, "seed must be at most 9223372036854775807"),
        ({"lr": "x" * 10**6}, TypeError, r"lr must be a number, found 'x{1,99}\.\.\.x{1,99}'$"),
    ],
)
def test_bad_values_are_named(options, error, words):
    with pytest.raises(error, match=words):
        RunConfig(**options)


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("a.toml", "epoch = 3", "unknown option 'epoch' in .*a.toml; did you mean epochs"),
        ("a.json", '{"nonsense_xyz": 1}', "unknown option 'nonsense_xyz'.*known: epochs"),
        ("a.json", "{", "a.json: "),
        ("a.toml", "epochs 3", "a.toml: "),
        ("a.json", "[1]", "expected options by name, found list"),
        ("a.yaml", "epochs: 3", "must end in .toml or .json"),
        ("a.json", "[" * 100_000, "a.json: it is nested too deeply"),
        ("a.json", '{"a":' * 100_000, "a.json: it is nested too deeply"),
        ("a.toml", "lr = " + "[" * 100_000, "a.toml: "),
    ],
)
def test_bad_files_are_named(tmp_path, name, text, words):
    file = tmp_path / name
    file.write_text(text)
    with pytest.raises(ValueError, match=words):
        read_config(file)


def test_missing_file(tmp_path):
    with pytest.raises(FileNotFoundError, match="no configuration file"):
        RunConfig.build(tmp_path / "none.toml")


def test_options_of_a_model_that_are_nested_deeply_are_text():
    with pytest.raises(TypeError, match=r"softmax must be like False, found '\[\[.*\.\.\.\[*'$"):
        RunConfig(model="din", model_options=("softmax=" + "[" * 100_000,))


def test_a_saved_model_that_is_not_known_is_named():
    with pytest.raises(ValueError, match=r"model must be one of dnn, .*found 'Gnn'"):
        RunConfig.saved({"model": "Gnn"})
    with pytest.raises(TypeError, match=r"model must be text, found \['dnn'\]"):
        RunConfig.saved({"model": ["dnn"]})


JSON = st.recursive(
    st.one_of(
        st.none(),
        st.booleans(),
        st.integers(),
        st.sampled_from([0, -1, 2**31, 2**63, 10**30, 10**400]),
        st.floats(),
        st.text(max_size=8),
        st.sampled_from(["din", "res", "lazy", "softmax=1", "="]),
    ),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=3), inner, max_size=2)),
    max_leaves=5,
)
NAMES = [field.name for field in dataclasses.fields(RunConfig)]


@given(values=st.dictionaries(st.sampled_from(NAMES), JSON, min_size=1, max_size=4))
@examples(300)
def test_any_configuration_is_taken_or_refused_in_a_line(tmp_path, values):
    file = tmp_path / "any.json"
    file.write_text(json.dumps(values))
    try:
        config = RunConfig.build(file)
    except (ValueError, TypeError) as error:
        assert 0 < len(str(error)) < 2000
        return
    assert RunConfig(**json.loads(json.dumps(config.to_dict()))) == config
