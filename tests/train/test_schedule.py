import pytest

from dnexport.spec.training import TRAINING_RECIPES
from dnexport.train.schedule import cosine, one_cycle, share, stepped


@pytest.mark.parametrize("total", [1, 2, 5, 9, 176])
def test_one_cycle_rises_and_falls(total: int) -> None:
    shares = [one_cycle(step, total) for step in range(total)]
    peak = shares.index(max(shares))
    assert max(shares) == 1
    assert shares[: peak + 1] == sorted(shares[: peak + 1])
    assert shares[peak:] == sorted(shares[peak:], reverse=True)
    assert all(share > 0 for share in shares)


def test_steps_divide_by_ten_at_the_milestones() -> None:
    assert [stepped(step, 8, (0.5, 0.75)) for step in range(8)] == pytest.approx([1, 1, 1, 1, 0.1, 0.1, 0.01, 0.01])


def test_cosine_falls_from_one_to_zero() -> None:
    assert cosine(0, 10) == 1
    assert cosine(5, 10) == pytest.approx(0.5)
    assert 0 < cosine(9, 10) < 0.03


@pytest.mark.parametrize(
    ("name", "epoch", "rate"),
    [
        # Huang et al. 2017, section 4.2: 0.1, divided by 10 at 50 % and 75 %; ImageNet at epochs 30 and 60.
        ("cifar", 149, 0.1), ("cifar", 150, 0.01), ("cifar+", 225, 0.001), ("svhn", 19, 0.1), ("svhn", 20, 0.01),
        ("svhn", 30, 0.001), ("imagenet", 29, 0.1), ("imagenet", 30, 0.01), ("imagenet", 60, 0.001),
        ("condensenet-cifar+", 150, 0.05),
    ],
)  # fmt: skip
def test_the_papers_rates(name: str, epoch: int, rate: float) -> None:
    recipe = TRAINING_RECIPES[name]
    assert recipe.learning_rate * share(recipe, epoch, recipe.epochs) == pytest.approx(rate)
