"""What is saved of an optimizer, and state of this package or of torch.optim made fit for the one that loads it."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.optim import Optimizer

from .state import Form, count_at, count_of_torch, fit
from .tie import tie_of, tie_to

# What decay="global" keeps beside the rule's state, in float64.
_DECAY = ("decayed", "decay_log")
# Made where they are missing, since a rule may be without: momentum=0, bias_correction="global".
_OPTIONAL = ("momentum_buffer", "row_steps")
# Each belongs to one rule; a state with these alone is another rule's.
_OF_ONE_RULE = ("exp_avg", "exp_avg_sq", "square_avg", "sum", "momentum_buffer")


class Saved(Optimizer):
    """The part of the optimizers that is saved, loaded and copied."""

    # Steps parameters with dense gradients.
    _torch: ClassVar[type[Any]]
    _own: ClassVar[dict[str, Any]]
    _dense: Optimizer
    _seed: int
    _watched: set[Tensor]

    @abstractmethod
    def catch_up(self) -> None:
        """Applies the decay that is pending."""

    @abstractmethod
    def _check(self, group: dict[str, Any]) -> None:
        """Refuses options out of range."""

    @abstractmethod
    def _form(self, group: dict[str, Any], parameter: Tensor) -> Form:
        """Names, shapes and dtypes of a parameter's state, beside its count; it starts at ``_initial``."""

    def _converted(self, saved: dict[str, Any], form: Form, parameter: Tensor, name: str) -> dict[str, Any]:
        """A parameter's state with what is kept in another form than ``form``, where one follows from the other."""
        return saved

    def state_dict(self) -> dict[str, Any]:
        """As torch's; first applies the decay that is pending, so that tables and state fit."""
        self.catch_up()
        return super().state_dict()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Loads what ``state_dict`` gave, of this optimizer or of the torch.optim one with the same state.

        Options that a saved group lacks stay as they are here. State is cast to float64 for float64
        parameters, to float32 for others, and to the form that ``state`` names here, whichever it was saved in;
        counts become tensors. Pre-hooks and post-hooks are called as by torch.optim.

        Raises:
            ValueError: groups of other sizes, an option out of range or not supported here (amsgrad,
                dampening), state of another shape; nothing has been written then.
        """
        loaded: dict[Tensor, dict[str, Any]] = {}

        def check(_: Optimizer, given: dict[str, Any]) -> dict[str, Any]:
            kept, state = checked(self, given)
            self.catch_up()  # what is pending belongs to the tables, and its state goes
            loaded.update(state)
            return kept

        # The last of the pre-hooks and the first of the post-hooks: torch itself would cast all state to the
        # parameter's dtype, though parameters of low precision keep float32.
        handles = [
            self.register_load_state_dict_pre_hook(check),
            self.register_load_state_dict_post_hook(lambda _: self.state.update(loaded), prepend=True),
        ]
        try:
            super().load_state_dict(state_dict)
        finally:
            for handle in handles:
                handle.remove()

    def _completed(self, saved: dict[str, Any], current: dict[str, Any]) -> dict[str, Any]:
        """A saved group with the options that it lacks, as they are here."""
        group = {**{name: current[name] for name in self.defaults if name in current}, **saved}
        return {**group, "decoupled_weight_decay": True} if group["decay"] == "global" else group

    def __getstate__(self) -> dict[str, Any]:
        return {**super().__getstate__(), "_seed": self._seed, "_watched": self._watched, "_tie": tie_of(self)}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        tie = self.__dict__.pop("_tie", None)
        if tie is not None:  # modules copied with the optimizer keep it
            tie_to(self, tie)
        if "_dense" in self.__dict__:
            return  # load_state_dict
        self.__dict__.setdefault("_seed", 0)
        self.__dict__.setdefault("_watched", set())
        self._dense = self._torch([torch.zeros(1, requires_grad=True)])
        self.defaults = {**self._dense.defaults, **self._own, **self.defaults}
        for group in self.param_groups:
            for key, value in self.defaults.items():
                group.setdefault(key, value)


def checked(optimizer: Saved, given: dict[str, Any]) -> tuple[dict[str, Any], dict[Tensor, dict[str, Any]]]:
    """A state dict without the parameters' state, and copies of that in this optimizer's form.

    Args:
        optimizer: is not changed.
        given: of an optimizer over as many parameters. One over others is given back for torch to refuse.

    Raises:
        ValueError: an option out of range, state of another rule, or a tensor of another shape.
    """
    if not {"state", "param_groups"} <= given.keys():
        raise ValueError(f"state_dict: holds {', '.join(map(str, given))[:80] or 'nothing'}; expected an optimizer's")
    pairs = list(zip(given["param_groups"], optimizer.param_groups, strict=False))
    sizes = [[len(group["params"]) for group in side] for side in (given["param_groups"], optimizer.param_groups)]
    if sizes[0] != sizes[1]:
        return given, {}
    groups = [optimizer._completed(*pair) for pair in pairs]
    for group in groups:
        optimizer._check(group)
    loaded: dict[Tensor, dict[str, Any]] = {}
    rest = dict(given["state"])
    index = 0
    for group, (saved, current) in zip(groups, pairs, strict=True):
        for number, parameter in zip(saved["params"], current["params"], strict=True):
            if number in rest:
                form, name = optimizer._form(group, parameter), f"parameter {index}"
                own = optimizer._converted(rest.pop(number), form, parameter, f"{name}: its state")
                loaded[parameter] = _fitting(own, form, parameter, count_of_torch(group, parameter), name)
            index += 1
    return {**given, "state": rest, "param_groups": groups}, loaded


def _fitting(
    saved: dict[str, Any], form: Form, parameter: Tensor, count_place: torch.device, name: str
) -> dict[str, Any]:
    """A copy of a parameter's saved state: nobody else's step may change what is loaded."""
    there = [key for key, value in saved.items() if value is not None]
    missing = [key for key in form if key not in there and key not in _OPTIONAL]
    others = [key for key in there if key in _OF_ONE_RULE and key not in form]
    if there and (missing or (others and not any(key in there for key in form))):
        raise ValueError(
            f"{name}: its state has {', '.join(there)}; expected {', '.join(form) or 'step alone'}: it was saved by "
            "an optimizer of another rule (with an empty 'state' its options alone are loaded)"
        )
    own: dict[str, Any] = {}
    for key, value in saved.items():
        if key == "step":
            own[key] = count_at(value.clone() if isinstance(value, Tensor) else value, count_place)
        elif not isinstance(value, Tensor):
            if value is not None:  # as torch.optim.SGD keeps a buffer that is not there yet
                if key in form:
                    raise ValueError(f"{name}: its state {key} is {type(value).__name__}; expected a tensor")
                own[key] = value
        elif key in form:
            own[key] = fit(value, *form[key], parameter, f"{name}: its state {key}")
        elif key in _DECAY:
            shape, device = (parameter.shape[:1], parameter.device) if key == "decayed" else ((), torch.device("cpu"))
            own[key] = fit(value, shape, torch.float64, parameter, f"{name}: its state {key}").to(device)
        else:
            both = value.is_floating_point() and parameter.is_floating_point()
            dtype = parameter.dtype if both else value.dtype
            own[key] = value.to(parameter.device, dtype, copy=True)
    return own
