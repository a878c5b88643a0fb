"""Static files: ours, and plotly's own bundle out of the plotly package."""

from fastapi import APIRouter
from fastapi.responses import FileResponse, Response

from app.dashboard.render import STATIC_FILES, STATIC_PATH

router = APIRouter(include_in_schema=False)


@router.get(STATIC_PATH + "/{name}")
def static_file(name: str) -> Response:
    if name not in STATIC_FILES:
        return Response("no such file", 404, media_type="text/plain")
    path, media_type = STATIC_FILES[name]
    return FileResponse(
        path,
        media_type=media_type,
        headers={
            # the address carries the file's stamp, see render.static
            "Cache-Control": "public, max-age=31536000, immutable",
            "X-Content-Type-Options": "nosniff",
        },
    )
