"""Work on many questions on several processor cores."""

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

Found = TypeVar("Found")

# With fewer questions, starting the processes takes longer than the work.
MANY = 2_000
MOST_PROCESSES = 8


def on_cores(function: Callable[..., Found], calls: Sequence[tuple[Any, ...]], questions: int) -> list[Found]:
    """`[function(*arguments) for arguments in calls]`, by several processes where the calls are about many questions.

    Args:
        function: of a module, so that another process finds it; what it takes and gives is sent between them.
        calls: the arguments of each call.
        questions: how many the calls are about in all.
    """
    if questions < MANY:
        return [function(*arguments) for arguments in calls]
    # scikit-learn brings it along; it starts processes alike on every system, and none inside one of its own.
    from joblib import Parallel, cpu_count, delayed  # type: ignore[import-untyped]

    processes = min(cpu_count(), MOST_PROCESSES)
    parallel = Parallel(n_jobs=processes, batch_size=max(1, len(calls) // (8 * processes)))
    found: list[Found] = parallel(delayed(function)(*arguments) for arguments in calls)
    return found
