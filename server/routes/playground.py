"""GET / and what its page loads."""

from fastapi import APIRouter, Request, Response
from starlette.exceptions import HTTPException

from server.html import security_headers
from server.playground import assets

router = APIRouter(include_in_schema=False)


@router.api_route("/", methods=["GET", "HEAD"])
@router.api_route("/playground/{name}", methods=["GET", "HEAD"])
async def playground(request: Request) -> Response:
    """The page, or one of its files; 304 if the browser holds this very one."""
    asset = assets().get(request.scope["path"])
    if asset is None:
        raise HTTPException(404)
    # Asked for anew each time: a server of another version answers with other files.
    headers = {"ETag": asset.etag, "Cache-Control": "no-cache", **security_headers(asset.media_type)}
    if request.headers.get("if-none-match") == asset.etag:
        return Response(status_code=304, headers=headers)
    return Response(asset.content, media_type=asset.media_type, headers=headers)
