"""The process in which grammars are tried: one grammar a line, and a verdict on each.

It has less stack and memory than the function, so that what goes well here goes well there.
"""

from __future__ import annotations

import resource
import selectors
import signal
import sys
import threading

import msgspec
from llguidance import LLTokenizer

from handler.engine.grammar import GrammarSpec, Vocabulary, build_matcher, reason_of

IDLE_S = 60.0
CPU_S = 3.0
"""For one grammar. The kernel ends the process then, also when nobody is left to wait for it."""

STACK_BYTES = 1 << 20
MEMORY_BYTES = 1 << 30


def main() -> None:
    """Answer lines until none came for a while; the exit status is 1 where something unforeseen ended that."""
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    threading.stack_size(STACK_BYTES)
    ended = threading.Event()
    thread = threading.Thread(target=_serve, args=(msgspec.json.decode(sys.argv[1], type=Vocabulary), ended))
    thread.start()
    thread.join()
    sys.exit(not ended.is_set())


def _serve(vocabulary: Vocabulary, ended: threading.Event) -> None:
    try:
        tokenizer = vocabulary.open()
    except ValueError as error:
        _say(f"not with this model's tokenizer: {reason_of(error)}")
        ended.set()
        return
    _say("")
    decoder = msgspec.json.Decoder(GrammarSpec)
    with selectors.DefaultSelector() as selector:
        selector.register(sys.stdin, selectors.EVENT_READ)
        while selector.select(IDLE_S):
            line = sys.stdin.buffer.readline()
            if not line:
                break
            _say(_judge(decoder.decode(line), tokenizer))
    ended.set()


def _judge(spec: GrammarSpec, tokenizer: LLTokenizer) -> str:
    """Empty if the grammar can be compiled, else why not."""
    signal.setitimer(signal.ITIMER_PROF, CPU_S)
    try:
        build_matcher(spec, tokenizer)
    except Exception as error:  # noqa: BLE001  (whatever it is, it is the grammar's fault, and here it does no harm)
        return reason_of(error)
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
    return ""


def _say(text: str) -> None:
    sys.stdout.buffer.write(msgspec.json.encode(text) + b"\n")
    sys.stdout.buffer.flush()


if __name__ == "__main__":
    main()
