"""Plans that keep training examples drawn at random in favour of helpful ones: Gumbel top-k."""

from steelyard.act.ranking import by_harm, provenance, reasons, size_of
from steelyard.errors import SettingError
from steelyard.maths.surrogate import gumbel_top_k
from steelyard.records import Plan, Scores
from steelyard.run.seeds import generator


def draw(
    scores: Scores,
    *,
    fraction: float | None = None,
    count: int | None = None,
    temperature: float | int = 0.5,
    seed: int = 0,
) -> Plan:
    """Keep examples drawn without replacement, more helpful ones with a higher chance, and drop all others.

    Between ``act.keep`` (temperature near 0), which takes the best and all that is like them, and a random subset.

    Args:
        scores: Per query or per example, in any unit.
        fraction: Share of the training examples to keep, above 0 and below 1.
        count: Or how many.
        temperature: In standard deviations of the per-example score.
        seed: Of the draw.

    Returns:
        A plan for the training set of the scores, in the order of the draw.

    Raises:
        SettingError: If not exactly one of ``fraction`` and ``count`` is given, or a value is out of range.
        NumericsError: If a score is not finite.

    Source: Yu, Das & Xiong (2024), "MATES", which draws by Gumbel top-k at temperature 0.5 (as in its code).
    """
    size = size_of(len(scores.train_ids), fraction=fraction, count=count, action="draw")
    if not temperature > 0:
        raise SettingError(
            f"draw: temperature={temperature}.", fix="give one above 0; act.keep takes the best."
        )
    ranked = by_harm(scores)[::-1]  # by id among equals, so that the order of the rows does not matter
    chosen = gumbel_top_k(
        -scores.harm()[ranked], size, temperature=temperature, draw=generator(seed, "gumbel top-k")
    )
    rows = ranked[chosen]
    given = {"by": "draw", "fraction": fraction, "count": count, "temperature": temperature, "seed": seed}
    return Plan(
        action="keep",
        ids=scores.train_ids[rows],
        reasons=reasons(scores, rows),
        train_checksum=scores.train_checksum,
        provenance=provenance(scores, dict(given), size),
    )
