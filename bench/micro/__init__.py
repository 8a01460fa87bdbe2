"""Single stages of a request, each by itself: what pytest-benchmark times, and what the gate counts instructions of."""
