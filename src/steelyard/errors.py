"""Every error that Steelyard raises on purpose. Each says what was given, what was expected, and the fix."""


class SteelyardError(Exception):
    """What went wrong, and what to do about it.

    Args:
        problem: What was given and what was expected, naming file, line, column or option.
        fix: What the reader can do now, in the imperative.
    """

    def __init__(self, problem: str, *, fix: str) -> None:
        super().__init__(problem, fix)
        self.problem = problem
        self.fix = fix

    def __str__(self) -> str:
        return f"{self.problem}\n  fix: {self.fix}"

    def __reduce__(self) -> tuple[object, ...]:
        return (_rebuild, (type(self), self.problem, self.fix))


def _rebuild(kind: type[SteelyardError], problem: str, fix: str) -> SteelyardError:
    return kind(problem, fix=fix)


class DataError(SteelyardError):
    """Input data that cannot be used: a broken line, a missing column, NaN, a label out of range."""


class ShapeError(SteelyardError):
    """Arrays or records that should agree in length, width or ids do not."""


class SettingError(SteelyardError):
    """A setting, or a combination of settings, that has no meaning."""


class CapabilityError(SteelyardError):
    """A method needs something that this learner does not offer; the fix names an alternative."""


class ModelError(SteelyardError):
    """A model that cannot be analysed as it stands: it mixes examples, is non-deterministic, has changed."""


class FitError(SteelyardError):
    """A training that failed or diverged."""


class NumericsError(SteelyardError):
    """A quantity became NaN or infinite, or a matrix could not be inverted."""


class RunError(SteelyardError):
    """A run folder that cannot be used: locked, of another request, of another version, disk full."""
