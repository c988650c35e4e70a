"""A run ends after its step when asked to; what a launcher passes on a second time is the same request."""

import signal
import time

import pytest

from models.training import signals
from models.training.signals import ONE_REQUEST, stop_on_signal


def test_repeated_signals_are_one_request_until_some_time_has_passed(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0
    monkeypatch.setattr(signals.time, "monotonic", lambda: now)
    before = signal.getsignal(signal.SIGINT)
    with stop_on_signal() as received:
        signal.raise_signal(signal.SIGTERM)
        now += ONE_REQUEST / 2
        signal.raise_signal(signal.SIGTERM)  # passed on by torchrun, to whom the batch system sent it, too
        signal.raise_signal(signal.SIGINT)
        assert received == [signal.SIGTERM]
        now += ONE_REQUEST
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) == before
    assert time.monotonic() == now
