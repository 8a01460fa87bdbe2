"""Asks one question and makes its record, whatever comes of it. Keeps connections, as clients of the API do."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

import gevent
import msgspec

from bench.load.answers import Answer, Verdict
from bench.load.connection import Connection, Reply, Server
from bench.load.plan import LoadSpec
from bench.load.target import ChatRequests, parse_target
from bench.record import RequestRecord
from bench.workload import Questions

_PIECES_AT_ONCE = 32
"""Are read before others may run: a hundred microseconds or two, in which nothing that comes is noticed."""
_REFUSED = (429, 503)


class Request(msgspec.Struct, frozen=True, kw_only=True):
    """One request, ready to be sent.

    Attributes:
        number: of the arrival.
        data: head and body.
        max_tokens: that it asks for.
    """

    number: int
    data: bytes
    max_tokens: int


class _Attempt(msgspec.Struct, kw_only=True):
    """What is known of a request while it runs. Times are of `time.monotonic`."""

    request: Request
    arrived_s: float
    sent_s: float
    connection: Connection | None = None
    reply: Reply | None = None
    is_resent: bool = False
    verdict: Verdict | None = None


class Asker:
    """Asks one server, in as many greenlets at once as call it.

    Args:
        spec: what is asked.
        questions: where prompts come from.
        began_s: when the load began, of `time.monotonic`.
        on_record: takes each request when it is over.

    Raises:
        BenchError: the server's name is not known, or its URL is none.
    """

    def __init__(
        self, spec: LoadSpec, questions: Questions, began_s: float, on_record: Callable[[RequestRecord], None]
    ) -> None:
        self._spec = spec
        self._questions = questions
        self._began_s = began_s
        self._on_record = on_record
        target = parse_target(spec.url)
        self._server = Server(target)
        self._requests = ChatRequests(
            target, model=spec.model, api_key=spec.api_key, stream=spec.stream, extra=spec.extra
        )
        self._idle: list[Connection] = []

    def prepare(self, number: int) -> Request:
        """The request of that number."""
        question = self._questions.question(number)
        return Request(number=number, data=self._requests.request(question), max_tokens=question.max_tokens)

    def ask(self, request: Request, scheduled_s: float | None) -> RequestRecord:
        """Ask, wait for whatever comes, and hand over the record, even where this greenlet is ended.

        Args:
            request: what to ask.
            scheduled_s: when it was to be sent, since the load began; None for a closed loop: now. The time that it
                may take counts from there.
        """
        sent_s = time.monotonic()
        arrived_s = sent_s if scheduled_s is None else self._began_s + scheduled_s
        attempt = _Attempt(request=request, arrived_s=arrived_s, sent_s=sent_s)
        answer = Answer(is_stream=self._spec.stream)
        pieces: Iterator[tuple[float, bytes]] | None = None
        try:
            self._exchange_in_time(attempt)
            ended_s = time.monotonic()
            pieces = iter(attempt.reply.pieces if attempt.reply is not None else ())
            _read(answer, pieces, pauses=True)
        except gevent.GreenletExit:
            if pieces is None:
                ended_s = time.monotonic()
                pieces = iter(attempt.reply.pieces if attempt.reply is not None else ())
                attempt.verdict = Verdict("timeout", "it had not ended when the load was stopped")
            _read(answer, pieces, pauses=False)
            self._hand_over(attempt, answer, ended_s)
            raise
        return self._hand_over(attempt, answer, ended_s)

    def close(self) -> None:
        """Give up the connections that nobody uses."""
        while self._idle:
            self._idle.pop().close()

    def _exchange_in_time(self, attempt: _Attempt) -> None:
        """Leaves a verdict where there is no whole reply."""
        timeout_s = self._spec.timeout_s
        timeout = gevent.Timeout(max(0.0, attempt.arrived_s + timeout_s - attempt.sent_s))
        try:
            with timeout:
                self._exchange(attempt)
        except gevent.Timeout:
            attempt.verdict = Verdict("timeout", f"it had not ended {timeout_s:g} s after its arrival")
        except OSError as error:
            attempt.verdict = Verdict("connection", f"{type(error).__name__}: {error.strerror or error}")
        finally:
            self._put_back(attempt)

    def _exchange(self, attempt: _Attempt) -> None:
        while True:
            attempt.connection = attempt.reply = None
            attempt.connection = connection = self._connect()
            is_kept = connection.num_requests > 0
            try:
                attempt.reply = connection.send(attempt.request.data)
                connection.wait()
            except OSError:
                if not is_kept:
                    raise
            reply = attempt.reply
            if not is_kept or (reply is not None and reply.first_byte_s is not None):
                return
            # The server closed a kept connection as this request was on its way: it has not seen it.
            connection.close()
            attempt.is_resent = True

    def _connect(self) -> Connection:
        while self._idle:
            connection = self._idle.pop()
            if connection.is_open:
                return connection
            connection.close()
        return Connection(self._server)

    def _put_back(self, attempt: _Attempt) -> None:
        connection, reply = attempt.connection, attempt.reply
        if connection is None:
            return
        if connection.is_open and reply is not None and reply.keeps_connection:
            self._idle.append(connection)
        else:
            connection.close()

    def _hand_over(self, attempt: _Attempt, answer: Answer, ended_s: float) -> RequestRecord:
        reply, request, spec = attempt.reply, attempt.request, self._spec
        verdict = attempt.verdict
        if verdict is None and reply is not None:
            verdict = _verdict_of(reply) or answer.judge(
                max_tokens=request.max_tokens, exact=spec.exact, words=spec.words
            )
        first_byte_s = reply.first_byte_s if reply is not None else None
        if reply is not None and reply.ended_s is not None:
            ended_s = reply.ended_s
        record = RequestRecord(
            number=request.number,
            scheduled_s=attempt.arrived_s - self._began_s,
            sent_s=attempt.sent_s - self._began_s,
            first_byte_s=None if first_byte_s is None else first_byte_s - self._began_s,
            token_times_s=tuple([time_s - self._began_s for time_s in answer.token_times_s]),
            ended_s=ended_s - self._began_s,
            status=reply.status if reply is not None else None,
            failure=verdict.failure if verdict is not None else None,
            error=verdict.error if verdict is not None else None,
            prompt_tokens=answer.prompt_tokens,
            completion_tokens=answer.completion_tokens,
            max_tokens=request.max_tokens,
            is_resent=attempt.is_resent,
        )
        self._on_record(record)
        return record


def _read(answer: Answer, pieces: Iterator[tuple[float, bytes]], *, pauses: bool) -> None:
    for index, (time_s, piece) in enumerate(pieces, 1):
        answer.feed(time_s, piece)
        if pauses and index % _PIECES_AT_ONCE == 0:
            gevent.sleep(0)


def _verdict_of(reply: Reply) -> Verdict | None:
    """What the head of a reply, or the lack of its end, says of it; None where the body is to be judged."""
    body = b"".join(piece for _, piece in reply.pieces[:8])[:300].decode(errors="replace")
    if reply.status in _REFUSED:
        return Verdict("refused", f"status {reply.status}: {body}")
    if reply.status is not None and not 200 <= reply.status < 300:
        return Verdict("rejected", f"status {reply.status}: {body}")
    if reply.lost is not None:
        return Verdict("connection" if reply.first_byte_s is None else "broken", reply.lost)
    return None
