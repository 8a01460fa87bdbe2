"""Counters and histograms that one thread alone writes: plain numbers, which a scrape reads.

prometheus_client's own take a lock for each number and look labels up at each call: ten times the work, several times
in each request and once for each token. Names, samples and help are the same.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections import defaultdict
from collections.abc import Iterable, Sequence
from itertools import accumulate

from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector
from prometheus_client.utils import floatToGoString

Labels = tuple[str, ...]

_MOST_RECENT = 512
"""Values that wait for their bucket at most."""


class Tally(Collector):
    """A counter with labels. Its name comes without `_total`."""

    def __init__(self, name: str, text: str, labels: Sequence[str], registry: CollectorRegistry) -> None:
        self._name = name
        self._text = text
        self._labels = labels
        self._values: dict[Labels, int] = defaultdict(int)
        registry.register(self)

    def add(self, labels: Labels, amount: int = 1) -> None:
        """Count."""
        self._values[labels] += amount

    def collect(self) -> Iterable[Metric]:
        """One sample for each combination of labels that was seen."""
        family = CounterMetricFamily(self._name, self._text, labels=self._labels)
        for labels, value in self._values.items():
            family.add_metric(labels, value)
        yield family


class Count(Collector):
    """A counter whose labels never change, for whoever counts often: `value`. Its name comes without `_total`."""

    def __init__(self, name: str, text: str, labels: dict[str, str], registry: CollectorRegistry) -> None:
        self.value = 0
        self._name = name
        self._text = text
        self._labels = labels
        registry.register(self)

    def collect(self) -> Iterable[Metric]:
        """The one sample."""
        family = CounterMetricFamily(self._name, self._text, labels=list(self._labels))
        family.add_metric(list(self._labels.values()), self.value)
        yield family


class Distribution:
    """Observations in buckets; `bounds` are the upper ones, each inclusive."""

    __slots__ = ("_bounds", "_counts", "_recent", "_sum")

    def __init__(self, bounds: Sequence[float]) -> None:
        self._bounds = bounds
        self._counts = [0] * (len(bounds) + 1)
        self._sum = 0.0
        self._recent: list[float] = []

    def observe(self, value: float, times: int = 1) -> None:
        """Count a value that came that many times."""
        if times == 1:
            self._recent.append(value)
            if len(self._recent) >= _MOST_RECENT:
                self._sort_in()
            return
        self._counts[bisect_left(self._bounds, value)] += times
        self._sum += value * times

    def extend(self, values: Iterable[float]) -> None:
        """Count values that came once each."""
        self._recent += values
        if len(self._recent) >= _MOST_RECENT:  # a look for their buckets costs less when it is one for many
            self._sort_in()

    def add_to(self, family: HistogramMetricFamily, labels: Labels) -> None:
        """Add what was observed so far."""
        self._sort_in()
        names = [*map(floatToGoString, self._bounds), "+Inf"]
        family.add_metric(labels, list(zip(names, accumulate(self._counts), strict=True)), self._sum)

    def _sort_in(self) -> None:
        recent, self._recent = sorted(self._recent), []
        self._sum += sum(recent)
        num_below = 0
        for index, bound in enumerate(self._bounds):
            num_up_to = bisect_right(recent, bound)
            self._counts[index] += num_up_to - num_below
            num_below = num_up_to
        self._counts[-1] += len(recent) - num_below


class Distributions(Collector):
    """A histogram with labels."""

    def __init__(
        self, name: str, text: str, labels: Sequence[str], bounds: Sequence[float], registry: CollectorRegistry
    ) -> None:
        self._name = name
        self._text = text
        self._labels = labels
        self._bounds = bounds
        self._by_labels: dict[Labels, Distribution] = {}
        registry.register(self)

    def labels(self, *labels: str) -> Distribution:
        """The one with these labels."""
        found = self._by_labels.get(labels)
        if found is None:
            found = self._by_labels[labels] = Distribution(self._bounds)
        return found

    def collect(self) -> Iterable[Metric]:
        """One histogram for each combination of labels that was seen."""
        family = HistogramMetricFamily(self._name, self._text, labels=self._labels)
        for labels, distribution in self._by_labels.items():
            distribution.add_to(family, labels)
        yield family
