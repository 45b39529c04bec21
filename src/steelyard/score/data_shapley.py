"""Data Shapley (Ghorbani & Zou 2019) and Beta Shapley (Kwon & Zou 2022): what each example adds to any coalition."""

from dataclasses import dataclass
from typing import ClassVar

from steelyard.collect.coalitions import Permutations
from steelyard.collect.games import Game, Rules
from steelyard.collect.players import players_of
from steelyard.errors import SettingError
from steelyard.maths.semivalues import LARGEST_EXACT, beta_log_weights, shapley_log_weights
from steelyard.problem import Problem
from steelyard.records import Cost, Scores
from steelyard.run import Run, in_memory
from steelyard.score import semivalues
from steelyard.score.driver import MethodCard, Started, begin
from steelyard.score.sampling import Effort, estimate, value_scores
from steelyard.score.semivalues import Draws, LogWeights, SamplerName

_EXACT_FITS = 2**LARGEST_EXACT


@dataclass(frozen=True)
class DataShapley:
    r"""Shapley value of every training example, for every query.

    .. math:: \phi_i = \frac{1}{n} \sum_{S \not\ni i} \binom{n-1}{|S|}^{-1} \left[u(S \cup i) - u(S)\right],

    with u the query's measurement after training on S, turned so that higher is better. The values of one query add up
    to u(everybody) - u(nobody), exactly where no permutation is truncated and no fit fails. See ``collect/games.py``
    for what nobody is worth.

    Cost: ``fits`` fits. A permutation takes n - 1, which all queries share; n = 1,000 examples therefore need 1,999
    fits before there is a standard error. ``complementary`` takes 2 fits per draw at any n; groups make n small.

    Args:
        sampler: ``"permutation"``; ``"antithetic"``: also reversed; ``"stratified"``: also rotated, so that every
            example comes early and late; ``"owen"``: random levels of the multilinear extension; ``"complementary"``:
            complementary contributions. All are unbiased.
        exact: Enumerate all 2^n coalitions instead, for at most 16 players.
        truncation: Permutations stop where the mean utility is within this share of the whole gain from its end.
        fits: Budget.
        precision: Stop once the standard errors of all values (means over the queries) are at most this.
        seconds: Stop after so long; 0: never.
        seeds: Training seeds to average over, in turns.
        groups: Value the groups that this column names, instead of examples.
        nobody: Measurement after training on nothing; ``"auto"``: what chance gives.
        smallest: Coalitions of fewer players are not trained; they are worth as much as nobody.

    Example:
        >>> DataShapley(sampler="complementary", fits=500).fits
        500

    Source: Ghorbani & Zou (2019), "Data Shapley: Equitable Valuation of Data for Machine Learning". Deviations:
    truncation is off unless asked for, since it biases; it compares with the full utility of the same training seed;
    permutations stop by the standard error, not by the change of the running mean.
    """

    sampler: SamplerName = "permutation"
    exact: bool = False
    truncation: float | int = 0.0
    fits: int = 2000
    precision: float | int = 0.0
    seconds: float | int = 0.0
    seeds: int = 1
    groups: str = ""
    nobody: float | int | str = "auto"
    smallest: int = 1
    card: ClassVar[MethodCard] = MethodCard(
        paper="Ghorbani & Zou 2019, Data Shapley: Equitable Valuation of Data for Machine Learning",
        needs="refits",
        cost="the fits you give; n - 1 per permutation",
        good_for="fair shares that add up, for groups and for small data; exact for up to 16 players",
    )

    def __post_init__(self) -> None:
        _check(self.seeds, self.truncation)
        if self.truncation and self.sampler in ("owen", "complementary"):
            raise SettingError(
                f"DataShapley: truncation={self.truncation} with sampler={self.sampler!r}.",
                fix="truncation is about permutations: use permutation, antithetic or stratified.",
            )

    def __call__(self, problem: Problem, run: Run | None = None) -> Scores:
        """Values in the unit of the measurement; positive helps.

        Raises:
            SettingError: If the budget is too small for a first estimate; the error says what would do.
            NumericsError: If outcomes never differ, or training on everything fails.
        """
        run = run or in_memory()
        started = begin(self, problem, run)
        game = Game(problem, run, players_of(problem.train, self.groups), self._rules())
        weights = shapley_log_weights(len(game.players))
        _mention_exact(self, len(game.players), run)
        draws = Draws(problem.seed, self.seeds)
        effort = Effort(self.fits, self.precision, self.seconds)
        if self.exact:
            return _exact(self, problem, run, game, weights, started=started)
        if self.sampler == "owen":
            sampler = semivalues.by_levels(game, draws)
        elif self.sampler == "complementary":
            sampler = semivalues.by_complements(game, draws)
        else:
            sampler = semivalues.by_permutations(
                game, draws, weights, kind=self.sampler, truncation=self.truncation
            )
        found = estimate(sampler, game, effort, run, method="DataShapley")
        return value_scores(self, problem, run, game, found, started=started)

    def predict(self, problem: Problem) -> Cost:
        """The budget, or all coalitions."""
        return _predict(problem, self.groups, self.fits, self.seeds, exact=self.exact)

    def _rules(self) -> Rules:
        return Rules(_EXACT_FITS * self.seeds if self.exact else self.fits, self.nobody, self.smallest)


@dataclass(frozen=True)
class BetaShapley:
    r"""Semivalue of every training example that weighs small (or large) coalitions more than Shapley does.

    The size of the coalition that an example joins is beta-binomial with (beta, alpha): (1, 1) is Shapley; (16, 1),
    the default, looks at small training sets, where one example makes a difference that is not lost in noise. Values
    add up to nothing in particular.

    Cost: as :class:`DataShapley`. Permutations are weighted by position, so for strongly uneven weights the standard
    error is larger than Shapley's for the same fits.

    Args:
        alpha: Weight of small coalitions.
        beta: Weight of large coalitions.
        sampler: Plain, antithetic or stratified permutations.
        exact: Enumerate all 2^n coalitions instead, for at most 16 players.
        fits: Budget.
        precision: Stop once the standard errors of all values (means over the queries) are at most this.
        seconds: Stop after so long; 0: never.
        seeds: Training seeds to average over, in turns.
        groups: Value the groups that this column names, instead of examples.
        nobody: Measurement after training on nothing; ``"auto"``: what chance gives.
        smallest: Coalitions of fewer players are not trained; they are worth as much as nobody.

    Source: Kwon & Zou (2022), "Beta Shapley: a Unified and Noise-reduced Data Valuation Framework for Machine
    Learning".
    """

    alpha: float | int = 16
    beta: float | int = 1
    sampler: Permutations = "permutation"
    exact: bool = False
    fits: int = 2000
    precision: float | int = 0.0
    seconds: float | int = 0.0
    seeds: int = 1
    groups: str = ""
    nobody: float | int | str = "auto"
    smallest: int = 1
    card: ClassVar[MethodCard] = MethodCard(
        paper="Kwon & Zou 2022, Beta Shapley: a Unified and Noise-reduced Data Valuation Framework",
        needs="refits",
        cost="the fits you give; n - 1 per permutation",
        good_for="mislabelled examples: what they do to small training sets",
    )

    def __post_init__(self) -> None:
        _check(self.seeds, 0.0)
        beta_log_weights(2, alpha=self.alpha, beta=self.beta)

    def __call__(self, problem: Problem, run: Run | None = None) -> Scores:
        """Values in the unit of the measurement; positive helps.

        Raises:
            SettingError: If the budget is too small for a first estimate; the error says what would do.
            NumericsError: If outcomes never differ, or training on everything fails.
        """
        run = run or in_memory()
        started = begin(self, problem, run)
        fits = _EXACT_FITS * self.seeds if self.exact else self.fits
        rules = Rules(fits, self.nobody, self.smallest)
        game = Game(problem, run, players_of(problem.train, self.groups), rules)
        weights = beta_log_weights(len(game.players), alpha=self.alpha, beta=self.beta)
        _mention_exact(self, len(game.players), run)
        if self.exact:
            return _exact(self, problem, run, game, weights, started=started)
        draws = Draws(problem.seed, self.seeds)
        sampler = semivalues.by_permutations(game, draws, weights, kind=self.sampler)
        effort = Effort(self.fits, self.precision, self.seconds)
        found = estimate(sampler, game, effort, run, method="BetaShapley")
        return value_scores(self, problem, run, game, found, started=started)

    def predict(self, problem: Problem) -> Cost:
        """The budget, or all coalitions."""
        return _predict(problem, self.groups, self.fits, self.seeds, exact=self.exact)


def _check(seeds: int, truncation: float | int) -> None:
    if seeds < 1 or not 0 <= truncation < 1:
        raise SettingError(
            f"seeds={seeds}, truncation={truncation}.",
            fix="give at least one seed, and a truncation from 0 (none) to below 1.",
        )


def _mention_exact(method: DataShapley | BetaShapley, players: int, run: Run) -> None:
    coalitions = (2 ** min(players, 2 * LARGEST_EXACT) - 1) * method.seeds
    if not method.exact and players <= LARGEST_EXACT and coalitions <= method.fits:
        run.note(
            f"all coalitions of {players} players take {coalitions} fits: exact=true would leave no standard error"
        )


def _exact(  # noqa: PLR0913 - what both classes have at hand
    method: DataShapley | BetaShapley,
    problem: Problem,
    run: Run,
    game: Game,
    weights: LogWeights,
    *,
    started: Started,
) -> Scores:
    name = type(method).__name__
    found = semivalues.exact(game, weights, seeds=method.seeds, fits=_EXACT_FITS * method.seeds, method=name)
    return value_scores(method, problem, run, game, found, started=started, freedom=float("inf"))


def _predict(problem: Problem, groups: str, fits: int, seeds: int, *, exact: bool) -> Cost:
    if not exact:
        return Cost(fits=fits)
    players = len(players_of(problem.train, groups))
    return Cost(fits=(2 ** min(players, LARGEST_EXACT) - 1) * seeds)
