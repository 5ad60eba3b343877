"""The page on which people answer a round in their browser: a desk behind HTTP."""

from __future__ import annotations

import io
import json
import secrets
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Any

from PIL import Image
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.requests import ClientDisconnect, Request
from starlette.responses import HTMLResponse, JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

from halo_ray.annotations.desk import ClosedError, ConflictError, Desk, UndecidedError
from halo_ray.annotations.desk_files import Asked
from halo_ray.annotations.folder import CANT_TELL
from halo_ray.annotations.pictures import crop, marked_frame, read_frame
from halo_ray.data.classes import LONGEST_NAME, ClassSet
from halo_ray.errors import InputError, has_control_characters, one_line, printable
from halo_ray.patience import StorageError, reason
from halo_ray.secret import redacted

CONTEXTS = (20, 40, 120)
"""Pixels around a region that are shown, from the closest look to the widest."""

SIDE = 720
"""Pixels of the side of the picture of a region."""

_ACTIONS = ("take", "answer", "undo", "skip")
"""After which an annotator sees the region that is theirs now."""

_BODY_BYTES = 1 << 15
"""Longest request: four texts of LONGEST_NAME characters, each twelve bytes long where JSON escapes it, and more."""

_CACHED = 16
"""Images that are kept decoded."""

_HEADERS = {
    "Cache-Control": "no-store",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Content-Security-Policy": "default-src 'self'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; "
    "img-src 'self' blob:",
}

Frames = dict[str, tuple[str, tuple[int, int]]]
"""By image id, its URI and its (H, W) at label resolution."""


def annotation_app(desk: Desk, title: str, classes: ClassSet, frames: Frames, token: str) -> Starlette:
    """The ASGI application; all it answers needs ``token`` in the URL.

    Args:
        title: of the page.
    """
    page = _page(title, classes)

    @lru_cache(maxsize=_CACHED)
    def frame(image_id: str) -> Image.Image:
        return read_frame(*frames[image_id])

    def shown(by: str) -> dict[str, Any]:
        region, closed = None, ""
        try:
            region = desk.take(by)
        except ClosedError as error:  # whatever was done before counts all the same
            closed = str(error)
        told = None if region is None else _told(region)
        return {"region": told, "closed": closed, "progress": desk.progress(by)}

    def act(name: str, told: dict[str, Any]) -> dict[str, Any]:
        by = _text(told, "client")
        if name == "answer":
            desk.answer(by, _text(told, "id"), _text(told, "label"))
        elif name == "undo":
            desk.undo(by, _text(told, "turn"))
        elif name == "skip":
            desk.skip(by, _text(told, "turn"))
        return shown(by)

    def picture(region_id: str, draw: Callable[[Image.Image, Asked], Image.Image]) -> Response:
        region = desk.regions.get(region_id)
        if region is None:
            return _said("this region is none of the round", 404)
        return Response(_png(draw(frame(region.image), region)), media_type="image/png", headers=_HEADERS)

    async def index(request: Request) -> Response:
        return HTMLResponse(page, headers=_HEADERS)

    async def action(request: Request) -> Response:
        told = _parsed(await _body(request))
        return JSONResponse(await run_in_threadpool(act, request.url.path.strip("/"), told), headers=_HEADERS)

    async def alive(request: Request) -> Response:
        desk.hear(_text(dict(request.query_params), "client"))
        return Response(status_code=204, headers=_HEADERS)

    async def region_crop(request: Request) -> Response:
        try:
            context = dict(enumerate(CONTEXTS))[int(request.query_params.get("zoom", 1))]
        except (ValueError, KeyError):
            return _said(f"zoom is a number below {len(CONTEXTS)}", 400)

        def draw(image: Image.Image, region: Asked) -> Image.Image:
            return crop(image, region.y, region.x, region.r, SIDE, context)

        return await run_in_threadpool(picture, request.path_params["id"], draw)

    async def region_frame(request: Request) -> Response:
        def draw(image: Image.Image, region: Asked) -> Image.Image:
            return marked_frame(image, [(region.y, region.x)], max(region.r, image.width // 60))

        return await run_in_threadpool(picture, request.path_params["id"], draw)

    def guarded(endpoint: Callable[[Request], Any]) -> Callable[[Request], Any]:
        async def checked(request: Request) -> Response:
            given = request.query_params.get("token", "")
            if not secrets.compare_digest(given.encode(), token.encode()):
                return _said("this page needs the whole address that jobs/annotate.py printed, with its token", 403)
            try:
                response: Response = await endpoint(request)
                return response
            except ConflictError as error:
                return _said(str(error), 409)
            except (StorageError, UndecidedError) as error:  # after which the page asks again
                return _said(str(error), 503)
            except _TooLongError as error:
                return _said(str(error), 413)
            except InputError as error:
                return _said(str(error), 400)
            except ClientDisconnect:
                return _said("this request has no end", 400)
            except OSError as error:
                return _said(f"the experiment cannot be read or written ({reason(error)})", 503)

        return checked

    return Starlette(
        routes=[
            Route("/", guarded(index)),
            Route("/alive", guarded(alive), methods=["POST"]),
            Route("/crop/{id}", guarded(region_crop)),
            Route("/frame/{id}", guarded(region_frame)),
            *(Route(f"/{name}", guarded(action), methods=["POST"]) for name in _ACTIONS),
        ]
    )


def _page(title: str, classes: ClassSet) -> str:
    told = {
        "title": title,
        "classes": [
            {"name": name, "color": f"rgb({', '.join(map(str, color))})"}
            for name, color in zip(classes.classes, classes.palette().tolist(), strict=True)
        ],
        "cant_tell": CANT_TELL[0],
        "contexts": len(CONTEXTS),
    }
    # Nothing in a class name may end the script that this stands in.
    text = json.dumps(told).replace("<", "\\u003c")
    return Path(__file__).with_suffix(".html").read_text(encoding="utf-8").replace("__TOLD__", text)


def _told(region: Asked) -> dict[str, Any]:
    return {"id": region.id, "image": region.image, "y": region.y, "x": region.x, "r": region.r, **region.why}


class _TooLongError(InputError):
    """A request that is longer than any of the page."""


async def _body(request: Request) -> bytes:
    body = b""
    async for part in request.stream():
        body += part
        if len(body) > _BODY_BYTES:
            raise _TooLongError(f"this is no request (it has more than {_BODY_BYTES} bytes)")
    return body


def _parsed(body: bytes) -> dict[str, Any]:
    """The JSON object that a request is.

    Raises:
        InputError: it is none, or says two things under one key.
    """

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        if len(dict(pairs)) < len(pairs):
            raise ValueError("a key is there twice")
        return dict(pairs)

    try:
        told = json.loads(body, object_pairs_hook=unique)
        if not isinstance(told, dict):
            raise ValueError("it is no object")
    except (ValueError, RecursionError) as error:
        raise InputError(f"this is no request ({printable(one_line(error))})") from error
    return told


def _text(told: dict[str, Any], key: str) -> str:
    value = told.get(key)
    if not isinstance(value, str) or not 0 < len(value) <= LONGEST_NAME or has_control_characters(value):
        raise ConflictError(f"{key} is missing, or is none: load the page again")
    return value


def _said(sentence: str, status: int) -> Response:
    return PlainTextResponse(redacted(sentence), status_code=status, headers=_HEADERS)


def _png(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "PNG", compress_level=1)
    return buffer.getvalue()
