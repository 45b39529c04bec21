"""What a comparison can and cannot show: intervals, p-values and power for few fits and paired seeds."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

_MOST = 100_000
_ROUNDING = 1e-12


@dataclass(frozen=True)
class Comparison:
    """An estimated difference and how sure it is.

    Attributes:
        estimate: The difference.
        low: Lower end of the interval.
        high: Upper end of the interval.
        p_value: Two-sided, against 0.
        standard_error: Estimated standard deviation of ``estimate`` if there were no true difference.
        freedom: Degrees of freedom of ``standard_error``.
    """

    estimate: float
    low: float
    high: float
    p_value: float
    standard_error: float
    freedom: int


def student(estimate: float, standard_error: float, freedom: int, *, level: float = 0.95) -> Comparison:
    """Student's interval and two-sided p-value of an estimate whose standard error is estimated.

    A standard error of 0 leaves the interval without width and the p-value at 1: without any visible noise
    the t statistic does not exist, and the caller has to fall back on an exact test.
    """
    from scipy.special import stdtr, stdtrit

    half = float(stdtrit(freedom, 0.5 + level / 2)) * standard_error
    p_value = float(2 * stdtr(freedom, -abs(estimate) / standard_error)) if standard_error > 0 else 1.0
    return Comparison(estimate, estimate - half, estimate + half, p_value, standard_error, freedom)


def paired(differences: Float[np.ndarray, " pair"], *, level: float = 0.95) -> Comparison:
    """Mean of paired differences with Student's interval. Needs at least two pairs.

    Source: Student (1908). Exact for normal differences; for anything else see :func:`sign_flip`.
    """
    count = len(differences)
    return student(
        float(differences.mean()), float(differences.std(ddof=1)) / count**0.5, count - 1, level=level
    )


def one_against_many(
    value: float, controls: Float[np.ndarray, " control"], *, level: float = 0.95
) -> Comparison:
    r"""Is one value a further draw from the distribution that the controls came from?

    Under the null hypothesis the value and the m controls are exchangeable, so that for normal draws of
    standard deviation s

    .. math:: t = (y - \bar c) / (s \sqrt{1 + 1/m}), \qquad m - 1 \text{ degrees of freedom.}

    The term 1 under the root is the value's own deviation from the mean of its kind. The standard error of
    the controls' mean alone, :math:`s/\sqrt m`, would ask whether the value differs from the *average*
    control, which half of all controls do truly, and would call most of them significant as m grows.

    Args:
        value: The one observation.
        controls: At least two observations made in the same way.
        level: Confidence level of the interval, which is that of the shift between value and controls. Half
            its width is also half the prediction interval of one further control.

    Returns:
        The difference value - mean(controls). Controls without any spread leave no t statistic: the p-value
        is then the two-sided exact one of the rank, 2 / (m + 1), and the interval has no width.

    Source: the prediction interval of a normal sample, e.g. Hahn & Meeker (1991), section 4.7; as a test of a
    single case against a small control sample, Crawford & Howell (1998), eq. 1.
    """
    count = len(controls)
    deviation = float(controls.std(ddof=1))
    if deviation <= _ROUNDING * max(abs(value), float(np.abs(controls).max())):
        deviation = 0.0
    difference = float(value - controls.mean())
    found = student(difference, deviation * (1 + 1 / count) ** 0.5, count - 1, level=level)
    if deviation > 0 or abs(difference) <= _ROUNDING * abs(value):
        return found
    return Comparison(difference, difference, difference, min(1.0, 2 / (count + 1)), 0.0, count - 1)


def sign_flip(differences: Float[np.ndarray, " pair"], *, seed: int = 0, draws: int = 9999) -> float:
    """Two-sided p-value of a zero mean when each difference is as likely to be positive as negative.

    All 2^n sign patterns are counted up to n = 16; beyond, ``draws`` random patterns and the observed one.
    Valid for any symmetric distribution. With n pairs the smallest p-value is 2^(1-n): five pairs never
    reach .05.

    Source: Fisher (1935), section 21; the +1 of Davison & Hinkley (1997), eq. 4.11, for random patterns.
    """
    count = len(differences)
    observed = abs(float(differences.sum())) * (1 - 1e-12)
    if count <= 16:
        sums = np.zeros(1)
        for difference in differences:
            sums = np.concatenate([sums + difference, sums - difference])
        return float(np.mean(np.abs(sums) >= observed))
    signs = np.random.default_rng(seed).choice([-1.0, 1.0], size=(draws, count))
    return float((1 + np.count_nonzero(np.abs(signs @ differences) >= observed)) / (draws + 1))


def power_of(effect: float, standard_error: float, freedom: int, *, level: float = 0.95) -> float:
    """Chance that a t-test at ``level`` finds a true effect, from the noncentral t distribution.

    Source: Cohen (1988), chapter 2; for large shifts Abramowitz & Stegun (1964), 26.7.10.
    """
    from scipy.special import nctdtr, ndtr, stdtrit

    border = float(stdtrit(freedom, 0.5 + level / 2))
    shift = abs(effect) / standard_error
    found = float(1 - nctdtr(freedom, shift, border) + nctdtr(freedom, shift, -border))
    if np.isfinite(found):
        return found
    # SciPy's series gives up on large shifts, where the normal approximation is close.
    return float(ndtr((shift - border * (1 - 1 / (4 * freedom))) / (1 + border**2 / (2 * freedom)) ** 0.5))


def minimum_detectable(
    standard_error: float, freedom: int, *, level: float = 0.95, power: float = 0.8
) -> float:
    """Smallest true effect that a t-test at ``level`` finds with probability ``power``.

    In the unit of ``standard_error``, which is taken as known; 0 if it is 0.

    Source: Cohen (1988), chapter 2, solved exactly from the noncentral t distribution; why to state it:
    Card et al. (2020), "With Little Power Comes Great Responsibility".
    """
    from scipy.optimize import root_scalar

    if standard_error == 0:
        return 0.0

    def lack(shift: float) -> float:
        return power_of(shift, 1.0, freedom, level=level) - power

    top = 4.0
    while lack(top) < 0:
        top *= 2
    return standard_error * float(root_scalar(lack, bracket=(0.0, top), method="brentq").root)


def pairs_needed(effect: float, deviation: float, *, level: float = 0.95, power: float = 0.8) -> int | None:
    """Number of pairs with which a paired t-test sees ``effect`` with probability ``power``.

    Args:
        effect: True mean difference.
        deviation: Standard deviation of one difference.
        level: Confidence level of the test.
        power: Chance to see the effect.

    Returns:
        At least 2; None if not even 100,000 pairs are enough.
    """

    def enough(count: int) -> bool:
        return power_of(effect, deviation / count**0.5, count - 1, level=level) >= power

    if deviation == 0:
        return 2 if effect else None
    if effect == 0 or not enough(_MOST):
        return None
    few, many = 1, _MOST
    while many - few > 1:
        middle = (few + many) // 2
        few, many = (few, middle) if enough(middle) else (middle, many)
    return many


@dataclass(frozen=True)
class Components:
    """Where the variance of a table of arms by seeds comes from.

    Attributes:
        between: Variance of the arms' true values; 0 if none is visible above the noise.
        within: Variance of one fit around its arm and its seed: training noise that pairing does not remove.
    """

    between: float
    within: float

    def of_mean(self, seeds: int) -> float:
        """Variance of an arm's mean over that many seeds, around the mean of all arms."""
        return self.between + self.within / seeds

    def reliability(self, seeds: int) -> float:
        """Share of the variance of such means that is the arms' own and not noise; NaN if there is none."""
        total = self.of_mean(seeds)
        return self.between / total if total > 0 else float("nan")


def components(table: Float[np.ndarray, "arm seed"]) -> Components:
    """Variance components of a balanced table without repetition, arms and seeds both random.

    Value = mean + arm + seed + noise. The mean square of the interaction estimates the noise; the mean square
    of the arms estimates noise + seeds · between. A negative estimate is given as 0. With a single seed the
    noise cannot be told from the arms and counts as between.

    Source: the two-way random model, e.g. Searle, Casella & McCulloch (1992), section 4.4.
    """
    arms, seeds = table.shape
    if seeds == 1:
        return Components(float(table[:, 0].var(ddof=1)), 0.0)
    means = table.mean(axis=1)
    rest = table - means[:, None] - table.mean(axis=0)[None, :] + table.mean()
    within = float((rest**2).sum()) / ((arms - 1) * (seeds - 1))
    between = float(means.var(ddof=1)) - within / seeds
    return Components(max(0.0, between), within)


def seeds_needed(
    effect: float, parts: Components, *, controls: int, level: float = 0.95, power: float = 0.8
) -> int | None:
    """Seeds per arm with which :func:`one_against_many` sees ``effect`` with probability ``power``.

    Args:
        effect: True shift between the plan and random plans.
        parts: Variance components of the random plans.
        controls: Number of random plans.
        level: Confidence level of the test.
        power: Chance to see the effect.

    Returns:
        None if no number of seeds is enough, because random plans differ that much among themselves.
    """
    shift = minimum_detectable((1 + 1 / controls) ** 0.5, controls - 1, level=level, power=power)
    allowed = (effect / shift) ** 2 - parts.between
    if parts.within == 0 and allowed >= 0:
        return 1
    if allowed <= 0 or parts.within / allowed > _MOST:
        return None
    return max(1, int(np.ceil(parts.within / allowed)))
