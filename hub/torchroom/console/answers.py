"""How every refusal and failure looks: {"code", "message"}, and nothing else.

Nothing that was sent comes back in an answer, apart from the place in it that is wrong.
"""

import logging
from collections.abc import Mapping, Sequence
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException
from starlette.routing import compile_path

from torchroom.ledger.errors import BadInput, LedgerError, TooManyTries

log = logging.getLogger("torchroom.console")

SHOWN = 3
PLACE_MAX = 60
_SENTENCES = {
    HTTPStatus.NOT_FOUND: "There is nothing at this address.",
    HTTPStatus.METHOD_NOT_ALLOWED: "This address does not take this method.",
    HTTPStatus.BAD_REQUEST: "The request cannot be read.",
}
_CODES = {
    HTTPStatus.NOT_FOUND: "not_found",
    HTTPStatus.METHOD_NOT_ALLOWED: "method_not_allowed",
}


def problem(error: LedgerError) -> JSONResponse:
    """Return the answer for an error whose text is meant for its reader."""
    headers = {}
    if isinstance(error, TooManyTries):
        headers["Retry-After"] = str(max(1, error.retry_after_s))
    if error.http_status == HTTPStatus.UNAUTHORIZED:
        headers["WWW-Authenticate"] = "Bearer"
    return _answer(error.http_status, error.code, str(error), headers)


def install(app: FastAPI) -> None:
    """Let every way a request can end badly look the same."""
    app.add_exception_handler(LedgerError, _refused)
    app.add_exception_handler(RequestValidationError, _invalid)
    app.add_exception_handler(HTTPException, _http)
    app.add_exception_handler(Exception, _failed)


async def _refused(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, LedgerError)  # noqa: S101 - registered for it
    if error.http_status >= HTTPStatus.INTERNAL_SERVER_ERROR:
        log.error("not answered path=%s why=%s", _path(request), error)
    return problem(error)


async def _invalid(_request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, RequestValidationError)  # noqa: S101
    return problem(BadInput(sentence(error.errors())))


async def _http(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, HTTPException)  # noqa: S101
    status = HTTPStatus(error.status_code)
    headers = dict(error.headers or {})
    if status == HTTPStatus.METHOD_NOT_ALLOWED:
        headers["Allow"] = ", ".join(_methods(request)) or headers.get("Allow", "")
    return _answer(
        status,
        _CODES.get(status, "bad_request"),
        _SENTENCES.get(status, f"{status.phrase}."),
        headers,
    )


async def _failed(request: Request, error: Exception) -> JSONResponse:
    # Starlette raises it again after this answer, and uvicorn logs the traceback.
    log.error("failed path=%s error=%s", _path(request), type(error).__name__)
    return _answer(
        HTTPStatus.INTERNAL_SERVER_ERROR,
        "internal",
        "Something is wrong with the ledger's console. An admin finds more in its log.",
        {},
    )


def sentence(errors: Sequence[Mapping[str, Any]]) -> str:
    """Return what is wrong with a request, as a sentence for each of the first few."""
    found = []
    for error in errors[:SHOWN]:
        place = ".".join(
            str(part)[:PLACE_MAX] for part in error["loc"][1:] or error["loc"]
        )
        text = str(error["msg"]).rstrip(".")
        if error["type"] == "json_invalid":
            place, text = "", "The body is not JSON"
        found.append(f"{place}: {text}." if place else f"{text}.")
    if len(errors) > SHOWN:
        found.append(f"And {len(errors) - SHOWN} more.")
    return " ".join(found) or "The request cannot be read."


def _methods(request: Request) -> list[str]:
    """Return all methods of an address; Starlette names those of its first route."""
    return sorted(
        method.upper()
        for path, operations in request.app.openapi()["paths"].items()
        if compile_path(path)[0].match(request.url.path)
        for method in operations
    )


def _path(request: Request) -> str:
    return repr(request.url.path)


def _answer(
    status: int, code: str, message: str, headers: Mapping[str, str]
) -> JSONResponse:
    # A half of a character, which JSON can carry, is no text that can be sent back.
    text = message.encode(errors="replace").decode()
    return JSONResponse(
        {"code": code, "message": text}, status_code=status, headers=dict(headers)
    )
