import os
import signal

import pytest

from planish import progress


@pytest.fixture
def heeded(monkeypatch):
    """Interrupts heeded, and put back as they were."""
    monkeypatch.setattr(progress, "_interrupted", progress.threading.Event())
    before = signal.getsignal(signal.SIGINT)
    progress.heed_interrupts()
    yield
    signal.signal(signal.SIGINT, before)


def test_an_interrupt_that_a_callback_swallows_is_raised_by_the_next_step(heeded):
    with progress.Terminal().bar("steps", 3) as advance:
        advance(1)
        with pytest.raises(KeyboardInterrupt):  # as a finaliser would: the exception ends here
            os.kill(os.getpid(), signal.SIGINT)
        with pytest.raises(KeyboardInterrupt):
            advance(1)


def test_without_an_interrupt_a_bar_goes_on(heeded):
    with progress.Terminal().bar("steps", 2) as advance:
        advance(1)
        advance(1, "note")
