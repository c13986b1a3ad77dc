"""Takes the steps of operations one after the other, and waits for each."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import grpc

from trainyard import _address, _channels, _session
from trainyard._answer import answer_of
from trainyard._methods import Method, RequestT, ResponseT
from trainyard._session import Session
from trainyard._steps import CallFailed, Close, Invoke, Open, Operation, Read, Sleep, Step, Work
from trainyard._trust import trust_for

T = TypeVar("T")


class BlockingRunner:
    """Connections, and a way to take steps over them. Threads may share it."""

    def __init__(self, session: Session) -> None:
        self.session = session
        self._channels: dict[str, grpc.Channel] = {}
        self._lock = threading.Lock()
        self._is_closed = False

    def run(self, operation: Operation[T]) -> T:
        """Takes all steps of an operation."""
        step = self._start(operation)
        while not isinstance(step, _Done):
            try:
                result = self.take(step)
            except CallFailed as failed:
                step = _advance(operation.throw, failed)
            else:
                step = _advance(operation.send, result)
        value: T = step.value
        return value

    def converse(self, method: Method[RequestT, ResponseT], requests: Iterator[RequestT]) -> Any:
        """Makes a call to which both ends send streams, of the server that is asked now. Another thread sends
        `requests`; the result is what comes, and has `cancel`."""
        target = self.session.target
        call = self._channel(target, None).stream_stream(
            method.path,
            request_serializer=method.request.SerializeToString,
            response_deserializer=method.response.FromString,
        )
        return call(requests, metadata=self.session.metadata(target))

    def close(self) -> None:
        """Closes the connections, for good."""
        with self._lock:
            self._is_closed = True
            for channel in self._channels.values():
                channel.close()
            self._channels.clear()

    @staticmethod
    def _start(operation: Operation[T]) -> Step | _Done:
        return _advance(operation.send, None)

    def take(self, step: Step) -> Any:
        """Takes one step."""
        match step:
            case Sleep(seconds):
                time.sleep(seconds)
            case Work(function):
                return function()
            case Close(stream):
                stream.cancel()
            case Invoke(target, method, request, timeout, beside):
                deadline = time.monotonic() + timeout
                call = self._channel(target, timeout).unary_unary(
                    method.path,
                    request_serializer=method.request.SerializeToString,
                    response_deserializer=method.response.FromString,
                )
                left = max(deadline - time.monotonic(), 0.0)
                metadata = self.session.metadata(target)
                response, done = _checked(lambda: call.with_call(request, timeout=left, metadata=metadata))
                beside.update(_session.leader_beside(done.initial_metadata()))
                return response
            case Open(target, method, request, timeout):
                ends = None if timeout is None else time.monotonic() + timeout
                stream = self._channel(target, timeout).unary_stream(
                    method.path,
                    request_serializer=method.request.SerializeToString,
                    response_deserializer=method.response.FromString,
                )
                rest = None if ends is None else max(ends - time.monotonic(), 0.0)
                return _checked(lambda: stream(request, timeout=rest, metadata=self.session.metadata(target)))
            case Read(stream):
                return _checked(lambda: next(stream, None))
        return None

    def _channel(self, target: str, timeout: float | None) -> grpc.Channel:
        with self._lock:
            if self._is_closed:
                raise _session.closed()
            channel = self._channels.get(target)
        if channel is not None:
            return channel
        connect_timeout = self.session.connect_timeout
        patience = connect_timeout if timeout is None else min(connect_timeout, timeout)
        trust = trust_for(self.session.settings, target, patience)
        address, options = _address.grpc_target(target), _channels.options(trust, connect_timeout)
        if trust.credentials is None:
            made = grpc.insecure_channel(address, options)
        else:
            made = grpc.secure_channel(address, trust.credentials, options)
        with self._lock:
            kept = None if self._is_closed else self._channels.setdefault(target, made)
        if kept is not made:
            made.close()
        if kept is None:
            raise _session.closed()
        return kept


class _Done:
    """An operation has ended with this value."""

    def __init__(self, value: Any) -> None:
        self.value = value


def _advance(resume: Callable[[Any], Step], value: Any) -> Step | _Done:
    try:
        return resume(value)
    except StopIteration as stop:
        return _Done(stop.value)


def _checked(call: Callable[[], T]) -> T:
    try:
        return call()
    except grpc.RpcError as error:
        raise CallFailed(answer_of(error)) from None
