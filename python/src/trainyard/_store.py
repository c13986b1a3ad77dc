"""What a client asks of the cluster's store, without I/O: which versions there are. Both clients take these steps."""

from __future__ import annotations

from trainyard import _methods, _reference
from trainyard._reference import Reference
from trainyard._session import Session
from trainyard._steps import Operation
from trainyard.v1 import datasets_pb2

_PAGE = 1000


def list_versions(
    session: Session, kind: datasets_pb2.DatasetKind, name: str | None
) -> Operation[list[datasets_pb2.Dataset]]:
    """The newest version of each name, or all versions of one."""
    wanted = "" if name is None else _reference.checked_name("name", name)
    found: list[datasets_pb2.Dataset] = []
    page_token = ""
    while True:
        request = datasets_pb2.ListDatasetsRequest(kind=kind, name=wanted, page_size=_PAGE, page_token=page_token)
        answer = yield from session.call(_methods.LIST_DATASETS, request)
        found.extend(answer.datasets)
        page_token = answer.next_page_token
        if not page_token:
            return found if wanted else [one for one in found if one.newest]


def get(session: Session, kind: datasets_pb2.DatasetKind, reference: Reference) -> Operation[datasets_pb2.Dataset]:
    """One version."""
    request = datasets_pb2.GetDatasetRequest(kind=kind, name=reference.name, version=reference.version)
    return (yield from session.call(_methods.GET_DATASET, request))


def remove(
    session: Session, kind: datasets_pb2.DatasetKind, reference: Reference
) -> Operation[list[datasets_pb2.Dataset]]:
    """Forgets a version, or a name with all its versions. A repeat would find nothing, so there is none."""
    request = datasets_pb2.DeleteDatasetRequest(kind=kind, name=reference.name, version=reference.version)
    answer = yield from session.call_once(_methods.DELETE_DATASET, request)
    return list(answer.datasets)
