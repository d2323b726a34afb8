"""What all sides of the comparison share; it needs the standard library alone, as each side's environment does."""

from __future__ import annotations

#: Sides by name: what they are in tables. The first is what the others are compared with.
SIDES = {
    "res": "resemb_ext, res, lazy Adam in backward",
    "plain": "resemb_ext, plain, lazy Adam in backward",
    "dense": "resemb_ext, plain, dense Adam",
    "fuxictr": "FuxiCTR",
    "deepctr": "DeepCTR-Torch",
    "recbole": "RecBole",
}
#: Those of other libraries, with the module that tells whether one is installed.
MODULES = {"fuxictr": "fuxictr", "deepctr": "deepctr_torch", "recbole": "recbole"}
OWN = "res"
DIM, HIDDEN, ATTENTION = 32, 64, 64
LR = 1e-3
PADDING = 0
#: Batches trained before the clock starts.
WARMUP = 3
