"""Options: types, limits, files, flags."""

import dataclasses
import json

import pytest

import resemb_ext as rx
from resemb_ext.cli.train import GROUPS
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
