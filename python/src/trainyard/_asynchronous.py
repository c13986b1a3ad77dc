"""Takes the steps of operations on an event loop."""

from __future__ import annotations

import asyncio
import time
from typing import Any, TypeVar

import grpc
import grpc.aio

from trainyard import _address, _channels, _session
from trainyard._answer import answer_of
from trainyard._session import Session
from trainyard._steps import CallFailed, Close, Invoke, Open, Operation, Read, Sleep, Step, Work
from trainyard._trust import trust_for

T = TypeVar("T")


class AsyncRunner:
    """Connections, and a way to take steps over them. Of one event loop."""

    def __init__(self, session: Session) -> None:
        self.session = session
        self._channels: dict[str, grpc.aio.Channel] = {}
        self._is_closed = False

    async def run(self, operation: Operation[T]) -> T:
        """Takes all steps of an operation."""
        try:
            step = operation.send(None)
            while True:
                try:
                    result = await self._take(step)
                except CallFailed as failed:
                    step = operation.throw(failed)
                else:
                    step = operation.send(result)
        except StopIteration as stop:
            value: T = stop.value
            return value

    async def close(self) -> None:
        """Closes the connections, for good."""
        self._is_closed = True
        channels = list(self._channels.values())
        self._channels.clear()
        for channel in channels:
            await channel.close()

    async def _take(self, step: Step) -> Any:
        try:
            return await self._take_unchecked(step)
        except grpc.aio.AioRpcError as error:
            raise CallFailed(answer_of(error)) from None

    async def _take_unchecked(self, step: Step) -> Any:
        match step:
            case Sleep(seconds):
                await asyncio.sleep(seconds)
            case Work(function):
                return await asyncio.to_thread(function)
            case Close(stream):
                stream.cancel()
            case Invoke(target, method, request, timeout, beside):
                deadline = time.monotonic() + timeout
                call = (await self._channel(target, timeout)).unary_unary(
                    method.path,
                    request_serializer=method.request.SerializeToString,
                    response_deserializer=method.response.FromString,
                )
                left = max(deadline - time.monotonic(), 0.0)
                called = call(request, timeout=left, metadata=self.session.metadata(target))
                response = await called
                beside.update(_session.leader_beside(await called.initial_metadata()))
                return response
            case Open(target, method, request, timeout):
                ends = None if timeout is None else time.monotonic() + timeout
                stream = (await self._channel(target, timeout)).unary_stream(
                    method.path,
                    request_serializer=method.request.SerializeToString,
                    response_deserializer=method.response.FromString,
                )
                rest = None if ends is None else max(ends - time.monotonic(), 0.0)
                return stream(request, timeout=rest, metadata=self.session.metadata(target))
            case Read(stream):
                message = await stream.read()
                return None if message is grpc.aio.EOF else message
        return None

    async def _channel(self, target: str, timeout: float | None) -> grpc.aio.Channel:
        if self._is_closed:
            raise _session.closed()
        channel = self._channels.get(target)
        if channel is not None:
            return channel
        connect_timeout = self.session.connect_timeout
        patience = connect_timeout if timeout is None else min(connect_timeout, timeout)
        trust = await asyncio.to_thread(trust_for, self.session.settings, target, patience)
        address, options = _address.grpc_target(target), _channels.options(trust, connect_timeout)
        if trust.credentials is None:
            made = grpc.aio.insecure_channel(address, options)
        else:
            made = grpc.aio.secure_channel(address, trust.credentials, options)
        kept = None if self._is_closed else self._channels.setdefault(target, made)
        if kept is not made:
            await made.close()
        if kept is None:
            raise _session.closed()
        return kept
