"""The learning rate over the training, as a share of the highest."""

import math
from bisect import bisect_right

from dnexport.spec.training import TrainingRecipe


def share(recipe: TrainingRecipe, step: int, total: int) -> float:
    """The learning rate of ``step`` (from 0) of ``total``, as a share of the recipe's highest."""
    if recipe.schedule == "one_cycle":
        return one_cycle(step, total)
    if recipe.schedule == "cosine":
        return cosine(step, total)
    return stepped(step, total, recipe.milestones)


def one_cycle(step: int, total: int) -> float:
    """A fifth of the steps up in a line, the rest down a half cosine to zero."""
    rise = max(1, total // 5)
    if step < rise:
        return (step + 1) / rise
    return 0.5 * (1 + math.cos(math.pi * (step - rise + 1) / (total - rise + 1)))


def cosine(step: int, total: int) -> float:
    """Half a cosine from one to zero (Loshchilov, Hutter 2017), step by step as CondenseNet's authors have it."""
    return 0.5 * (1 + math.cos(math.pi * step / total))


def stepped(step: int, total: int, milestones: tuple[float, ...]) -> float:
    """Divided by ten at each milestone."""
    return float(10.0 ** -bisect_right(milestones, step / total))
