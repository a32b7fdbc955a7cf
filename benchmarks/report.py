"""The table: medians of same-round ratios, their quartiles, and what must hold."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import median, quantiles

from benchmarks.servers import Slice

# (candidate, backend, work) → one slice a round
Results = Mapping[tuple[str, str, str], Sequence[Slice]]


@dataclass(frozen=True)
class Ratio:
    """A ratio to reach: `measure` of one candidate over that of another, for some work."""

    candidate: str
    baseline: str
    backend: str
    work: str
    measure: str
    must: float
    aim: float

    @property
    def at_most(self) -> bool:
        """Whether less is better."""
        return self.measure != "requests_per_second"

    def holds(self, value: float) -> str:
        """Say how far it got."""
        sign = -1 if self.at_most else 1
        if sign * value >= sign * self.aim:
            return "aim"
        return "must" if sign * value >= sign * self.must else "MISSED"


def ratios(service: str, off: str) -> Iterator[Ratio]:
    """Every ratio between two servers that the design asks for."""
    speed = "requests_per_second"
    yield Ratio(service, "L4", "postgres", "W0", speed, 0.70, 0.85)
    yield Ratio(service, off, "postgres", "W0", speed, 0.70, 0.85)
    for work in ("W1", "W2"):
        yield Ratio(service, "L4", "postgres", work, speed, 1.25, 1.5)
    yield Ratio(service, "L4", "postgres", "W3", speed, 1.0, 1.15)
    for work in ("W1", "W2"):
        yield Ratio(service, "L3", "postgres", work, speed, 0.45, 0.55)
        yield Ratio(service, "L4", "sqlite", work, speed, 1.1, 1.5)
    yield Ratio(service, "L4", "sqlite", "W3", speed, 0.9, 1.1)
    for work in ("W1", "W2", "W3"):
        yield Ratio(service, "L4", "postgres", work, "p99", 1.1, 0.8)


def print_ratios(results: Results, wanted: Sequence[Ratio]) -> None:
    """Print each ratio whose two candidates were driven."""
    print("\n| | | work | ratio | quartiles | of CPU | must | aim | reached |")
    print("|---|---|---|---|---|---|---|---|---|")
    for ratio in wanted:
        ours = results.get((ratio.candidate, ratio.backend, ratio.work))
        theirs = results.get((ratio.baseline, ratio.backend, ratio.work))
        if ours and theirs:
            _print_ratio(ratio, ours, theirs)


def print_slices(results: Results) -> None:
    """Print the medians of each candidate by itself."""
    print("\n| candidate | backend | work | requests/s | p50 ms | p99 ms | CPU µs/request |")
    print("|---|---|---|---|---|---|---|")
    for (candidate, backend, work), slices in results.items():
        print(
            f"| {candidate} | {backend} | {work} "
            f"| {_median(slices, 'requests_per_second'):.0f} | {_median(slices, 'p50'):.1f} "
            f"| {_median(slices, 'p99'):.1f} | {_median(slices, 'cpu'):.0f} |"
        )


def print_limit(what: str, ours: float, theirs: float, unit: str, *, relative: bool) -> None:
    """Print cold start or memory: at most 1.1 times the baseline's, or at most 95 MiB."""
    value = ours / theirs if relative else ours
    must, aim = (1.1, 1.0) if relative else (95.0, 85.0)
    reached = "aim" if value <= aim else "must" if value <= must else "MISSED"
    said = f"{ours:.2f} {unit}, L4 {theirs:.2f} {unit}, ratio {ours / theirs:.2f}"
    print(f"{what}: {said} (must {must}, aim {aim}): {reached}")


def _print_ratio(ratio: Ratio, ours: Sequence[Slice], theirs: Sequence[Slice]) -> None:
    pairs = list(zip(ours, theirs, strict=True))
    values = [getattr(one, ratio.measure) / getattr(other, ratio.measure) for one, other in pairs]
    cpu = median(other.cpu / one.cpu for one, other in pairs)
    low, middle, high = quantiles(values, n=4) if len(values) > 1 else [values[0]] * 3
    what = "p99 " if ratio.at_most else ""
    print(
        f"| {ratio.backend} | {what}{ratio.candidate} / {ratio.baseline} | {ratio.work} "
        f"| {middle:.2f} | {low:.2f} to {high:.2f} | {cpu:.2f} "
        f"| {ratio.must} | {ratio.aim} | {ratio.holds(middle)} |"
    )


def _median(slices: Sequence[Slice], measure: str) -> float:
    return float(median(getattr(one, measure) for one in slices))
