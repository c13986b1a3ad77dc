"""How connections of gRPC are made, for both kinds of channels."""

from __future__ import annotations

from trainyard._trust import Trust

#: Longest answer. (A page of 1000 jobs with their attempts is far below.)
_MAX_MESSAGE_BYTES = 64 << 20
_OPTIONS: tuple[tuple[str, int | str], ...] = (
    ("grpc.max_receive_message_length", _MAX_MESSAGE_BYTES),
    # A server that vanished without a word is noticed in half a minute.
    ("grpc.keepalive_time_ms", 20_000),
    ("grpc.keepalive_timeout_ms", 10_000),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.max_pings_without_data", 0),
    # gRPC would wait up to two minutes before it dials again; how often to try is decided in `_session`.
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 1000),
    # A scheduler is a machine of the lab, as `yard` has it.
    ("grpc.enable_http_proxy", 0),
    # Nobody else's connection, which other authorities may have vouched for.
    ("grpc.use_local_subchannel_pool", 1),
)


def options(trust: Trust, connect_timeout: float) -> list[tuple[str, int | str]]:
    """What a channel to a server is made with. One connection may take `connect_timeout` seconds to be made."""
    named = [("grpc.ssl_target_name_override", trust.name)] if trust.name else []
    return [*_OPTIONS, ("grpc.min_reconnect_backoff_ms", max(1, round(connect_timeout * 1000))), *named]
