"""Forms that clients and browsers post."""

from __future__ import annotations

from urllib.parse import parse_qsl

from registry.oci.errors import ParameterInvalid
from registry.server.web.http import Request

_FORM_MAX_BYTES = 64 << 10
_FORM_FIELDS_MAX = 200


async def read_form(request: Request) -> dict[str, str]:
    """The fields of a posted form, the last of each name. Raises ParameterInvalid."""
    body = await request.whole_body(_FORM_MAX_BYTES)
    try:
        fields = parse_qsl(body.decode("utf-8"), keep_blank_values=True, max_num_fields=_FORM_FIELDS_MAX)
    except ValueError:
        raise ParameterInvalid("the body is not a form") from None
    return dict(fields)
